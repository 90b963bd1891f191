"""Text that would hide or move something, on a terminal and on a page."""

from __future__ import annotations

import pytest

from harness.visible import visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain text, ünïcödé, 中文, 👩\u200d🚀", "plain text, ünïcödé, 中文, 👩\u200d🚀"),
        ("a\nb", "a\nb"),
        ("\x00\x1b[31m\x7f\x9b", "\\x00\\x1b[31m\\x7f\\x9b"),
        ("a\tb\r", "a\\tb\\r"),
        ("\u202e\u2066\u200b\ufeff", "\\u202e\\u2066\\u200b\\ufeff"),
        ("\u2028\u2029", "\\u2028\\u2029"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
    ],
)
def test_visible(text: str, shown: str) -> None:
    assert visible(text) == shown
    assert visible(shown) == shown


def test_text_of_every_script_stays() -> None:
    kept = "naïve 你好 שלום 👩\u200d👩 می\u200cخواهم\ttab\nline\u00a0end"
    assert visible(kept, tabs=True) == kept
    assert visible(kept) == kept.replace("\t", "\\t")
    assert visible("abc \u202egnp.exe\u202c\t", tabs=True) == "abc \\u202egnp.exe\\u202c\t"
