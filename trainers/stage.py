"""What a trainer is given, and what it gives back: one committed checkpoint an epoch.

A trainer is a function from a ``StageContext`` to an iterator of ``Checkpoint``. It first yields
the epochs that are committed already, without training them again, then trains the rest. What an
epoch needs of the one before it is read from that one's folder, never from memory, so a killed
stage goes on where it was and ends with the same bytes (on a CPU) as one that never stopped.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from harness.errors import IntegrityError
from harness.store.atomic import to_json
from harness.store.commit import verify
from trainers.schedule import Schedule
from trainers.schedule_stages import POLICY_KINDS, AnyStage
from trainers.seeds import stage_seed
from trainers.team import ALONE, Team

if TYPE_CHECKING:
    from harness.models import LoadedModel
    from harness.reward_models import RewardModel
    from harness.store.run import Run

POLICY = "policy"  # the name of the adapter being trained, on the shared base
SCHEMA = 1  # of checkpoint.json


@dataclass(frozen=True)
class Checkpoint:
    """A committed checkpoint. ``training`` holds the epoch's scalars; no times, so that two runs
    of one seed leave the same bytes."""

    name: str
    stage: str
    kind: str
    epoch: int
    folder: Path
    training: dict[str, Any]


def checkpoint_name(stage: str, epoch: int) -> str:
    return f"{stage}-e{epoch:03d}"


def _silent(_: dict[str, Any]) -> None:
    return None


@dataclass
class StageContext:
    """All that a stage may use. ``loaded`` is the base, shared by the stages of a run: pass it to
    keep one base in memory; without it the first ``base()`` loads one."""

    run: Run
    schedule: Schedule
    stage: AnyStage
    start: Path | None  # policy checkpoint to start from; None: the base alone
    base_folder: str  # folder or hub id of the base
    reward_models: tuple[RewardModel, ...] = ()
    device: str = "auto"
    log: Callable[[dict[str, Any]], None] = field(default=_silent)  # progress scalars
    loaded: LoadedModel | None = None
    team: Team = ALONE

    def seed(self, *purpose: str | int) -> int:
        """The stage's seed for a purpose: ``seed("lora")``, ``seed("member", 2)``."""
        return stage_seed(self.schedule.seed + self.stage.seed_offset, self.stage.name, *purpose)

    def base(self) -> LoadedModel:
        """The base model, loaded at most once."""
        if self.loaded is None:
            from harness.models import ModelSpec, load

            self.loaded = load(
                ModelSpec(
                    base=self.base_folder,
                    quantization=self.schedule.quantization,
                    dtype=self.schedule.dtype,
                    device=self.device,
                )
            )
        return self.loaded

    @property
    def first_policy_stage(self) -> bool:
        """Whether this stage creates the policy adapter, and so also yields it untrained."""
        first = next((s for s in self.schedule.stages if s.kind in POLICY_KINDS), None)
        return first is not None and first.name == self.stage.name

    def committed(self) -> Iterator[Checkpoint]:
        """This stage's committed checkpoints, by epoch."""
        infos = [info for info in self.run.checkpoints() if info.stage == self.stage.name]
        for info in sorted(infos, key=lambda info: info.epoch):
            yield read_checkpoint(info.folder)

    def commit(self, epoch: int, write: Callable[[Path], dict[str, Any]]) -> Checkpoint:
        """Write a checkpoint and commit it.

        ``write`` fills the staging folder that it is given and returns the epoch's training
        scalars, which go into checkpoint.json. It may train in there too: a kill leaves the
        staging folder uncommitted, and the next run removes it.

        A follower's ``write`` fills a folder that is thrown away.
        """
        name = checkpoint_name(self.stage.name, epoch)
        self.team.meet()  # nothing appears on disk before all have looked what is there
        if not self.team.leads:
            with TemporaryDirectory(prefix="aldente-") as scratch:
                write(Path(scratch))
            self.team.meet()
            return read_checkpoint(self.run.checkpoint_folder(name))
        with self.run.new_checkpoint(name) as staging:
            training = write(staging)
            content = {
                "schema": SCHEMA,
                "name": name,
                "stage": self.stage.name,
                "kind": self.stage.kind,
                "epoch": epoch,
                "training": training,
            }
            plain = json.loads(to_json(content))  # numbers that are none as null
            text = json.dumps(plain, indent=1, sort_keys=True, ensure_ascii=False)
            (staging / "checkpoint.json").write_text(text + "\n", encoding="utf-8")
        self.team.meet()
        return read_checkpoint(self.run.checkpoint_folder(name))


Trainer = Callable[[StageContext], Iterator[Checkpoint]]


def intact(folder: Path) -> Path:
    """A committed folder whose every byte is as committed; else ``IntegrityError``.

    Asked before going on from a checkpoint: a loader does not notice a flipped bit, and trainer
    state, which torch unpickles (weights only), must be what this run wrote.
    """
    problems = verify(folder)
    if problems:
        raise IntegrityError(problems[0])
    return folder


def read_checkpoint(folder: Path) -> Checkpoint:
    """What checkpoint.json says of a committed checkpoint folder."""
    content = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    return Checkpoint(
        name=content["name"],
        stage=content["stage"],
        kind=content["kind"],
        epoch=content["epoch"],
        folder=folder,
        training=content["training"],
    )
