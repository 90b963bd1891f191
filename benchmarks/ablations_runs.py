"""Trains the arms of one seed. What arms have in common is trained once and linked into their runs.

A run here is a run directory as ``aldente run`` leaves it, made by the same trainers, without the
events of a gated run. Committed checkpoints and evaluations are read, not made again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.evalsets import load_evalset
from harness.store.run import Run
from trainers.live_base import LiveBase
from trainers.schedule_file import read_schedule, resolved_yaml
from trainers.schedule_stages import POLICY_KINDS
from trainers.stage import Checkpoint
from trainers.validation import Resolved, resolve

SCHEDULES = Path(__file__).resolve().parent.parent / "schedules"
UNGATED = SCHEDULES / "pocket-ungated.yaml"
GHOST = SCHEDULES / "pocket-ghost-attention.yaml"


@dataclass(frozen=True)
class Trained:
    """A trained arm: its run, its schedule, its stages' checkpoints, and what each started from."""

    run: Run
    resolved: Resolved
    checkpoints: dict[str, list[Checkpoint]]
    starts: dict[str, Path | None]

    def measure(self, checkpoint: Checkpoint, sets: Sequence[str]) -> None:
        """Evaluate one more checkpoint, or the same on more sets."""
        live = LiveBase(self.run, on_sets(self.resolved, sets))
        live.evaluate(checkpoint, self.starts[checkpoint.stage], _silent)


def resolved(path: Path, seed: int, overrides: Sequence[str] = ()) -> Resolved:
    """A schedule with overrides, and what it names."""
    return resolve(read_schedule(path, overrides, seed=seed), path.parent)


def on_sets(found: Resolved, sets: Sequence[str]) -> Resolved:
    """The same with these pocket sets instead of the schedule's."""
    return replace(found, evalsets=tuple(load_evalset(f"pocket/{name}") for name in sets))


def train(
    path: Path,
    found: Resolved,
    stages: Sequence[str],
    *,
    shared: Run | None = None,
    linked: Sequence[str] = (),
    sets: Sequence[str] = (),
    measured: Callable[[Checkpoint], bool] = lambda _: False,
) -> Trained:
    """Train ``stages`` of a schedule in ``path``; ``linked`` ones are those of the run ``shared``.

    Each policy stage starts from the one before it in ``stages``. Checkpoints that are ``measured``
    are evaluated on ``sets`` between the epochs, as in a gated run.
    """
    if not (path / "run.json").exists():
        Run.create(path, schedule_yaml=resolved_yaml(found.schedule), info={})
    run = Run.open(path)
    with run.lock():
        run.clean()
        for name in linked:
            assert shared is not None
            _link(shared, run, name)
        live = LiveBase(run, on_sets(found, sets))
        start: Path | None = None
        checkpoints: dict[str, list[Checkpoint]] = {}
        starts: dict[str, Path | None] = {}
        for stage in found.schedule.stages:
            if stage.name not in stages:
                continue
            made = checkpoints.setdefault(stage.name, [])
            starts[stage.name] = start
            for checkpoint in live.train(stage, start, lambda _: None):
                made.append(checkpoint)
                if measured(checkpoint):
                    live.evaluate(checkpoint, start, _silent)
            if stage.kind in POLICY_KINDS:
                start = made[-1].folder
    return Trained(run, found, checkpoints, starts)


def _link(source: Run, run: Run, stage: str) -> None:
    """A stage's committed checkpoints, as links."""
    for info in source.checkpoints():
        place = run.checkpoint_folder(info.name)
        if info.stage == stage and not place.exists():
            place.symlink_to(os.path.relpath(info.folder.resolve(), place.parent.resolve()))


def _silent(evalset: str, done: int, total: int) -> None:
    return None
