"""What of a run is committed: found once, known again by the paths, times and sizes of its files.

A reader opens only what is committed and listed here, never a pattern: one truncated parquet file
among a hundred would fail the whole query. What cannot be read is left out and said
(``RunIndex.problems``); it never takes a page down.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from harness.errors import IntegrityError
from harness.store import lines, lock
from harness.store.commit import MANIFEST, is_committed, manifest
from harness.store.run import SCHEMA, CheckpointInfo, State

SAMPLES, SUMMARY = "samples.parquet", "summary.json"
Split = Literal["all", "A", "B"]
_RUN_FILES = ("run.json", "schedule.yaml", "events.jsonl", "selection.json")

Stamp = tuple[str, int, int]  # path, modified (ns), bytes


@dataclass(frozen=True)
class Problem:
    """Something that could not be read, and was left out."""

    path: Path
    message: str


@dataclass(frozen=True)
class EvalEntry:
    """A committed evaluation of one checkpoint on one version of one eval set."""

    checkpoint: str
    set: str
    version: str  # the first 12 digits of the set's hash
    folder: Path
    stamp: tuple[Stamp, ...] = field(repr=False)

    @property
    def samples(self) -> Path:
        return self.folder / SAMPLES


@dataclass(frozen=True)
class RunIndex:
    """Everything committed in a run. Two are equal if the same bytes (by ``stamp``) are there.

    ``checkpoints`` are in the order of training; ``events`` oldest first.
    """

    path: Path
    stamp: str
    info: Mapping[str, Any] = field(compare=False, repr=False)
    events: tuple[Mapping[str, Any], ...] = field(compare=False, repr=False)
    checkpoints: tuple[CheckpointInfo, ...] = field(compare=False, repr=False)
    evaluations: tuple[EvalEntry, ...] = field(compare=False, repr=False)
    selection: Mapping[str, Any] | None = field(compare=False, repr=False)
    problems: tuple[Problem, ...] = field(compare=False, repr=False)

    @property
    def name(self) -> str:
        return self.path.resolve().name

    @property
    def picked(self) -> str | None:
        """The checkpoint that the run's pick chose, if any."""
        return None if self.selection is None else self.selection.get("picked")

    def state(self) -> State:
        """What the run is doing now; the lock is asked each time, the rest is as indexed."""
        if lock.is_held(self.path):
            return "running"
        for event in reversed(self.events):
            if event.get("event") == "done":
                return "stopped" if event.get("stopped_by") else "finished"
            if event.get("event") != "picked":
                break
        return "interrupted"

    def last(self, event: str) -> Mapping[str, Any] | None:
        """The latest event of a kind."""
        return next((e for e in reversed(self.events) if e.get("event") == event), None)

    def versions(self) -> dict[str, list[str]]:
        """Set -> the versions it was evaluated in; first the one that the run names."""
        found: dict[str, list[str]] = {}
        for entry in self.evaluations:
            known = found.setdefault(entry.set, [])
            if entry.version not in known:
                known.append(entry.version)
        named = self.info.get("evalsets") or {}
        counts: dict[tuple[str, str], int] = {}
        for entry in self.evaluations:
            key = (entry.set, entry.version)
            counts[key] = counts.get(key, 0) + 1
        for name, known in found.items():
            wanted = str(named.get(name, ""))
            known.sort(key=lambda v: (not (wanted and wanted.startswith(v)), -counts[name, v], v))
        return found


@dataclass(frozen=True)
class View:
    """How a run is looked at: which version of each eval set, which rows, how wide intervals are.

    Hashable, and equal for equal bytes on disk: every function of the data layer is cached by it.
    """

    index: RunIndex
    versions: tuple[tuple[str, str], ...]
    split: Split = "A"
    level: float = 0.95

    @classmethod
    def of(
        cls,
        index: RunIndex,
        versions: Mapping[str, str] | None = None,
        *,
        split: Split = "A",
        level: float = 0.95,
    ) -> View:
        """A view; sets that ``versions`` does not name are read in the run's own version."""
        chosen = {
            name: (versions or {}).get(name, known[0]) for name, known in index.versions().items()
        }
        return cls(index, tuple(sorted(chosen.items())), split, level)

    def entries(self, *, checkpoint: str | None = None, set: str | None = None) -> list[EvalEntry]:  # noqa: A002
        """The committed evaluations in view, in the order of training."""
        wanted = dict(self.versions)
        return [
            entry
            for entry in self.index.evaluations
            if wanted.get(entry.set) == entry.version
            and checkpoint in (None, entry.checkpoint)
            and set in (None, entry.set)
        ]

    def sets(self) -> list[str]:
        """The eval sets in view, in the order in which the run names them."""
        named = list(self.index.info.get("evalsets") or {})
        there = {entry.set for entry in self.entries()}
        return [n for n in named if n in there] + sorted(there - {*named})


def find_runs(folder: Path) -> list[Path]:
    """The runs in a folder, or the folder itself if it is one; newest first."""
    if (folder / "run.json").is_file():
        return [folder]
    if not folder.is_dir():
        return []
    found = [p for p in folder.iterdir() if (p / "run.json").is_file()]
    return sorted(found, key=lambda p: (-(p / "run.json").stat().st_mtime_ns, p.name))


def read_index(run: Path) -> RunIndex:
    """The run's committed content; cheap when nothing has changed since the last call."""
    return _index(run, tuple(_stamps(run)))


def _stamp(path: str) -> Stamp | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return (path, found.st_mtime_ns, found.st_size)


