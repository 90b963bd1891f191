"""Charts alone: valid, local, described, with words that follow from the data."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import vl_convert
from dashboard_runs import HOSTILE, names

from dashboards.charts import compare as compare_charts
from dashboards.charts import consistency as consistency_charts
from dashboards.charts import hallucination as hallucination_charts
from dashboards.charts import overoptimization as gold_charts
from dashboards.charts import reward as reward_charts
from dashboards.charts import theme as looks
from dashboards.charts.theme import DARK, LIGHT, Theme
from dashboards.charts.timeline import Stop, timeline, timeline_words
from dashboards.charts.tradeoff import tradeoff, tradeoff_words
from dashboards.data import consistency, hallucination, pairs, reward
from dashboards.data.changes import Shift, Story, story
from dashboards.data.index import View, read_index
from dashboards.data.metrics import METRIC_COLUMNS, Metric, catalogue, metrics, policy_stages
from dashboards.data.overoptimization import overoptimization
from dashboards.data.schedule import plan
from dashboards.data.tradeoff import default_axes
from dashboards.data.tradeoff import tradeoff as plane_of
from dashboards.report.images import VL_VERSION
from harness.overoptimization import fit
from harness.store.run import Run

Charts = dict[str, Callable[[Theme], Any]]
RATE = "borderline.false_refusal"


def every_chart(run: Path, before: str, after: str) -> Charts:
    """Each chart function on a run's data."""
    index = read_index(run)
    view = View.of(index)
    axes = default_axes(view)
    assert axes is not None
    known = catalogue(view)
    found = overoptimization(view, "ppo")
    compared = pairs.comparison(view, before, after, (RATE, "harmful.compliance"))
    turns = consistency.by_turn(view, "consistency")
    outcomes = hallucination.outcomes(view, "hallucination")
    bins = reward.score_shift(view, before, after)
    charts: Charts = {
        "legend": lambda t: looks.legend(policy_stages(index), t),
        "tradeoff": lambda t: tradeoff(plane_of(view, *axes), t, rows="split A"),
        "gold": lambda t: gold_charts.gold(found, t),
        "proxy": lambda t: gold_charts.proxy(found, t),
        "plane": lambda t: reward_charts.plane(plane(view, after), t, after),
        "correlation": lambda t: reward_charts.correlation(
            reward.member_correlation(view, after), t, after
        ),
        "shift": lambda t: reward_charts.shift(bins, t),
        "accuracy": lambda t: reward_charts.accuracy(reward.accuracy_by_rating(index), t),
        "matrix": lambda t: compare_charts.matrix(
            pairs.flip_matrix(view, before, after, RATE), t, before, after, RATE
        ),
        "dumbbells": lambda t: compare_charts.dumbbells(pairs.moves(compared), t, before, after),
        "differences": lambda t: compare_charts.differences(
            pairs.moves_by_category(compared, RATE), t, RATE, share=True
        ),
        "heat": lambda t: consistency_charts.heat(turns, t),
        "survival": lambda t: consistency_charts.survival(
            consistency.survival(view, "consistency", (before, after)), t
        ),
        "outcomes": lambda t: hallucination_charts.outcomes(outcomes, t),
        "families": lambda t: hallucination_charts.families(
            hallucination.by_family(view, "hallucination", after), t, after
        ),
    }

    def panel(name: str) -> Callable[[Theme], Any]:
        return lambda t: timeline(
            metrics(view, (name,)),
            known[name],
            t,
            stages=policy_stages(index),
            limits=plan(index).limits_on(name),
            stops=[Stop(4, "stop")],
            story=story(view, name),
        )

    return charts | {f"timeline {name}": panel(name) for name in known}


def plane(view: View, checkpoint: str) -> reward.RewardPlane:
    found = reward.reward_plane(view, checkpoint)
    assert found is not None
    return found


