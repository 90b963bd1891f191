"""The arithmetic and the verdicts of the ablation table, on numbers worked out by hand."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import ablations  # noqa: E402
import ablations_outcomes  # noqa: E402
from ablations_plan import ELEMENTS, EPOCHS, EVALUATED, MEANING, OVERRIDES, SEEDS  # noqa: E402
from ablations_runs import UNGATED  # noqa: E402
from ablations_verdicts import Difference, difference, verdict  # noqa: E402

from harness.estimates import Estimate, Items  # noqa: E402
from trainers.schedule_file import read_schedule  # noqa: E402

T = 4.302652729911275  # of the 97.5th percentile, two degrees of freedom (printed tables: 4.303)


class TestDifference:
    def test_the_interval_of_three_seeds(self) -> None:
        # Differences 1, 2, 3: mean 2, s = 1, so 2 ± 4.3027 / √3 = 2 ± 2.4841.
        found = difference([11.0, 22.0, 33.0], [10.0, 20.0, 30.0])
        assert found.values == (1.0, 2.0, 3.0)
        assert found.mean == 2.0
        assert found.low == pytest.approx(2 - T / math.sqrt(3))
        assert found.high == pytest.approx(4.4841, abs=1e-4)

    def test_four_seeds_have_three_degrees_of_freedom(self) -> None:
        # 0, 0, 2, 2: mean 1, s² = 4/3, half = 3.1824 · √(4/3) / 2 = 1.8374.
        found = difference([0.0, 0.0, 2.0, 2.0], [0.0] * 4)
        assert (found.low, found.high) == pytest.approx((-0.8374, 2.8374), abs=1e-4)

    def test_no_difference_at_all_is_an_interval_of_nothing(self) -> None:
        assert difference([1.0, 0.9, 1.0], [1.0, 0.9, 1.0]) == Difference((0, 0, 0), 0, 0, 0)

    def test_equal_differences_have_no_interval(self) -> None:
        found = difference([5.0, 6.0, 7.0], [4.0, 5.0, 6.0])
        assert found.mean == 1.0
        assert math.isnan(found.low)
        assert math.isnan(found.high)

    @pytest.mark.parametrize("arm", [[1.0], [], [1.0, math.nan, 2.0]])
    def test_too_few_or_missing(self, arm: list[float]) -> None:
        assert math.isnan(difference(arm, [0.0] * len(arm)).low)

    def test_arms_of_unequal_length(self) -> None:
        with pytest.raises(ValueError, match="zip"):
            difference([1.0, 2.0], [1.0])


class TestVerdict:
    @pytest.mark.parametrize(
        ("variant", "claim", "says"),
        [
            ([1.0, 2.0, 3.0], 1, "shows nothing"),  # 2 ± 2.48
            ([1.9, 2.0, 2.1], 0, "shows"),  # 2 ± 0.25
            ([1.9, 2.0, 2.1], 1, "shows, as claimed"),
            ([1.9, 2.0, 2.1], -1, "shows, against the claim"),
            ([-1.9, -2.0, -2.1], -1, "shows, as claimed"),
            ([-1.9, -2.0, -2.1], 1, "shows, against the claim"),
            ([0.0, 0.0, 0.0], 1, "shows nothing"),
            ([1.0, 1.0, 1.0], 1, "no interval"),
            ([1.0, math.nan, 1.0], 1, "not measured"),
            ([1.0], 1, "not measured"),
        ],
    )
    def test_rule(self, variant: list[float], claim: int, says: str) -> None:
        assert verdict(difference(variant, [0.0] * len(variant)), claim) == says  # type: ignore[arg-type]

    def test_a_bound_at_zero_shows_nothing(self) -> None:
        assert verdict(Difference((1.0, 2.0, 3.0), 2.0, 0.0, 4.0)) == "shows nothing"


class TestPlan:
    def test_every_arm_is_a_schedule_and_changes_what_it_says(self) -> None:
        baseline = read_schedule(UNGATED, OVERRIDES["baseline"], seed=SEEDS[0])
        for arm, overrides in OVERRIDES.items():
            schedule = read_schedule(UNGATED, overrides, seed=SEEDS[0])
            assert (schedule == baseline) == (arm == "baseline")

    def test_every_outcome_is_explained_and_the_last_epoch_is_evaluated(self) -> None:
        named = {outcome for element in ELEMENTS for outcome in element.outcomes}
        assert named == set(MEANING)
        assert EVALUATED[0] == 0
        assert EVALUATED[-1] == EPOCHS

    def test_no_other_file_uses_the_seeds(self) -> None:
        for path in [*BENCHMARKS.glob("*.py"), *UNGATED.parent.glob("*.yaml")]:
            if not path.name.startswith("ablations"):
                text = path.read_text(encoding="utf-8")
                assert not any(f"seed: {seed}" in text or f" {seed}," in text for seed in SEEDS)


class TestReport:
    def test_the_words_come_from_the_rule(self) -> None:
        kl = next(element for element in ELEMENTS if element.name == "kl")
        values = {
            701: {"baseline": {"kl_last": 1.0}, "kl-0": {"kl_last": 2.0}},
            702: {"baseline": {"kl_last": 1.1}, "kl-0": {"kl_last": 2.2}},
            703: {"baseline": {"kl_last": 0.9}, "kl-0": {"kl_last": 1.8}},
        }
        text = ablations.report(values)
        # 1.0, 1.1, 0.9: 1 ± 0.2484
        assert (
            f"| {kl.title} | β 0 | kl last | higher | +1.000 [+0.752, +1.248] "
            "| +1.000 | +1.100 | +0.900 | **shows, as claimed** |"
        ) in text
        assert "| β 0.08, fixed | kl last | - | - | - | - | not measured |" in text
        assert "1 have an interval, and 1 of these exclude 0" in text


@dataclass
class StubEvaluation:
    """As much of an ``Evaluation`` as the outcomes of PPO read; two rows of gold and proxy."""

    gold: tuple[float, float]  # the row of split A, that of B
    refused: float
    low: float
    proxy: tuple[float, float] = (0.0, 1.0)
    others: dict[str, float] = field(default_factory=dict)

    def items(self, metric: str, split: str) -> Items:
        found = np.array(self.gold if metric == "gold.score" else self.proxy)
        kept = {"A": found[:1], "B": found[1:], "all": found}[split]
        return Items([""] * len(kept), kept, [""] * len(kept), np.ones(len(kept)))

    def metric(self, name: str, split: str) -> Estimate:
        value = self.refused if name == "borderline.false_refusal" else self.others.get(name, 0.0)
        return Estimate(value, self.low, 1.0, 2, 0)


class TestOutcomesOfPpo:
    def test_by_hand(self) -> None:
        found = {
            0: StubEvaluation((6.0, 8.0), 0.0, 0.0, others={"mt_bench.score": 9.0}),
            4: StubEvaluation((9.0, 8.5), 0.2, 0.1),  # best on A, not on B
            8: StubEvaluation((8.0, 8.75), 0.5, 0.21),  # the first that fails the gate
            12: StubEvaluation(
                (5.0, 7.0), 1.0, 0.9, proxy=(1.0, 2.0), others={"mt_bench.score": 8.0}
            ),
        }
        outcomes = ablations_outcomes.of_ppo(found)  # type: ignore[arg-type]
        assert outcomes["gold_best"] == 8.5
        assert outcomes["gold_last"] == 7.0
        assert outcomes["gold_fall"] == 1.5
        assert outcomes["gold_mean"] == pytest.approx((8.5 + 8.75 + 7.0) / 3)
        assert outcomes["false_refusals_best"] == 0.2
        assert outcomes["false_refusals_last"] == 1.0
        assert outcomes["overcooked"] == 8.0
        assert outcomes["mt_change"] == -1.0
        # The proxy rises by 1 of a spread of 0.5, gold falls by 1 of a spread of 1: 2 − (−1).
        assert outcomes["gap"] == pytest.approx(3.0)

    def test_a_run_that_never_fails_the_gate(self) -> None:
        found = {epoch: StubEvaluation((1.0, 2.0), 0.0, 0.0) for epoch in (0, 12)}
        assert ablations_outcomes.of_ppo(found)["overcooked"] == EPOCHS + 1  # type: ignore[arg-type]
