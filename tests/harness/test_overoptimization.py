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
from harness.overoptimization import distance, fit, fit_evaluations
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

    def names(self) -> list[str]:
        return [self.name]

    def metric(self, name: str, split: str = "A", *, confidence: float = 0.95) -> Estimate:
        assert split == "B"
        return Estimate(self.value, None, None, 10, 0)


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
