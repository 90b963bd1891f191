"""What one sees while a run goes on: a bar on a terminal, plain lines in a log, JSON in a pipe."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from aldente.console import duration, json_line
from harness.store.run import Run
from trainers.runner import Listener
from trainers.schedule import Schedule

_MARKS = {"pass": "●", "inconclusive": "▲", "fail": "✕"}


def sentence(event: Mapping[str, Any]) -> str | None:
    """An event in words; None for those that say nothing new to a reader."""
    match event["event"]:
        case "run_started":
            return f"run {event['name']}, seed {event['seed']}"
        case "stage_started":
            after = f" from {event['start']}" if event["start"] else ""
            return f"{event['stage']}: started{after}"
        case "epoch_done":
            return f"{event['checkpoint']}: trained in {duration(event['seconds'])}"
        case "evaluated":
            metrics = event["metrics"]
            if len(metrics) < 4:
                found = ", ".join(_metric(*item) for item in metrics.items())
            else:
                found = f"{len(metrics)} metrics"
            return f"{event['checkpoint']}: evaluated in {duration(event['seconds'])}: {found}"
        case "verdict":
            marks = "; ".join(
                f"{_MARKS[result['status']]} {result['reason']}" for result in event["results"]
            )
            then = "" if event["action"] == "continue" else f" -> {event['action']}"
            return f"{event['checkpoint']}: {event['status']}{then} ({marks})"
        case "stage_finished" if event["rolled_back_to"]:
            return f"{event['stage']}: rolled back to {event['rolled_back_to']}"
        case "picked":
            return f"picked: {event['picked'] or 'none'} ({event['reason']})"
    return None


def _metric(name: str, estimate: Mapping[str, Any]) -> str:
    value = estimate["value"]
    return f"{name} {'unscored' if value is None else format(value, '.3f')} (n {estimate['n']})"


class _Lines:
    """A line an event, on stderr."""

    def event(self, event: Mapping[str, Any]) -> None:
        text = sentence(event)
        if text is not None:
            print(text, file=sys.stderr, flush=True)

    def training(self, stage: str, scalars: Mapping[str, Any]) -> None:
        return None

    def evaluating(self, checkpoint: str, evalset: str, done: int, total: int) -> None:
        return None


class _Json(_Lines):
    """Events as JSON lines on stdout, in words on stderr."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def event(self, event: Mapping[str, Any]) -> None:
        # In the run's own log it is a name: a run can be moved. Here, where to find it.
        json_line({**event, "run": str(self._run.path)} if event["event"] == "done" else event)
        super().event(event)


class _Bars:
    """Two bars: epochs of the stage with the time left, and what is being done right now."""

    def __init__(self, schedule: Schedule, progress: Progress) -> None:
        self._epochs = {stage.name: stage.epochs for stage in schedule.stages}
        self._iterations = {
            stage.name: getattr(stage, "iterations", None) for stage in schedule.stages
        }
        self._progress = progress
        self._stage = progress.add_task("starting", total=None)
        self._now = progress.add_task("", total=None, visible=False)

    def event(self, event: Mapping[str, Any]) -> None:
        text = sentence(event)
        if text is not None:
            self._progress.console.print(text, markup=False, highlight=False)
        if event["event"] == "stage_started":
            total = self._epochs[event["stage"]]
            self._progress.reset(self._stage, total=total, description=event["stage"])
        elif event["event"] == "epoch_done":
            self._show_epoch(event["stage"], event["epoch"])
        elif event["event"] in {"evaluated", "verdict", "picked"}:
            self._progress.update(self._now, visible=False)

    def training(self, stage: str, scalars: Mapping[str, Any]) -> None:
        step, steps = scalars.get("step"), scalars.get("steps")
        if step is None and "iteration" in scalars and self._iterations[stage]:
            steps = self._iterations[stage]
            step = scalars["iteration"] % steps + 1
        values = "  ".join(
            f"{name} {scalars[name]:.3g}"
            for name in ("loss", "accuracy", "reward", "kl")
            if isinstance(scalars.get(name), float)
        )
        self._progress.update(
            self._now,
            description=f"training  {values}",
            completed=step or 0,
            total=steps,
            visible=True,
        )
        if step and steps and "epoch" in scalars:
            done = scalars["epoch"] - 1 + min(1.0, step / steps)
            self._progress.update(self._stage, completed=done)

    def evaluating(self, checkpoint: str, evalset: str, done: int, total: int) -> None:
        self._progress.update(
            self._now,
            description=f"evaluating {checkpoint} on {evalset}",
            completed=done,
            total=total,
            visible=True,
        )

    def _show_epoch(self, stage: str, epoch: int) -> None:
        total = self._epochs[stage]
        self._progress.update(
            self._stage, completed=epoch, total=total, description=f"{stage}, epoch {epoch}/{total}"
        )


@contextmanager
def listener(run: Run, schedule: Schedule, *, as_json: bool) -> Iterator[Listener]:
    """The listener that fits where the output goes."""
    if as_json:
        yield _Json(run)
    elif not sys.stderr.isatty():
        yield _Lines()
    else:
        progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        with progress:
            yield _Bars(schedule, progress)
