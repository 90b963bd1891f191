from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import curve_fit

from harness.estimates import Estimate
from harness.evaluation import Evaluation
from harness.overoptimization import (
    distance,
    distance_errors,
    fit,
    fit_evaluations,
    lack_of_fit,
    standard_errors,
)
from harness.store.atomic import to_json


def law(d: Any, start: float, alpha: float, beta: float) -> np.ndarray:
    """Gao et al.'s R(d), written the plain way."""
    d = np.asarray(d, dtype=float)
    return start + d * (alpha - beta * np.log(np.where(d > 0, d, 1.0)))


D = np.linspace(0, 6, 13)  # the starting model and 12 epochs
PEAK = math.exp(2.0 / 1.0 - 1.0)  # of law(d, 3, 2, 1)


def noisy(seed: int, scatter: float = 0.2, d: np.ndarray = D, **how: float) -> np.ndarray:
    parameters = {"start": 3.0, "alpha": 2.0, "beta": 1.0} | how
    return law(d, **parameters) + np.random.default_rng(seed).normal(0, scatter, len(d))


def test_recovers_exact_parameters() -> None:
    found = fit(D, law(D, 3.0, 2.0, 1.0))
    assert (found.start, found.alpha, found.beta) == pytest.approx((3.0, 2.0, 1.0))
    assert found.scatter == pytest.approx(0.0, abs=1e-9)
    assert found.identified
    assert found.peak is not None
    assert found.peak.distance == pytest.approx(PEAK)
    assert found.peak.gold == pytest.approx(3.0 + PEAK)  # R₀ + β·d*
    assert found.reason == "gold peaks at d = 2.72 [2.72, 2.72]"


def test_the_peak_is_where_the_curve_is_highest() -> None:
    found = fit(D, noisy(0))
    assert found.peak is not None
    fine = np.linspace(0.01, 6, 20_000)
    curve = found.gold(fine)
    assert found.peak.distance == pytest.approx(fine[curve.argmax()], abs=1e-3)
    assert found.peak.gold == pytest.approx(curve.max(), abs=1e-6)


def test_agrees_with_a_general_optimiser() -> None:
    gold = noisy(1)
    theirs, _ = curve_fit(law, D, gold, p0=(0, 1, 0.5))
    ours = fit(D, gold)
    assert_allclose((ours.start, ours.alpha, ours.beta), theirs, atol=1e-5)
    residuals = gold - law(D, *theirs)
    assert ours.scatter == pytest.approx(math.sqrt(residuals @ residuals / (13 - 3)), abs=1e-6)


def test_the_peaks_interval_covers() -> None:
    hits = 0
    for seed in range(200):
        found = fit(D, noisy(seed), seed=seed, resamples=400)
        assert found.identified
        assert found.peak is not None
        hits += found.peak.distance_low <= PEAK <= (found.peak.distance_high or math.inf)
    assert 0.91 < hits / 200 < 0.995


def test_no_peak_is_found_where_there_is_none() -> None:
    """Rising, flat and falling gold: at most the odd false alarm."""
    alarms = 0
    for seed in range(100):
        for alpha in (1.0, 0.0, -1.0):
            gold = noisy(seed, 0.5, alpha=alpha, beta=0.0)
            alarms += fit(D, gold, seed=seed, resamples=300).identified
    assert alarms / 300 < 0.02


@pytest.mark.parametrize(
    ("gold", "why"),
    [
        (noisy(0, 0.1, alpha=1.0, beta=-0.2), "has not begun to bend down"),
        (noisy(0, 0.01, d=D / 3), "gold still rises; the fitted peak, d = 2."),
        (law(D, 3.0, -2.0, 0.1), "gold has fallen since the first trained checkpoint"),
        (noisy(3, 3.0, alpha=1.0, beta=0.5), "not identified"),
    ],
)
def test_says_why_not(gold: np.ndarray, why: str) -> None:
    d = D / 3 if "rises" in why else D
    found = fit(d, gold)
    assert not found.identified
    assert found.reason.startswith("not identified: ")
    assert why in found.reason
    assert found.alpha is not None


def test_an_interval_that_leaves_what_was_seen_is_not_identified() -> None:
    d = np.linspace(0, 3, 13)
    outcomes = [fit(d, noisy(seed, 0.15, d=d), seed=seed) for seed in range(20)]
    for found in outcomes:
        if found.peak is not None and not (found.peak.distance_high or math.inf) <= 3:
            assert not found.identified
    assert any("interval reaches beyond the farthest" in found.reason for found in outcomes)


