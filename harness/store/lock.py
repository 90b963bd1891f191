"""One writer a run: a lock that a dead process cannot keep.

``LOCK`` is held with flock, which the kernel drops when its process ends, however it ends; the file
itself means nothing and stays. ``heartbeat`` is written every few seconds beside it, because flock
is not seen across machines on every network file system: a fresh heartbeat of another host counts
as alive. On its own host the lock alone decides, so a crash is no obstacle for even a second.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from harness.store.atomic import write_json

INTERVAL = 5.0  # seconds between two heartbeats
STALE = 4 * INTERVAL  # seconds after which another host's heartbeat means nothing
_PATIENCE = 0.5  # seconds: ``is_held`` of others takes the lock for an instant

# A forked worker (a data loader's) would inherit the lock and keep it when its parent is killed.
_held: set[int] = set()


class LockedError(Exception):
    """Another living process writes this run."""


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock. Raises LockedError, naming the holder, if a living process has it."""
    handle = os.open(folder / "LOCK", os.O_RDWR | os.O_CREAT, 0o644)
    stop = threading.Event()
    beat = threading.Thread(target=_beat, args=(folder, stop), name="heartbeat", daemon=True)
    try:
        if not _try_for(handle, _PATIENCE) or _moves(folder):
            raise LockedError(f"{folder} is in use by {_holder(folder)}")
        _held.add(handle)
        _write_heartbeat(folder)
        beat.start()
        try:
            yield
        finally:
            stop.set()
            beat.join()
            (folder / "heartbeat").unlink(missing_ok=True)
    finally:
        _held.discard(handle)
        os.close(handle)


def is_held(folder: Path) -> bool:
    """Whether a living process holds the lock."""
    try:
        handle = os.open(folder / "LOCK", os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return _alive_elsewhere(folder)


def heartbeat(folder: Path) -> dict[str, Any] | None:
    """The last heartbeat, ``{"host", "pid", "time"}`` (time in seconds since 1970), if any."""
    try:
        content: dict[str, Any] = json.loads((folder / "heartbeat").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content


def _try_for(handle: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        else:
            return True


def _alive_elsewhere(folder: Path) -> bool:
    last = heartbeat(folder)
    return (
        last is not None
        and last["host"] != socket.gethostname()
        and time.time() - last["time"] < STALE
    )


def _moves(folder: Path) -> bool:
    """Whether another host's heartbeat goes on; waits for that only if there is a fresh one.

    A container that was killed and started again has another host name: its own last heartbeat
    must not lock it out.
    """
    first = heartbeat(folder)
    while _alive_elsewhere(folder):
        if heartbeat(folder) != first:
            return True
        time.sleep(INTERVAL / 10)
    return False


def _holder(folder: Path) -> str:
    last = heartbeat(folder)
    return "another process" if last is None else f"process {last['pid']} on {last['host']}"


def _beat(folder: Path, stop: threading.Event) -> None:
    while not stop.wait(INTERVAL):
        # A full disk or a folder that was moved away must not end the thread: the lock holds.
        with suppress(OSError):
            _write_heartbeat(folder)


def _write_heartbeat(folder: Path) -> None:
    content = {"host": socket.gethostname(), "pid": os.getpid(), "time": time.time()}
    write_json(folder / "heartbeat", content)


def _let_go_in_child() -> None:
    for handle in _held:
        with suppress(OSError):
            os.close(handle)
    _held.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
