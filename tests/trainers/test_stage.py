"""What stages share: seeds of their own, and checkpoints that say what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import IntegrityError
from trainers.seeds import stage_seed
from trainers.stage import Checkpoint, intact

STAGES = [
    {"kind": "reward", "name": "helpfulness", "data": "x"},
    {"kind": "sft", "data": "x"},
    {"kind": "ppo"},
]


def test_every_stage_and_purpose_has_a_seed_of_its_own() -> None:
    seeds = {
        stage_seed(seed, stage, *purpose)
        for seed in (1, 2)
        for stage in ("sft", "ppo")
        for purpose in ((), ("lora",), ("member", 1), ("member", 2))
    }
    assert len(seeds) == 16
    assert all(0 <= seed < 2**31 for seed in seeds)


def test_a_stage_s_seed_does_not_depend_on_the_stages_around_it(
    tmp_path: Path, context: Any
) -> None:
    among = context(tmp_path, STAGES, 1)
    alone = context(tmp_path, STAGES[1:2], 0)
    assert among.seed("lora") == alone.seed("lora")
    moved = context(tmp_path, [{**STAGES[1], "seed_offset": 1}], 0)
    assert moved.seed("lora") != alone.seed("lora")


def test_the_first_policy_stage_is_the_first_that_makes_one(tmp_path: Path, context: Any) -> None:
    assert [context(tmp_path, STAGES, i).first_policy_stage for i in range(3)] == [
        False,
        True,
        False,
    ]


def test_a_commit_is_read_back_in_the_order_of_epochs(tmp_path: Path, context: Any) -> None:
    ctx = context(tmp_path, STAGES, 1)

    def write(folder: Path) -> dict[str, Any]:
        (folder / "weights").write_text("w")
        return {"loss": 0.5}

    made = [ctx.commit(epoch, write) for epoch in (2, 0, 10)]
    assert made[0] == Checkpoint(
        "sft-e002", "sft", "sft", 2, tmp_path / "checkpoints" / "sft-e002", {"loss": 0.5}
    )
    assert list(ctx.committed()) == [made[1], made[0], made[2]]
    content = json.loads((made[0].folder / "checkpoint.json").read_text())
    assert content["schema"] == 1
    assert list(context(tmp_path, STAGES, 2).committed()) == []
    assert intact(made[0].folder) == made[0].folder
    (made[0].folder / "weights").write_text("x")
    with pytest.raises(IntegrityError, match="weights"):
        intact(made[0].folder)


def test_an_error_while_writing_commits_nothing(tmp_path: Path, context: Any) -> None:
    ctx = context(tmp_path, STAGES, 1)

    def write(folder: Path) -> dict[str, Any]:
        (folder / "weights").write_text("w")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        ctx.commit(1, write)
    assert list(ctx.committed()) == []


def test_numbers_that_are_none_are_null_in_checkpoint_json(tmp_path: Path, context: Any) -> None:
    made = context(tmp_path, STAGES, 1).commit(1, lambda _: {"loss": float("nan"), "step": 3.0})
    text = (made.folder / "checkpoint.json").read_text(encoding="utf-8")
    assert "NaN" not in text
    assert made.training == {"loss": None, "step": 3.0}
