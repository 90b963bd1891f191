"""The errors a user can do something about, told so that they can.

Two kinds, because a script must tell them apart by exit code: ``InputError`` (what was given is
wrong: exit 2) and ``IntegrityError`` (what is on disk is not what was written: exit 4). Anything
else that escapes is a bug of ours (exit 1) and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path


class InputError(Exception):
    """Something the user gave is wrong: a file, a line, a field, a name.

    ``str()`` reads like a compiler's message: ``rows.jsonl:12: prompt: message; expected text; did
    you mean 'prompt'?``, leaving out what is not known.
    """

    def __init__(
        self,
        message: str,
        *,
        path: Path | str | None = None,
        line: int | None = None,
        field: str | None = None,
        expected: str | None = None,
        nearest: str | None = None,
    ) -> None:
        """``line`` counts from 1; ``expected`` says what would have been right."""
        super().__init__(message)
        self.message = message
        self.path = path
        self.line = line
        self.field = field
        self.expected = expected
        self.nearest = nearest

    def __str__(self) -> str:
        parts = []
        if self.path is not None:
            parts.append(f"{self.path}:{self.line}" if self.line is not None else f"{self.path}")
        elif self.line is not None:
            parts.append(f"line {self.line}")
        if self.field:
            parts.append(self.field)
        text = ": ".join([*parts, self.message])
        if self.expected:
            text += f"; expected {self.expected}"
        if self.nearest:
            text += f"; did you mean {self.nearest!r}?"
        return text


class IntegrityError(Exception):
    """Bytes on disk are not those that were written, or not those that something else refers to."""


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The choice most like ``word``, ignoring case; None if nothing is much alike."""
    known = {choice.lower(): choice for choice in choices}
    found = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    return known[found[0]] if found else None
