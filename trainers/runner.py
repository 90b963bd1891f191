"""The gated loop: stage → epoch → checkpoint → evaluation → verdict → next, and then the pick.

Everything a later step needs is on disk before that step begins, so a killed run is continued by
running it again: committed checkpoints are yielded without training, committed evaluations are
read, events that are there are not written twice, and verdicts once given stand.

Torch is not imported here. What trains and what evaluates come in as ``trainers`` and ``Bench``;
``trainers/live_base.py`` has the real ones, the tests have small fakes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from harness.evaluation import Evaluation
from harness.gates import judge
from harness.selection import pick
from harness.store.run import Run
from trainers.schedule import POLICY_KINDS, RL_KINDS, AnyStage, Gate, OnFail, Schedule
from trainers.stage import Checkpoint

SCHEMA = 1  # of events.jsonl; see docs/run-format.md


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    picked: str | None
    stopped_by: str | None  # the gate's rule; None if the schedule ran to its end


class Listener(Protocol):
    """Told what happens while it happens; may print, and decides nothing."""

    def event(self, event: Mapping[str, Any]) -> None:
        """An event as appended to events.jsonl."""

    def training(self, stage: str, scalars: Mapping[str, Any]) -> None:
        """Scalars from inside an epoch."""

    def evaluating(self, checkpoint: str, evalset: str, done: int, total: int) -> None:
        """``done`` of ``total`` rows of an eval set are finished."""


class Bench(Protocol):
    """Where checkpoints are made and measured: the base model in memory, or a test's fake."""

    def train(
        self, stage: AnyStage, start: Path | None, log: Callable[[dict[str, Any]], None]
    ) -> Iterator[Checkpoint]:
        """The stage's checkpoints, committed ones first; ``start``: the policy it starts from."""
        ...

    def evaluate(
        self, checkpoint: Checkpoint, start: Path | None, listener: Listener
    ) -> Evaluation:
        """The checkpoint on every eval set, committed; ``start`` is the reference of its KL."""
        ...


class _Journal:
    """events.jsonl, in which everything is written once however often the run is taken up."""

    def __init__(self, run: Run, listener: Listener) -> None:
        self._run = run
        self._listener = listener
        self._written = {_key(event): event for event in run.events()}

    def once(self, event: str, **fields: Any) -> dict[str, Any]:
        """Append the event unless there is one for the same checkpoint or stage; either way, it."""
        key = _key({"event": event, **fields})
        if key not in self._written:
            self._run.append(event, **fields)
            written = {"event": event, **fields}
            self._written[key] = written
            self._listener.event(written)
        return self._written[key]

    def find(self, event: str, subject: str | None = None) -> dict[str, Any] | None:
        return self._written.get((event, subject))


def _key(event: Mapping[str, Any]) -> tuple[str, str | None]:
    return str(event["event"]), event.get("checkpoint") or event.get("stage")


@dataclass
class _State:
    """What the loop has learnt so far; on a resumed run, read back by replaying it."""

    start: Path | None = None  # the policy that the next stage starts from
    evaluated: list[tuple[str, Evaluation]] = field(default_factory=list)  # stage, evaluation
    stopped_by: str | None = None


def run_schedule(schedule: Schedule, run: Run, bench: Bench, listener: Listener) -> Outcome:
    """Run the schedule in ``run`` from wherever it is to its end, or until a gate stops it.

    The caller holds the run's lock. A finished run is not touched; its outcome is returned.
    """
    journal = _Journal(run, listener)
    finished = journal.find("done")
    if finished is not None:
        return Outcome(finished["picked"], finished["stopped_by"])
    run.clean()
    journal.once("run_started", schema=SCHEMA, name=schedule.name, seed=schedule.seed)
    state = _State()
    for stage in schedule.stages:
        _run_stage(schedule, stage, run, bench, journal, listener, state)
        if state.stopped_by is not None:
            break
    picked = _pick(schedule, run, journal, state)
    journal.once("done", run=str(run.path), picked=picked, stopped_by=state.stopped_by)
    return Outcome(picked, state.stopped_by)


def _run_stage(
    schedule: Schedule,
    stage: AnyStage,
    run: Run,
    bench: Bench,
    journal: _Journal,
    listener: Listener,
    state: _State,
) -> None:
    """One stage, up to its last epoch or to the gate that ends it."""
    journal.once("stage_started", stage=stage.name, kind=stage.kind, start=_name(state.start))
    good = state.start  # the latest policy that no gate failed
    ended_by = None
    with closing(_checkpoints(stage, run, bench, journal, listener, state.start)) as produced:
        for checkpoint, seconds in produced:
            journal.once(
                "epoch_done",
                checkpoint=checkpoint.name,
                stage=stage.name,
                kind=stage.kind,
                epoch=checkpoint.epoch,
                seconds=round(seconds, 3),
                training=checkpoint.training,
            )
            if stage.kind not in POLICY_KINDS:
                _record_accuracy(checkpoint, journal)
                continue
            evaluation = _evaluate(checkpoint, bench, journal, listener, state.start)
            verdict = _verdict(schedule, stage, checkpoint, evaluation, journal, state)
            state.evaluated.append((stage.name, evaluation))
            if not _failed(verdict):
                good = checkpoint.folder
            if verdict is not None and verdict["action"] != "continue":
                ended_by = verdict
                break
            last = checkpoint.folder
        else:
            if stage.kind in POLICY_KINDS:
                good = last
    if ended_by is not None and ended_by["action"] == "stop":
        state.stopped_by = _why(ended_by)
    state.start = good
    journal.once(
        "stage_finished",
        stage=stage.name,
        rolled_back_to=_name(good) if ended_by and ended_by["action"] == "rollback" else None,
    )


def _checkpoints(
    stage: AnyStage,
    run: Run,
    bench: Bench,
    journal: _Journal,
    listener: Listener,
    start: Path | None,
) -> Iterator[tuple[Checkpoint, float]]:
    """The stage's checkpoints, each with the seconds that training it took in this process."""
    produced = bench.train(stage, start, lambda scalars: listener.training(stage.name, scalars))
    with closing(produced) as iterator:
        began = time.monotonic()
        for checkpoint in iterator:
            yield checkpoint, time.monotonic() - began
            began = time.monotonic()
