"""Where training data come from: the pocket world by name, files in a public format, the hub.

Sources: ``pocket/<name>`` (with options as in a URL: ``pocket/safe?misread=0``), a file
(.jsonl, .jsonl.gz, .json, .json.gz, .csv, .parquet, .txt), a folder of such files, read in the
order of their names, or a data set of the hub (``hub:owner/name#split``). Reading is strict: every
bad row is named by file, line, field and reason, and nothing is trained until all are mended. The
formats are told in ``docs/training-data.md`` and read by ``data_formats.py``.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

from harness.errors import InputError, nearest
from trainers import data_hub
from trainers.data_files import files, objects
from trainers.data_formats import (
    DEMONSTRATIONS,
    DIALOGUES,
    INSTRUCTIONS,
    PAIRS,
    PROMPTS,
    Format,
    Kind,
    Notes,
    RowError,
    detect,
    named,
)
from trainers.data_instructions import InstructionRow
from trainers.data_rows import Demonstration, Dialogue, Document, Instruction, Pair, Place, Prompt

__all__ = [
    "LOADERS",
    "BadRowsError",
    "Demonstration",
    "Dialogue",
    "Document",
    "Instruction",
    "Loaded",
    "Pair",
    "Place",
    "Prompt",
    "Report",
    "first_object",
    "load_demonstrations",
    "load_dialogues",
    "load_instructions",
    "load_pairs",
    "load_prompts",
]

T = TypeVar("T")
DECLARED = "(declared)"  # where instructions stand that a schedule holds
_SHOWN = 20  # bad rows listed in one message


@dataclass(frozen=True)
class Report:
    """What became of a source's rows: ``read`` = ``kept`` + what was dropped or not drawn."""

    source: str
    format: str
    read: int
    kept: int
    notes: dict[str, int] = field(default_factory=dict)  # oddities read all the same
    dropped: dict[str, int] = field(default_factory=dict)  # reason -> rows


@dataclass(frozen=True)
class Loaded(Generic[T]):
    rows: tuple[T, ...]
    report: Report
    places: tuple[Place, ...] = ()  # where each row stands


class BadRowsError(InputError):
    """Rows that do not fit; ``problems`` has one error for each, the message the first ones."""

    def __init__(self, problems: Sequence[InputError]) -> None:
        first = problems[0]
        more = "".join(f"\n  {problem}" for problem in problems[1:_SHOWN])
        if len(problems) > _SHOWN:
            more += f"\n  and {len(problems) - _SHOWN} more bad rows"
        super().__init__(
            first.message + (f" ({len(problems)} bad rows)" if more else ""),
            path=first.path,
            line=first.line,
            field=first.field,
            expected=(first.expected or "") + more or None,
        )
        self.problems = tuple(problems)


def load_demonstrations(
    source: str,
    data_format: str = "auto",
    *,
    base_folder: Path,
    seed: int,
    limit: int | None = None,
) -> Loaded[Demonstration] | Loaded[Document]:
    """Conversations to imitate, or (format ``text``) documents, all of one type. ``limit`` rows are
    drawn by ``seed``, in their order."""
    return _load(
        source,
        data_format,
        DEMONSTRATIONS,
        base_folder,
        seed,
        limit,
        lambda row: None,
        Demonstration,
    )


def load_pairs(
    source: str,
    data_format: str = "auto",
    *,
    base_folder: Path,
    seed: int,
    limit: int | None = None,
) -> Loaded[Pair]:
    """Preference pairs. Pairs of two identical replies say nothing and are dropped and counted."""
    return _load(
        source,
        data_format,
        PAIRS,
        base_folder,
        seed,
        limit,
        lambda pair: "identical replies" if pair.chosen == pair.rejected else None,
        Pair,
    )


def load_prompts(
    source: str,
    data_format: str = "auto",
    *,
    base_folder: Path,
    seed: int,
    limit: int | None = None,
) -> Loaded[Prompt]:
    """Prompts with their safety tag. A row without an id is called by its number, from 1. Raises
    ``BadRowsError`` for ids that an earlier row has."""
    loaded = _load(source, data_format, PROMPTS, base_folder, seed, None, lambda row: None, Prompt)
    rows = tuple(
        prompt if prompt.id else Prompt(str(n), prompt.messages, prompt.safety, prompt.category)
        for n, prompt in enumerate(loaded.rows, 1)
    )
    _refuse_repeated("id", [f"the id {prompt.id!r}" for prompt in rows], loaded.places)
    drawn = _draw(len(rows), limit, seed)
    return Loaded(
        tuple(rows[i] for i in drawn),
        replace(loaded.report, kept=len(drawn)),
        tuple(loaded.places[i] for i in drawn),
    )


