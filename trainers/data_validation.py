"""The training data of a schedule: can they be read, and do they leave the eval sets alone?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.evalsets import EvalSet
from trainers.data import DECLARED, LOADERS, Loaded
from trainers.data_formats import Kind
from trainers.data_leaks import Leak, LeakIndex
from trainers.samples_file import demonstrations, read_source
from trainers.sampling_validation import prompt_problems
from trainers.schedule import Schedule
from trainers.schedule_rules import Problem
from trainers.schedule_stages import (
    AnyStage,
    DpoStage,
    GhostAttentionStage,
    PpoStage,
    RejectionSamplingStage,
    RewardStage,
    RlooStage,
    SftStage,
)
from trainers.seeds import stage_seed

_SHOWN = 3  # leaks in a message
_WIDTH = 100  # characters of their texts


@dataclass(frozen=True, slots=True)
class Reading:
    """A source as a stage reads it: all that decides which rows there are."""

    source: str
    kind: Kind
    data_format: str = "auto"
    options: tuple[tuple[str, Any], ...] = ()  # of the loader, by name


@dataclass(frozen=True, slots=True)
class Field:
    """A stage's field that names a source, and the longest row, in tokens, that it takes."""

    path: tuple[str, ...]
    reading: Reading
    max_length: int | None = None
    trained: bool = True  # False: only measured on, so that nothing can leak
    purpose: tuple[str, ...] = ("data",)  # of the stage's seed by which the rows are read


def fields(stage: AnyStage) -> Iterator[Field]:
    """Everything that the stage reads its rows from."""
    if isinstance(stage, SftStage):
        reading = Reading(stage.data, "demonstrations", stage.data_format)
        yield Field(("data",), reading, stage.max_length)
    elif isinstance(stage, RewardStage | DpoStage):
        reading = Reading(stage.data, "pairs", stage.data_format)
        yield Field(("data",), reading, stage.max_length, purpose=("data", stage.data))
        for source in stage.mix:
            reading = Reading(source, "pairs")
            yield Field(("mix", source), reading, stage.max_length, purpose=("data", source))
        for name, given in stage.eval_data.items() if isinstance(stage, RewardStage) else ():
            reading = Reading(given.data, "pairs", given.data_format)
            of_it = ("data", given.data)
            yield Field(("eval_data", name), reading, stage.max_length, False, purpose=of_it)
    elif isinstance(stage, GhostAttentionStage):
        least = (("least_turns", stage.least_turns),)
        yield Field(("prompts",), Reading(stage.prompts, "dialogues", stage.data_format, least))
        told = (("declared", stage.declare), ("held_out", stage.held_out))
        source = stage.instructions or DECLARED
        yield Field(("instructions",), Reading(source, "instructions", options=told))
    elif getattr(stage, "samples_from", None) is None:
        purpose = ("prompts",) if isinstance(stage, PpoStage | RlooStage) else ("data",)
        yield Field(("prompts",), Reading(stage.prompts, "prompts"), purpose=purpose)
    if isinstance(stage, PpoStage | RlooStage) and stage.sft_data is not None:
        reading = Reading(stage.sft_data, "demonstrations", stage.sft_format)
        yield Field(("sft_data",), reading, stage.sft_max_length, purpose=("sft data",))


def data_seed(schedule: Schedule, stage: AnyStage, field: Field) -> int:
    """The seed by which a run reads the field's source: it makes the pocket world's rows, and
    chooses a question's pairs among its answers.

    Other files have the same rows for every seed, and are read once for all stages.
    """
    reading = field.reading
    if not reading.source.startswith("pocket/") and reading.kind != "pairs":
        return schedule.seed
    return stage_seed(schedule.seed + stage.seed_offset, stage.name, *field.purpose)


def data_problems(schedule: Schedule, base: Path, evalsets: Sequence[EvalSet]) -> Iterator[Problem]:
    """Read everything that the stages will train on, once, as training will read it, and compare it
    with the eval sets where the stage does not take leaks."""
    found: dict[tuple[Reading, int], Loaded[Any] | str] = {}
    leaks: dict[tuple[Reading, int], list[Leak]] = {}
    index: LeakIndex | None = None
    for at, stage in enumerate(schedule.stages):
        for field in fields(stage):
            reading, loc = field.reading, ("stages", at, stage.kind, *field.path)
            seeded = (reading, data_seed(schedule, stage, field))
            if seeded not in found:
                found[seeded] = _read(*seeded, base)
            loaded = found[seeded]
            if isinstance(loaded, str):
                yield Problem(loc, loaded)
            elif evalsets and field.trained and not stage.allow_leaks:
                index = index or LeakIndex(evalsets)
                if seeded not in leaks:
                    leaks[seeded] = index.compare(loaded.rows, loaded.places).refused()
                if leaks[seeded]:
                    yield _leaking(loc, leaks[seeded])
            if not isinstance(loaded, str) and reading.kind == "prompts":
                yield from prompt_problems(at, stage, loaded.rows)
        if isinstance(stage, RejectionSamplingStage) and stage.samples_from is not None:
            loc = ("stages", at, stage.kind, "samples_from")
            try:
                samples = read_source(Path(stage.samples_from))
            except InputError as error:
                yield Problem(loc, str(error))
                continue
            if evalsets and not stage.allow_leaks:
                index = index or LeakIndex(evalsets)
                places = [place for place, _ in samples]
                refused = index.compare(demonstrations(samples), places).refused()
                if refused:
                    yield _leaking(loc, refused)


def load(reading: Reading, *, base_folder: Path, seed: int) -> Loaded[Any]:
    """What a reading finds. Raises ``InputError``."""
    return LOADERS[reading.kind](
        reading.source,
        reading.data_format,
        base_folder=base_folder,
        seed=seed,
        **dict(reading.options),
    )


def _read(reading: Reading, seed: int, base: Path) -> Loaded[Any] | str:
    try:
        return load(reading, base_folder=base, seed=seed)
    except InputError as error:
        return str(error)


def _leaking(loc: tuple[str | int, ...], leaks: Sequence[Leak]) -> Problem:
    rows = len({leak.place for leak in leaks})
    told = [f"{leak.place}: {leak.told()}: {_shown(leak.trained)}" for leak in leaks[:_SHOWN]]
    if len(leaks) > _SHOWN:
        told.append(f"and {len(leaks) - _SHOWN} more")
    return Problem(
        loc,
        f"{rows} training rows stand in the eval sets: " + "; ".join(told),
        "other rows (`aldente data check` lists these), or `allow_leaks: true` on the stage",
    )


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…")