# --------------------------------------------------------------------------- lack of fit

NOISE = 0.2


def rejected(curve: np.ndarray, *, claimed: float = NOISE, seeds: int = 2000) -> float:
    """How often the law is said not to fit the curve with noise of ``NOISE`` on it."""
    flat = np.zeros(len(D))
    random = np.random.default_rng(5)
    found = [
        lack_of_fit(D, curve + random.normal(0, NOISE, len(D)), flat + claimed, flat, flat)
        for _ in range(seeds)
    ]
    return sum(misfit.significant for misfit in found) / seeds


def test_misfit_is_the_sum_of_squares_by_hand() -> None:
    """Points off the curve by one that no law takes up: with σ = 1/2 each counts four times."""
    design = np.stack([np.ones(13), D, -D * np.log(np.where(D > 0, D, 1.0))], axis=1)
    off = np.linalg.svd(design)[0][:, 5]  # of length 1, orthogonal to all three
    none = np.zeros(13)
    found = lack_of_fit(D, law(D, 3, 2, 1) + off, none + 0.5, none, none)
    assert found.chi_square == pytest.approx(4.0)
    assert found.freedom == 10
    assert found.p == pytest.approx(0.947, abs=5e-4)  # tables: χ²(10) above 4
    twice = lack_of_fit(D, law(D, 3, 2, 1) + off, none + 0.3, none + 0.1, none + 4.0)
    assert twice.chi_square == pytest.approx(4.0)  # 0.3² + (4 · 0.1)² = 0.5²


@pytest.mark.parametrize("how", [(3.0, 2.0, 1.0), (3.0, 1.0, 0.0), (3.0, -1.0, 0.3)])
def test_a_law_that_holds_is_rejected_as_often_as_the_level_says(how: Any) -> None:
    assert 0.004 < rejected(law(D, *how)) < 0.018  # 1 % of 2,000, give or take 3.5 of its errors


@pytest.mark.parametrize(
    "curve",
    [
        3 + 4 * (1 - np.exp(-3 * D)),  # rises and stays: there is no peak
        3 + 2 * (D > 2.9),  # a step
        3 + 8 * D * np.exp(-2 * D),  # rises, falls and then stays
        3 + np.sin(2 * D),
    ],
)
def test_another_curve_is_rejected(curve: np.ndarray) -> None:
    assert rejected(curve, seeds=300) > 0.98
    found = fit(D, curve, errors=np.full(13, NOISE))
    assert found.verdict == "does not fit"
    assert not found.identified
    assert found.misfit is not None
    assert f"χ² = {found.misfit.chi_square:.3g} on 10 degrees of freedom" in found.reason


def test_what_the_noise_hides_is_not_rejected() -> None:
    """Standard errors as large as the difference: it cannot be told."""
    assert rejected(3 + 2 * (D > 2.9), claimed=2.0, seeds=300) < 0.02


def test_errors_of_the_distance_count_by_the_slope() -> None:
    """KL measured with an error of 6 %, which alone moves points off a steep curve."""
    alarms = {True: 0, False: 0}
    relative = 0.06 * D**2
    for seed in range(300):
        random = np.random.default_rng(seed)
        kl = D**2 + random.normal(0, relative)
        gold = law(D, 3, 6, 2) + random.normal(0, 0.1, len(D))
        for told in alarms:
            sideways = distance_errors(kl, relative) if told else None
            errors = np.full(len(D), 0.1)
            found = fit(distance(kl), gold, errors=errors, errors_of_distance=sideways, resamples=2)
            alarms[told] += found.verdict == "does not fit"
    assert alarms[True] / 300 < 0.04
    assert alarms[False] / 300 > 0.15


@pytest.mark.parametrize("errors", [None, np.append(np.full(12, 0.2), np.nan), np.zeros(13)])
def test_without_standard_errors_nothing_is_tested(errors: Any) -> None:
    found = fit(D, 3 + 4 * (1 - np.exp(-3 * D)), errors=errors)
    assert found.misfit is None
    assert found.verdict != "does not fit"


