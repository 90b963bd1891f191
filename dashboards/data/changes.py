"""Whether a metric moved between two checkpoints: paired, on the rows that both scored.

Two intervals that overlap say little about a difference of two models that were asked the same;
titles that speak of rising and falling go by this.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from dashboards.data.estimating import items
from dashboards.data.index import EvalEntry, View
from dashboards.data.metrics import catalogue, metrics
from harness import stats
from harness.store.kinds import REWARD

_SINCE_START = ("kl", "kl_token")  # measured from where the stage began


@dataclass(frozen=True)
class Shift:
    """``after`` minus ``before`` over ``n`` shared rows, with its 95 % interval.

    At 95 % whatever the view's level: what has moved does not depend on how wide bars are drawn.

    ``low`` and ``high`` are None where too few independent rows, or none that moved, say nothing.
    """

    before: str
    after: str
    difference: float
    low: float | None
    high: float | None
    n: int

    @property
    def sure(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


@dataclass(frozen=True)
class Story:
    """How a metric went: first to last checkpoint, and from its best to the last.

    ``best`` is None if the best is the first or the last. The best was chosen for its value, so
    the fall from it is flattered by luck. KL is measured from where its stage began, so its story
    is that of the last stage alone.
    """

    whole: Shift | None
    best: Shift | None


def shift(view: View, metric: str, before: str, after: str) -> Shift | None:
    """How the metric moved; None if no row was scored at both."""
    return _shift(replace(view, level=0.95), metric, before, after)


@lru_cache(maxsize=1024)
def _shift(view: View, metric: str, before: str, after: str) -> Shift | None:
    of_set, _, name = metric.partition(".")
    pair = [_entry(view, checkpoint, of_set) for checkpoint in (before, after)]
    if pair[0] is None or pair[1] is None:
        return None
    both = items([pair[0], pair[1]], name, view.split)
    if len(both) < 2:
        return None
    a, b = both[0], both[1]
    place = {row: i for i, row in enumerate(b.ids)}
    kept = [i for i, row in enumerate(a.ids) if row in place]
    if not kept:
        return None
    a, b = a.take(kept), b.take([place[a.ids[i]] for i in kept])
    if np.array_equal(a.values, b.values) and np.array_equal(a.weights, b.weights):
        return Shift(before, after, 0.0, None, None, len(kept))
    found = stats.paired(a.values, b.values, a.clusters, weights=(a.weights, b.weights))
    known = found.low == found.low and found.low < found.high
    return Shift(
        before,
        after,
        found.difference,
        found.low if known else None,
        found.high if known else None,
        found.n,
    )


def story(view: View, metric: str) -> Story:
    """The metric over all evaluated checkpoints."""
    return _story(replace(view, level=0.95), metric)


@lru_cache(maxsize=512)
def _story(view: View, metric: str) -> Story:
    known = catalogue(view)[metric]
    numbers = metrics(view, (metric,)).dropna(subset=["value"])
    if known.probe == REWARD and metric.partition(".")[2] in _SINCE_START and len(numbers):
        numbers = numbers[numbers["stage"] == numbers["stage"].iloc[-1]]
    if len(numbers) < 2:
        return Story(None, None)
    names, values = numbers["checkpoint"].tolist(), numbers["value"].to_numpy()
    lower = known.better == "lower"
    at = int(values.argmin() if lower else values.argmax())
    turn = None
    if at not in (0, len(names) - 1):
        turn = shift(view, metric, names[at], names[-1])
    return Story(shift(view, metric, names[0], names[-1]), turn)


def _entry(view: View, checkpoint: str, of_set: str) -> EvalEntry | None:
    found = view.entries(checkpoint=checkpoint, set=of_set)
    return found[0] if found else None
