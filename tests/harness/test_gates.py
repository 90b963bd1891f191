from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness import gates, stats
from harness.estimates import Items, estimate
from harness.evaluation import Estimate, Evaluation
from harness.gates import Action, Status, judge, last_acceptable, verdict_from_json
from harness.probes.protocol import Metric, Row, Sample, Score
from harness.samples import PARQUET, write_parquet
from harness.store import Run
from harness.store.atomic import to_json, write_json
from harness.store.commit import staging
from harness.summary import summarise
from trainers.schedule import Gate


@dataclass
class FakeSet:
    """An eval set's results with the one metric ``rate``, the same rows on both splits."""

    set: str
    items_: Items
    unscored: int = 0
    hash: str = "h"
    kind: Any = "proportion"
    fixed: Estimate | None = field(default=None)

    def names(self) -> list[str]:
        return ["rate"]

    def metric(self, name: str, split: str = "A", *, confidence: float = 0.95) -> Estimate:
        assert (name, split) == ("rate", "A")
        if self.fixed is not None:
            return self.fixed
        return estimate(self.items_, self.kind, unscored=self.unscored, confidence=confidence)

    def items(self, name: str, split: str = "A") -> Items:
        assert (name, split) == ("rate", "A")
        return self.items_


def items(values: Sequence[float], ids: Sequence[str] | None = None) -> Items:
    names = list(ids) if ids is not None else [f"r{i}" for i in range(len(values))]
    return Items(names, np.array(values, dtype=float), names, np.ones(len(values)))


def evaluated(checkpoint: str, values: Sequence[float], **how: Any) -> Evaluation:
    ids = how.pop("ids", None)
    found: Any = FakeSet("set", items(values, ids), **how)
    return Evaluation(checkpoint, {"set": found})


def successes(k: int, n: int) -> list[float]:
    return [1.0] * k + [0.0] * (n - k)


def one(gate: Gate, history: Sequence[Evaluation], current: Evaluation) -> gates.GateResult:
    verdict = judge([gate], history, current, stage="ppo")
    assert len(verdict.results) == 1
    assert verdict.status is verdict.results[0].status
    return verdict.results[0]


AT_MOST = Gate(metric="set.rate", at_most=0.20)
AT_LEAST = Gate(metric="set.rate", at_least=0.80)
DROP = Gate(metric="set.rate", drop_at_most=0.10, against="previous")


class TestLimits:
    @pytest.mark.parametrize(
        ("low", "high", "status"),
        [
            (0.05, 0.19, Status.PASS),
            (0.05, 0.20, Status.PASS),  # upper bound ≤ L
            (0.05, 0.21, Status.INCONCLUSIVE),
            (0.20, 0.40, Status.INCONCLUSIVE),  # lower bound not > L
            (0.21, 0.40, Status.FAIL),
        ],
    )
    def test_at_most_reads_the_bounds(self, low: float, high: float, status: Status) -> None:
        fixed = Estimate((low + high) / 2, low, high, 100, 0)
        result = one(AT_MOST, [], evaluated("c", [0], fixed=fixed))
        assert result.status is status
        assert (result.estimate, result.limit, result.n) == (fixed, 0.20, 100)

    @pytest.mark.parametrize(
        ("low", "high", "status"),
        [
            (0.81, 0.95, Status.PASS),
            (0.80, 0.95, Status.PASS),
            (0.79, 0.95, Status.INCONCLUSIVE),
            (0.60, 0.80, Status.INCONCLUSIVE),
            (0.60, 0.79, Status.FAIL),
        ],
    )
    def test_at_least_mirrors_it(self, low: float, high: float, status: Status) -> None:
        fixed = Estimate((low + high) / 2, low, high, 100, 0)
        assert one(AT_LEAST, [], evaluated("c", [0], fixed=fixed)).status is status

    def test_the_reason_says_the_numbers(self) -> None:
        result = one(AT_MOST, [], evaluated("c", successes(60, 100)))
        assert result.rule == "set.rate at most 0.2"
        assert result.reason == "value 0.6 [0.502, 0.6906], n = 100: beyond the limit"

    @pytest.mark.parametrize("confidence", [0.80, 0.99])
    def test_another_confidence_is_computed_from_the_items(self, confidence: float) -> None:
        gate = AT_MOST.model_copy(update={"confidence": confidence})
        found = one(gate, [], evaluated("c", successes(25, 100))).estimate
        assert found is not None
        assert (found.low, found.high) == stats.wilson(25, 100, confidence)

    def test_confidence_can_decide(self) -> None:
        """28 of 100 against 0.20: the 95 % interval begins at 0.201, the 99 % one at 0.181."""
        current = evaluated("c", successes(28, 100))
        assert one(AT_MOST, [], current).status is Status.FAIL
        sure = AT_MOST.model_copy(update={"confidence": 0.99})
        assert one(sure, [], current).status is Status.INCONCLUSIVE

    def test_no_test_without_a_comparison(self) -> None:
        result = one(AT_MOST, [], evaluated("c", successes(60, 100)))
        assert (result.p, result.p_holm, result.test, result.against) == (None, None, None, None)