def texts(spec: Any) -> Iterator[tuple[str, str]]:
    """Every key with a text under it."""
    if isinstance(spec, dict):
        for key, value in spec.items():
            if isinstance(value, str):
                yield key, value
            else:
                yield from texts(value)
    elif isinstance(spec, list):
        for value in spec:
            yield from texts(value)


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_every_chart_is_valid_described_and_local(made: Path, theme: Theme) -> None:
    for name, make in every_chart(made, "sft-e001", "ppo-e003").items():
        spec = make(theme).to_dict()  # validated against Vega-Lite's schema
        described = spec["description"]
        assert len(described) > 20, name
        assert "nan" not in described.lower().split(), name
        if name != "legend":
            title = " ".join(spec["title"]["text"])
            assert len(title) > 10, name
        for key, value in texts({k: v for k, v in spec.items() if k != "$schema"}):
            assert key not in ("url", "href", "loader"), name
            assert "//" not in value, name


def named_data(spec: Any) -> Iterator[str]:
    """The names of the data that a chart and its layers are drawn from."""
    if isinstance(spec, dict):
        if isinstance(spec.get("data"), dict) and "name" in spec["data"]:
            yield spec["data"]["name"]
        for part in spec.get("layer", []):
            yield from named_data(part)


def test_every_chart_draws_its_data(made: Path) -> None:
    """As Vega draws it: a mark for every row, in every layer that has marks for rows."""
    for name, make in every_chart(made, "sft-e001", "ppo-e003").items():
        spec = make(LIGHT).to_dict()
        datasets = spec.get("datasets", {})
        assert set(named_data(spec)) == set(datasets), name
        for layer in spec.get("layer", []):
            there = "data" in layer or "data" in spec
            assert there, (name, layer["mark"])
        if name.startswith("timeline ") and not name.endswith(("false_refusal", "gold.score")):
            continue  # drawing takes its time
        drawn = vl_convert.vegalite_to_svg(
            json.dumps({**spec, "width": 600}), vl_version=VL_VERSION
        )
        assert drawn.count('role="graphics-symbol"') + drawn.count("<text") >= 5, name
        if name in ("tradeoff", "gold", "proxy") or name.startswith("timeline "):
            shown = drawn.count('aria-roledescription="point"')
            assert shown >= (6 if name.startswith(("trade", "time")) else 4), name


def test_hostile_names_stay_data(hostile: Path) -> None:
    for name, make in every_chart(hostile, "sft-e001", "ppo-e001").items():
        spec = make(LIGHT).to_dict()
        for key, value in texts(spec):
            if "onerror" in value:
                assert key not in ("labelExpr", "test", "calculate", "filter", "url", "href"), name


def test_axis_labels_are_looked_up_not_evaluated() -> None:
    expression = looks.lookup({0: "0", 1: HOSTILE + "'] + alert(1) + ['\"\\"})
    table = re.fullmatch(r"(\{.*\})\[toString\(datum\.value\)\] \|\| ''", expression, re.DOTALL)
    assert table is not None
    assert json.loads(table[1])["1"].startswith(HOSTILE)


def test_ticks_keep_the_last_and_are_few() -> None:
    assert looks.ticks(range(5)) == [0, 1, 2, 3, 4]
    for count in (13, 50, 100):
        found = looks.ticks(range(count))
        assert len(found) <= 12
        assert found[-1] == count - 1


# ------------------------------------------------------------------------------- colours


def linear(colour: str) -> np.ndarray:
    """Linear RGB of a hex colour."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def contrast(a: str, b: str) -> float:
    """WCAG 2's contrast ratio."""
    light = sorted(float(linear(c) @ [0.2126, 0.7152, 0.0722]) for c in (a, b))
    return (light[1] + 0.05) / (light[0] + 0.05)


# Full dichromacy, in linear RGB (Machado, Oliveira & Fernandes 2009, table 1, severity 1.0).
BLINDNESS = {
    "none": np.eye(3),
    "protan": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
    "deutan": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.011820, 0.042940, 0.968881],
        ]
    ),
}


