"""The gated loop: stage → epoch → checkpoint → evaluation → verdict → next, and then the pick.

Everything a later step needs is on disk before that step begins, so a killed run is continued by
running it again: committed checkpoints are yielded without training, committed evaluations are
read, events that are there are not written twice, and verdicts once given stand.

Torch is not imported here. What trains and what evaluates come in as ``trainers`` and ``Bench``;
``trainers/live_base.py`` has the real ones, the tests have small fakes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from harness.evaluation import Evaluation
from harness.gates import Action, Status, Verdict, judge, verdict_from_json
from harness.selection import pick
from harness.store.run import Run
from trainers.schedule import Gate, Schedule
from trainers.schedule_stages import POLICY_KINDS, RL_KINDS, AnyStage
from trainers.stage import Checkpoint, read_checkpoint

Progress = Callable[[str, int, int], None]  # eval set, rows done, rows in all


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
    ) -> Generator[Checkpoint]:
        """The stage's checkpoints, committed ones first; ``start``: the policy it starts from."""
        ...

    def evaluate(
        self, checkpoint: Checkpoint, start: Path | None, progress: Progress
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
            self._written[key] = self._run.append(event, **fields)
            self._listener.event(self._written[key])
        return self._written[key]

    def find(self, event: str, subject: str | None = None) -> dict[str, Any] | None:
        """The event as written, of a checkpoint or stage; None if there is none yet."""
        return self._written.get((event, subject))


def _key(event: Mapping[str, Any]) -> tuple[str, str | None]:
    return str(event["event"]), event.get("checkpoint") or event.get("stage")


@dataclass
class _State:
    """What the loop has learnt so far; a resumed run gets it back by replaying what is on disk."""

    start: Path | None = None  # the policy that the next stage starts from
    evaluated: list[tuple[str, Evaluation]] = field(default_factory=list)  # stage, evaluation
    stopped_by: str | None = None


def run_schedule(
    schedule: Schedule,
    run: Run,
    bench: Bench,
    listener: Listener,
    interrupted: Callable[[], bool] = lambda: False,
) -> Outcome:
    """Run the schedule in ``run`` from wherever it is to its end, or until a gate stops it.

    The caller holds the run's lock. A finished run is not touched; its outcome is returned. An
    error is an event of the run, unless it only says that somebody ``interrupted`` it.
    """
    journal = _Journal(run, listener)
    done = journal.find("done")
    if done is None:
        try:
            done = _run(schedule, run, bench, journal, listener)
        except Exception as error:  # to be seen in the dashboard; it goes on to the caller
            if not interrupted():
                listener.event(run.append("error", kind=type(error).__name__, message=str(error)))
            raise
    return Outcome(done["picked"], done["stopped_by"])


def _run(
    schedule: Schedule, run: Run, bench: Bench, journal: _Journal, listener: Listener
) -> dict[str, Any]:
    run.clean()
    journal.once("run_started", name=schedule.name, seed=schedule.seed)
    state = _State()
    for stage in schedule.stages:
        _run_stage(schedule, stage, run, bench, journal, listener, state)
        if state.stopped_by is not None:
            break
    picked = journal.find("picked")
    if picked is None:
        picked = journal.once("picked", **_pick(schedule, run, state))
    return journal.once("done", run=run.name, picked=picked["picked"], stopped_by=state.stopped_by)


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
    start = last = acceptable = state.start
    ended_by: Verdict | None = None
    journal.once("stage_started", stage=stage.name, kind=stage.kind, start=_name(start))
    with closing(_checkpoints(stage, start, run, bench, journal, listener)) as produced:
        for checkpoint in produced:
            if stage.kind not in POLICY_KINDS:
                _record_accuracy(checkpoint, journal)
                continue
            evaluation = _evaluate(checkpoint, start, bench, journal, listener)
            verdict = _verdict(schedule, stage, evaluation, journal, state)
            state.evaluated.append((stage.name, evaluation))
            last = checkpoint.folder
            if verdict is None or verdict.acceptable:
                acceptable = last
            else:
                ended_by = verdict
                break
    rolled_back = ended_by is not None and ended_by.action is Action.ROLLBACK
    if ended_by is not None and ended_by.action is Action.STOP:
        decision = ended_by.decided_by
        state.stopped_by = decision.rule if decision else str(ended_by.status)
    state.start = acceptable if rolled_back else last
    journal.once(
        "stage_finished",
        stage=stage.name,
        rolled_back_to=(_name(acceptable) or "the base") if rolled_back else None,
    )


def _checkpoints(
    stage: AnyStage,
    start: Path | None,
    run: Run,
    bench: Bench,
    journal: _Journal,
    listener: Listener,
) -> Generator[Checkpoint]:
    """The stage's checkpoints, each recorded with the seconds that training it took just now."""
    if journal.find("stage_finished", stage.name) is not None:  # no need to load anything
        for info in run.checkpoints():
            if info.stage == stage.name:
                yield read_checkpoint(info.folder)
        return
    with closing(bench.train(stage, start, partial(listener.training, stage.name))) as trained:
        began = time.monotonic()
        for checkpoint in trained:
            journal.once(
                "epoch_done",
                checkpoint=checkpoint.name,
                stage=stage.name,
                kind=stage.kind,
                epoch=checkpoint.epoch,
                seconds=round(time.monotonic() - began, 3),
                training=checkpoint.training,
            )
            yield checkpoint
            began = time.monotonic()


def _record_accuracy(checkpoint: Checkpoint, journal: _Journal) -> None:
    """Reward models are measured while they are trained, on held-out pairs."""
    name = f"{checkpoint.stage}.accuracy"
    metrics = {name: checkpoint.training["accuracy"]}
    for evalset, found in checkpoint.training.get("eval_data", {}).items():
        metrics[f"{name}.{evalset}"] = found["accuracy"]
    journal.once("evaluated", checkpoint=checkpoint.name, metrics=metrics, seconds=0.0)


def _evaluate(
    checkpoint: Checkpoint,
    start: Path | None,
    bench: Bench,
    journal: _Journal,
    listener: Listener,
) -> Evaluation:
    began = time.monotonic()
    evaluation = bench.evaluate(checkpoint, start, partial(listener.evaluating, checkpoint.name))
    metrics = {name: evaluation.metric(name).to_dict() for name in evaluation.names()}
    journal.once(
        "evaluated",
        checkpoint=checkpoint.name,
        metrics=metrics,
        seconds=round(time.monotonic() - began, 3),
    )
    return evaluation


def _verdict(
    schedule: Schedule,
    stage: AnyStage,
    evaluation: Evaluation,
    journal: _Journal,
    state: _State,
) -> Verdict | None:
    """What the gates say; None if none watches the stage. A verdict once given stands."""
    written = journal.find("verdict", evaluation.checkpoint)
    if written is not None:
        return verdict_from_json(written)
    rl_stages = tuple(s.name for s in schedule.stages if s.kind in RL_KINDS)
    groups: dict[tuple[str, ...], list[Gate]] = {}
    for gate in schedule.gates:
        watched = gate.during if gate.during is not None else rl_stages
        if stage.name in watched:
            groups.setdefault(watched, []).append(gate)
    if not groups:
        return None
    # Gates that watch different stages look back on different histories ("first", "best").
    verdict = _merged(
        [
            judge(
                gates,
                [earlier for name, earlier in state.evaluated if name in watched],
                evaluation,
                stage=stage.name,
                rl_stages=rl_stages,
                seed=schedule.seed,
            )
            for watched, gates in groups.items()
        ]
    )
    journal.once(
        "verdict",
        checkpoint=evaluation.checkpoint,
        results=verdict.results,
        status=verdict.status,
        action=verdict.action,
    )
    return verdict


def _merged(verdicts: list[Verdict]) -> Verdict:
    """One verdict: all results, the worst status, the strongest action."""
    worst = (Status.FAIL, Status.INCONCLUSIVE, Status.PASS)
    strongest = (Action.STOP, Action.ROLLBACK, Action.CONTINUE)
    return Verdict(
        verdicts[0].checkpoint,
        tuple(result for verdict in verdicts for result in verdict.results),
        min((verdict.status for verdict in verdicts), key=worst.index),
        min((verdict.action for verdict in verdicts), key=strongest.index),
    )


def _pick(schedule: Schedule, run: Run, state: _State) -> dict[str, Any]:
    """Choose and write selection.json; the fields of the event ``picked``."""
    if schedule.pick is None:
        return {"picked": None, "reason": "the schedule has no pick"}
    selection = pick([evaluation for _, evaluation in state.evaluated], schedule.pick)
    run.write_selection(selection)
    return {"picked": selection.picked, "reason": selection.reason}


def _name(folder: Path | None) -> str | None:
    return folder.name if folder is not None else None
