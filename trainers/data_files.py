"""The objects in a file or folder of training data, each with its line.

JSON lines (.jsonl, .jsonl.gz), JSON (.json, .json.gz: a list of objects, or lines), CSV with a
header, Parquet, and .txt files (a document each). A row that is no object is told and read on;
a file that cannot be read to its end is an error.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import json
import re
import sys
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from harness.errors import InputError

if TYPE_CHECKING:
    import pyarrow

Objects = Iterator[tuple[int, dict[str, Any]]]
SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".json.gz", ".csv", ".parquet")
TEXT = ".txt"
_SPACE = re.compile(r"[ \t\r\n]*")


@dataclass(frozen=True, repr=False)
class Unreadable:
    """A table's value that Python has none for, such as a date in the year 14000. Most stand in
    columns that nobody reads; a field that is read refuses it as it does any other type."""

    type: str

    def __repr__(self) -> str:
        return f"a {self.type} that cannot be read"


def files(source: str, *, documents: bool = False) -> list[Path]:
    """The file, or those in the folder, in the order of their names.

    ``documents``: whether .txt files may be read. In a folder they are, unless it holds data files:
    those are then what it is for, and the text beside them a licence or a note.
    """
    path = Path(source)
    known = (*SUFFIXES, TEXT) if documents else SUFFIXES
    if path.is_file():
        if not path.name.endswith(known):
            raise InputError("unknown kind of file", path=path, expected=", ".join(known))
        return [path]
    if path.is_dir():
        inside = sorted(p for p in path.iterdir() if p.is_file())
        found = [p for p in inside if p.name.endswith(SUFFIXES)]
        if documents and not found:
            found = [p for p in inside if p.name.endswith(TEXT)]
        if not found:
            raise InputError("no data files in this folder", path=path, expected=", ".join(known))
        return found
    raise InputError(
        "no such file or folder", path=source, expected="a path, or a pocket/ or hub: name"
    )


def objects(path: Path, problems: list[InputError]) -> Objects:
    """(line, object) of a file; rows that are none are added to ``problems``. The line of a
    Parquet row is its number from 1; a CSV row's is where it ends; a text file is one row."""
    if path.name.endswith(".parquet"):
        yield from _parquet(path)
    elif path.name.endswith(".csv"):
        yield from _csv(path, problems)
    elif path.name.endswith((".json", ".json.gz")):
        yield from _json(path, problems)
    elif path.name.endswith(TEXT):
        yield 1, {"text": _decoded(path)}
    else:
        yield from _json_lines(path, problems)


def without_nulls(row: Mapping[str, Any]) -> dict[str, Any]:
    """A table's row: a column that is null is one that the row does not have."""
    return {key: value for key, value in row.items() if value is not None}


