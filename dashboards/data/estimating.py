"""Intervals at another level than the 95 % of the summaries, for many checkpoints at once.

The definitions are the harness's (``harness/estimates.py``, ``harness/stats``), written for a
matrix of checkpoints instead of one: a page at 90 % asks for a hundred bootstraps of the same rows,
and resamples are the same where seed and clusters are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from dashboards.data.index import EvalEntry, Split
from dashboards.data.scores import Scored, scores
from harness import stats
from harness.estimates import Items
from harness.evaluation import MetricInfo

Floats = NDArray[np.float64]
Bounds = tuple[float | None, float | None]
RESAMPLES = 2000  # as harness.stats.cluster_bootstrap
_NOTHING: Bounds = (None, None)


@dataclass(frozen=True, eq=False)
class _Group:
    """Evaluations in which the same rows have a value: ``values`` and ``weights`` are
    (evaluations, rows), ``codes`` (rows,) the rows' clusters by number, ``count`` of them."""

    values: Floats
    weights: Floats
    codes: NDArray[np.intp]
    count: int

    def cluster_sums(self, columns: Floats) -> Floats:
        """(evaluations, clusters) of (evaluations, rows)."""
        order = np.argsort(self.codes, kind="stable")
        starts = np.searchsorted(self.codes[order], np.arange(self.count))
        return np.add.reduceat(columns[:, order], starts, axis=1)


def at_level(
    entries: Sequence[EvalEntry], metric: str, info: MetricInfo, split: Split, level: float
) -> dict[EvalEntry, Bounds]:
    """The interval of one metric for each evaluation, at ``level``."""
    groups: dict[tuple[int, bytes], list[tuple[EvalEntry, Scored]]] = {}
    for place, scored in scores(entries).items():
        kept = scored.kept(metric, split)
        if kept.any():
            key = (id(scored.rows), kept.tobytes())
            groups.setdefault(key, []).append((entries[place], scored))
    found: dict[EvalEntry, Bounds] = {}
    for members in groups.values():
        bounds = _bounds(_group([s for _, s in members], metric, split), info, level)
        found |= {entry: bounds[i] for i, (entry, _) in enumerate(members)}
    return found


def items(entries: Sequence[EvalEntry], metric: str, split: Split) -> dict[int, Items]:
    """Place in ``entries`` -> one value a row, of those evaluations that scored any."""
    found = {place: scored.items(metric, split) for place, scored in scores(entries).items()}
    return {place: of_entry for place, of_entry in found.items() if of_entry.ids}


def _group(members: list[Scored], metric: str, split: Split) -> _Group:
    kept = members[0].kept(metric, split)
    clusters = [members[0].rows.clusters[i] for i in np.flatnonzero(kept)]
    number: dict[str, int] = {}
    codes = [number.setdefault(name, len(number)) for name in clusters]
    return _Group(
        np.stack([scored.values[metric][kept] for scored in members]),
        np.stack([scored.weights[metric][kept] for scored in members]),
        np.asarray(codes, dtype=np.intp),
        len(number),
    )


def _bounds(group: _Group, info: MetricInfo, level: float) -> list[Bounds]:
    """As ``harness.estimates.estimate`` chooses: Wilson for 0/1 rows of a proportion and for rows
    that all sit on a bound of the metric, else the cluster bootstrap."""
    values, first = group.values, group.values[:, 0]
    trials = np.all((values == 0.0) | (values == 1.0), axis=1)
    trials &= info.kind == "proportion"
    bounded = info.low is not None and info.high is not None and info.kind != "proportion"
    same = (values == first[:, None]).all(axis=1)
    on_bound = bounded & same & np.isin(first, [b for b in (info.low, info.high) if b is not None])
    found: list[Bounds] = [_NOTHING] * len(values)
    if trials.any():
        for i, bounds in zip(np.flatnonzero(trials), _wilson(group, trials, level), strict=True):
            found[i] = bounds
    for i in np.flatnonzero(on_bound):
        assert info.low is not None
        assert info.high is not None
        least, most = stats.wilson(group.count if first[i] == info.high else 0, group.count, level)
        reach = info.high - info.low
        found[i] = (info.low + reach * least, info.low + reach * most)
    rest = ~(trials | on_bound)
    if rest.any() and group.count >= 2:
        for i, bounds in zip(np.flatnonzero(rest), _bootstrap(group, rest, level), strict=True):
            found[i] = bounds
    return found


def _wilson(group: _Group, chosen: NDArray[np.bool_], level: float) -> list[Bounds]:
    """``harness.stats.clustered_wilson`` of the chosen evaluations."""
    values, count = group.values[chosen], group.count
    size = values.shape[1]
    means = values.mean(axis=1)
    if count == size:
        worth = np.full(len(values), float(size))
    elif count < 2:
        return [_NOTHING] * len(values)
    else:
        spread = values.var(axis=1)
        residuals = group.cluster_sums(group.values - group.values.mean(axis=1, keepdims=True))
        variance = count / (count - 1) * (residuals[chosen] ** 2).sum(axis=1) / size**2
        with np.errstate(invalid="ignore", divide="ignore"):
            effect = np.maximum(1.0, variance / (spread / size))
        widening = float(stdtrit(count - 1, 0.5 + level / 2)) / stats.z_value(level)
        worth = np.where(spread == 0.0, float(count), size / effect / widening**2)
    return [stats.wilson(m * n, n, level) for m, n in zip(means, worth, strict=True)]


def _bootstrap(group: _Group, chosen: NDArray[np.bool_], level: float) -> list[Bounds]:
    """``harness.stats.cluster_bootstrap`` of the chosen evaluations, from the same resamples."""
    drawn = _drawn(group.count)
    weights = group.weights[chosen]
    above = drawn @ group.cluster_sums(group.values * group.weights)[chosen].T
    if (weights == 1.0).all():  # then all evaluations have the same denominators
        below = drawn @ np.bincount(group.codes, minlength=group.count)[:, None].astype(np.float64)
    else:
        below = drawn @ group.cluster_sums(group.weights)[chosen].T
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = above / below
    columns = np.ascontiguousarray(ratios.T)
    return [stats.expanded_percentiles(column, group.count, level) for column in columns]


@lru_cache(maxsize=8)
def _drawn(count: int, seed: int = 0) -> Floats:
    """(RESAMPLES, count): how often each cluster is drawn, as ``stats.cluster_bootstrap`` draws."""
    chosen = np.random.default_rng(seed).integers(0, count, size=(RESAMPLES, count))
    flat = chosen + count * np.arange(RESAMPLES)[:, None]
    counts = np.bincount(flat.ravel(), minlength=RESAMPLES * count)
    return counts.reshape(RESAMPLES, count).astype(np.float64)
