"""How fast a run goes, how long it will take, what it wrote last, and whether the disk will do.

Times are those that the run recorded (``seconds`` of its events); what has no example yet is not
guessed but named.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from dashboards.data.index import RunIndex
from dashboards.data.live import Live, Progress
from dashboards.data.summaries import opened
from harness.samples import JOURNAL

_TAIL = 512 * 1024  # bytes at the end of a journal in which the last samples are looked for


@dataclass(frozen=True)
class TimeLeft:
    """Seconds until the last epoch. ``low`` and ``high``: if every epoch took as long as the
    quickest or the slowest of its stage so far. ``unknown``: stages without an epoch to go by,
    which are not counted."""

    seconds: float
    low: float
    high: float
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Throughput:
    """Of the newest evaluation that is whole: rows and generated tokens a second."""

    checkpoint: str
    rows: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class Disk:
    """Bytes. ``checkpoint``: what a checkpoint and its evaluations took on average (None: none
    yet); ``needed``: what the epochs that are planned will take at that rate."""

    run: int
    free: int
    checkpoint: float | None
    needed: float | None


@dataclass(frozen=True)
class LastSample:
    """A row that was just finished."""

    set: str
    row_id: str
    prompt: str
    reply: str
    labels: str


def time_left(index: RunIndex, now: Live) -> TimeLeft | None:
    """None unless the run is going and the schedule says how many epochs are to come."""
    if now.state != "running" or any(s.planned is None for s in now.stages):
        return None
    middle = least = most = 0.0
    unknown = []
    for stage in now.stages:
        ahead = (stage.planned or 0) - stage.done
        if stage.state in ("finished", "rolled back") or ahead <= 0:
            continue
        taken = _epochs(index, stage.stage)
        if not taken:
            unknown.append(stage.stage)
            continue
        spent = _since_last(index) if stage.state == "running" else 0.0
        middle += max(0.0, statistics.median(taken) * ahead - spent)
        least += max(0.0, min(taken) * ahead - spent)
        most += max(0.0, max(taken) * ahead - spent)
    return TimeLeft(middle, least, most, tuple(unknown))


def throughput(index: RunIndex) -> Throughput | None:
    """Over all sets of the checkpoint that was evaluated last; None if none was yet."""
    if not index.evaluations:
        return None
    last = index.last("evaluated")
    names = {entry.checkpoint for entry in index.evaluations}
    name = str((last or {}).get("checkpoint"))
    if name not in names:
        name = index.evaluations[-1].checkpoint
    rows = tokens = 0
    seconds = 0.0
    for entry in index.evaluations:
        evaluation = opened(entry) if entry.checkpoint == name else None
        if evaluation is None:
            continue
        said = evaluation.summary
        if int(said.get("resumed_rows") or 0):  # its seconds are not those of all its rows
            continue
        rows += int(said.get("rows") or 0)
        tokens += int(said.get("tokens") or 0)
        seconds += float(said.get("seconds") or 0.0)
    return Throughput(name, rows, tokens, seconds) if seconds > 0 else None


def disk(index: RunIndex, now: Live) -> Disk:
    """What the run takes, what is left, and whether the rest of the run will fit."""
    size = _size(index.path, index.stamp)
    count = len(index.checkpoints)
    each = size / count if count else None
    needed = None
    if each is not None and all(s.planned is not None for s in now.stages):
        ahead = sum(
            max(0, (s.planned or 0) - s.done)
            for s in now.stages
            if s.state in ("waiting", "running")
        )
        needed = each * ahead
    return Disk(size, shutil.disk_usage(index.path).free, each, needed)


def last_samples(run: Path, under_way: tuple[Progress, ...], count: int = 5) -> list[LastSample]:
    """The last finished rows of evaluations that are under way, newest first."""
    found: list[LastSample] = []
    for progress in under_way:
        folder = run / "evals" / progress.checkpoint
        for path in sorted(folder.glob(f"{_literal(progress.set)}@*/{JOURNAL}")):
            found += _tail(path, progress.set, count)
    return found[:count]


def _epochs(index: RunIndex, stage: str) -> list[float]:
    """Seconds of training and evaluation of each epoch of a stage that is over."""
    total: dict[str, float] = {}
    for event in index.events:
        if event["event"] in ("epoch_done", "evaluated"):
            name, seconds = str(event.get("checkpoint", "")), event.get("seconds")
            of, _, epoch = name.rpartition("-e")
            if of == stage and epoch.strip("0") and isinstance(seconds, int | float):
                total[name] = total.get(name, 0.0) + float(seconds)
    return list(total.values())


def _since_last(index: RunIndex) -> float:
    """Seconds since the last epoch was over: what the one that is running has taken already."""
    for event in reversed(index.events):
        if event["event"] in ("evaluated", "verdict", "stage_started"):
            return age(event)
    return 0.0


def age(event: Mapping[str, Any]) -> float:
    """Seconds since an event was written; 0 if it does not say when."""
    try:
        then = datetime.fromisoformat(str(event.get("time")))
        return max(0.0, time.time() - then.timestamp())
    except (ValueError, OverflowError, OSError):
        return 0.0


@lru_cache(maxsize=8)
def _size(run: Path, stamp: str) -> int:
    """Bytes of all files; asked again when something was committed."""
    total = 0
    for folder, _, files in os.walk(run):
        for name in files:
            try:
                total += os.stat(os.path.join(folder, name), follow_symlinks=False).st_size
            except OSError:  # gone since it was listed
                continue
    return total


def _tail(path: Path, of_set: str, count: int) -> list[LastSample]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _TAIL))
            content = file.read()
    except OSError:  # committed, and with that gone, since it was listed
        return []
    found: list[LastSample] = []
    for line in reversed(content.split(b"\n")[:-1]):
        if len(found) == count:
            break
        try:
            record = json.loads(line)
        except ValueError:  # the first line of the tail may be the end of one
            continue
        if isinstance(record, dict) and "row_id" in record:
            found.append(_sample(record, of_set))
    return found


def _sample(record: Mapping[str, Any], of_set: str) -> LastSample:
    said = [m for m in record.get("transcript") or [] if isinstance(m, dict) and not m.get("judge")]
    labels = [str(s["label"]) for s in record.get("scores") or [] if s.get("label")]
    return LastSample(
        of_set,
        str(record["row_id"]),
        next((str(m.get("content")) for m in said if m.get("role") == "user"), ""),
        next((str(m.get("content")) for m in reversed(said) if m.get("role") == "assistant"), ""),
        " / ".join(dict.fromkeys(labels)),
    )


def _literal(name: str) -> str:
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
