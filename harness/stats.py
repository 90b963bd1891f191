"""Intervals and tests for metrics, all deterministic (a fixed seed where they resample).

Which one for what:

- a proportion over independent rows: ``wilson`` (Wilson 1927); over rows of which some belong
  together (paraphrases of one prompt): ``clustered_wilson``;
- a mean or a ratio of sums: ``cluster_bootstrap``; ``interval`` chooses by the values;
- two checkpoints on the same rows: ``paired`` (the score interval of Tango 1998 and the exact
  McNemar test for 0/1 rows, a paired bootstrap otherwise), never two overlapping intervals;
- several tests at once: ``holm``;
- a rate read by a classifier with known errors: ``rogan_gladen``.

Intervals are two-sided with ``confidence`` inside. Where there is nothing to say (no rows, or only
one cluster) bounds are nan, not zero: a caller turns them into "inconclusive".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize
from scipy.special import bdtr, betaincinv, ndtr, ndtri, stdtr, stdtrit

Floats = NDArray[np.float64]
Interval = tuple[float, float]
NOTHING: Interval = (math.nan, math.nan)

# A resample's indices are drawn in blocks of this many, to bound memory (8 bytes each).
_BLOCK = 4_000_000


@dataclass(frozen=True, slots=True)
class Paired:
    """``difference`` = mean(after) − mean(before) on the same rows, its interval, and a test.

    ``p`` is two-sided, for "no change"; ``test`` names it. ``n`` counts rows.
    """

    difference: float
    low: float
    high: float
    p: float
    n: int
    test: str


@dataclass(frozen=True, slots=True)
class Corrected:
    """A rate corrected for a classifier's errors, with its interval, all inside [0, 1]."""

    value: float
    low: float
    high: float


def z_value(confidence: float) -> float:
    """The normal quantile that leaves ``1 - confidence`` outside, half on each side."""
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; expected a number between 0 and 1")
    return float(ndtri(0.5 + confidence / 2))