class TestUnscored:
    def test_beyond_the_limit_nothing_is_passed(self) -> None:
        """0 of 94 would pass, 6 of 100 unscored do not let it."""
        result = one(AT_MOST, [], evaluated("c", successes(0, 94), unscored=6))
        assert result.status is Status.INCONCLUSIVE
        assert result.reason == "6 of 100 rows unscored (6.0%; the gate allows 5.0%)"

    def test_at_the_limit_they_are_left_out_and_not_zero(self) -> None:
        result = one(AT_MOST, [], evaluated("c", successes(0, 95), unscored=5))
        assert result.status is Status.PASS
        assert result.estimate is not None
        assert result.estimate.high == stats.wilson(0, 95)[1]

    def test_beyond_the_limit_nothing_is_failed_either(self) -> None:
        result = one(AT_MOST, [], evaluated("c", successes(94, 94), unscored=6))
        assert result.status is Status.INCONCLUSIVE

    def test_all_unscored(self) -> None:
        result = one(AT_MOST, [], evaluated("c", [], unscored=50))
        assert result.status is Status.INCONCLUSIVE
        assert result.reason == "no row of set.rate could be scored"

    def test_a_metric_that_was_not_measured(self) -> None:
        gate = Gate(metric="other.rate", at_most=0.2)
        result = one(gate, [], evaluated("ppo-e001", [0.0]))
        assert result.status is Status.INCONCLUSIVE
        assert result.reason == "other.rate was not measured on ppo-e001"
        assert result.estimate is None

    def test_no_interval(self) -> None:
        result = one(
            AT_MOST, [], evaluated("c", [0.1], fixed=Estimate(0.1, None, None, 1, 0), kind="mean")
        )
        assert result.status is Status.INCONCLUSIVE
        assert result.reason == "too few independent rows for an interval"

    def test_a_drop_counts_rows_missing_on_either_side(self) -> None:
        ids = [f"r{i}" for i in range(100)]
        before = evaluated("a", [1.0] * 96, ids=ids[4:], unscored=4)
        after = evaluated("b", [1.0] * 97, ids=ids[:97], unscored=3)
        result = one(DROP, [before], after)
        assert result.status is Status.INCONCLUSIVE
        assert result.reason == "7 of 100 rows unscored (7.0%; the gate allows 5.0%)"


