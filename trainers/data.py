"""Where training data come from: the pocket world by name, or files in a public format.

Sources: ``pocket/<name>`` (with options as in a URL: ``pocket/safe?misread=0``), a file
(.jsonl, .jsonl.gz, .json.gz, .csv, .parquet), or a folder of such files, read in the order of
their names. Reading is strict: every bad row is named by file, line, field and reason, and nothing
is trained until all are mended. The row types and formats are in ``data_formats.py``.
"""

from __future__ import annotations

import csv
import gzip
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar
from urllib.parse import parse_qsl

from harness.errors import InputError, nearest
from trainers.data_formats import (
    DEMONSTRATIONS,
    PAIRS,
    PROMPTS,
    Demonstration,
    Format,
    Notes,
    Pair,
    Prompt,
    RowError,
)

__all__ = [
    "BadRowsError",
    "Demonstration",
    "Loaded",
    "Pair",
    "Prompt",
    "Report",
    "load_demonstrations",
    "load_pairs",
    "load_prompts",
]

T = TypeVar("T")
_SUFFIXES = (".jsonl", ".jsonl.gz", ".json.gz", ".csv", ".parquet")
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
) -> Loaded[Demonstration]:
    """Conversations to imitate. ``limit`` rows are drawn by ``seed``, in their order."""
    return _load(source, data_format, DEMONSTRATIONS, base_folder, seed, limit, lambda row: None)


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
    )


def load_prompts(
    source: str,
    data_format: str = "auto",
    *,
    base_folder: Path,
    seed: int,
    limit: int | None = None,
) -> Loaded[Prompt]:
    """Prompts with their safety tag. A row without an id is called by its number, from 1."""
    loaded = _load(source, data_format, PROMPTS, base_folder, seed, None, lambda row: None)
    rows = tuple(
        prompt if prompt.id else Prompt(str(n), prompt.messages, prompt.safety, prompt.category)
        for n, prompt in enumerate(loaded.rows, 1)
    )
    counts = Counter(prompt.id for prompt in rows)
    repeated = [identity for identity, count in counts.items() if count > 1]
    if repeated:
        raise InputError(f"the id {repeated[0]!r} occurs twice", path=source, field="id")
    rows = _draw(rows, limit, seed)
    report = loaded.report
    return Loaded(
        rows,
        Report(report.source, report.format, report.read, len(rows), report.notes, report.dropped),
    )


def _load(
    source: str,
    data_format: str,
    formats: tuple[Format, ...],
    base_folder: Path,
    seed: int,
    limit: int | None,
    drop: Callable[[Any], str | None],
) -> Loaded[Any]:
    if source.startswith("pocket/"):
        rows: list[Any] = list(_pocket(source, base_folder, seed))
        notes, used, read = Counter[str](), "pocket", len(rows)
    else:
        rows, notes, used, read = _read_files(source, data_format, formats)
    kept: list[Any] = []
    dropped: Counter[str] = Counter()
    for row in rows:
        reason = drop(row)
        if reason is None:
            kept.append(row)
        else:
            dropped[reason] += 1
    drawn = _draw(kept, limit, seed)
    return Loaded(drawn, Report(source, used, read, len(drawn), dict(notes), dict(dropped)))


def _draw(rows: Sequence[T], limit: int | None, seed: int) -> tuple[T, ...]:
    if limit is None or limit >= len(rows):
        return tuple(rows)
    return tuple(rows[i] for i in sorted(random.Random(seed).sample(range(len(rows)), limit)))


def _pocket(source: str, base_folder: Path, seed: int) -> Sequence[Any]:
    from trainers.pocket import data as pocket

    name, _, query = source.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)))
    return pocket.rows(name, options, base_folder=base_folder, seed=seed)


# --------------------------------------------------------------------------- files


def _read_files(
    source: str, data_format: str, formats: tuple[Format, ...]
) -> tuple[list[Any], Notes, str, int]:
    """Rows, notes, the format used, and how many data rows were read, of a file or folder."""
    names = [known.name for known in formats]
    if data_format != "auto" and data_format not in names:
        raise InputError(
            f"no format {data_format!r} for this kind of data",
            expected="auto | " + " | ".join(names),
            nearest=nearest(data_format, names),
        )
    rows: list[Any] = []
    notes: Notes = Counter()
    problems: list[InputError] = []
    used: Format | None = next((known for known in formats if known.name == data_format), None)
    read = 0
    for path in _files(source):
        for line, row in _objects(path, problems):
            read += 1
            if used is None:
                used = _detect(row, formats, path, line)
            try:
                rows.extend(used.parse(row, notes))
            except RowError as error:
                problems.append(
                    InputError(
                        error.message,
                        path=path,
                        line=line,
                        field=error.field,
                        expected=error.expected,
                    )
                )
    if problems:
        raise BadRowsError(problems)
    if used is None or not rows:
        raise InputError("holds no rows", path=source)
    return rows, notes, used.name, read


def _detect(row: dict[str, Any], formats: tuple[Format, ...], path: Path, line: int) -> Format:
    for known in formats:
        if known.fits(row):
            return known
    raise InputError(
        f"fields {', '.join(sorted(row))} fit no known format",
        path=path,
        line=line,
        expected=" or ".join(known.shape for known in formats),
    )


def _files(source: str) -> list[Path]:
    path = Path(source)
    if path.is_file():
        if not path.name.endswith(_SUFFIXES):
            raise InputError("unknown kind of file", path=path, expected=", ".join(_SUFFIXES))
        return [path]
    if path.is_dir():
        files = sorted(p for p in path.iterdir() if p.name.endswith(_SUFFIXES))
        if not files:
            raise InputError(
                "no data files in this folder", path=path, expected=", ".join(_SUFFIXES)
            )
        return files
    raise InputError("no such file or folder", path=source, expected="a path, or a pocket/ name")


def _objects(path: Path, problems: list[InputError]) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line, object) of a file; rows that are none are added to ``problems``. The line of a
    Parquet row is its number from 1; a CSV row's is where it ends."""
    if path.name.endswith(".parquet"):
        yield from _parquet(path)
    elif path.name.endswith(".csv"):
        yield from _csv(path, problems)
    else:
        yield from _json_lines(path, problems)


def _parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        for batch in parquet.ParquetFile(path).iter_batches():
            for row in batch.to_pylist():
                number += 1
                yield number, {key: value for key, value in row.items() if value is not None}
    except pyarrow.ArrowException as error:
        raise InputError(f"not a whole Parquet file: {error}", path=path) from error


def _csv(path: Path, problems: list[InputError]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            for row in reader:
                if None in row or None in row.values():
                    problems.append(
                        InputError(
                            "has another number of cells than the header",
                            path=path,
                            line=reader.line_num,
                        )
                    )
                else:
                    yield reader.line_num, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(f"not a CSV file in UTF-8: {error}", path=path) from error


def _json_lines(path: Path, problems: list[InputError]) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                try:
                    row = json.loads(line)
                except (json.JSONDecodeError, UnicodeDecodeError) as error:
                    problems.append(InputError(f"not JSON: {error}", path=path, line=number))
                    continue
                if isinstance(row, dict):
                    yield number, row
                else:
                    problems.append(
                        InputError("not a JSON object", path=path, line=number, expected="{…}")
                    )
    except (gzip.BadGzipFile, EOFError, OSError) as error:
        raise InputError(f"cannot be read: {error}", path=path) from error
