"""A log of JSON lines that survives a kill: what ``append`` returned from is there.

Guarantee: each record is one ``write`` of one line, so a kill leaves whole lines and at most one
torn last line. A line counts only with its newline: readers leave a torn line out, the next append
cuts it off. Appends of several processes are kept apart by a lock on the file. With ``sync`` (the
default) the record survives a power loss too, at an fsync a record; without, only a kill.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import IntegrityError
from harness.store.atomic import sync as sync_path
from harness.store.atomic import to_json

_TAIL = 1 << 16


def append(path: Path, record: Mapping[str, Any], *, sync: bool = True) -> None:
    """Add one record as the last line. A failed write (disk full) leaves the log as it was."""
    line = to_json(record).encode("utf-8") + b"\n"
    new = not path.exists()
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        end = _whole(handle)
        os.ftruncate(handle, end)
        try:
            written = os.pwrite(handle, line, end)
            while written < len(line):
                written += os.pwrite(handle, line[written:], end + written)
        except OSError:
            os.ftruncate(handle, end)
            raise
        if sync:
            os.fsync(handle)
    finally:
        os.close(handle)
    if new and sync:
        sync_path(path.parent)


def read(path: Path) -> list[dict[str, Any]]:
    """All whole records, oldest first; none if there is no file.

    Raises:
        IntegrityError: a line that is followed by others is not a JSON object: no kill does that.
    """
    if not path.exists():
        return []
    records = []
    *lines, _torn = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except ValueError as error:
            raise IntegrityError(f"{path}:{number}: not JSON ({error})") from error
        if not isinstance(record, dict):
            raise IntegrityError(f"{path}:{number}: not a JSON object")
        records.append(record)
    return records


def _whole(handle: int) -> int:
    """The length of the file up to and with its last newline."""
    end = os.fstat(handle).st_size
    while end > 0:
        start = max(0, end - _TAIL)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
