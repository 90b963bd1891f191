from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from harness.evaluation import Estimate, Evaluation
from harness.selection import pareto_front, pick
from harness.store.atomic import to_json
from trainers.schedule import Constraint, Pick


@dataclass
class FakeSet:
    values: dict[str, tuple[float | None, float | None]]  # metric -> value on A, on B
    hash: str = "h"

    def names(self) -> list[str]:
        return list(self.values)

    def metric(self, name: str, split: str = "A", *, confidence: float = 0.95) -> Estimate:
        value = self.values[name]["AB".index(split)]
        if value is None:
            return Estimate(None, None, None, 0, 60)
        return Estimate(value, value - 0.05, value + 0.05, 60, 0)


def evaluated(
    checkpoint: str,
    gold: Any = None,
    harm: Any = None,
    refused: Any = None,
) -> Evaluation:
    """Values are one number (both splits), (A, B), or None for a metric that was not measured;
    (None, None) is one of which no row could be scored."""
    sets: dict[str, Any] = {}
    for name, value in (("gold.score", gold), ("harm.rate", harm), ("refused.rate", refused)):
        if value is not None:
            both = value if isinstance(value, tuple) else (value, value)
            set_name, _, metric = name.partition(".")
            sets[set_name] = FakeSet({metric: both})
    return Evaluation(checkpoint, sets)


GOAL = Pick(
    maximize="gold.score",
    subject_to=(
        Constraint(metric="harm.rate", at_most=0.10),
        Constraint(metric="refused.rate", at_most=0.20),
    ),
)


def test_the_best_that_keeps_within_the_limits() -> None:
    found = pick(
        [
            evaluated("e0", 5.0, 0.00, 0.05),
            evaluated("e1", (7.0, 6.5), (0.10, 0.08), (0.20, 0.18)),  # at the limits: within
            evaluated("e2", 6.0, 0.05, 0.10),
            evaluated("e3", 9.0, 0.05, 0.21),
        ],
        GOAL,
    )
    assert found.picked == "e1"
    assert found.nearest == ()
    assert [c.eligible for c in found.candidates] == [True, True, True, False]
    assert found.candidates[3].violated == ("refused.rate 0.21, not at most 0.2",)
    assert found.candidates[1].b["gold.score"].value == 6.5
    assert found.reason == (
        "e1 has the highest gold.score of the 3 of 4 checkpoints with harm.rate at most 0.1 and "
        "refused.rate at most 0.2: 7 on split A. On split B, which played no part in the choice: "
        "gold.score 6.5 [6.45, 6.55] (n = 60), harm.rate 0.08 [0.03, 0.13] (n = 60), refused.rate "
        "0.18 [0.13, 0.23] (n = 60). e3 reads 9 but is not eligible: refused.rate 0.21, not at "
        "most 0.2."
    )


def test_split_b_has_no_say() -> None:
    found = pick(
        [
            evaluated("e0", (6.0, 9.0), (0.05, 0.00), (0.1, 0.1)),
            evaluated("e1", (7.0, 2.0), (0.05, 0.30), (0.1, 0.1)),
        ],
        GOAL,
    )
    assert found.picked == "e1"
    assert "Beware: on split B it does not have harm.rate at most 0.1." in found.reason


def test_minimize_and_at_least() -> None:
    goal = Pick(minimize="harm.rate", subject_to=(Constraint(metric="gold.score", at_least=6.0),))
    found = pick(
        [evaluated("e0", 5.9, 0.01), evaluated("e1", 6.0, 0.05), evaluated("e2", 8.0, 0.06)], goal
    )
    assert found.picked == "e1"
    assert found.goal == "minimize harm.rate"
    assert found.reason.startswith("e1 has the lowest harm.rate of the 2 of 3 checkpoints with ")
    assert "e0 reads 0.01 but is not eligible: gold.score 5.9, not at least 6." in found.reason


def test_no_constraints() -> None:
    found = pick([evaluated("e0", 5.0), evaluated("e1", 4.0)], Pick(maximize="gold.score"))
    assert found.picked == "e0"
    assert found.reason.startswith("e0 has the highest gold.score of 2 checkpoints: 5 on split A.")


def test_of_equals_the_earliest() -> None:
    evaluations = [evaluated(name, 5.0, 0.0, 0.0) for name in ("e2", "e0", "e1")]
    assert pick(evaluations, GOAL).picked == "e2"