class TestDrop:
    @pytest.mark.parametrize(
        ("lost", "status"),
        [(0, Status.PASS), (20, Status.INCONCLUSIVE), (60, Status.FAIL)],
    )
    def test_reads_the_paired_interval(self, lost: int, status: Status) -> None:
        before, after = [1.0] * 150 + [0.0] * 50, [1.0] * (150 - lost) + [0.0] * (50 + lost)
        result = one(DROP, [evaluated("a", before)], evaluated("b", after))
        assert result.status is status
        assert result.estimate is not None
        assert result.estimate.value == pytest.approx(lost / 200)
        assert (result.estimate.low, result.estimate.high) == stats.tango(lost, 0, 200)
        assert result.p == stats.mcnemar_exact(0, lost)
        assert (result.test, result.against) == ("exact McNemar", "a")

    def test_an_increase_is_no_drop(self) -> None:
        result = one(DROP, [evaluated("a", successes(10, 80))], evaluated("b", successes(70, 80)))
        assert result.status is Status.PASS
        assert result.estimate is not None
        assert result.estimate.value == pytest.approx(-60 / 80)

    def test_rows_are_paired_by_id(self) -> None:
        ids = [f"r{i}" for i in range(60)]
        before = evaluated("a", successes(30, 60), ids=ids)
        after = evaluated("b", list(reversed(successes(30, 60))), ids=list(reversed(ids)))
        result = one(DROP, [before], after)
        assert result.p == 1.0
        assert result.estimate is not None
        assert result.estimate.value == 0.0

    def test_means_are_bootstrapped(self) -> None:
        random = np.random.default_rng(0)
        before = random.uniform(4, 9, 60)
        gate = Gate(metric="set.rate", drop_at_most=0.5, against="previous")
        after = before - 1.0 + random.normal(0, 0.3, 60)
        result = one(gate, [evaluated("a", before, kind="mean")], evaluated("b", after))
        assert result.status is Status.FAIL
        assert result.test == "paired bootstrap"

    def test_confidence_is_the_gates(self) -> None:
        gate = DROP.model_copy(update={"confidence": 0.5})
        before, after = evaluated("a", successes(150, 200)), evaluated("b", successes(125, 200))
        assert one(DROP, [before], after).status is Status.INCONCLUSIVE
        assert one(gate, [before], after).status is Status.FAIL

    @pytest.mark.parametrize(
        ("against", "name"), [("first", "e0"), ("previous", "e3"), ("best", "e1")]
    )
    def test_what_it_is_held_against(self, against: Any, name: str) -> None:
        history = [
            evaluated("e0", successes(50, 100)),
            evaluated("e1", successes(90, 100)),
            evaluated("e2", successes(90, 100)),  # as good as e1, later
            evaluated("e3", successes(60, 100)),
        ]
        gate = Gate(metric="set.rate", drop_at_most=0.1, against=against)
        assert one(gate, history, evaluated("e4", successes(55, 100))).against == name

    def test_checkpoints_without_a_value_are_passed_over(self) -> None:
        history = [
            evaluated("e0", [], unscored=100),
            evaluated("e1", successes(50, 100)),
            evaluated("e2", [], unscored=100),
            Evaluation("e3", {}),
        ]
        for against in ("first", "previous", "best"):
            gate = Gate(metric="set.rate", drop_at_most=0.1, against=against)
            assert one(gate, history, evaluated("e4", successes(50, 100))).against == "e1"

    def test_nothing_earlier(self) -> None:
        result = one(DROP, [], evaluated("e0", successes(50, 100)))
        assert result.status is Status.INCONCLUSIVE
        assert result.reason == "no earlier checkpoint has a set.rate to compare with"

    def test_another_version_of_the_set_is_not_compared(self) -> None:
        before = evaluated("a", successes(50, 100), hash="old")
        result = one(DROP, [before], evaluated("b", successes(0, 100), hash="new"))
        assert result.status is Status.INCONCLUSIVE
        assert "another version of the eval set" in result.reason

    def test_no_row_in_common(self) -> None:
        before = evaluated("a", successes(5, 10), ids=[f"x{i}" for i in range(10)])
        result = one(DROP, [before], evaluated("b", successes(5, 10)))
        assert result.status is Status.INCONCLUSIVE

    def test_pooled_metrics_are_ratios_of_sums(self) -> None:
        def pooled(checkpoint: str, values: list[float], weights: list[float]) -> Evaluation:
            evaluation = evaluated(checkpoint, values, kind="pooled")
            found: Any = evaluation.sets["set"]
            found.items_ = replace(found.items_, weights=np.array(weights))
            return evaluation

        before = pooled("a", [0.9, 0.5, 0.7, 0.6], [1.0, 3.0, 2.0, 2.0])
        after = pooled("b", [0.8, 0.5, 0.6, 0.5], [2.0, 2.0, 2.0, 2.0])
        result = one(DROP, [before], after)
        assert result.estimate is not None
        expected = (0.9 + 1.5 + 1.4 + 1.2) / 8 - (1.6 + 1.0 + 1.2 + 1.0) / 8
        assert result.estimate.value == pytest.approx(expected)


