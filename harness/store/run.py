"""The run directory: one folder that holds all there is to know of a run.

::

    runs/<name>/
      run.json  schedule.yaml              who and what
      events.jsonl                         what happened, append-only
      LOCK  heartbeat                      who is writing, if anyone
      checkpoints/<stage>-e<NNN>/          committed folders
      evals/<checkpoint>/<set>@<hash12>/   committed folders; samples.jsonl while one is running
      selection.json                       the pick

Readers need no lock and see committed things only. What a run is doing is derived from its events
and its lock, never stored. Nothing in it names an absolute path: a moved run still opens.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import InputError, IntegrityError, nearest
from harness.store import lines, lock
from harness.store.atomic import TEMPORARY, make_folder, to_json, write_json, write_text
from harness.store.commit import is_committed, staging, verify

if TYPE_CHECKING:
    from harness.evaluation import Evaluation

SCHEMA = 1  # of run.json, events.jsonl and selection.json; see docs/run-format.md
State = Literal["running", "finished", "stopped", "interrupted"]

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*-e\d{3,}")


@dataclass(frozen=True)
class CheckpointInfo:
    """A committed checkpoint, as its checkpoint.json describes it."""

    name: str
    stage: str
    epoch: int
    kind: str
    folder: Path
    training: Mapping[str, Any]


class Run:
    """One run directory. ``create`` or ``open`` it; write only inside ``lock()``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path | str, *, schedule_yaml: str, info: Mapping[str, Any]) -> Run:
        """Make a new run directory.

        Args:
            schedule_yaml: the resolved schedule, kept as schedule.yaml.
            info: what run.json says besides ``schema`` and ``created``: hashes, versions, seed.

        Raises InputError if there is a run, or anything else, at ``path``.
        """
        run = cls(Path(path))
        if run.path.exists() and not run.path.is_dir():
            raise InputError("is a file", path=run.path, expected="a new folder")
        make_folder(run.path)
        with run.lock():
            if (run.path / "run.json").exists():
                raise InputError("there is a run here already", path=run.path)
            # What a creation that was killed may have left, and nothing of anybody else's.
            ours = {"LOCK", "heartbeat", "schedule.yaml", "checkpoints", "evals"}
            others = sorted(
                entry.name
                for entry in run.path.iterdir()
                if entry.name not in ours and not _is_temporary(entry)
            )
            if others:
                raise InputError(
                    f"is not empty and not a run (it holds {others[0]!r})", path=run.path
                )
            write_text(run.path / "schedule.yaml", schedule_yaml)
            make_folder(run.path / "checkpoints")
            make_folder(run.path / "evals")
            # Last: a folder with run.json is a run.
            write_json(run.path / "run.json", {"schema": SCHEMA, "created": _now(), **info})
        return run

    @classmethod
    def open(cls, path: Path | str) -> Run:
        """An existing run. InputError if there is none, or one of a later schema."""
        run = cls(Path(path))
        if not (run.path / "run.json").is_file():
            siblings = []
            if run.path.parent.is_dir():
                siblings = [p.name for p in run.path.parent.iterdir() if (p / "run.json").is_file()]
            raise InputError("no run here", path=run.path, nearest=nearest(run.name, siblings))
        schema = run.info()["schema"]
        if schema != SCHEMA:
            raise InputError(
                f"this run is of schema {schema!r}",
                path=run.path / "run.json",
                field="schema",
                expected=str(SCHEMA),
            )
        return run

    @property
    def name(self) -> str:
        return self.path.resolve().name

    def info(self) -> dict[str, Any]:
        """run.json."""
        return _read_object(self.path / "run.json")

    def schedule_yaml(self) -> str:
        return (self.path / "schedule.yaml").read_text(encoding="utf-8")

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run while writing; LockedError if a living process has it."""
        return lock.locked(self.path)

    def state(self) -> State:
        """What the run is doing: running (somebody holds it), else how it ended."""
        if lock.is_held(self.path):
            return "running"
        for event in reversed(self.events()):
            if event["event"] == "done":
                return "stopped" if event.get("stopped_by") else "finished"
            if event["event"] != "picked":
                break
        return "interrupted"

    # Events

    def append(self, event: str, **fields: Any) -> dict[str, Any]:
        """Record that something happened; once this returns, no kill or power loss undoes it.

        Returns the record as a reader will see it.
        """
        record = {"time": _now(), "event": event, **fields}
        lines.append(self.path / "events.jsonl", record)
        seen: dict[str, Any] = json.loads(to_json(record))
        return seen

    def events(self) -> list[dict[str, Any]]:
        """All events, oldest first; a last line that a kill tore is left out."""
        return lines.read(self.path / "events.jsonl")

    # Checkpoints

    def checkpoint_folder(self, name: str) -> Path:
        """Where the checkpoint is or would be; InputError for a name that is not one."""
        if not _NAME.fullmatch(name):
            raise InputError(f"{name!r} is no checkpoint's name", expected="such as ppo-e003")
        return self.path / "checkpoints" / name

    @contextmanager
    def new_checkpoint(self, name: str) -> Iterator[Path]:
        """A folder to fill, checkpoint.json included; committed when the block ends well."""
        with staging(self.checkpoint_folder(name)) as folder:
            yield folder
            described = _read_object(folder / "checkpoint.json").get("name")
            if described != name:
                raise ValueError(f"checkpoint.json of {name} calls it {described!r}")

    def checkpoints(self) -> list[CheckpointInfo]:
        """Committed checkpoints: stages in the order in which the run came to them, then epochs."""
        folder = self.path / "checkpoints"
        found = []
        for entry in folder.iterdir() if folder.is_dir() else ():
            if not entry.name.startswith(".") and is_committed(entry):
                found.append(_checkpoint_info(entry))
        order = self._stage_order()
        # A stage that no event names yet: its first commit was followed by a kill.
        last = len(order)
        return sorted(found, key=lambda c: (order.get(c.stage, last), c.stage, c.epoch))

    def _stage_order(self) -> dict[str, int]:
        order: dict[str, int] = {}
        for event in self.events():
            stage = event.get("stage")
            if stage is None and "checkpoint" in event:
                stage = event["checkpoint"].rpartition("-e")[0]
            if stage is not None:
                order.setdefault(stage, len(order))
        return order

    # Evaluations

    def eval_folder(self, checkpoint: str, set: str, hash: str) -> Path:  # noqa: A002
        """Where the evaluation of a checkpoint on a set of this hash is or would be."""
        self.checkpoint_folder(checkpoint)
        if "/" in set or set.startswith("."):
            raise InputError(f"{set!r} cannot be an eval set's name in a run", expected="an alias")
        return self.path / "evals" / checkpoint / f"{set}@{hash[:12]}"

    def evaluation(
        self, checkpoint: str, hashes: Mapping[str, str] | None = None
    ) -> Evaluation | None:
        """What was measured of a checkpoint, from committed folders only; None if nothing was.

        Args:
            hashes: set -> hash, to read these versions of these sets only. Default: those that
                run.json names under ``evalsets``; without that, whatever there is.

        Raises InputError if two versions of one set were evaluated and nothing says which.
        """
        from harness.evaluation import Evaluation  # here: pyarrow takes a moment to load

        wanted = hashes if hashes is not None else self.info().get("evalsets")
        folder = self.path / "evals" / checkpoint
        folders = {}
        for entry in sorted(folder.iterdir()) if folder.is_dir() else ():
            name, _, short = entry.name.rpartition("@")
            if not name or not is_committed(entry):
                continue
            if wanted is not None and not wanted.get(name, "").startswith(short):
                continue
            if name in folders:
                raise InputError(
                    f"{checkpoint} was evaluated on two versions of {name!r}", path=folder
                )
            folders[name] = entry
        return Evaluation.open(checkpoint, folders.values()) if folders else None

    # The pick

    def write_selection(self, selection: Any) -> None:
        """Replace selection.json; ``selection`` is a dataclass or a mapping."""
        write_json(self.path / "selection.json", {"schema": SCHEMA, "selection": selection})

    def selection(self) -> dict[str, Any] | None:
        """What ``write_selection`` was given, as JSON gives it back; None before the first pick."""
        path = self.path / "selection.json"
        if not path.is_file():
            return None
        chosen: dict[str, Any] = _read_object(path)["selection"]
        return chosen

    # Housekeeping

    def clean(self) -> list[Path]:
        """Remove what a kill left half-done, and say what; call it inside ``lock()``.

        Uncommitted checkpoints go. Uncommitted evaluations stay: they are resumed at the first
        missing sample.
        """
        folder = self.path / "checkpoints"
        removed = [e for e in (folder.iterdir() if folder.is_dir() else ()) if not is_committed(e)]
        removed += [e for e in self.path.rglob(f".*{TEMPORARY}") if _is_temporary(e)]
        # Killed between COMMIT and the removal of the journal, which has no more to say then.
        removed += [e for e in self.path.glob("evals/*/*/samples.jsonl") if is_committed(e.parent)]
        for entry in removed:
            if entry.is_dir():
                shutil.rmtree(entry)
            else:
                entry.unlink(missing_ok=True)
        return sorted(removed)

    def verify(self) -> list[str]:
        """What is wrong with the committed folders and the log, a line each; reads every byte."""
        problems = []
        committed = sorted(path.parent for path in self.path.glob("*/**/COMMIT"))
        for folder in committed:
            problems += verify(folder)
        try:
            for event in self.events():
                name = event.get("checkpoint")
                if name is not None and not is_committed(self.checkpoint_folder(name)):
                    problems.append(f"{self.path}: {name} is in events.jsonl but not committed")
        except (IntegrityError, InputError) as error:
            problems.append(str(error))
        return list(dict.fromkeys(problems))


def _checkpoint_info(folder: Path) -> CheckpointInfo:
    content = _read_object(folder / "checkpoint.json")
    return CheckpointInfo(
        name=content["name"],
        stage=content["stage"],
        epoch=content["epoch"],
        kind=content["kind"],
        folder=folder,
        training=content.get("training", {}),
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise IntegrityError(f"{path}: is missing") from error
    except ValueError as error:
        raise IntegrityError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise IntegrityError(f"{path}: not a JSON object")
    return content


def _is_temporary(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(TEMPORARY)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
