"""Stages on pairs whose last batch is not whole, with one process and with several: the same pairs,
losses, metrics and weights, and the same bytes after an interruption.

This file is also the program that the several processes run.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from trl.trainer.reward_trainer import DataCollatorForPreference

from harness.store.run import Run
from trainers import dpo, reward
from trainers.pair_batches import PairCollator, tokens_a_reply
from trainers.schedule import Schedule
from trainers.schedule_stages import Optimizer
from trainers.stage import StageContext
from trainers.team import ALONE, Team, join
from trainers.trl_epoch import Plan

# Batches of twelve. By name: how many pairs, and the stage.
STAGES: dict[str, tuple[int, dict[str, Any]]] = {
    # One pair is left over: every process but the first has none.
    "one-over": (25, {"kind": "reward", "members": 1}),
    # Three are, in forwards of three; labels, a mean to keep to, members that draw their pairs.
    "accumulated": (
        27,
        {
            "kind": "reward",
            "members": 2,
            "bootstrap": True,
            "micro_batch": 3,
            "safety_weight": 0.5,
            "center_coefficient": 0.01,
        },
    ),
    # Two processes cannot read four each: half a batch is six.
    "cut-anew": (17, {"kind": "reward", "members": 1, "micro_batch": 4, "margin": "none"}),
    "padded": (16, {"kind": "reward", "members": 1, "safety_weight": 0.5}),
    "dpo": (25, {"kind": "dpo", "label_smoothing": 0.1}),
    "dpo-accumulated": (17, {"kind": "dpo", "micro_batch": 4, "loss": "ipo"}),
    "dpo-one-pair": (1, {"kind": "dpo", "loss": "hinge"}),
}
# Of the first epoch's first step, where the policy is the reference: which wins is rounding.
_TIES = {"implicit_accuracy", "rewards/accuracies"}


def context(folder: Path, base: Path, name: str, team: Team, logged: list[Any]) -> StageContext:
    """A stage of a run at ``folder / name``, which the leader creates."""
    pairs, settings = STAGES[name]
    run = folder / name
    if team.leads and not run.exists():
        Run.create(run, schedule_yaml="", info={})
        rows = [
            {
                "prompt": f"say {i}",
                "chosen": f"{i} it is" + "!" * (3 * i % 20),
                "rejected": "no" + "?" * (7 * i % 30),
                "rating": ("significantly better", "slightly better")[i % 2],
                "chosen_safe": i % 3 > 0,
                "rejected_safe": i % 4 == 0,
            }
            for i in range(pairs)
        ]
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines)
    team.meet()
    stage = {
        "name": name,
        "data": str(folder / f"{name}.jsonl"),
        "held_out": 0,
        "batch": 12,
        "epochs": 2,
        "learning_rate": 1e-3,
        "warmup_ratio": 0,
        "max_length": 96,
        "lora": {"r": 4, "alpha": 32.0},
        **settings,
    }
    schedule = Schedule.model_validate_json(
        json.dumps(
            {
                "name": "test",
                "model": str(base),
                "quantization": "none",
                "seed": 3,
                "stages": [stage],
                "evaluate": {"sets": []},
            }
        )
    )
    return StageContext(
        run=Run.open(run),
        schedule=schedule,
        stage=schedule.stages[0],
        start=None,
        base_folder=str(base),
        log=logged.append,
        team=team,
    )


def train(folder: Path, base: Path, team: Team, *, interrupted: bool = False) -> None:
    """All stages; what they logged goes into ``logs.json``. ``interrupted``: stop after an epoch,
    and go on with nothing of it in memory."""
    makers = {"reward": reward.checkpoints, "dpo": dpo.checkpoints}
    logs = {}
    for name, (_, settings) in STAGES.items():
        logged: list[Any] = []
        with pytest.MonkeyPatch.context() as patch:
            if name == "padded":
                patch.setattr(reward, "suits", lambda _: False)
            make = makers[settings["kind"]]
            if interrupted:
                stream: Any = make(context(folder, base, name, team, logged))
                while next(stream).epoch == 0:
                    pass
                stream.close()
                torch.rand(7)
            list(make(context(folder, base, name, team, logged)))
        logs[name] = logged
    if team.leads:
        (folder / "logs.json").write_text(json.dumps(logs))


def launch(folder: Path, base: Path, processes: int, *, interrupted: bool = False) -> None:
    folder.mkdir()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc_per_node", str(processes), __file__, str(folder), str(base)),
            *(["interrupted"] if interrupted else []),
        ],
        capture_output=True,
        text=True,
        timeout=400,
        env=dict(os.environ, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true"),
    )
    assert done.returncode == 0, done.stderr[-3000:]


def checkpoints(folder: Path, name: str) -> list[Path]:
    return sorted((folder / name / "checkpoints").iterdir())


def weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    return {
        f"{path.relative_to(checkpoint)}/{key}": tensor
        for path in sorted(checkpoint.rglob("*.safetensors"))
        for key, tensor in load_file(path).items()
    }


def training(checkpoint: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((checkpoint / "checkpoint.json").read_text())["training"]
    return content


def alike(found: Any, expected: Any, *, ties: bool, within: float = 1e-5) -> None:
    """Every number ``within`` so much, but those that rounding decides where there may be
    ``ties``. A gradient's norm changes with the weights by the loss's curvature: where one pair is
    left over, 1e-7 in the weights is 2e-5 of it."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key in expected:
            if not (ties and key in _TIES):
                bound = 1e-4 if key == "grad_norm" else within
                alike(found[key], expected[key], ties=ties, within=bound)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            alike(one, other, ties=ties, within=within)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=within, abs=within)
    else:
        assert found == expected


