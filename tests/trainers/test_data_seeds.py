"""Validation reads the rows that a run trains on: by the same seeds, for every stage and source."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.store.run import Run
from trainers import data, dpo, ghost_attention, ppo, reward_data, rloo, sampled_stage, sft
from trainers.data_validation import data_problems
from trainers.schedule import Schedule
from trainers.schedule_file import parse_schedule
from trainers.stage import StageContext
from trainers.validation import POCKET_BASE

SCHEDULE = """\
name: small
model: pocket
quantization: none
stages:
  - sft: {data: pocket/demonstrations, epochs: 1, seed_offset: 5}
  - reward:
      name: helpfulness
      data: pocket/helpful
      mix: {pocket/safe: 0.1}
      eval_data: {other: "pocket/safe?misread=0"}
  - reward: {name: votes, data: VOTES}
  - dpo: {data: pocket/safe}
  - rejection_sampling: {reward: {kind: mean}}
  - context_distillation: {safety: helpfulness, seed_offset: 1}
  - ghost_attention: {instructions: pocket/instructions}
  - rloo: {reward: {kind: mean}, sft_data: pocket/demonstrations}
  - ppo: {reward: {kind: mean}, sft_data: pocket/demonstrations}
evaluate: {sets: []}
"""


class _EnoughError(Exception):
    """The stage has read all that it reads."""


class Reads(list[tuple[str, int, tuple[Any, ...]]]):
    """(source, seed, rows) of all that is read; ``enough``: of them end the stage."""

    enough: int | None = None


@pytest.fixture
def schedule(tmp_path: Path) -> Schedule:
    answers = ", ".join(f'{{"text": "answer {n}", "votes": {n % 3}}}' for n in range(9))
    lines = [f'{{"question": "q{n}", "answers": [{answers}]}}\n' for n in range(20)]
    file = tmp_path / "votes.jsonl"
    file.write_text("".join(lines))
    return parse_schedule(SCHEDULE.replace("VOTES", str(file)), "s.yaml")[0]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """What is read from now on."""
    found = Reads()
    load = data._load

    def recording(source: str, *settings: Any) -> Any:
        loaded = load(source, *settings)
        found.append((source, settings[3], loaded.rows))
        if len(found) == found.enough:
            raise _EnoughError
        return loaded

    monkeypatch.setattr(data, "_load", recording)
    return found


def train(ctx: StageContext, reads: Reads) -> None:
    """Read the rows of the stage as its trainer does."""
    stage: Any = ctx.stage
    if stage.kind == "reward":
        reward_data.load(ctx, stage)
    elif stage.kind == "dpo":
        dpo.load(ctx, stage)
    elif stage.kind in ("rejection_sampling", "context_distillation"):
        sampled_stage.prompts_of(ctx, stage)
    else:
        module: Any = {"sft": sft, "ghost_attention": ghost_attention, "rloo": rloo, "ppo": ppo}
        reads.enough = 1 if stage.kind == "sft" else 2
        produced: Iterator[Any] = module[stage.kind].checkpoints(ctx)
        with pytest.raises(_EnoughError):
            list(produced)


@pytest.mark.parametrize("at", range(9))
def test_validation_reads_the_rows_of_training(
    tmp_path: Path, schedule: Schedule, reads: Reads, at: int
) -> None:
    alone = schedule.model_copy(update={"stages": (schedule.stages[at],)})
    assert list(data_problems(alone, POCKET_BASE, ())) == []
    checked = {(source, seed): rows for source, seed, rows in reads}
    reads.clear()
    Run.create(tmp_path / "run", schedule_yaml="", info={})
    train(
        StageContext(
            run=Run.open(tmp_path / "run"),
            schedule=schedule,
            stage=schedule.stages[at],
            start=None,
            base_folder=str(POCKET_BASE),
            device="cpu",
        ),
        reads,
    )
    assert reads
    assert {(source, seed) for source, seed, _ in reads} == set(checked)
    assert all(rows == checked[source, seed] for source, seed, rows in reads)


def test_stages_that_share_a_file_read_it_once_unless_the_seed_decides(
    tmp_path: Path, reads: Reads
) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "completion": "b"}\n')
    text = "name: x\nmodel: pocket\nstages:\n" + "".join(
        f"  - sft: {{name: s{n}, data: {source}}}\n"
        for n, source in enumerate([file, file, "pocket/demonstrations", "pocket/demonstrations"])
    )
    schedule, _ = parse_schedule(text + "evaluate: {sets: []}\n", "s.yaml")
    assert list(data_problems(schedule, POCKET_BASE, ())) == []
    assert [source for source, _, _ in reads] == [str(file), *["pocket/demonstrations"] * 2]
    assert reads[1][2] != reads[2][2]
