"""Right, wrong, or not said: the outcomes of the hallucination sets, whole and by family."""

from __future__ import annotations

from functools import lru_cache

import pandas as pd

from dashboards.data.consistency import by_kind
from dashboards.data.index import View
from dashboards.data.metrics import metrics
from dashboards.data.remembering import remembered

OUTCOMES = ("correct", "not_attempted", "incorrect")
_KEEP = ["checkpoint", "order", "stage", "outcome", "value", "low", "high", "n", "unscored"]


@lru_cache(maxsize=32)
def outcomes(view: View, set: str) -> pd.DataFrame:  # noqa: A002
    """One row a checkpoint and outcome of ``OUTCOMES``, on the view's rows: the three shares of a
    checkpoint add up to 1. Columns: ``checkpoint, order, stage, outcome, value, low, high, n,
    unscored``."""
    found = metrics(view, tuple(f"{set}.{name}" for name in OUTCOMES))
    found = found.assign(outcome=found["metric"].str.rpartition(".")[2])[_KEEP]
    place = {name: i for i, name in enumerate(OUTCOMES)}
    found = found.assign(_at=found["outcome"].map(place))
    return found.sort_values(["order", "_at"], ignore_index=True).drop(columns="_at")


@remembered(32, rows=False)
def by_family(view: View, set: str, checkpoint: str) -> pd.DataFrame:  # noqa: A002
    """The same of one checkpoint by family: ``category`` beside the columns of ``outcomes``.

    Over both splits, at 95 %, as the summaries hold it.
    """
    parts = []
    for name in OUTCOMES:
        rows = by_kind(view, set, name)
        parts.append(rows[rows["checkpoint"] == checkpoint].assign(outcome=name))
    return pd.concat(parts, ignore_index=True)[["category", *_KEEP]]
