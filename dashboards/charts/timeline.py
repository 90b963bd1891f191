"""One metric over the training: a line for each stage, its band, the limits, the verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboards import words
from dashboards.charts.rows import Row, first_of, last_of, records, rows_of
from dashboards.charts.size import around
from dashboards.charts.theme import (
    SHAPE_SCALE,
    Drawing,
    Theme,
    Words,
    finish,
    lookup,
    scale_of,
    ticks,
    verdict_hues,
)
from dashboards.data.changes import Story
from dashboards.data.metrics import Metric
from dashboards.data.schedule import Limit

Layer = dict[str, Any]  # of Vega-Lite
Channel = dict[str, Any]
_PLOT = 120  # pixels
_SHOWN = ["checkpoint", "order", "stage", "value", "low", "high", "n", "unscored"]
_SHOWN += ["status", "picked"]


@dataclass(frozen=True)
class Stop:
    """Where a gate ended the run or a stage: at which place in the training, and how."""

    order: int
    action: str  # stop or rollback


def timeline_words(
    numbers: pd.DataFrame, metric: Metric, *, level: float, story: Story | None = None
) -> Words:
    """``numbers``: the rows of one metric, as ``dashboards.data.metrics.metrics`` gives them.

    ``story`` (``dashboards.data.changes``) decides what counts as a rise or a fall; without it
    the title only names both ends.
    """
    label = words.label(metric.name)
    known = numbers.dropna(subset=["value"])
    if known.empty:
        nothing = f"{label}: nothing is measured yet"
        return Words(nothing, "", f"{nothing}.")
    smallest, largest = int(known["n"].min()), int(known["n"].max())
    n = f"{smallest}" if smallest == largest else f"{smallest}–{largest}"
    title = f"{label}: {_title(known, metric, story)}"
    subtitle = f"Band {words.level(level)}, n = {n}"
    unscored = int(known["unscored"].max())
    if unscored:
        subtitle += f", up to {unscored} unscored"
    said = [f"{title}. {words.plural(len(known), 'checkpoint')} in the order of training."]
    for name, row in (("First", first_of(known)), ("Last", last_of(known))):
        said.append(f"{name}, {row['checkpoint']}: {_number(row, metric)}.")
    return Words(title, subtitle, " ".join(said))


def timeline(
    numbers: pd.DataFrame,
    metric: Metric,
    theme: Theme,
    *,
    stages: Sequence[str] = (),
    limits: Sequence[Limit] = (),
    stops: Sequence[Stop] = (),
    story: Story | None = None,
    level: float = 0.95,
    height: int | None = None,
    width: int | None = None,
    wrap: int = 44,
) -> Drawing:
    """One panel. Several, side by side, are small multiples: give all the same ``stages`` (of the
    whole run, in order), so that hues agree.

    Written as Vega-Lite itself: a page has up to twelve of them.
    """
    known = numbers.dropna(subset=["value"])
    names = list(stages) or known["stage"].tolist()
    hue = {**_of("stage", "nominal"), "scale": scale_of(names, theme), "legend": None}
    mark = 60 if len(known) <= 30 else 26
    point = {"type": "point", "filled": True, "size": mark, "opacity": 1}
    ring = {"type": "point", "shape": "circle", "size": 210, "strokeWidth": 2, "filled": False}
    layers: list[Layer] = [
        *_boundaries(_starts(known), theme),
        {
            "mark": {"type": "area", "opacity": 0.16},
            "encoding": {"x": _X, "y": _of("low"), "y2": {"field": "high"}, "color": hue},
        },
        {
            "mark": {"type": "line", "strokeWidth": 2, "opacity": 0.9},
            "encoding": {"x": _across(known), "y": _up(known, metric, limits), "color": hue},
        },
        *_limit_rules(limits, metric, theme),
        *_stop_rules(stops, theme),
        {
            "mark": point,
            "encoding": {
                "x": _X,
                "y": _Y,
                "color": {**hue, "condition": verdict_hues(theme)},
                "shape": {**_of("status", "nominal"), "scale": SHAPE_SCALE, "legend": None},
                "tooltip": _tooltip(metric),
            },
        },
        {
            "transform": [{"filter": "datum.picked"}],
            "mark": {**ring, "color": theme.text, "opacity": 1},
            "encoding": {"x": _X, "y": _Y},
        },
    ]
    text = timeline_words(numbers, metric, level=level, story=story)
    if height is None:
        height = around(_PLOT, text, wrap)
    spec = {"data": {"values": records(known[_SHOWN])}, "layer": layers}
    return finish(spec, theme, text, height=height, width=width, wrap=wrap)


def _of(field: str, kind: str = "quantitative") -> Channel:
    return {"field": field, "type": kind}


_X: Channel = _of("order")
_Y: Channel = _of("value")


def _across(known: pd.DataFrame) -> Channel:
    """The channel whose axis the other layers share: epochs, where there is room for them."""
    labels = dict(zip(known["order"].astype(int), known["epoch"].astype(str), strict=True))
    shown = ticks(labels, 10)
    axis = {
        "values": shown,
        "labelExpr": lookup({order: labels[order] for order in shown}),
        "grid": False,
        "labelOverlap": True,
    }
    return {**_X, "title": None, "scale": {"nice": False, "zero": False, "padding": 10}} | {
        "axis": axis
    }


def _up(known: pd.DataFrame, metric: Metric, limits: Sequence[Limit]) -> Channel:
    domain = _domain(known, metric, limits)
    form = ".0%" if metric.share else ".4~r"
    return {
        **_Y,
        "title": None,
        "scale": {"domain": domain, "nice": False, "zero": False, "clamp": True},
        "axis": {"format": form, "tickCount": 4, "minExtent": 36},
    }


def _title(known: pd.DataFrame, metric: Metric, story: Story | None) -> str:
    first, last = first_of(known), last_of(known)
    values = {row["checkpoint"]: _value(row, metric) for row in rows_of(known)}
    if len(known) == 1:
        return f"{_value(first, metric)} at {first['checkpoint']}"
    failed = known[known["status"] == "fail"]
    if len(failed):
        row = first_of(failed)
        return f"{_value(row, metric)} at {row['checkpoint']} fails the gate"
    ends = f"{_value(first, metric)} to {_value(last, metric)}"
    if story is None:
        return ends
    whole, best = story.whole, story.best
    if whole is not None and whole.before in values and whole.after in values:
        ends = f"{values[whole.before]} to {values[whole.after]}"
    if best is not None and best.sure and best.before in values:
        turned, back = ("lowest", "up") if metric.better == "lower" else ("highest", "down")
        return (
            f"{turned} at {best.before}, {values[best.before]}, then {back} to "
            f"{_value(last, metric)}"
        )
    if whole is not None and whole.sure:
        return f"{'up' if whole.difference > 0 else 'down'}, {ends}"
    return f"no sure change, {ends}"


def _value(row: Row, metric: Metric) -> str:
    return words.number(row["value"], share=metric.share)


def _number(row: Row, metric: Metric) -> str:
    return words.estimate(
        row["value"],
        row["low"],
        row["high"],
        int(row["n"]),
        share=metric.share,
        unscored=int(row["unscored"]),
    )


def _starts(known: pd.DataFrame) -> list[float]:
    """Where a stage begins, but the first: half a step before its first checkpoint."""
    orders = sorted(known.groupby("stage", sort=False)["order"].min().tolist())
    return [float(order) - 0.5 for order in orders[1:]]


def _domain(known: pd.DataFrame, metric: Metric, limits: Sequence[Limit]) -> list[float]:
    numbers = known[["value", "low", "high"]].to_numpy(dtype=float).ravel()
    found = [*numbers[~pd.isna(numbers)], *(li.value for li in limits if li.kind != "drop")]
    low, high = (min(found), max(found)) if found else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 0.5
    low, high = low - margin, high + margin
    if metric.low is not None:
        low = max(low, metric.low - 0.3 * margin)
    if metric.high is not None:
        high = min(high, metric.high + 0.3 * margin)
    return [low, high]


def _boundaries(starts: Sequence[float], theme: Theme) -> list[Layer]:
    if not starts:
        return []
    return [
        {
            "data": {"values": [{"order": at} for at in starts]},
            "mark": {"type": "rule", "color": theme.grid, "strokeWidth": 1.5},
            "encoding": {"x": _X},
        }
    ]


def _limit_rules(limits: Sequence[Limit], metric: Metric, theme: Theme) -> list[Layer]:
    layers: list[Layer] = []
    drawn = [limit for limit in limits if limit.kind != "drop"]
    top = max((limit.value for limit in drawn), default=0.0)
    for limit in drawn:
        above = limit.value == top  # of two that lie close, one is labelled below its line
        gate = limit.source == "gate"
        word = "≤" if limit.kind == "at_most" else "≥"
        said = f"{limit.source} {word} {words.number(limit.value, share=metric.share)}"
        data = {"values": [{"value": limit.value, "text": said}]}
        colour = theme.fail if gate else theme.quiet
        dash = [6, 4] if gate else [2, 3]
        rule = {"type": "rule", "color": colour, "strokeDash": dash, "strokeWidth": 1.3}
        label = {
            "type": "text",
            "align": "left",
            "baseline": "bottom" if above else "top",
            "dx": 4,
            "dy": -3 if above else 4,
            "fontSize": 11,
            "color": colour,
        }
        written = {"y": _Y, "x": {"value": 0}, "text": _of("text", "nominal")}
        layers += [
            {"data": data, "mark": rule, "encoding": {"y": _Y}},
            {"data": data, "mark": label, "encoding": written},
        ]
    return layers


def _stop_rules(stops: Sequence[Stop], theme: Theme) -> list[Layer]:
    if not stops:
        return []
    rule = {"type": "rule", "color": theme.fail, "strokeDash": [3, 3], "strokeWidth": 1.5}
    return [
        {
            "data": {"values": [{"order": stop.order, "action": stop.action} for stop in stops]},
            "mark": {**rule, "opacity": 0.8},
            "encoding": {"x": _X},
        }
    ]


def _tooltip(metric: Metric) -> list[Channel]:
    shape = ".1%" if metric.share else ".3~f"
    return [
        _of("checkpoint", "nominal"),
        {**_of("value"), "title": words.label(metric.name), "format": shape},
        {**_of("low"), "title": "from", "format": shape},
        {**_of("high"), "title": "to", "format": shape},
        _of("n"),
        _of("unscored"),
        {**_of("status", "nominal"), "title": "verdict"},
    ]
