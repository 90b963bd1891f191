from __future__ import annotations

from pathlib import Path

import pytest

from harness.errors import InputError, nearest


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (InputError("is missing"), "is missing"),
        (InputError("is missing", path=Path("a/rows.jsonl")), "a/rows.jsonl: is missing"),
        (InputError("is missing", line=3), "line 3: is missing"),
        (
            InputError("is missing", path="rows.jsonl", line=12, field="prompt"),
            "rows.jsonl:12: prompt: is missing",
        ),
        (
            InputError("unknown field", path="s.yaml", line=1, field="sede", nearest="seed"),
            "s.yaml:1: sede: unknown field; did you mean 'seed'?",
        ),
        (
            InputError('got "x"', field="stages.ppo.kl", expected="a number", nearest="y"),
            "stages.ppo.kl: got \"x\"; expected a number; did you mean 'y'?",
        ),
    ],
)
def test_an_input_error_says_where_and_what(error: InputError, text: str) -> None:
    assert str(error) == text


def test_parts_of_an_input_error_can_be_read() -> None:
    error = InputError("m", path="p", line=2, field="f", expected="e", nearest="n")
    assert (error.message, error.path, error.line) == ("m", "p", 2)
    assert (error.field, error.expected, error.nearest) == ("f", "e", "n")


@pytest.mark.parametrize(
    ("word", "found"),
    [
        ("learning_rat", "learning_rate"),
        ("LEARNING_RATE", "learning_rate"),
        ("kll", "kl"),
        ("zebra", None),
        ("", None),
    ],
)
def test_nearest(word: str, found: str | None) -> None:
    assert nearest(word, ["learning_rate", "kl", "epochs"]) == found


def test_nearest_of_nothing() -> None:
    assert nearest("a", []) is None
