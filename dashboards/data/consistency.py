"""How long an instruction holds: by turn and checkpoint, and the survival curves.

From the summaries' ``by_turn``, which are over both splits at 95 %: dialogues by turn are too few
to halve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboards.data.index import View
from dashboards.data.metrics import checkpoints
from dashboards.data.remembering import remembered
from dashboards.data.summaries import opened
from harness.estimates import Estimate
from harness.probes.consistency import HalfLife, half_life

COLUMNS = ["checkpoint", "order", "stage", "turn", "value", "low", "high", "n", "unscored"]


@dataclass(frozen=True)
class Survival:
    """``curves``: ``COLUMNS``. ``half_lives``: checkpoint -> when half have lost it."""

    curves: pd.DataFrame
    half_lives: dict[str, HalfLife]


def sets_of(view: View, probe: str) -> list[str]:
    """The eval sets of a probe, in the run's order."""
    found = {
        entry.set
        for entry in view.entries()
        if (evaluation := opened(entry)) is not None and evaluation.summary.get("probe") == probe
    }
    return [name for name in view.sets() if name in found]


@remembered(64, rows=False)
def by_turn(view: View, set: str, metric: str = "held") -> pd.DataFrame:  # noqa: A002
    """One row a checkpoint and turn (``COLUMNS``), in the order of training; metric ``held``,
    ``survival`` or ``control``. Empty if nothing of it was measured."""
    info = checkpoints(view.index).set_index("checkpoint")
    rows: list[dict[str, Any]] = []
    for entry in view.entries(set=set):
        evaluation = opened(entry)
        if evaluation is None or entry.checkpoint not in info.index:
            continue
        turns = evaluation.summary.get("by_turn", {}).get(metric, {})
        for turn, number in turns.items():
            of = info.loc[entry.checkpoint]
            rows.append(
                {
                    "checkpoint": entry.checkpoint,
                    "order": of["order"],
                    "stage": of["stage"],
                    "turn": int(turn),
                    **number,
                }
            )
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame = frame.astype({"value": float, "low": float, "high": float})
    return frame.sort_values(["order", "turn"], ignore_index=True)


@remembered(64, rows=False)
def by_kind(view: View, set: str, metric: str = "held") -> pd.DataFrame:  # noqa: A002
    """One row a checkpoint and instruction kind (category): as ``COLUMNS`` with ``category``."""
    info = checkpoints(view.index).set_index("checkpoint")
    rows = []
    for entry in view.entries(set=set):
        evaluation = opened(entry)
        if evaluation is None or entry.checkpoint not in info.index:
            continue
        of = info.loc[entry.checkpoint]
        found = evaluation.summary.get("by_category", {}).get(metric, {})
        for category, number in found.items():
            rows.append(
                {
                    "checkpoint": entry.checkpoint,
                    "order": of["order"],
                    "stage": of["stage"],
                    "category": category,
                    **number,
                }
            )
    names = ["category" if name == "turn" else name for name in COLUMNS]
    frame = pd.DataFrame(rows, columns=names)
    frame = frame.astype({"value": float, "low": float, "high": float})
    return frame.sort_values(["order", "category"], ignore_index=True)


def survival(view: View, set: str, chosen: tuple[str, ...]) -> Survival:  # noqa: A002
    """The survival curves of these checkpoints, each from 1 at turn 0."""
    curves = by_turn(view, set, "survival")
    curves = curves[curves["checkpoint"].isin(chosen)]
    lives = {}
    for name, rows in curves.groupby("checkpoint", sort=False):
        lives[str(name)] = half_life(
            {
                int(row["turn"]): Estimate(
                    _known(row["value"]),
                    _known(row["low"]),
                    _known(row["high"]),
                    int(row["n"]),
                    int(row["unscored"]),
                )
                for row in rows.to_dict("records")
            }
        )
    starts = curves.drop_duplicates("checkpoint").assign(turn=0, value=1.0, low=1.0, high=1.0)
    both = pd.concat([starts, curves]).sort_values(["order", "turn"], ignore_index=True)
    return Survival(both, lives)


def _known(value: float) -> float | None:
    return None if pd.isna(value) else float(value)
