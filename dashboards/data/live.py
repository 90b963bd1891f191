"""What a run is doing now: from its events, its heartbeat, and the journals of half-done work."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dashboards.data.index import RunIndex, read_index
from dashboards.data.schedule import plan
from dashboards.data.summaries import opened
from harness.samples import JOURNAL
from harness.store import lock
from harness.store.commit import is_committed
from harness.store.kinds import REWARD
from harness.store.run import State

FRESH = lock.STALE  # seconds: a heartbeat older than this means nothing


@dataclass(frozen=True)
class Progress:
    """An evaluation that is under way: rows written so far; ``of`` if an earlier one tells."""

    checkpoint: str
    set: str
    rows: int
    of: int | None


@dataclass(frozen=True)
class StageProgress:
    """``done`` checkpoints after the stage's start; ``planned`` None if the schedule is silent."""

    stage: str
    kind: str
    done: int
    planned: int | None
    state: str  # waiting, running, finished, rolled back
    seconds: float  # of training and evaluation, as recorded


@dataclass(frozen=True)
class Live:
    """``heartbeat_age``: seconds, None without one. ``events``: newest first."""

    state: State
    heartbeat_age: float | None
    host: str | None
    stages: tuple[StageProgress, ...]
    under_way: tuple[Progress, ...]
    events: tuple[Mapping[str, Any], ...]


def live(run: Path, *, events: int = 50) -> Live:
    """The run as it is at this moment; cheap enough to ask every second."""
    index = read_index(run)
    state = index.state()
    try:
        beat = lock.heartbeat(run)
    except ValueError:
        beat = None
    age = None if beat is None else max(0.0, time.time() - float(beat["time"]))
    return Live(
        state,
        age,
        None if beat is None else str(beat["host"]),
        tuple(_stages(index)),
        tuple(_under_way(index)) if state != "finished" else (),
        tuple(reversed(index.events[-events:])),
    )


def _stages(index: RunIndex) -> list[StageProgress]:
    planned = plan(index).stages
    started = {
        e["stage"]: str(e.get("kind", "")) for e in index.events if e["event"] == "stage_started"
    }
    finished = {e["stage"]: e for e in index.events if e["event"] == "stage_finished"}
    names = {stage.name: stage for stage in planned}
    found = []
    for name in dict.fromkeys([*names, *started]):
        stage = names.get(name)
        if name in finished:
            state = "rolled back" if finished[name].get("rolled_back_to") else "finished"
        else:
            state = "running" if name in started else "waiting"
        found.append(
            StageProgress(
                name,
                stage.kind if stage else started.get(name, ""),
                sum(c.stage == name and c.epoch > 0 for c in index.checkpoints),
                stage.epochs if stage else None,
                state,
                _seconds(index, name),
            )
        )
    return found


def _seconds(index: RunIndex, stage: str) -> float:
    total = 0.0
    for event in index.events:
        if event["event"] in ("epoch_done", "evaluated"):
            of = str(event.get("checkpoint", "")).rpartition("-e")[0]
            if of == stage and isinstance(event.get("seconds"), int | float):
                total += float(event["seconds"])
    return total


def _under_way(index: RunIndex) -> list[Progress]:
    """Journals of evaluations that are not committed yet."""
    policies = [c for c in index.checkpoints if c.kind != REWARD]
    if not policies:
        return []
    newest = policies[-1].name
    folder = index.path / "evals" / newest
    found = []
    for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
        journal = entry / JOURNAL
        name, _, version = entry.name.rpartition("@")
        if name and journal.is_file() and not is_committed(entry):
            rows = max(0, journal.read_bytes().count(b"\n") - 1)  # less the header
            found.append(Progress(newest, name, rows, _rows(index, name, version)))
    return found


def _rows(index: RunIndex, name: str, version: str) -> int | None:

    for entry in index.evaluations:
        if (entry.set, entry.version) == (name, version) and (found := opened(entry)) is not None:
            return int(found.summary.get("rows", 0)) or None
    return None