def _parquet(path: Path) -> Objects:
    import pyarrow
    from pyarrow import parquet

    try:
        number = 0
        file = parquet.ParquetFile(path, page_checksum_verification=True)
        names = file.schema_arrow.names
        repeated = sorted(name for name, count in Counter(names).items() if count > 1)
        if repeated:
            raise InputError(f"two columns are called {repeated[0]!r}", path=path)
        for batch in file.iter_batches():
            columns = [values(column) for column in batch.columns]
            for at in range(batch.num_rows):
                number += 1
                row = {name: column[at] for name, column in zip(names, columns, strict=True)}
                yield number, without_nulls(row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise InputError(f"not a whole Parquet file: {error}", path=path) from error


def values(column: pyarrow.Array | pyarrow.ChunkedArray) -> list[Any]:
    """A table's column; ``Unreadable`` where Python has no value. Raises ``UnicodeDecodeError``."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        raise  # a damaged text, which no file may hold
    except (ArithmeticError, LookupError, ValueError):
        return [_value(scalar) for scalar in column]


def _value(scalar: pyarrow.Scalar) -> Any:
    """Dates and durations that are out of Python's range (``OverflowError``), unknown time zones (a
    ``KeyError``), two fields of one name in a struct (``ValueError``)."""
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        raise
    except (ArithmeticError, LookupError, ValueError):
        return Unreadable(str(scalar.type))


def _csv(path: Path, problems: list[InputError]) -> Objects:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))  # the default refuses cells of 128 KiB
    number = 1
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, strict=True)
            names = list(reader.fieldnames or ())
            repeated = sorted(name for name, count in Counter(names).items() if count > 1)
            if repeated:
                raise InputError(f"two columns are called {repeated[0]!r}", path=path, line=1)
            for row in reader:
                number = reader.line_num
                if None in row or None in row.values():
                    problems.append(
                        InputError(
                            "has another number of cells than the header", path=path, line=number
                        )
                    )
                else:
                    yield number, row
    except (csv.Error, UnicodeDecodeError) as error:
        raise InputError(
            f"not a CSV file in UTF-8 after line {number}: {error}", path=path
        ) from error


def _json_lines(path: Path, problems: list[InputError]) -> Objects:
    try:
        with _open(path) as stream:
            for number, line in enumerate(stream, 1):
                if number == 1:
                    line = line.removeprefix(codecs.BOM_UTF8)
                if line.strip():
                    row = _parsed(line, path, number, problems)
                    if row is not None:
                        yield number, row
    except (gzip.BadGzipFile, EOFError, OSError, zlib.error) as error:
        raise InputError(f"cannot be read: {error}", path=path) from error


def _parsed(
    line: bytes, path: Path, number: int, problems: list[InputError]
) -> dict[str, Any] | None:
    try:
        # Of bytes json takes UTF-16 too, where a line of it stands alone.
        value = json.loads(line.decode("utf-8"), object_pairs_hook=_unique)
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, a key twice
        problems.append(InputError(f"not JSON: {error}", path=path, line=number))
        return None
    return _object(value, path, number, problems)


def _object(
    value: object, path: Path, number: int, problems: list[InputError]
) -> dict[str, Any] | None:
    if isinstance(value, dict):
        return value
    problems.append(InputError("not a JSON object", path=path, line=number, expected="{…}"))
    return None


def _json(path: Path, problems: list[InputError]) -> Objects:
    """A list of objects, each told by the line that it begins on; or, as many published files with
    this ending are, JSON lines."""
    content = _decoded(path)
    at = _skip(content, 0)
    if not content.startswith("[", at):
        yield from _json_lines(path, problems)
        return
    decoder = json.JSONDecoder(object_pairs_hook=_unique)
    line, counted = 1, 0
    at = _skip(content, at + 1)
    if content.startswith("]", at):
        return
    while True:
        line, counted = line + content.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(content, at)
        except (ValueError, RecursionError) as error:
            raise InputError(f"not JSON: {error}", path=path, line=line) from error
        row = _object(value, path, line, problems)
        if row is not None:
            yield line, row
        at = _skip(content, at)
        mark = content[at : at + 1]
        if mark == "]":
            break
        if mark != ",":
            here = line + content.count("\n", counted, at)
            raise InputError(
                f"not JSON: {mark!r} after an item" if mark else "the list does not end",
                path=path,
                line=here,
                expected=", or ]",
            )
        at = _skip(content, at + 1)
    at = _skip(content, at + 1)
    if at < len(content):
        here = line + content.count("\n", counted, at)
        raise InputError("something follows the list", path=path, line=here, expected="one list")


def _skip(content: str, at: int) -> int:
    found = _SPACE.match(content, at)
    return found.end() if found else at


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise ValueError(f"the key {counts.most_common(1)[0][0]!r} stands twice")
    return found


def _open(path: Path) -> IO[bytes]:
    return cast("IO[bytes]", gzip.open(path)) if path.name.endswith(".gz") else path.open("rb")


def _decoded(path: Path) -> str:
    try:
        with _open(path) as stream:
            return stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}", path=path) from error
    except (gzip.BadGzipFile, EOFError, OSError, zlib.error) as error:
        raise InputError(f"cannot be read: {error}", path=path) from error
