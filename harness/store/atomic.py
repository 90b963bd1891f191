"""Write one file so that a reader sees the old content or the new, never a part.

Guarantee: after a kill at any moment, or a power loss, the path holds the whole old content or the
whole new one; once a function returns, the new one survives both. How: a temporary file in the same
folder, fsync, rename over the path, fsync of the folder (a rename is durable only then).
Costs: two fsyncs a file, so not for logs (see ``lines``). Scope: local file systems and those with
POSIX rename; leftovers of a kill are named ``.<name>.<random>.tmp`` and are nobody's.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any

TEMPORARY = ".tmp"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path to write to; it becomes ``path`` when the block ends without an error.

    For writers that want a path themselves, such as parquet's.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY}")
    try:
        yield temporary
        sync(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file's content by ``content``."""
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Replace the file's content by ``text`` in UTF-8, line ends as given."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replace the file's content by ``value`` as indented JSON; see ``to_json`` for what it takes.

    Keys keep their order, and the file ends in a newline.
    """
    write_text(path, to_json(value, indent=2) + "\n")


def to_json(value: Any, *, indent: int | None = None) -> str:
    """JSON that every reader takes: dataclasses as objects, paths and enums as text.

    A number that is not finite becomes null, because ``NaN`` is not JSON and stops DuckDB and
    browsers at that line. A type that is not known here raises TypeError.
    """
    return json.dumps(_plain(value), indent=indent, ensure_ascii=False, allow_nan=False)


def make_folder(path: Path) -> None:
    """Create the folder and its missing parents, durably."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the file or folder at ``path`` is on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return _plain(value.value)
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {_key(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        items = sorted(value) if isinstance(value, set | frozenset) else value
        return [_plain(item) for item in items]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: _plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "tolist"):  # numpy's and torch's numbers and arrays
        return _plain(value.tolist())
    raise TypeError(f"{type(value).__name__} is not JSON: {value!r}")


def _key(key: Any) -> str:
    key = key.value if isinstance(key, Enum) else key
    if isinstance(key, str | int) and not isinstance(key, bool):
        return str(key)
    raise TypeError(f"{type(key).__name__} is not a JSON key: {key!r}")
