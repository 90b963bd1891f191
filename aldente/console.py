"""Plain lines for people: errors to stderr, results to stdout. JSON goes nowhere near these."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any


def problem(text: str) -> None:
    """An error, on stderr, each of its lines as it is (no wrapping: scripts and editors parse)."""
    print(f"error: {text}", file=sys.stderr, flush=True)


def note(text: str) -> None:
    """A remark, on stderr."""
    print(text, file=sys.stderr, flush=True)


def quiet_libraries() -> None:
    """Keep stderr for ourselves: no bars of transformers', no hints of bitsandbytes'.

    To be called before anything loads a model; imports transformers.
    """
    # Names a package for faster 4-bit generation that its CPU code would download kernels with.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
    from transformers.utils import logging as transformers_logging

    transformers_logging.disable_progress_bar()


def json_line(value: Any) -> None:
    """One JSON value on one line of stdout, flushed, so that a pipe sees it at once."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False), flush=True)


def duration(seconds: float) -> str:
    """``42 s``, ``3 min 05 s``, ``2 h 07 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