def test_standard_errors_of_intervals_and_distances() -> None:
    assert_allclose(standard_errors([1.0], [1.0 + 2 * 1.959964]), [1.0], atol=1e-6)
    assert_allclose(standard_errors([0.0], [2 * 1.644854], confidence=0.9), [1.0], atol=1e-6)
    assert np.isnan(standard_errors([np.nan], [np.nan])).all()
    assert_allclose(distance_errors([4.0], [0.04]), [0.01], atol=1e-5)  # se / 2d
    assert_allclose(distance_errors([0.0, 1.0], [1.0, 0.0]), [0.5, 0.0])
    with pytest.raises(ValueError, match="one standard error a checkpoint"):
        fit(D, law(D, 3, 2, 1), errors=[0.1])


# --------------------------------------------------------------------------- too little


@pytest.mark.parametrize("n", [0, 1, 4])
def test_too_few_checkpoints(n: int) -> None:
    found = fit(D[:n], law(D[:n], 3, 2, 1))
    assert not found.identified
    assert (found.alpha, found.peak, found.n) == (None, None, n)
    assert found.reason == f"not identified: {n} checkpoints; the fit needs at least 5"
    with pytest.raises(ValueError, match="nothing was fitted"):
        found.gold([1.0])


def test_checkpoints_all_in_one_place() -> None:
    for d in ([1.0] * 6, [1.0, 1.0, 2.0, 2.0, 3.0, 3.0], 1 + np.arange(6) * 1e-9):
        assert "too close to one another" in fit(d, np.arange(6.0)).reason


@pytest.mark.parametrize(
    ("d", "gold"),
    [([-1.0] * 6, [1.0] * 6), ([math.nan] * 6, [1.0] * 6), ([1.0] * 6, [1.0] * 5)],
)
def test_refuses_what_is_no_distance(d: list[float], gold: list[float]) -> None:
    with pytest.raises(ValueError, match=r"not negative|shapes"):
        fit(d, gold)


def test_distance_of_a_noisy_kl() -> None:
    assert_allclose(distance([-0.01, 0.0, 4.0]), [0.0, 0.0, 2.0])


def test_is_deterministic_and_json() -> None:
    found = fit(D, noisy(0))
    assert found == fit(D, noisy(0))
    assert json.loads(to_json(found))["peak"]["distance"] == found.peak.distance


@dataclass
class FakeSet:
    name: str
    value: float | None
    half: float | None = None  # the interval's half width

    def names(self) -> list[str]:
        return [self.name]

    def metric(self, name: str, split: str = "A", *, confidence: float = 0.95) -> Estimate:
        assert split == "B"
        if self.value is None or self.half is None:
            return Estimate(self.value, None, None, 10, 0)
        return Estimate(self.value, self.value - self.half, self.value + self.half, 10, 0)


def test_reads_evaluations_and_leaves_out_what_was_not_measured() -> None:
    gold = law(D, 3.0, 2.0, 1.0)
    evaluations = []
    for i, (d, g) in enumerate(zip(D, gold, strict=True)):
        sets: Any = {"gold": FakeSet("score", g), "reward": FakeSet("kl", d**2)}
        evaluations.append(Evaluation(f"ppo-e{i:03d}", sets))
    unscored: Any = {"gold": FakeSet("score", None), "reward": FakeSet("kl", 1.0)}
    only: Any = {"gold": FakeSet("score", 1.0)}
    evaluations += [Evaluation("ppo-e090", unscored), Evaluation("ppo-e091", only)]
    found = fit_evaluations(evaluations, split="B")
    assert found.n == 13
    assert found.peak is not None
    assert found.peak.distance == pytest.approx(PEAK)


def test_evaluations_are_held_against_their_own_intervals() -> None:
    """A step of 2 within intervals of ±0.4 is a misfit; within ±4 it is not."""
    for half, verdict in ((0.4, "does not fit"), (4.0, "not identified")):
        evaluations = []
        for i, (d, g) in enumerate(zip(D, 3 + 2 * (D > 2.9), strict=True)):
            sets: Any = {"gold": FakeSet("score", g, half), "reward": FakeSet("kl", d**2, 0.0)}
            evaluations.append(Evaluation(f"ppo-e{i:03d}", sets))
        found = fit_evaluations(evaluations, split="B")
        assert found.verdict == verdict
        assert found.misfit is not None
        error = half / 1.959964
        none = np.zeros(13)
        by_hand = lack_of_fit(D, 3 + 2 * (D > 2.9), none + error, none, none)
        assert found.misfit.chi_square == pytest.approx(by_hand.chi_square, rel=1e-5)
