"""Where more optimisation of the proxy starts to cost gold: the law of Gao et al. 2022.

With d = √KL(π‖π_init), the gold score under RL follows R(d) = R₀ + d·(α − β·log d) (arXiv
2210.10760, section 3.1; natural logarithm, KL in nats a sequence). For β > 0 it peaks at
d* = exp(α/β − 1), where it is R₀ + β·d*. The law is linear in R₀, α and β, so it is fitted by
least squares; R₀ is fitted too, because the starting model's own gold score is only measured.

A curve can be drawn through any points, a peak cannot be read from any curve: ``Fit.identified``
says whether the data show one, and ``Fit.reason`` why not. The usual case of a young run is that
gold still rises and the peak, if any, lies beyond what was seen.

Nor need the law hold: gold may rise, fall and then stay where it is. Where the points' standard
errors are given, a χ² test asks whether the points are farther from the curve than these allow; if
they are, nothing that the curve says of a peak is to be believed (``verdict``: does not fit).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, ndtri

from harness.estimates import Estimate
from harness.evaluation import Evaluation
from harness.stats import expanded_percentiles

Floats = NDArray[np.float64]

Outcome = Literal["identified", "not identified", "does not fit"]

FEWEST = 5  # points: three parameters and something left to tell the noise by
MISFIT_LEVEL = 0.01  # of the test for lack of fit: how often a law that holds is called wrong
_HUGE = 1e200  # where a resample's peak is that has none


@dataclass(frozen=True)
class Peak:
    """d* and the gold score there, with intervals. None as an upper end: unbounded."""

    distance: float
    distance_low: float
    distance_high: float | None
    gold: float
    gold_low: float
    gold_high: float | None


@dataclass(frozen=True)
class Misfit:
    """How far the points are from the curve in standard errors: Σ of squares, ``freedom`` of them
    free, and the probability of as much if the law holds."""

    chi_square: float
    freedom: int
    p: float

    @property
    def significant(self) -> bool:
        """Whether the law does not fit."""
        return self.p < MISFIT_LEVEL


@dataclass(frozen=True)
class Fit:
    """The fitted law, from ``n`` checkpoints. Distances are √nats, gold is in its own units.

    ``start`` is R₀ and ``scatter`` the standard deviation of the points about the curve; all four
    are None if there was too little to fit. ``peak`` is given whenever β > 0; believe it only if
    ``identified``. ``misfit``: None without standard errors.
    """

    start: float | None
    alpha: float | None
    beta: float | None
    scatter: float | None
    peak: Peak | None
    n: int
    verdict: Outcome
    reason: str
    misfit: Misfit | None = None

    @property
    def identified(self) -> bool:
        """Whether the data show a peak."""
        return self.verdict == "identified"

    def gold(self, distances: ArrayLike) -> Floats:
        """The curve at these distances, for drawing. ValueError if nothing could be fitted."""
        if self.start is None or self.alpha is None or self.beta is None:
            raise ValueError(f"nothing was fitted: {self.reason}")
        return _design(np.asarray(distances, dtype=np.float64)) @ np.array(
            [self.start, self.alpha, self.beta]
        )


def distance(kl: ArrayLike) -> Floats:
    """√KL. An estimate of a KL near 0 may come out below it; that is a distance of 0."""
    return np.sqrt(np.maximum(np.asarray(kl, dtype=np.float64), 0.0))


def distance_errors(kl: ArrayLike, errors: ArrayLike) -> Floats:
    """Standard errors of ``distance(kl)`` from those of KL: half the way from one standard error
    below to one above, which stays finite where the derivative of the root does not."""
    middle, reach = np.asarray(kl, dtype=np.float64), np.asarray(errors, dtype=np.float64)
    found: Floats = (distance(middle + reach) - distance(middle - reach)) / 2.0
    return found


def standard_errors(low: ArrayLike, high: ArrayLike, *, confidence: float = 0.95) -> Floats:
    """Of estimates, from their intervals: half the width in normal quantiles. NaN without one."""
    width = np.asarray(high, dtype=np.float64) - np.asarray(low, dtype=np.float64)
    found: Floats = width / (2.0 * float(ndtri(0.5 + confidence / 2.0)))
    return found


def fit(
    distances: ArrayLike,
    gold: ArrayLike,
    *,
    errors: ArrayLike | None = None,
    errors_of_distance: ArrayLike | None = None,
    confidence: float = 0.95,
    seed: int = 0,
    resamples: int = 2000,
) -> Fit:
    """Fit the law to one point a checkpoint, the starting model (distance 0) among them if it can.

    The intervals are a residual bootstrap: the curve plus residuals drawn with replacement, scaled
    by √(n/(n-3)) for the three parameters that were fitted to them. The scatter about the curve
    holds both the noise of measuring gold and that of training. The peak counts as identified if
    the whole interval of β is above 0 and the whole interval of d* lies within the distances seen.

    ``errors``: standard errors of the gold scores, ``errors_of_distance`` of the distances (0 by
    default); with them it is tested whether the law fits (``lack_of_fit``), and if it does not,
    that is the verdict. Without, or where one is missing or 0, it is not tested.
    """
    d = np.asarray(distances, dtype=np.float64)
    y = np.asarray(gold, dtype=np.float64)
    if d.ndim != 1 or d.shape != y.shape:
        raise ValueError(f"shapes {d.shape} and {y.shape}; expected one gold score a distance")
    if not (np.isfinite(d).all() and np.isfinite(y).all() and (d >= 0).all()):
        raise ValueError("distances and gold scores must be finite, distances not negative")
    if len(d) < FEWEST:
        return _nothing(len(d), f"{len(d)} checkpoints; the fit needs at least {FEWEST}")
    design = _design(d)
    if len(np.unique(d)) < 4 or np.linalg.cond(design / np.abs(design).max(axis=0)) > 1e6:
        return _nothing(len(d), "the checkpoints are too close to one another in KL")
    solve = np.linalg.pinv(design)
    start, alpha, beta = (float(x) for x in solve @ y)
    fitted = design @ np.array([start, alpha, beta])
    freedom = len(d) - 3
    residuals = (y - fitted) * math.sqrt(len(d) / freedom)
    random = np.random.default_rng(seed)
    drawn = random.choice(residuals - residuals.mean(), size=(resamples, len(d)))
    betas, peaks, tops = _peaks((fitted + drawn) @ solve.T)
    beta_low, _ = expanded_percentiles(betas, len(d), confidence, used=3)
    # A resample without a peak still rises at the end: its peak is infinitely far.
    peak_low, peak_high = expanded_percentiles(peaks, len(d), confidence, used=3)
    top_low, top_high = expanded_percentiles(tops, len(d), confidence, used=3)
    at = _peak_of(start, alpha, beta)
    peak = at and Peak(at[0], peak_low, _bounded(peak_high), at[1], top_low, _bounded(top_high))
    misfit = _misfit(d, y, (alpha, beta), errors, errors_of_distance)
    reason = _why_not(peak, beta_low, nearest=float(d[d > 0].min()), farthest=float(d.max()))
    verdict: Outcome = "not identified"
    if misfit is not None and misfit.significant:
        verdict = "does not fit"
        reason = (
            "does not fit: the points are farther from the law's curve than their standard errors "
            f"allow (χ² = {misfit.chi_square:.3g} on {misfit.freedom} degrees of freedom, "
            f"p = {misfit.p:.2g})"
        )
    elif peak and not reason:
        verdict = "identified"
        reason = f"gold peaks at d = {peak.distance:.3g} [{peak_low:.3g}, {peak_high:.3g}]"
    return Fit(
        start=start,
        alpha=alpha,
        beta=beta,
        scatter=float(np.sqrt(np.sum((y - fitted) ** 2) / freedom)),
        peak=peak,
        n=len(d),
        verdict=verdict,
        reason=reason,
        misfit=misfit,
    )


def lack_of_fit(
    distances: ArrayLike,
    gold: ArrayLike,
    errors: ArrayLike,
    errors_of_distance: ArrayLike,
    slopes: ArrayLike,
) -> Misfit:
    """The least Σ ((gold − law) / σ)² that any R₀, α and β give, which is χ² with n − 3 degrees of
    freedom if the law holds and the points' errors are independent and normal.

    σ² = (error of gold)² + (slope · error of distance)², with the curve's ``slopes`` at the points.
    The errors of checkpoints that were asked the same rows go together; what they have in common
    moves R₀ and not the points about the curve, so the test rejects rather too seldom.
    """
    d, y = np.asarray(distances, dtype=np.float64), np.asarray(gold, dtype=np.float64)
    sideways = np.asarray(slopes, dtype=np.float64) * np.asarray(errors_of_distance)
    sigma = np.hypot(np.asarray(errors, dtype=np.float64), sideways)
    design = _design(d) / sigma[:, None]
    parameters, *_ = np.linalg.lstsq(design, y / sigma, rcond=None)
    chi_square = float(np.sum((y / sigma - design @ parameters) ** 2))
    freedom = len(d) - 3
    return Misfit(chi_square, freedom, float(chdtrc(freedom, chi_square)))


def fit_evaluations(
    evaluations: Sequence[Evaluation],
    *,
    gold: str = "gold.score",
    kl: str = "reward.kl",
    split: Literal["all", "A", "B"] = "all",
    confidence: float = 0.95,
    seed: int = 0,
) -> Fit:
    """Fit the checkpoints of one RL stage; those without a value for either metric are left out."""
    found: list[tuple[Estimate, Estimate]] = []
    for evaluation in evaluations:
        names = evaluation.names()
        if gold not in names or kl not in names:
            continue
        pair = evaluation.metric(gold, split), evaluation.metric(kl, split)
        if pair[0].value is not None and pair[1].value is not None:
            found.append(pair)
    scores, kls = [score for score, _ in found], [apart for _, apart in found]
    return fit(
        distance(_values(kls)),
        _values(scores),
        errors=_errors(scores),
        errors_of_distance=distance_errors(_values(kls), _errors(kls)),
        confidence=confidence,
        seed=seed,
    )


def _values(estimates: Sequence[Estimate]) -> Floats:
    return np.array([found.value for found in estimates], dtype=np.float64)


def _errors(estimates: Sequence[Estimate]) -> Floats:
    bounds = np.array([(found.low, found.high) for found in estimates], dtype=np.float64)
    low, high = bounds.reshape(-1, 2).T
    return standard_errors(low, high)


def _misfit(
    d: Floats,
    y: Floats,
    curve: tuple[float, float],
    errors: ArrayLike | None,
    errors_of_distance: ArrayLike | None,
) -> Misfit | None:
    """None where there are no standard errors to hold the residuals against."""
    if errors is None:
        return None
    of_gold = np.asarray(errors, dtype=np.float64)
    of_distance = np.zeros_like(d)
    if errors_of_distance is not None:
        of_distance = np.asarray(errors_of_distance, dtype=np.float64)
    if of_gold.shape != d.shape or of_distance.shape != d.shape:
        raise ValueError("expected one standard error a checkpoint")
    if not (np.isfinite(of_gold).all() and np.isfinite(of_distance).all() and (of_gold > 0).all()):
        return None
    alpha, beta = curve
    logs = np.log(d, out=np.zeros_like(d), where=d > 0)
    slopes = np.where(d > 0, alpha - beta * (logs + 1.0), 0.0)
    return lack_of_fit(d, y, of_gold, of_distance, slopes)


def _design(d: Floats) -> Floats:
    """(n, 3): what R₀, α and β multiply. d·log d is 0 at d = 0."""
    logs = np.log(d, out=np.zeros_like(d), where=d > 0)
    return np.stack([np.ones_like(d), d, -d * logs], axis=1)


def _peak_of(start: float, alpha: float, beta: float) -> tuple[float, float] | None:
    """d* and the gold score there; None without one, or where it is beyond all numbers."""
    if beta <= 0.0 or alpha / beta - 1.0 > 200.0:
        return None
    peak = math.exp(alpha / beta - 1.0)
    return peak, start + beta * peak


def _peaks(parameters: Floats) -> tuple[Floats, Floats, Floats]:
    """Of (resamples, 3) parameters: β, d*, R(d*); the last two huge where there is no peak."""
    start, alpha, beta = parameters.T
    power = np.divide(alpha, beta, out=np.full_like(alpha, np.inf), where=beta > 0) - 1.0
    peaks = np.exp(np.minimum(power, 200.0))
    tops = start + beta * peaks
    none = power >= 200.0
    return beta, np.where(none, _HUGE, peaks), np.where(none, _HUGE, tops)


def _why_not(peak: Peak | None, beta_low: float, *, nearest: float, farthest: float) -> str:
    """Why the peak is not identified; empty if it is."""
    if peak is None:
        return "not identified: gold has not begun to bend down (β is not above 0)"
    if peak.distance > farthest:
        return (
            f"not identified: gold still rises; the fitted peak, d = {peak.distance:.3g}, is "
            f"beyond the farthest checkpoint, d = {farthest:.3g}"
        )
    if peak.distance < nearest:
        return "not identified: gold has fallen since the first trained checkpoint"
    if beta_low <= 0.0:
        return "not identified: the bend is within the noise (the interval of β holds 0)"
    if peak.distance_high is None or peak.distance_high > farthest:
        return (
            f"not identified: the peak's interval reaches beyond the farthest checkpoint, "
            f"d = {farthest:.3g}"
        )
    return ""


def _bounded(value: float) -> float | None:
    return value if value < _HUGE / 1e50 else None


def _nothing(n: int, reason: str) -> Fit:
    return Fit(None, None, None, None, None, n, "not identified", f"not identified: {reason}")
