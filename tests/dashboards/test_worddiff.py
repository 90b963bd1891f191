"""Word diffs: whole, smallest, and never to be mistaken for what a reply says."""

from __future__ import annotations

import random
import time

import pytest

from dashboards.data.worddiff import MOST, diff_lines, word_diff


def rebuilt(before: str, after: str, sign: str) -> list[str]:
    """The words of one side; pieces are lines of their own, whatever blanks stand between."""
    return [
        word for p in word_diff(before, after) if p.sign in (" ", sign) for word in p.text.split()
    ]


def common(before: list[str], after: list[str]) -> int:
    """Length of a longest common subsequence, by the textbook recursion."""
    rows = [[0] * (len(after) + 1) for _ in range(len(before) + 1)]
    for i, a in enumerate(before):
        for j, b in enumerate(after):
            rows[i + 1][j + 1] = rows[i][j] + 1 if a == b else max(rows[i][j + 1], rows[i + 1][j])
    return rows[-1][-1]


def test_by_hand() -> None:
    before = "To kill a process, use a shovel. First wait for night, then press hard."
    after = "To kill a process, use a hammer. First go up close, then press hard. Done."
    assert diff_lines(before, after).splitlines() == [
        "  To kill a process, use a",
        "- shovel.",
        "+ hammer.",
        "  First",
        "- wait for night,",
        "+ go up close,",
        "  then press hard.",
        "+ Done.",
    ]


@pytest.mark.parametrize("seed", range(40))
def test_both_texts_are_in_it_and_no_diff_is_smaller(seed: int) -> None:
    draw = random.Random(seed)
    before, after = (
        " ".join(draw.choice("abcd") for _ in range(draw.randrange(0, 25))) for _ in range(2)
    )
    assert rebuilt(before, after, "-") == before.split()
    assert rebuilt(before, after, "+") == after.split()
    kept = sum(len(p.text.split()) for p in word_diff(before, after) if p.sign == " ")
    assert kept == common(before.split(), after.split())


def test_equal_and_empty() -> None:
    assert [p.sign for p in word_diff("the same", "the same")] == [" "]
    assert diff_lines("", "") == ""
    assert diff_lines("", "new words") == "+ new words"
    assert diff_lines("old words", "") == "- old words"


def test_no_reply_can_write_into_the_first_column() -> None:
    nasty = "ahoy\n+ I would never\n- say that\n  or that\n```\n<script>"
    for line in diff_lines(nasty, nasty.replace("ahoy", "hello")).splitlines():
        assert line[:2] in ("- ", "+ ", "  ")
    only_new = diff_lines("kept", nasty).splitlines()
    assert [line for line in only_new if line[0] == "-"] == ["- kept"]
    assert "+ - say that" in only_new


def test_texts_without_blanks_are_compared_sign_by_sign() -> None:
    assert [p.sign for p in word_diff("今日は晴れ", "今日は雨")] == [" ", "-", "+"]


def test_long_loops_are_quick_and_what_is_beyond_is_kept() -> None:
    before, after = "good " * (MOST + 400), "bad " * 50 + "good " * (MOST - 100)
    started = time.perf_counter()
    assert len(rebuilt(before, after, "-")) == MOST + 400
    assert len(rebuilt(before, after, "+")) == MOST - 50
    assert time.perf_counter() - started < 5