def load_dialogues(
    source: str,
    data_format: str = "auto",
    *,
    base_folder: Path,
    seed: int,
    least_turns: int = 1,
) -> Loaded[Dialogue]:
    """Multi-turn prompts of at least so many user turns; shorter ones are dropped and counted."""

    def short(row: Dialogue) -> str | None:
        return f"fewer than {least_turns} user turns" if len(row.turns) < least_turns else None

    loaded = _load(source, data_format, DIALOGUES, base_folder, seed, None, short, Dialogue)
    if not loaded.rows:
        raise InputError(
            f"none of {loaded.report.read} dialogues has {least_turns} user turns", path=source
        )
    return loaded


def load_instructions(
    source: str,
    data_format: str = "auto",
    *,
    base_folder: Path,
    seed: int,
    declared: Sequence[InstructionRow] = (),
    held_out: Sequence[str] = (),
) -> Loaded[Instruction]:
    """Instructions of a source (``DECLARED``: of none) and those ``declared``, without the kinds
    ``held_out``. Raises ``InputError`` for such a kind that there is none of, and where none is
    left; ``BadRowsError`` for instructions that an earlier row has."""
    rows: list[Instruction] = []
    places: list[Place] = []
    used, notes = "declared", dict[str, int]()
    if source != DECLARED:
        found = _load(
            source,
            data_format,
            INSTRUCTIONS,
            base_folder,
            seed,
            None,
            lambda row: None,
            Instruction,
        )
        rows, places = list(found.rows), list(found.places)
        used, notes = found.report.format, found.report.notes
    for number, row in enumerate(declared, 1):
        rows += row.expanded()
        places += [Place(DECLARED, number)] * (len(rows) - len(places))
    told = [f"the {row.kind} instruction {row.text!r}" for row in rows]
    _refuse_repeated("instruction", told, places)
    kinds = sorted({row.kind for row in rows})
    for kind in held_out:
        if kind not in kinds:
            raise InputError(
                f"there is no kind {kind!r} to hold out",
                path=source,
                expected=" | ".join(kinds),
                nearest=nearest(kind, kinds),
            )
    kept = [number for number, row in enumerate(rows) if row.kind not in held_out]
    if not kept:
        raise InputError("every kind of instruction is held out", path=source)
    dropped = Counter(f"held out: {row.kind}" for row in rows if row.kind in held_out)
    return Loaded(
        tuple(rows[i] for i in kept),
        Report(source, used, len(rows), len(kept), notes, dict(dropped)),
        tuple(places[i] for i in kept),
    )


def _refuse_repeated(field: str, told: Sequence[str], places: Sequence[Place]) -> None:
    """Raise ``BadRowsError`` for every row of which the same is told as of an earlier one."""
    first: dict[str, Place] = {}
    problems: list[InputError] = []
    for what, place in zip(told, places, strict=True):
        if what in first:
            message = f"{what} stands at {first[what]} already"
            problems.append(InputError(message, path=place.path, line=place.line, field=field))
        else:
            first[what] = place
    if problems:
        raise BadRowsError(problems)


LOADERS: Mapping[Kind, Callable[..., Loaded[Any]]] = {
    "demonstrations": load_demonstrations,
    "pairs": load_pairs,
    "prompts": load_prompts,
    "dialogues": load_dialogues,
    "instructions": load_instructions,
}


# What rows are called, and the pocket world's sources of them.
_OF_TYPE: Mapping[type, tuple[str, str]] = {
    Demonstration: ("demonstrations", "pocket/demonstrations"),
    Pair: ("preference pairs", "pocket/helpful | pocket/safe"),
    Prompt: ("prompts", "pocket/prompts"),
    Dialogue: ("dialogues", "pocket/dialogues"),
    Instruction: ("instructions", "pocket/instructions"),
}


