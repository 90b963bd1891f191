"""A training process that is killed in the middle, and the same command again."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

_ENVIRONMENT = {
    "PYTHONPATH": str(Path(__file__).parents[1]),
    "OMP_NUM_THREADS": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}


def killed(command: Sequence[str], *, after: Sequence[str], seconds: float) -> None:
    """Run the command until it has printed the lines ``after``, and ``seconds`` longer; SIGKILL."""
    victim = subprocess.Popen(
        command,
        env=os.environ | _ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert victim.stdout is not None
    assert [victim.stdout.readline() for _ in after] == list(after)
    time.sleep(seconds)
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    victim.stdout.close()


def again(command: Sequence[str]) -> None:
    """Run the command to its end."""
    subprocess.run(command, env=os.environ | _ENVIRONMENT, check=True, capture_output=True)
