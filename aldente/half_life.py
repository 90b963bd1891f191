"""The turn at which half of a set's dialogues have lost their instruction, as commands print it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from harness.evaluation import SetEvaluation
    from harness.probes.consistency import HalfLife


def half_lives(found: Mapping[str, SetEvaluation]) -> dict[str, HalfLife]:
    """Of each set with a survival curve, over both splits."""
    from harness.probes.consistency import half_life

    curves = {
        name: each.by_turn("survival")
        for name, each in found.items()
        if "survival" in each.names() and each.summary.get("probe") == "consistency"
    }
    return {name: half_life(curve) for name, curve in curves.items() if curve}


def told(life: HalfLife) -> str:
    """Turns at which half the dialogues have had a failed check; ``harness.probes.consistency``."""
    at, low, high = (
        "after the last turn" if turn is None else f"turn {turn}"
        for turn in (life.turn, life.low, life.high)
    )
    return f"half of {life.n} dialogues have lost the instruction: {at} [{low}, {high}]"