def test_none_is_an_answer_with_the_nearest_misses() -> None:
    found = pick(
        [
            evaluated("far", 9.0, 0.90, 0.10),  # 8 times the limit too much
            evaluated("near", 6.0, 0.11, 0.10),  # a tenth
            evaluated("both", 6.0, 0.12, 0.30),  # half
            evaluated("middle", 6.0, 0.13, 0.10),  # three tenths
            evaluated("unknown", 6.0, 0.11, None),
        ],
        GOAL,
    )
    assert found.picked is None
    assert found.nearest == ("near", "middle", "both")
    assert found.reason == (
        "None of 5 checkpoints is eligible. Nearest misses: near: harm.rate 0.11, not at most 0.1. "
        "middle: harm.rate 0.13, not at most 0.1. both: harm.rate 0.12, not at most 0.1; "
        "refused.rate 0.3, not at most 0.2."
    )
    misses = {c.checkpoint: c.miss for c in found.candidates}
    assert misses["near"] == pytest.approx(0.1)
    assert misses["both"] == pytest.approx(0.5)
    assert misses["unknown"] is None


def test_a_limit_of_zero_misses_by_what_is_over() -> None:
    goal = Pick(maximize="gold.score", subject_to=(Constraint(metric="harm.rate", at_most=0.0),))
    found = pick([evaluated("e0", 5.0, 0.03)], goal)
    assert found.candidates[0].miss == pytest.approx(0.03)


@pytest.mark.parametrize(
    ("evaluation", "why"),
    [
        (evaluated("e1", None, 0.0, 0.0), "gold.score was not measured"),
        (evaluated("e1", 9.0, None, 0.0), "harm.rate was not measured"),
        (evaluated("e1", 9.0, (None, None), 0.0), "harm.rate: no row could be scored"),
        (evaluated("e1", (None, None), 0.0, 0.0), "gold.score: no row could be scored"),
    ],
)
def test_unscored_is_not_zero_and_never_eligible(evaluation: Evaluation, why: str) -> None:
    found = pick([evaluated("e0", 1.0, 0.0, 0.0), evaluation], GOAL)
    assert found.picked == "e0"
    candidate = found.candidates[1]
    assert (candidate.eligible, candidate.miss, candidate.on_pareto_front) == (False, None, False)
    assert candidate.violated == (why,)
    alone = pick([evaluation], GOAL)
    assert alone.picked is None
    assert alone.reason == f"None of 1 checkpoints is eligible. {why}."


def test_split_b_may_be_unscored() -> None:
    found = pick([evaluated("e0", (5.0, None), 0.0, (0.0, None))], GOAL)
    assert found.picked == "e0"
    assert "gold.score unscored, harm.rate 0 [" in found.reason


def test_nothing_was_evaluated() -> None:
    found = pick([], GOAL)
    assert (found.picked, found.reason) == (None, "No checkpoint was evaluated.")


def test_the_front_is_over_goal_and_limits() -> None:
    found = pick(
        [
            evaluated("a", 9.0, 0.30, 0.05),
            evaluated("b", 7.0, 0.05, 0.05),
            evaluated("c", 7.0, 0.05, 0.06),  # b is better in one and worse in none
            evaluated("d", 1.0, 0.01, 0.05),
        ],
        GOAL,
    )
    assert [c.checkpoint for c in found.candidates if c.on_pareto_front] == ["a", "b", "d"]


def test_pareto_front_against_its_definition() -> None:
    random = np.random.default_rng(0)
    points = {str(i): tuple(random.integers(0, 6, 3).tolist()) for i in range(80)}
    front = set(pareto_front({**points, "unknown": None}))
    for name, point in points.items():
        beaten = any(
            all(o >= p for o, p in zip(other, point, strict=True))
            and any(o > p for o, p in zip(other, point, strict=True))
            for other in points.values()
        )
        assert (name in front) == (not beaten)
    assert "unknown" not in front


def test_picking_by_its_own_estimate_flatters_and_split_b_does_not() -> None:
    """The best of 20 equal checkpoints (10 % of 105 rows a split): A reads far lower, B is fair."""
    random = np.random.default_rng(0)
    on_a, on_b = [], []
    for _ in range(200):
        counts = random.binomial(105, 0.10, (20, 2)) / 105
        sets = [evaluated(f"e{i}", None, tuple(pair)) for i, pair in enumerate(counts.tolist())]
        found = pick(sets, Pick(minimize="harm.rate"))
        chosen = next(c for c in found.candidates if c.checkpoint == found.picked)
        on_a.append(chosen.a["harm.rate"].value)
        on_b.append(chosen.b["harm.rate"].value)
    assert np.mean(on_a) < 0.06
    assert np.mean(on_b) == pytest.approx(0.10, abs=0.006)


def test_a_selection_is_json() -> None:
    found = pick([evaluated("e0", 5.0, 0.0, 0.0)], GOAL)
    record = json.loads(to_json(found))
    assert record["picked"] == "e0"
    assert record["candidates"][0]["b"]["gold.score"]["n"] == 60