def _stamps(run: Path) -> Iterator[Stamp]:
    """Every file that the index is made of, and the samples it leads to.

    Asked for at each step that somebody takes on a page, and thousands in a long run: hence plain
    strings, which are made several times as fast as paths.
    """
    paths = [f"{run}/{name}" for name in _RUN_FILES]
    for folder in _within(f"{run}/checkpoints"):
        paths += [f"{folder}/COMMIT", f"{folder}/checkpoint.json"]
    for checkpoint in _within(f"{run}/evals"):
        for folder in _within(checkpoint):
            paths += [f"{folder}/{name}" for name in ("COMMIT", MANIFEST, SUMMARY, SAMPLES)]
    for path in paths:
        stamp = _stamp(path)
        if stamp is not None:
            yield stamp


def _within(path: str) -> list[str]:
    """The folders in a folder, in the order of their names."""
    try:
        with os.scandir(path) as found:
            return sorted(e.path for e in found if not e.name.startswith(".") and e.is_dir())
    except OSError:
        return []


def _folders(path: Path) -> list[Path]:
    return [Path(found) for found in _within(str(path))]


@lru_cache(maxsize=32)
def _index(run: Path, stamps: tuple[Stamp, ...]) -> RunIndex:
    problems: list[Problem] = []
    info = _object(run / "run.json", problems) or {}
    if info and info.get("schema") != SCHEMA:
        problems.append(
            Problem(run / "run.json", f"schema {info.get('schema')!r}, expected {SCHEMA}")
        )
        info = {}
    events = _events(run / "events.jsonl", problems)
    order = _stage_order(events)
    checkpoints = [
        found
        for folder in _folders(run / "checkpoints")
        if is_committed(folder) and (found := _checkpoint(folder, problems)) is not None
    ]
    checkpoints.sort(key=lambda c: (order.get(c.stage, len(order)), c.stage, c.epoch))
    place = {c.name: i for i, c in enumerate(checkpoints)}
    entries = []
    for checkpoint in _folders(run / "evals"):
        for folder in _folders(checkpoint):
            stamp = tuple(
                s for n in ("COMMIT", MANIFEST, SUMMARY, SAMPLES) if (s := _stamp(f"{folder}/{n}"))
            )
            if not is_committed(folder):
                continue
            wrong = _damage(folder, stamp)
            if wrong is not None:
                problems.append(wrong)
                continue
            name, _, version = folder.name.rpartition("@")
            entries.append(EvalEntry(checkpoint.name, name, version, folder, stamp))
    entries.sort(key=lambda e: (place.get(e.checkpoint, len(place)), e.checkpoint, e.set))
    chosen = (
        _object(run / "selection.json", problems) if (run / "selection.json").exists() else None
    )
    digest = hashlib.sha256(repr(stamps).encode()).hexdigest()
    return RunIndex(
        run,
        digest,
        info,
        tuple(events),
        tuple(checkpoints),
        tuple(entries),
        None if chosen is None else chosen.get("selection"),
        tuple(problems),
    )


@lru_cache(maxsize=20_000)
def _damage(folder: Path, stamp: tuple[Stamp, ...]) -> Problem | None:
    """What is wrong with a committed evaluation at first sight: sizes, and parquet's own marks."""
    try:
        listed = manifest(folder)
    except (IntegrityError, ValueError) as error:
        return Problem(folder, str(error))
    sizes = {Path(path).name: size for path, _, size in stamp}
    for name in (SUMMARY, SAMPLES):
        if name not in sizes or name not in listed:
            return Problem(folder / name, "is missing")
        if sizes[name] != listed[name]["size"]:
            return Problem(
                folder / name, f"has {sizes[name]} bytes; {listed[name]['size']} were committed"
            )
    with (folder / SAMPLES).open("rb") as file:
        head = file.read(4)
        file.seek(-4, 2)
        if (head, file.read(4)) != (b"PAR1", b"PAR1"):
            return Problem(folder / SAMPLES, "is not a parquet file")
    return None


def _object(path: Path, problems: list[Problem]) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        problems.append(Problem(path, f"cannot be read ({error})"))
        return None
    if not isinstance(content, dict):
        problems.append(Problem(path, "is not a JSON object"))
        return None
    return content


def _events(path: Path, problems: list[Problem]) -> list[dict[str, Any]]:
    """All events; where a line is damaged, those that can be read."""
    try:
        return [e for e in lines.read(path) if isinstance(e.get("event"), str)]
    except IntegrityError as error:
        problems.append(Problem(path, str(error)))
    found = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            event = json.loads(line)
        except ValueError:
            continue
        if isinstance(event, dict) and isinstance(event.get("event"), str):
            found.append(event)
    return found


def _stage_order(events: list[dict[str, Any]]) -> dict[str, int]:
    order: dict[str, int] = {}
    for event in events:
        stage = event.get("stage") or str(event.get("checkpoint", "")).rpartition("-e")[0]
        if stage:
            order.setdefault(str(stage), len(order))
    return order


def _checkpoint(folder: Path, problems: list[Problem]) -> CheckpointInfo | None:
    content = _object(folder / "checkpoint.json", problems)
    if content is None:
        return None
    try:
        return CheckpointInfo(
            name=str(content["name"]),
            stage=str(content["stage"]),
            epoch=int(content["epoch"]),
            kind=str(content["kind"]),
            folder=folder,
            training=content.get("training", {}),
        )
    except (KeyError, TypeError, ValueError) as error:
        problems.append(Problem(folder / "checkpoint.json", f"lacks or garbles {error}"))
        return None