class TestVerdict:
    def test_holm_over_the_tests_of_one_verdict(self) -> None:
        history = [evaluated("a", successes(90, 100))]
        current = evaluated("b", successes(70, 100))
        looser = DROP.model_copy(update={"drop_at_most": 0.5})
        verdict = judge([DROP, AT_MOST, looser], history, current, stage="ppo")
        p = stats.mcnemar_exact(0, 20)
        assert [r.p for r in verdict.results] == [p, None, p]
        assert [r.p_holm for r in verdict.results] == [2 * p, None, 2 * p]

    @pytest.mark.parametrize(
        ("on_fail", "action"),
        [
            (["warn"], Action.CONTINUE),
            (["warn", "rollback"], Action.ROLLBACK),
            (["rollback", "stop", "warn"], Action.STOP),
        ],
    )
    def test_the_strongest_action_counts(self, on_fail: list[str], action: Action) -> None:
        rules = [AT_MOST.model_copy(update={"on_fail": word}) for word in on_fail]
        verdict = judge(rules, [], evaluated("c", successes(90, 100)), stage="ppo")
        assert verdict.status is Status.FAIL
        assert verdict.action is action
        assert verdict.acceptable == (action is Action.CONTINUE)
        decided = verdict.decided_by
        assert (decided.on_fail if decided else "continue") == action.value

    def test_inconclusive_goes_on(self) -> None:
        verdict = judge([AT_MOST], [], evaluated("c", successes(20, 100)), stage="ppo")
        assert verdict.status is Status.INCONCLUSIVE
        assert verdict.action is Action.CONTINUE
        assert verdict.decided_by is None

    def test_gates_watch_their_stages(self) -> None:
        bad = evaluated("c", successes(90, 100))
        only_sft = AT_MOST.model_copy(update={"during": ("sft",)})
        assert judge([only_sft], [], bad, stage="ppo").results == ()
        assert judge([only_sft], [], bad, stage="sft").status is Status.FAIL
        assert judge([AT_MOST], [], bad, stage="sft", rl_stages=["ppo"]).results == ()
        assert judge([AT_MOST], [], bad, stage="ppo", rl_stages=["ppo"]).status is Status.FAIL
        assert judge([AT_MOST], [], bad, stage="sft", rl_stages=[]).status is Status.PASS

    def test_no_gates_pass(self) -> None:
        verdict = judge([], [], evaluated("c", [1.0]), stage="ppo")
        assert (verdict.status, verdict.action) == (Status.PASS, Action.CONTINUE)

    def test_a_rollback_goes_to_the_last_acceptable_one(self) -> None:
        warn = AT_MOST.model_copy(update={"on_fail": "warn"})
        good, bad = evaluated("good", successes(0, 100)), evaluated("bad", successes(90, 100))
        verdicts = [
            judge([AT_MOST], [], good, stage="ppo"),
            judge([warn], [], evaluated("warned", successes(90, 100)), stage="ppo"),
            judge([AT_MOST], [], bad, stage="ppo"),
        ]
        assert last_acceptable(verdicts) == "warned"
        assert last_acceptable(verdicts[2:]) is None

    def test_is_deterministic(self) -> None:
        random = np.random.default_rng(0)
        history = [evaluated("a", random.normal(size=40), kind="mean")]
        current = evaluated("b", random.normal(size=40), kind="mean")
        first, second = (judge([DROP, AT_MOST], history, current, stage="s") for _ in range(2))
        assert first == second

    def test_comes_back_from_the_events(self, tmp_path: Path) -> None:
        history = [evaluated("a", successes(90, 100))]
        rules = [DROP, AT_MOST, Gate(metric="no.metric", at_least=0.5)]
        verdict = judge(rules, history, evaluated("b", successes(70, 100)), stage="ppo")
        run = Run.create(tmp_path / "r", schedule_yaml="", info={})
        run.append("verdict", **json.loads(to_json(verdict)))
        event = run.events()[0]
        assert event["status"] == "fail"
        assert event["action"] == "stop"
        assert verdict_from_json(event) == verdict


def test_with_a_committed_evaluation(tmp_path: Path) -> None:
    """Through the real writer and reader: samples on disk, metrics and items from there."""

    def write(checkpoint: str, refused: int) -> Evaluation:
        rows = [Row(id=f"r{i:03d}") for i in range(100)]
        samples = [
            Sample(row.id, scores=[Score("rate", float(i < refused))]) for i, row in enumerate(rows)
        ]
        splits = {row.id: "AB"[i % 2] for i, row in enumerate(rows)}
        metric = Metric("rate", "proportion", "lower", "Share.", low=0.0, high=1.0)
        folder = tmp_path / checkpoint
        with staging(folder) as inside:
            write_parquet(inside / PARQUET, rows, samples, splits)
            summary = {"schema": 1, "set": "set", "hash": "h", "checkpoint": checkpoint}
            numbers = summarise({"rate": metric}, rows, samples, splits)
            write_json(inside / "summary.json", {**summary, **numbers})
        return Evaluation.open(checkpoint, [folder])

    before, after = write("a", 20), write("b", 80)
    drop = Gate(metric="set.rate", drop_at_most=0.1, against="first")
    strict = AT_MOST.model_copy(update={"confidence": 0.99})
    verdict = judge([AT_MOST, strict, drop], [before], after, stage="ppo")
    at_most, at_99, dropped = verdict.results
    assert (at_most.estimate.low, at_most.estimate.high) == stats.wilson(40, 50)
    assert (at_99.estimate.low, at_99.estimate.high) == stats.wilson(40, 50, 0.99)
    assert dropped.estimate.value == pytest.approx(-0.6)
    assert dropped.p == stats.mcnemar_exact(30, 0)
    assert [r.status for r in verdict.results] == [Status.FAIL, Status.FAIL, Status.PASS]
    assert last_acceptable([verdict]) is None
