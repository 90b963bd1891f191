"""What a script may rely on."""

from __future__ import annotations

CRASHED = 1
BAD_INPUT = 2
GATE_STOPPED = 3
DAMAGED = 4
INTERRUPTED = 130
