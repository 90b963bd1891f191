from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.store import lock
from harness.store.lock import LockedError, heartbeat, is_held, locked

ROOT = Path(__file__).parents[2]
HOLD = """
import sys, time
from pathlib import Path
from harness.store.lock import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""
HOLD_AND_FORK = """
import os, sys, time
from pathlib import Path
from harness.store.lock import locked
with locked(Path(sys.argv[1])):
    child = os.fork()
    if child == 0:
        time.sleep(60)
        os._exit(0)
    print(child, flush=True)
    time.sleep(60)
"""


@contextmanager
def holder(folder: Path, script: str = HOLD) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(folder)], stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()


def write_heartbeat(folder: Path, *, host: str, age: float) -> None:
    content = {"host": host, "pid": 1, "time": time.time() - age}
    (folder / "heartbeat").write_text(json.dumps(content))


def test_held_while_inside(tmp_path: Path) -> None:
    assert not is_held(tmp_path)
    with locked(tmp_path):
        assert is_held(tmp_path)
        beat = heartbeat(tmp_path)
        assert beat is not None
        assert beat["pid"] == os.getpid()
    assert not is_held(tmp_path)
    assert heartbeat(tmp_path) is None


def test_a_second_holder_is_refused_and_told_who(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        assert is_held(tmp_path)
        with pytest.raises(LockedError, match=f"process {process.pid} on "), locked(tmp_path):
            pytest.fail("must not be entered")
        assert is_held(tmp_path)


def test_it_is_refused_within_one_process_too(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(LockedError), locked(tmp_path):
        pytest.fail("must not be entered")


def test_a_killed_holder_is_no_obstacle(tmp_path: Path) -> None:
    with holder(tmp_path) as (process, _):
        process.kill()
        process.wait()
        assert heartbeat(tmp_path) is not None
        assert not is_held(tmp_path)
        with locked(tmp_path):
            assert is_held(tmp_path)


def test_a_forked_child_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A data loader's worker may outlive its killed parent by seconds."""
    with holder(tmp_path, HOLD_AND_FORK) as (process, child):
        try:
            process.kill()
            process.wait()
            with locked(tmp_path):
                os.kill(int(child), 0)  # it does live
        finally:
            os.kill(int(child), signal.SIGKILL)


def test_status_does_not_disturb_a_start(tmp_path: Path) -> None:
    """``is_held`` takes the lock for an instant; who wants it just then waits for that."""
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    asking = context.Process(target=_ask, args=(tmp_path, stop))
    asking.start()
    try:
        for _ in range(50):
            with locked(tmp_path):
                pass
    finally:
        stop.set()
        asking.join()


def _ask(folder: Path, stop) -> None:
    while not stop.is_set():
        is_held(folder)


def test_a_stale_heartbeat_of_another_host_means_nothing(tmp_path: Path) -> None:
    (tmp_path / "LOCK").touch()
    write_heartbeat(tmp_path, host="elsewhere", age=lock.STALE + 1)
    assert not is_held(tmp_path)
    with locked(tmp_path):
        pass


def test_a_fresh_heartbeat_of_another_host_is_waited_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "INTERVAL", 0.05)
    monkeypatch.setattr(lock, "STALE", 0.3)
    (tmp_path / "LOCK").touch()
    write_heartbeat(tmp_path, host="elsewhere", age=0)
    assert is_held(tmp_path)
    with locked(tmp_path):
        pass


def test_a_moving_heartbeat_of_another_host_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock.time, "sleep", lambda _: write_heartbeat(tmp_path, host="x", age=0))
    write_heartbeat(tmp_path, host="x", age=1)
    with pytest.raises(LockedError, match="process 1 on x"), locked(tmp_path):
        pytest.fail("must not be entered")


def test_the_heart_beats(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "INTERVAL", 0.02)
    with locked(tmp_path):
        first = heartbeat(tmp_path)
        deadline = time.monotonic() + 10
        while heartbeat(tmp_path) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert heartbeat(tmp_path) != first