def wilson(k: float, n: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for ``k`` successes in ``n`` independent trials.

    ``k`` and ``n`` may be fractional (an effective sample size). n = 0 gives (0, 1): a proportion
    of nothing can be anything.
    """
    if n < 0 or k < 0 or k > n:
        raise ValueError(f"{k} of {n} is not a proportion")
    if n == 0:
        return 0.0, 1.0
    z2 = z_value(confidence) ** 2
    centre = (k + z2 / 2) / (n + z2)
    half = math.sqrt(z2) / (n + z2) * math.sqrt(k * (n - k) / n + z2 / 4)
    # The bounds at the ends are exactly 0 and 1; rounding would leave ±1e-17.
    return (0.0 if k == 0 else max(0.0, centre - half), 1.0 if k == n else min(1.0, centre + half))


def interval(
    values: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    denominators: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """``clustered_wilson`` for 0/1 values without denominators, else ``cluster_bootstrap``.

    A bootstrap of 0 successes in n has no width at all, hence not for proportions.
    """
    if denominators is None and is_binary(values):
        return clustered_wilson(values, clusters, confidence=confidence)
    return cluster_bootstrap(
        values,
        clusters,
        denominators=denominators,
        confidence=confidence,
        seed=seed,
        resamples=resamples,
    )


def is_binary(values: ArrayLike) -> bool:
    """Whether every value is 0 or 1."""
    array = _floats(values)
    return bool(np.all((array == 0.0) | (array == 1.0)))


def clustered_wilson(
    values: ArrayLike, clusters: Sequence[str] | None = None, *, confidence: float = 0.95
) -> Interval:
    """Wilson's interval of 0/1 values, with n divided by the clusters' design effect (Kish 1965).

    Student's t for (clusters - 1) degrees of freedom widens it where clusters are few, as in Korn &
    Graubard 1998. Without clusters of several rows it is plain Wilson.
    """
    array = _floats(values)
    codes, count = _codes(clusters, array.size)
    if count == array.size:
        return wilson(float(array.sum()), array.size, confidence)
    if count < 2:
        return NOTHING
    effective = _effective_rows(array, codes, count, confidence)
    return wilson(float(array.mean()) * effective, effective, confidence)


def cluster_bootstrap(
    values: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    denominators: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Interval:
    """Bootstrap interval of Σvalues / Σdenominators, whole clusters drawn with replacement.

    Args:
        values: (n,) one number a row; with ``denominators`` omitted the statistic is the mean.
        clusters: (n,) names; rows of one name are drawn together. Default: each row its own.
        denominators: (n,) for ratios of sums, such as wrong answers / attempts.

    The percentile interval, expanded for few clusters by Hesterberg 2015 ("What teachers should
    know about the bootstrap", section 5.3): plain percentiles of m clusters are too narrow by
    √((m-1)/m) and use z where t belongs. Fewer than two clusters: (nan, nan).
    """
    above = _floats(values)
    below = np.ones_like(above) if denominators is None else _floats(denominators)
    if below.shape != above.shape:
        raise ValueError(f"{above.size} values, {below.size} denominators")
    codes, count = _codes(clusters, above.size)
    if count < 2 or float(below.sum()) == 0.0:
        return NOTHING
    drawn = _resampled(_cluster_sums(codes, count, above, below), seed, resamples)
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = drawn[:, 0] / drawn[:, 1]
    return expanded_percentiles(ratios, count, confidence)


def expanded_percentiles(
    drawn: Floats, units: int, confidence: float, *, used: int = 1
) -> Interval:
    """Percentiles of bootstrap statistics, expanded for ``units`` resampled units.

    ``used`` degrees of freedom went into the statistic (1 for a mean).
    """
    freedom = units - used
    reach = float(stdtrit(freedom, 0.5 + confidence / 2)) * math.sqrt(units / freedom)
    tail = float(ndtr(-reach))
    low, high = np.quantile(drawn[np.isfinite(drawn)], [tail, 1.0 - tail])
    return float(low), float(high)


def mcnemar_exact(b: int, c: int) -> float:
    """Two-sided exact McNemar test: p of ``b`` and ``c`` changes in the two directions."""
    if b < 0 or c < 0:
        raise ValueError(f"counts are negative: {b}, {c}")
    if b + c == 0:
        return 1.0
    return min(1.0, 2.0 * float(bdtr(min(b, c), b + c, 0.5)))


def tango(b: float, c: float, n: float, confidence: float = 0.95) -> Interval:
    """Score interval of the paired difference (b - c) / n of two proportions (Tango 1998).

    ``b`` rows are 1 only the second time, ``c`` only the first, of ``n`` rows. It keeps its
    coverage where few rows or none changed, where a bootstrap has no width. The counts may be
    fractional (an effective sample size).
    """
    if min(b, c) < 0 or b + c > n:
        raise ValueError(f"{b} + {c} changes in {n} rows")
    if n == 0:
        return NOTHING
    z = z_value(confidence)

    def score(delta: float) -> float:
        # The nuisance parameter's maximum-likelihood value given the difference `delta`:
        # the larger root of 2n q² + B q + C = 0, q = P(1 only the first time).
        linear = -b - c + (2 * n - b + c) * delta
        constant = -c * delta * (1 - delta)
        root = math.sqrt(max(0.0, linear * linear - 8 * n * constant))
        q = (root - linear) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        return (b - c - n * delta) / math.sqrt(max(variance, 1e-300))

    edge = 1.0 - 1e-12
    difference = (b - c) / n
    low, high = -1.0, 1.0
    if b - c > -n and score(-edge) > z:
        low = float(optimize.brentq(lambda d: score(d) - z, -edge, min(difference, edge)))
    if b - c < n and score(edge) < -z:
        high = float(optimize.brentq(lambda d: score(d) + z, max(difference, -edge), edge))
    return low, high


def paired_bootstrap(
    before: ArrayLike,
    after: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    weights: tuple[ArrayLike, ArrayLike] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Paired:
    """Bootstrap of mean(after) - mean(before), whole clusters of rows drawn with replacement.

    ``weights`` (before, after) make both weighted means, for metrics that are ratios of sums.

    p: the share of resamples at least as far from the observed difference as that is from 0 (the
    bootstrap shifted to "no change"), corrected for few clusters as the interval is. Fewer than two
    clusters: nan bounds and p.
    """
    first, second = _same_rows(before, after)
    heavy = [np.ones_like(first)] * 2 if weights is None else [_floats(w) for w in weights]
    if any(weight.shape != first.shape for weight in heavy):
        raise ValueError("weights and rows differ in number")
    codes, count = _codes(clusters, first.size)
    sums = _cluster_sums(codes, count, first * heavy[0], heavy[0], second * heavy[1], heavy[1])
    with np.errstate(invalid="ignore", divide="ignore"):
        total = sums.sum(axis=0)
        value = float(total[2] / total[3] - total[0] / total[1])
        if count < 2:
            return Paired(value, math.nan, math.nan, math.nan, first.size, "paired bootstrap")
        drawn = _resampled(sums, seed, resamples)
        changes = drawn[:, 2] / drawn[:, 3] - drawn[:, 0] / drawn[:, 1]
    low, high = expanded_percentiles(changes, count, confidence)
    # The tolerance keeps exact ties (all rows changed alike) from falling to rounding.
    far = int(np.sum(np.abs(changes - value) >= abs(value) - 1e-12))
    z = -float(ndtri((far + 1) / (resamples + 1) / 2))
    p = 2.0 * float(stdtr(count - 1, -z * math.sqrt((count - 1) / count)))
    return Paired(value, low, high, p, first.size, "paired bootstrap")


def paired(
    before: ArrayLike,
    after: ArrayLike,
    clusters: Sequence[str] | None = None,
    *,
    weights: tuple[ArrayLike, ArrayLike] | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Paired:
    """Compare the same rows before and after.

    0/1 rows: ``tango`` and ``mcnemar_exact``. Rows that share a cluster are not independent trials,
    so there Tango's counts shrink by the design effect, and the test is the bootstrap by cluster.
    All other values: ``paired_bootstrap``. Weights that are all 1 are none.
    """
    first, second = _same_rows(before, after)
    if weights is not None and all(np.all(_floats(w) == 1.0) for w in weights):
        weights = None
    resampled = paired_bootstrap(
        first,
        second,
        clusters,
        weights=weights,
        confidence=confidence,
        seed=seed,
        resamples=resamples,
    )
    if weights is not None or not first.size or not (is_binary(first) and is_binary(second)):
        return resampled
    b, c = int(np.sum(second > first)), int(np.sum(second < first))
    codes, count = _codes(clusters, first.size)
    if count == first.size:
        low, high = tango(b, c, first.size, confidence)
        return replace(resampled, low=low, high=high, p=mcnemar_exact(b, c), test="exact McNemar")
    if count < 2:
        return resampled
    share = _effective_rows(second - first, codes, count, confidence) / first.size
    low, high = tango(b * share, c * share, first.size * share, confidence)
    return replace(resampled, low=low, high=high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (Holm 1979), in the given order."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = largest
    return adjusted


def rogan_gladen(
    positives: float,
    n: float,
    *,
    sensitivity: tuple[float, float],
    specificity: tuple[float, float],
    confidence: float = 0.95,
) -> Corrected:
    """The true rate behind a classifier's rate (Rogan & Gladen 1978).

    Args:
        positives, n: what the classifier said of the rows at hand.
        sensitivity: (right, of) — rows that people call positive and the classifier too, of all
            that people call positive; its uncertainty is carried into the interval.
        specificity: the same for the negatives.

    The interval is Lang & Reiczigel 2014 (Prev. Vet. Med. 113:13-22), which keeps its coverage
    for rates near 0 and few labels, where the delta method does not. Bounds are cut to [0, 1].
    Raises ValueError for a classifier no better than chance: nothing can be corrected with it.
    """
    (right_pos, of_pos), (right_neg, of_neg) = sensitivity, specificity
    if min(n, of_pos, of_neg) <= 0:
        raise ValueError("rogan_gladen needs rows, labelled positives and labelled negatives")
    se, sp = right_pos / of_pos, right_neg / of_neg
    if se + sp <= 1.0:
        raise ValueError(f"sensitivity {se:.3f} + specificity {sp:.3f} is not above 1")
    value = min(1.0, max(0.0, (positives / n + sp - 1.0) / (se + sp - 1.0)))
    z2 = z_value(confidence) ** 2
    n_all, n_se, n_sp = n + z2, of_pos + 2.0, of_neg + 2.0
    apparent = (positives + z2 / 2) / n_all
    se, sp = (right_pos + 1.0) / n_se, (right_neg + 1.0) / n_sp
    youden = se + sp - 1.0
    if youden <= 0.0:
        return Corrected(value, 0.0, 1.0)
    rate = (apparent + sp - 1.0) / youden
    se_var, sp_var = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z2 * (rate * se_var - (1 - rate) * sp_var)
    spread = apparent * (1 - apparent) / n_all + rate**2 * se_var + (1 - rate) ** 2 * sp_var
    half = math.sqrt(z2 * spread) / youden
    low, high = (min(1.0, max(0.0, rate + shift + side)) for side in (-half, half))
    return Corrected(value, low, high)


def smallest_detectable_effect(
    n: int, p: float, power: float = 0.8, confidence: float = 0.95
) -> float | None:
    """How far above the limit ``p`` a true rate must be for an ``at_most: p`` gate to see it.

    The smallest effect e such that n independent rows with true rate p + e put Wilson's lower
    bound above p with probability ``power``. Exact (binomial). None if no rate can: n too small.
    """
    if n < 1 or not 0.0 <= p < 1.0 or not 0.0 < power < 1.0:
        raise ValueError(f"no gate has n = {n}, limit {p}, power {power}")
    if wilson(n, n, confidence)[0] <= p:
        return None
    fewest, most = 0, n  # bisection: the bound grows with k
    while most - fewest > 1:
        middle = (fewest + most) // 2
        if wilson(middle, n, confidence)[0] > p:
            most = middle
        else:
            fewest = middle
    # P(X >= most) = power at the beta quantile.
    return float(betaincinv(most, n - most + 1, power)) - p


def _cluster_sums(codes: NDArray[np.intp], count: int, *columns: Floats) -> Floats:
    """(clusters, columns): each column summed within each cluster."""
    return np.stack([np.bincount(codes, weights=c, minlength=count) for c in columns], axis=1)


def _resampled(sums: Floats, seed: int, times: int) -> Floats:
    """(times, columns): column totals of ``times`` resamples of the clusters."""
    count = sums.shape[0]
    random = np.random.default_rng(seed)
    out = np.empty((times, sums.shape[1]))
    step = max(1, _BLOCK // count)
    for start in range(0, times, step):
        stop = min(times, start + step)
        chosen = random.integers(0, count, size=(stop - start, count))
        for column in range(sums.shape[1]):
            out[start:stop, column] = sums[chosen, column].sum(axis=1)
    return out


def _effective_rows(
    values: Floats, codes: NDArray[np.intp], count: int, confidence: float
) -> float:
    """How many independent rows say as much about the mean as these clustered ones.

    Rows / design effect, the design effect being the variance of the clustered mean (linearised,
    as in survey statistics) over that of as many independent rows, at least 1. Where all values are
    equal it cannot be estimated, and clusters count as one row each, the careful end. Further
    divided by (t/z)² with (clusters - 1) degrees of freedom.
    """
    spread = float(values.var())
    if spread == 0.0:
        return float(count)
    residuals = np.bincount(codes, weights=values - values.mean(), minlength=count)
    variance = count / (count - 1) * float(residuals @ residuals) / values.size**2
    effect = max(1.0, variance / (spread / values.size))
    widening = float(stdtrit(count - 1, 0.5 + confidence / 2)) / z_value(confidence)
    return values.size / effect / widening**2


def _codes(clusters: Sequence[str] | None, n: int) -> tuple[NDArray[np.intp], int]:
    """Each row's cluster as a number, in order of appearance, and how many clusters there are."""
    if clusters is None:
        return np.arange(n), n
    if len(clusters) != n:
        raise ValueError(f"{n} values, {len(clusters)} clusters")
    number: dict[str, int] = {}
    codes = [number.setdefault(name, len(number)) for name in clusters]
    return np.asarray(codes, dtype=np.intp), len(number)


def _same_rows(before: ArrayLike, after: ArrayLike) -> tuple[Floats, Floats]:
    first, second = _floats(before), _floats(after)
    if first.shape != second.shape:
        raise ValueError(f"not paired: {first.size} rows before, {second.size} after")
    return first, second


def _floats(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1:
        raise ValueError(f"expected a flat list of numbers, got shape {array.shape}")
    if not np.all(np.isfinite(array)):
        raise ValueError("a value is nan or infinite; leave unscored rows out")
    return array
