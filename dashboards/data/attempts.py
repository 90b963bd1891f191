"""Accuracy among the questions that were attempted: whether silence buys anything.

It is 1 − ``incorrect_when_attempted``, with its interval turned around; n counts attempts.
"""

from __future__ import annotations

from functools import lru_cache

import pandas as pd

from dashboards.data.consistency import by_kind
from dashboards.data.index import View
from dashboards.data.metrics import metrics
from dashboards.data.remembering import remembered

_METRIC = "incorrect_when_attempted"
_KEEP = ["checkpoint", "order", "stage", "value", "low", "high", "n", "unscored"]


@lru_cache(maxsize=32)
def attempted(view: View, set: str) -> pd.DataFrame:  # noqa: A002
    """One row a checkpoint, on the view's rows: ``checkpoint, order, stage, value, low, high, n,
    unscored``. ``value`` is NaN where nothing was attempted."""
    return _turned(metrics(view, (f"{set}.{_METRIC}",))[_KEEP])


@remembered(32, rows=False)
def attempted_by_family(view: View, set: str, checkpoint: str) -> pd.DataFrame:  # noqa: A002
    """The same of one checkpoint by family, over both splits at 95 %: with ``category``."""
    rows = by_kind(view, set, _METRIC)
    return _turned(rows[rows["checkpoint"] == checkpoint][["category", *_KEEP]])


def _turned(rows: pd.DataFrame) -> pd.DataFrame:
    turned = {"value": 1 - rows["value"], "low": 1 - rows["high"], "high": 1 - rows["low"]}
    return rows.assign(**turned).reset_index(drop=True)