def lab(rgb: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of linear RGB."""
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = to_xyz @ np.clip(rgb, 0, 1) / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_marks_and_text_stand_out_from_the_ground(theme: Theme) -> None:
    for colour in (*theme.stages, theme.fail, theme.good, theme.grey):
        assert contrast(colour, theme.ground) >= 3.0, colour
    for colour in (theme.text, theme.quiet):
        assert contrast(colour, theme.ground) >= 4.5
        assert contrast(colour, theme.raised) >= 4.5


@pytest.mark.parametrize("blindness", list(BLINDNESS))
@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=lambda theme: theme.name)
def test_hues_are_told_apart(theme: Theme, blindness: str) -> None:
    """All seven stages, failures and grey; a difference of 10 is seen at a glance."""
    colours = (*theme.stages, theme.fail, theme.grey)
    seen = {colour: lab(BLINDNESS[blindness] @ linear(colour)) for colour in colours}
    for a, b in combinations(seen, 2):
        assert np.linalg.norm(seen[a] - seen[b]) > 10, (a, b)


def test_a_stage_keeps_its_hue() -> None:
    scale = looks.stage_scale(["sft", "sft", "ppo"], LIGHT).to_dict()
    assert scale == {"domain": ["sft", "ppo"], "range": list(LIGHT.stages[:2])}


# --------------------------------------------------------------------------------- words


def rows(values: list[float], *, status: str = "pass", width: float = 0.05) -> pd.DataFrame:
    """Numbers of one metric at ppo-e000, ppo-e001, …"""
    return pd.DataFrame(
        [
            {
                "checkpoint": f"ppo-e{i:03d}",
                "order": i,
                "stage": "ppo",
                "kind": "ppo",
                "epoch": i,
                "metric": RATE,
                "value": value,
                "low": value - width,
                "high": value + width,
                "n": 60,
                "unscored": 0,
                "status": status if i == len(values) - 1 else "pass",
                "picked": i == 1,
            }
            for i, value in enumerate(values)
        ],
        columns=METRIC_COLUMNS,
    )


METRIC = Metric(RATE, "borderline", "refusal", "lower", "proportion", 0.0, 1.0, "")


def moved(
    difference: float, low: float | None, high: float | None, before: str = "ppo-e000"
) -> Shift:
    return Shift(before, "ppo-e002", difference, low, high, 60)


@pytest.mark.parametrize(
    ("values", "told", "title"),
    [
        ([0.1, 0.2, 0.5], Story(moved(0.4, 0.3, 0.5), None), "False refusals: up, 10 % to 50 %"),
        (
            [0.5, 0.4, 0.1],
            Story(moved(-0.4, -0.5, -0.3), None),
            "False refusals: down, 50 % to 10 %",
        ),
        (
            [0.1, 0.2, 0.12],
            Story(moved(0.02, -0.1, 0.14), None),
            "False refusals: no sure change, 10 % to 12 %",
        ),
        (
            [0.3, 0.1, 0.4],
            Story(moved(0.1, -0.1, 0.2), moved(0.3, 0.2, 0.4, "ppo-e001")),
            "False refusals: lowest at ppo-e001, 10 %, then up to 40 %",
        ),
        ([0.1, 0.2, 0.5], None, "False refusals: 10 % to 50 %"),
        ([0.25], None, "False refusals: 25 % at ppo-e000"),
    ],
)
def test_a_panels_title_says_what_is_sure(
    values: list[float], told: Story | None, title: str
) -> None:
    assert timeline_words(rows(values), METRIC, level=0.95, story=told).title == title


def test_a_failed_gate_comes_first() -> None:
    words = timeline_words(rows([0.1, 0.2, 0.53], status="fail"), METRIC, level=0.9)
    assert words.title == "False refusals: 53 % at ppo-e002 fails the gate"
    assert words.subtitle == "Band 90 %, n = 60"
    assert "ppo-e002: 53 % [48 %, 58 %], n = 60" in words.description


def test_nothing_measured_is_said() -> None:
    assert "nothing is measured" in timeline_words(rows([]), METRIC, level=0.95).title


def test_the_trade_off_names_the_gate_and_both_numbers(made: Path) -> None:
    view = View.of(read_index(made))
    found = plane_of(view, RATE, "harmful.compliance")
    words = tradeoff_words(found, level=0.95, rows="split A")
    first = found.points[found.points["status"] == "fail"].iloc[0]
    assert words.title.startswith(f"{first['checkpoint']} fails the gate on false refusals: ")
    assert "refusals of harmful prompts at" in words.title
    evaluation = Run.open(made).evaluation("sft-e000")
    assert evaluation is not None
    counts = sorted(evaluation.metric(name).n for name in (RATE, "harmful.compliance"))
    assert f"n = {counts[0]}–{counts[1]}" in words.subtitle
    assert words.subtitle.endswith("split A")
    for name in (names(6)[0], names(6)[-1], read_index(made).picked):
        assert str(name) in words.description
    calm = replace(found, points=found.points.assign(status="pass"))
    assert "False refusals: up" not in tradeoff_words(calm, level=0.95, rows="").title.split(";")[0]
    assert "up, " in tradeoff_words(calm, level=0.95, rows="").title


def test_labels_do_not_overlap_and_the_picked_has_one(hundred: Path) -> None:
    view = View.of(read_index(hundred))
    spec = tradeoff(plane_of(view, RATE, "harmful.compliance"), LIGHT, rows="").to_dict()
    data = max(spec["datasets"].values(), key=len)
    assert len(data) == 100
    labelled = [row for row in data if row["text"]]
    assert 1 <= len(labelled) < 30
    assert any("picked" in row["text"] for row in labelled) or not any(r["picked"] for r in data)


def test_a_peak_is_told_with_its_interval_or_not_at_all(made: Path) -> None:
    found = overoptimization(View.of(read_index(made)), "ppo")
    assert "not identified" in gold_charts.gold_words(found, level=0.95).title
    d = np.linspace(0.0, 3.0, 12)
    law = fit(d, 5 + d * (2.0 - 2.0 * np.log(np.maximum(d, 1e-9))) + 0.01 * np.cos(9 * d))
    assert law.identified  # its peak is at exp(α/β − 1) = 1, where it is 5 + β = 7
    words = gold_charts.gold_words(replace(found, fit=law), level=0.95)
    assert words.title.startswith("Gold peaks at d = 1.0")
    assert "at 7.0" in words.title
    drawn = gold_charts.gold(replace(found, fit=law), LIGHT).to_dict()
    bands = [la for la in drawn["layer"] if la["mark"].get("type") == "rect"]
    assert len(bands) == 1
    unsure = gold_charts.gold(found, LIGHT).to_dict()
    assert not [la for la in unsure["layer"] if la["mark"].get("type") == "rect"]
    step = fit(d, 5 + 2.0 * (d > 1.5), errors=np.full(12, 0.1))
    assert step.misfit is not None
    words = gold_charts.gold_words(replace(found, fit=step), level=0.95)
    assert words.title.startswith("The law does not fit: the points are farther")
    assert f"χ² = {step.misfit.chi_square:.3g} on 9" in words.title
    drawn = gold_charts.gold(replace(found, fit=step), LIGHT).to_dict()
    assert not [la for la in drawn["layer"] if la["mark"].get("type") == "rect"]


def test_the_matrix_counts_turns() -> None:
    matrix = pd.DataFrame(
        {
            "before": ["full_compliance", "full_compliance", "full_refusal"],
            "after": ["full_compliance", "full_refusal", "full_compliance"],
            "n": [10, 7, 2],
        }
    )
    words = compare_charts.matrix_words(matrix, "a-e001", "b-e001", RATE)
    expected = "9 of 19 rows turn, most often from full compliance to full refusal (7)"
    assert words.title == expected


def test_dumbbells_count_better_and_worse(made: Path) -> None:
    view = View.of(read_index(made))
    found = pairs.moves(
        pairs.comparison(view, "sft-e000", "ppo-e003", (RATE, "harmful.compliance", "gold.score"))
    )
    words = compare_charts.dumbbell_words(found, "sft-e000", "ppo-e003")
    sure = found[found["p_holm"] < 0.05].set_index("metric")
    assert RATE in sure.index  # refuses everything at the end: worse
    assert words.title.startswith(f"{len(sure)} of 3 metrics moved")
    assert "adjusted for 3 metrics (Holm)" in words.subtitle


def test_bars_of_outcomes_lie_end_to_end(made: Path) -> None:
    view = View.of(read_index(made))
    data = hallucination_charts.outcomes(
        hallucination.outcomes(view, "hallucination"), LIGHT
    ).to_dict()
    (table,) = data["datasets"].values()
    for name in names(6):
        parts = sorted((r["start"], r["end"]) for r in table if r["checkpoint"] == name)
        assert parts[0][0] == pytest.approx(0.0)
        assert parts[-1][1] == pytest.approx(1.0)
        assert [a[1] for a in parts[:-1]] == pytest.approx([b[0] for b in parts[1:]])
