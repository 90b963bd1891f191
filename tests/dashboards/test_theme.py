"""Colours that everybody can tell apart from what they stand on, by WCAG 2.2's own formula."""

from __future__ import annotations

import pytest

from aldente.dashboard_server import options
from dashboards.charts.theme import DARK, LIGHT, Theme

WORDS, MARKS = 4.5, 3.0  # success criteria 1.4.3 and 1.4.11
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)


def luminance(colour: str) -> float:
    """Relative luminance of ``#rrggbb``."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_the_formula() -> None:
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)  # known to fall short
    assert contrast("#767676", "#ffffff") == pytest.approx(4.54, abs=0.005)


@THEMES
def test_words_can_be_read(theme: Theme) -> None:
    for words in (theme.text, theme.quiet, theme.fail):  # limits have their words in ``fail``
        assert contrast(words, theme.ground) >= WORDS, words
    for words in (theme.text, theme.quiet):
        assert contrast(words, theme.raised) >= WORDS, words


@THEMES
def test_marks_stand_out(theme: Theme) -> None:
    for mark in (*theme.stages, theme.grey, theme.fail, theme.good, theme.accent):
        assert contrast(mark, theme.ground) >= MARKS, mark
    assert contrast(theme.accent, theme.raised) >= MARKS


@THEMES
def test_a_button_can_be_read(theme: Theme) -> None:
    """Streamlit writes white on its primary colour in both themes (seen in test_browser.py)."""
    colour = options("127.0.0.1", 8501, allow_remote=False)[f"theme_{theme.name}_primaryColor"]
    assert contrast("#ffffff", str(colour)) >= WORDS