def _load(
    source: str,
    data_format: str,
    formats: tuple[Format, ...],
    base_folder: Path,
    seed: int,
    limit: int | None,
    drop: Callable[[Any], str | None],
    row_type: type,
) -> Loaded[Any]:
    if source.startswith("pocket/"):
        rows: list[Any] = list(_pocket(source, base_folder, seed))
        if not all(isinstance(row, row_type) for row in rows):
            what, names = _OF_TYPE[row_type]
            raise InputError(f"these are no {what}", path=source, expected=names)
        places = [Place(source, number) for number in range(1, len(rows) + 1)]
        notes, used, read = Counter[str](), "pocket", len(rows)
    else:
        found = _read_files(source, data_format, formats, seed)
        rows, places, notes, read = found.rows, found.places, found.notes, found.read
        used = found.used.name if found.used else data_format
    kept: list[int] = []
    dropped: Counter[str] = Counter()
    for number, row in enumerate(rows):
        reason = drop(row)
        if reason is None:
            kept.append(number)
        else:
            dropped[reason] += 1
    drawn = [kept[i] for i in _draw(len(kept), limit, seed)]
    return Loaded(
        tuple(rows[i] for i in drawn),
        Report(source, used, read, len(drawn), dict(notes), dict(dropped)),
        tuple(places[i] for i in drawn),
    )


def _draw(count: int, limit: int | None, seed: int) -> Sequence[int]:
    """The numbers of the rows that are used, in their order."""
    if limit is None or limit >= count:
        return range(count)
    return sorted(random.Random(seed).sample(range(count), limit))


def _pocket(source: str, base_folder: Path, seed: int) -> Sequence[Any]:
    from trainers.pocket import data as pocket

    name, _, query = source.partition("?")
    try:
        given = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise InputError(
            f"cannot read the options {query!r}",
            path=source,
            expected="name=value, with & between them",
        ) from error
    twice = [option for option, count in Counter(key for key, _ in given).items() if count > 1]
    if twice:
        raise InputError(f"the option {twice[0]!r} is given twice", path=source)
    return pocket.rows(name, dict(given), base_folder=base_folder, seed=seed)


# --------------------------------------------------------------------------- files


@dataclass
class _Read:
    rows: list[Any] = field(default_factory=list)
    places: list[Place] = field(default_factory=list)  # of each row
    notes: Notes = field(default_factory=Counter)
    used: Format | None = None
    read: int = 0  # objects


def _read_files(source: str, data_format: str, formats: tuple[Format, ...], seed: int) -> _Read:
    """All rows of a file, a folder or a hub data set, with their places."""
    found = _Read(used=named(data_format, formats))
    problems: list[InputError] = []
    for path, line, row in _objects(source, data_format, formats, problems):
        found.read += 1
        if found.used is None:
            found.used = detect(row, formats, path, line)
        try:
            rows = found.used.parse(row, found.notes, seed)
        except RowError as error:
            problems.append(
                InputError(
                    error.message, path=path, line=line, field=error.field, expected=error.expected
                )
            )
            continue
        found.rows += rows
        found.places += [Place(path, line)] * len(rows)
    if problems:
        raise BadRowsError(problems)
    if not found.rows:
        what = "holds no rows" if not found.read else f"{found.read} rows, but nothing to train on"
        told = ", ".join(f"{count} {note}" for note, count in found.notes.items())
        raise InputError(what + (f": {told}" if told else ""), path=source)
    return found


def _objects(
    source: str, data_format: str, formats: tuple[Format, ...], problems: list[InputError]
) -> Iterator[tuple[str, int, dict[str, Any]]]:
    if source.startswith(data_hub.PREFIX):
        for number, row in data_hub.objects(source):
            yield source, number, row
        return
    documents = formats is DEMONSTRATIONS and data_format in ("auto", "text")
    for path in files(source, documents=documents):
        for line, row in objects(path, problems):
            yield str(path), line, row


def first_object(source: str) -> tuple[str, int, dict[str, Any]]:
    """(path, line, object) of a source's first row, to tell what kind of data it is.

    Raises ``InputError`` where there is none.
    """
    problems: list[InputError] = []
    found = next(_objects(source, "auto", DEMONSTRATIONS, problems), None)
    if found is None:
        raise BadRowsError(problems) if problems else InputError("holds no rows", path=source)
    return found
