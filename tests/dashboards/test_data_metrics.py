"""Numbers of the pages against the harness's own."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from dashboard_runs import GATES, LIMIT, names

from dashboards.data.changes import shift, story
from dashboards.data.index import View, read_index
from dashboards.data.metrics import catalogue, checkpoints, metrics, policy_stages
from dashboards.data.overoptimization import overoptimization, rl_stages
from dashboards.data.schedule import plan
from dashboards.data.tradeoff import default_axes, tradeoff
from harness import stats
from harness.evaluation import Evaluation
from harness.overoptimization import fit_evaluations
from harness.store.kinds import POLICY_KINDS, PROXY_KINDS, RL_KINDS
from harness.store.run import Run


def evaluations(run: Path) -> dict[str, Evaluation]:
    opened = Run.open(run)
    found = {name: opened.evaluation(name) for name in names(6)}
    return {name: evaluation for name, evaluation in found.items() if evaluation is not None}


@pytest.mark.parametrize("split", ["A", "B", "all"])
def test_numbers_are_those_of_the_summaries(made: Path, split: str) -> None:
    view = View.of(read_index(made), split=split)
    every = tuple(catalogue(view))
    table = metrics(view, every)
    assert len(table) == 6 * len(every)
    truth = evaluations(made)
    for row in table.to_dict("records"):
        said = truth[row["checkpoint"]].metric(row["metric"], split)
        assert [row["n"], row["unscored"]] == [said.n, said.unscored]
        for name in ("value", "low", "high"):
            expected = getattr(said, name)
            assert row[name] == expected or (expected is None and math.isnan(row[name]))


@pytest.mark.parametrize("level", [0.8, 0.99])
def test_other_levels_are_what_the_harness_computes(made: Path, level: float) -> None:
    view = View.of(read_index(made), level=level)
    every = tuple(catalogue(view))
    truth = evaluations(made)
    compared = 0
    for row in metrics(view, every).to_dict("records"):
        said = truth[row["checkpoint"]].metric(row["metric"], confidence=level)
        if said.low is None:
            assert math.isnan(row["low"])
            continue
        assert row["low"] == pytest.approx(said.low, abs=1e-9)
        assert row["high"] == pytest.approx(said.high, abs=1e-9)
        compared += 1
    assert compared > 100


def test_verdicts_and_pick_are_those_of_the_events(made: Path) -> None:
    index = read_index(made)
    known = checkpoints(index).set_index("checkpoint")
    events = {e["checkpoint"]: e for e in index.events if e["event"] == "verdict"}
    assert set(events) == {n for n in names(6) if n.startswith("ppo")}
    for name, event in events.items():
        assert known.loc[name, "verdict"] == event["status"]
    assert known.loc["sft-e000", "verdict"] == "unjudged"
    assert known.index[known["picked"]].tolist() == [index.picked]
    table = metrics(View.of(index), ("borderline.false_refusal",)).set_index("checkpoint")
    assert table.loc["ppo-e003", "status"] == "fail"  # refuses nearly everything
    assert table.loc["sft-e001", "status"] == "unjudged"
    assert policy_stages(index) == ["sft", "ppo"]


def test_the_schedule_says_limits_and_lengths(made: Path) -> None:
    found = plan(read_index(made))
    assert [(s.name, s.kind, s.epochs) for s in found.stages] == [
        *(("sft", "sft", 1), ("helpfulness", "reward", 1), ("ppo", "ppo", 4))
    ]
    gates = [limit for limit in found.limits if limit.source == "gate"]
    assert [gate.metric for gate in gates] == [gate.metric for gate in GATES]
    assert gates[0].value == LIMIT
    assert gates[0].stages == ("ppo",)
    assert gates[0].words() == "borderline.false_refusal at most 0.2"
    assert (found.goal, found.maximize) == ("gold.score", True)


def test_an_unreadable_schedule_is_an_empty_plan(spoilt: Path) -> None:
    (spoilt / "schedule.yaml").write_text("stages: [")
    assert plan(read_index(spoilt)).limits == ()


def test_the_plane_shows_refusals_for_compliance(made: Path) -> None:
    view = View.of(read_index(made))
    axes = default_axes(view)
    assert axes == ("borderline.false_refusal", "harmful.compliance")
    plane = tradeoff(view, *axes)
    truth = evaluations(made)
    assert plane.points["checkpoint"].tolist() == names(6)
    for row in plane.points.to_dict("records"):
        said = truth[row["checkpoint"]].metric("harmful.compliance")
        assert said.value is not None
        assert said.low is not None
        assert said.high is not None
        assert row["y"] == pytest.approx(1 - said.value)
        assert (row["y_low"], row["y_high"]) == pytest.approx((1 - said.high, 1 - said.low))
    assert (plane.x.better, plane.y.better) == ("lower", "higher")
    assert [(li.kind, li.value) for li in plane.x.limits] == [("at_most", 0.2), ("at_most", 0.25)]


def test_the_front_is_that_of_brute_force(made: Path) -> None:
    plane = tradeoff(View.of(read_index(made)), "borderline.false_refusal", "gold.score")
    points = [(r["checkpoint"], r["x"], r["y"]) for r in plane.points.to_dict("records")]
    expected = [
        name
        for name, x, y in points
        if not any(a <= x and b >= y and (a, b) != (x, y) for _, a, b in points)
    ]
    assert plane.points[plane.points["on_front"]]["checkpoint"].tolist() == expected
    assert 0 < len(expected) < 6


def test_a_limit_on_compliance_turns_round_with_its_axis(spoilt: Path) -> None:
    text = (spoilt / "schedule.yaml").read_text()
    more = text + "  - {metric: harmful.compliance, at_most: 0.1}\n"
    (spoilt / "schedule.yaml").write_text(more)
    plane = tradeoff(View.of(read_index(spoilt)), "borderline.false_refusal", "harmful.compliance")
    assert [(li.kind, li.value) for li in plane.y.limits] == [("at_least", 0.9)]


def test_the_fit_is_the_harnesss(made: Path) -> None:
    view = View.of(read_index(made), split="all")
    assert rl_stages(view) == ["ppo"]
    found = overoptimization(view, "ppo")
    truth = fit_evaluations([e for n, e in evaluations(made).items() if n.startswith("ppo")])
    assert found.fit == truth
    kl = [e.metric("reward.kl", "all").value for n, e in evaluations(made).items() if "ppo" in n]
    assert found.points["d"].to_numpy() ** 2 == pytest.approx(np.array(kl, dtype=float))


@pytest.mark.parametrize("kind", sorted(POLICY_KINDS - {"ppo"}))
def test_stages_of_every_kind(spoilt: Path, kind: str) -> None:
    """Gates without ``during`` watch the RL stages; those with a proxy have gold against KL."""
    for path in spoilt.glob("checkpoints/ppo-*/checkpoint.json"):
        path.write_text(path.read_text().replace('"kind": "ppo"', f'"kind": "{kind}"'))
    text = (spoilt / "schedule.yaml").read_text()
    text = text.replace("- ppo: {name: ppo", f"- {kind}: {{name: ppo").replace(
        ", during: [ppo]", ""
    )
    (spoilt / "schedule.yaml").write_text(text)
    index = read_index(spoilt)
    assert set(checkpoints(index)["kind"]) == {"sft", "reward", kind}
    gates = [limit for limit in plan(index).limits if limit.source == "gate"]
    assert [gate.stages for gate in gates] == [("ppo",) if kind in RL_KINDS else ()] * 2
    assert rl_stages(View.of(index)) == (["ppo"] if kind in PROXY_KINDS else [])


def test_a_fit_of_too_few_points_says_so(made: Path) -> None:
    found = overoptimization(View.of(read_index(made)), "ppo")
    assert len(found.points) == 4
    assert not found.fit.identified
    assert "needs at least" in found.fit.reason
    assert found.curve.empty


def test_changes_are_paired_on_shared_rows(made: Path) -> None:
    view = View.of(read_index(made))
    truth = evaluations(made)
    for metric in ("gold.score", "borderline.false_refusal", "reward.distinct_3"):
        a, b = (truth[name].items(metric) for name in ("sft-e000", "ppo-e003"))
        assert a.ids == b.ids
        expected = stats.paired(a.values, b.values, a.clusters, weights=(a.weights, b.weights))
        found = shift(view, metric, "sft-e000", "ppo-e003")
        assert found is not None
        assert found.difference == pytest.approx(expected.difference)
        assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    same = shift(view, "gold.score", "ppo-e003", "ppo-e003")
    assert same is not None
    assert (same.difference, same.low, same.sure) == (0.0, None, False)
    assert shift(view, "gold.score", "ppo-e003", "nothing") is None


def test_a_story_turns_at_the_best(made: Path) -> None:
    view = View.of(read_index(made))
    table = metrics(view, ("gold.score",))
    best = table.loc[table["value"].idxmax(), "checkpoint"]
    assert best not in (names(6)[0], names(6)[-1])  # the engine is made to peak inside
    found = story(view, "gold.score")
    assert found.best is not None
    assert found.best.before == best
    assert found.best.difference < 0


def test_the_story_of_kl_begins_with_its_stage(made: Path) -> None:
    view = View.of(read_index(made))
    kl, proxy = story(view, "reward.kl").whole, story(view, "reward.proxy").whole
    assert kl is not None
    assert proxy is not None
    assert (kl.before, kl.after) == ("ppo-e000", "ppo-e003")
    assert (proxy.before, proxy.after) == ("sft-e000", "ppo-e003")


def test_one_checkpoint_has_no_story(one: Path) -> None:
    view = View.of(read_index(one))
    assert story(view, "gold.score").whole is None
    assert rl_stages(view) == []
