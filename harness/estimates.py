"""From the items of one metric to one number with its n and its interval.

Every metric is a ratio of sums over rows, Σ weight·value / Σ weight (weights are 1 but for pooled
metrics such as KL a token), so one estimator serves all. Rows of one cluster are never treated as
independent: paraphrases of one question are one observation seen several times.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness import stats

Kind = Literal["proportion", "mean", "pooled"]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number that never comes alone. ``value`` is None if no row could be scored.

    ``low`` and ``high`` are None where one cluster says nothing about its like. ``n`` counts rows
    scored, ``unscored`` those that could not be.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    unscored: int

    def to_dict(self) -> dict[str, float | int | None]:
        return asdict(self)


@dataclass(frozen=True)
class Items:
    """One value a row for one metric, for paired comparisons; unscored rows are absent.

    ``weights`` are 1 but for pooled metrics, where ``values`` are ratios and weights their
    denominators.
    """

    ids: list[str]
    values: Floats
    clusters: list[str]
    weights: Floats

    @classmethod
    def of_scores(
        cls,
        rows: NDArray[np.int64],
        values: Floats,
        weights: Floats,
        ids: Sequence[str],
        clusters: Sequence[str],
        *,
        without: AbstractSet[int] = frozenset(),
    ) -> Items:
        """Rows' means of their scores. ``rows[i]`` is the row of the i-th score.

        Rows in ``without`` have an unscored turn: they are left out, because the mean over the
        turns that happened to be scored is the mean of something else.
        """
        totals = np.bincount(rows, weights=weights, minlength=len(ids))
        sums = np.bincount(rows, weights=values * weights, minlength=len(ids))
        keep = [i for i in np.flatnonzero(totals > 0).tolist() if i not in without]
        pooled = bool((weights != 1.0).any())  # a row's several turns do not make it count more
        return cls(
            [ids[i] for i in keep],
            sums[keep] / totals[keep],
            [clusters[i] for i in keep],
            totals[keep].astype(np.float64) if pooled else np.ones(len(keep)),
        )

    def take(self, indices: Sequence[int]) -> Items:
        """The items at these positions."""
        chosen = np.asarray(indices, dtype=np.int64)
        return Items(
            [self.ids[i] for i in indices],
            self.values[chosen],
            [self.clusters[i] for i in indices],
            self.weights[chosen],
        )


def estimate(
    items: Items,
    kind: Kind,
    *,
    unscored: int = 0,
    confidence: float = 0.95,
    bounds: tuple[float | None, float | None] = (None, None),
) -> Estimate:
    """The ratio of sums over the items with its interval.

    ``proportion``: Wilson, on the effective number of rows where clusters hold several.
    ``mean``, ``pooled``: cluster bootstrap; where all rows sit on one of the metric's ``bounds``
    (all 10 of 10), Wilson on the clusters instead, scaled to the bounds, because a bootstrap of
    equal values would call the next row certain.
    """
    n = len(items.ids)
    if n == 0:
        return Estimate(None, None, None, 0, unscored)
    sums = items.values * items.weights
    value = float(sums.sum() / items.weights.sum())
    low, high = bounds
    first = float(items.values[0])
    if kind == "proportion":
        # A row asked over several turns has a mean; only 0/1 rows are trials.
        interval = stats.interval(items.values, items.clusters, confidence=confidence)
    elif (
        low is not None
        and high is not None
        and first in bounds
        and bool((items.values == first).all())
    ):
        clusters = len(set(items.clusters))
        share = stats.wilson(clusters if first == high else 0, clusters, confidence)
        interval = (low + (high - low) * share[0], low + (high - low) * share[1])
    else:
        interval = stats.cluster_bootstrap(
            sums, items.clusters, denominators=items.weights, confidence=confidence
        )
    if any(math.isnan(bound) for bound in interval):
        return Estimate(value, None, None, n, unscored)
    return Estimate(value, *interval, n, unscored)