@pytest.fixture(scope="module")
def alone(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alone")
    train(folder, tiny_llama, ALONE)
    return folder


@pytest.mark.parametrize(
    ("batch", "micro", "processes", "expected"),
    [
        (16, 16, 2, 8),  # one forward between them
        (16, 4, 2, 4),
        (12, 4, 2, 2),  # 6 pairs each: of 3 at once, two processes would read one and a half fours
        (24, 8, 2, 4),
        (24, 8, 4, 6),  # three eights at once
        (12, 1, 3, 1),
    ],
)
def test_processes_read_whole_micro_batches_of_one_process(
    batch: int, micro: int, processes: int, expected: int
) -> None:
    plan = Plan(
        seed=1,
        epochs=1,
        sequences=100,
        batch=batch,
        micro_batch=micro,
        learning_rate=1e-3,
        lr_schedule="constant",
        min_lr_ratio=0.0,
        warmup_ratio=0.0,
        min_warmup_steps=0,
        optimizer=Optimizer(),
    ).among(processes)
    assert plan.micro_batch == expected
    assert plan.micro_batch * processes % micro == 0
    assert plan.micro_batch * processes * plan.accumulation == batch


def test_tokens_are_counted_where_they_are_computed() -> None:
    pairs = [
        {"chosen_ids": [3, 4, 5, 2], "rejected_ids": [3, 4, 6, 7, 2], "margin": 0.0},
        {"chosen_ids": [8, 2], "rejected_ids": [9, 9, 2], "margin": 0.0},
        {"chosen_ids": [0], "rejected_ids": [0], "margin": 0.0},  # a blank one
    ]
    packed, padded = PairCollator(0)(pairs), DataCollatorForPreference(0)(pairs)
    assert tokens_a_reply(packed).tolist() == [4, 2, 1, 3, 3, 1]  # 3, 4 once
    assert int(packed["attention_mask"].sum()) == 14
    assert tokens_a_reply(padded).tolist() == [4, 2, 1, 5, 3, 1]


@pytest.mark.slow
@pytest.mark.parametrize("processes", [2, 3])
def test_pairs_that_do_not_go_round_train_as_in_one_process(
    tmp_path: Path, tiny_llama: Path, alone: Path, processes: int
) -> None:
    shared = tmp_path / "shared"
    launch(shared, tiny_llama, processes)
    for name, (pairs, settings) in STAGES.items():
        assert pairs % 12
        for expected, found in zip(
            checkpoints(alone, name), checkpoints(shared, name), strict=True
        ):
            first = settings["kind"] == "dpo" and expected.name.endswith("e001")
            alike(training(found), training(expected), ties=first)
            ours, theirs = weights(found), weights(expected)
            assert ours.keys() == theirs.keys()
            for key, weight in theirs.items():
                # A hundredth of a step's length; the wrong pairs would make it many of them.
                torch.testing.assert_close(ours[key], weight, rtol=0, atol=1e-5)
    logs = [json.loads((folder / "logs.json").read_text()) for folder in (alone, shared)]
    for name, (_, settings) in STAGES.items():
        steps = [[{**entry, "epoch": None} for entry in part[name]] for part in logs]
        assert len(steps[0]) >= 2
        for expected, found in zip(*steps, strict=True):
            alike(found, expected, ties=settings["kind"] == "dpo" and expected["step"] == 1)


@pytest.mark.slow
def test_two_processes_go_on_to_the_same_bytes(tmp_path: Path, tiny_llama: Path) -> None:
    digests = []
    for interrupted in (False, True):
        folder = tmp_path / str(interrupted)
        launch(folder, tiny_llama, 2, interrupted=interrupted)
        digests.append(
            {
                str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
                for name in STAGES
                for path in sorted((folder / name / "checkpoints").rglob("*"))
                if path.is_file()
            }
        )
    assert any("rng_state_1.pth" in path for path in digests[0])  # it was trained by two
    assert digests[1] == digests[0]


if __name__ == "__main__":
    train(Path(sys.argv[1]), Path(sys.argv[2]), join(), interrupted="interrupted" in sys.argv)
