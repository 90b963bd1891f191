"""What was acknowledged survives kill -9 at any moment, and nothing half-written is ever seen.

A child process works on a run in a tight loop and says on its standard output what is done: by the
promise of the store that is on the disk. It is killed at a random moment, again and again on the
same run, and after each kill the run is read as any reader would, then cleaned and resumed.
"""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness.store import Run, is_committed, verify

ROOT = Path(__file__).parents[2]
KILLS = 25
CHILD = """
import os, sys
from harness.store import Run
from harness.store.atomic import write_json

run = Run.open(sys.argv[1])
with run.lock():
    run.clean()
    run.append("run_started", pid=os.getpid())
    epoch = len(run.checkpoints())
    while True:
        name = f"ppo-e{epoch:03d}"
        with run.new_checkpoint(name) as folder:
            content = {"name": name, "stage": "ppo", "kind": "ppo", "epoch": epoch}
            write_json(folder / "checkpoint.json", content)
            for part in range(3):
                (folder / f"{part}.bin").write_bytes(os.urandom(20_000))
        print("checkpoint", epoch, flush=True)
        for i in range(5):
            run.append("epoch_done", checkpoint=name, number=5 * epoch + i, text="x" * 300)
            print("event", 5 * epoch + i, flush=True)
        write_json(run.path / "selection.json", {"selection": {"epoch": epoch, "x": "y" * 5000}})
        print("selection", epoch, flush=True)
        epoch += 1
"""


def work_until_killed(run: Run, seconds: float) -> list[tuple[str, int]]:
    """Run the child, kill it ``seconds`` after its first word; what it had acknowledged by then."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(run.path)], stdout=subprocess.PIPE, cwd=ROOT
    )
    assert child.stdout is not None
    first = child.stdout.readline()
    time.sleep(seconds)
    child.send_signal(signal.SIGKILL)
    said = first + child.stdout.read()
    assert child.wait() == -signal.SIGKILL
    *lines, _torn = said.decode().split("\n")
    return [(word, int(number)) for word, number in (line.split() for line in lines)]


@pytest.mark.slow
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    run = Run.create(tmp_path / "run", schedule_yaml="", info={})
    moments = random.Random(0)
    acknowledged: dict[str, set[int]] = {"checkpoint": set(), "event": set(), "selection": {-1}}
    interrupted = 0
    for _ in range(KILLS):
        for word, number in work_until_killed(run, moments.uniform(0.0, 0.12)):
            acknowledged[word].add(number)

        # As the kill left it: a reader needs no clean-up.
        assert run.state() == "interrupted"
        checkpoints = run.checkpoints()
        assert acknowledged["checkpoint"] <= {c.epoch for c in checkpoints}
        for checkpoint in checkpoints:
            assert verify(checkpoint.folder) == []
        numbers = [e["number"] for e in run.events() if e["event"] == "epoch_done"]
        assert acknowledged["event"] <= set(numbers)
        assert len(numbers) == len(set(numbers))
        selection = run.selection()
        assert (selection["epoch"] if selection else -1) >= max(acknowledged["selection"])
        assert run.verify() == []

        folders = run.path / "checkpoints"
        left = [entry for entry in folders.iterdir() if not is_committed(entry)]
        interrupted += bool(left)
        with run.lock():
            run.clean()
        assert all(is_committed(entry) for entry in folders.iterdir())
        assert not list(run.path.rglob("*.tmp"))
        assert run.checkpoints() == checkpoints

    # The kills did hit work in progress, and the run got somewhere all the same.
    assert interrupted > 0
    assert max(acknowledged["checkpoint"]) >= KILLS // 2
