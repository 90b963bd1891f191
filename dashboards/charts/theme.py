"""How charts look: hues, marks, titles, quiet axes; a light and a dark version of each.

Hues begin with the blue, green and purple of Okabe & Ito 2008, shifted in lightness so that each
stands at 3:1 or better against its ground; the others were searched for, so that all seven stay
apart for protanopes and deuteranopes too. Vermillion is kept for failed gates and limits, grey for
inconclusive: no stage has them. Verdicts are told by shape too, never by hue alone.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import altair as alt

FONT = '"Source Sans", "Source Sans Pro", system-ui, sans-serif'
CROSS = (
    "M-0.9,-0.55L-0.55,-0.9L0,-0.35L0.55,-0.9L0.9,-0.55L0.35,0L0.9,0.55L0.55,0.9L0,0.35"
    "L-0.55,0.9L-0.9,0.55L-0.35,0Z"
)
STATUSES = ("pass", "inconclusive", "fail", "unjudged")
SHAPES = ("circle", "triangle-up", CROSS, "circle")
SHAPE_SCALE = {"domain": list(STATUSES), "range": list(SHAPES)}


@dataclass(frozen=True)
class Theme:
    """Colours as hex. ``stages`` are given to stages in the order in which a run comes to them."""

    name: str
    ground: str
    raised: str  # fields and panels that stand out from the ground
    text: str
    quiet: str  # axes' words, subtitles
    grid: str
    grey: str  # inconclusive, paths
    fail: str  # failed gates, limits
    good: str
    accent: str  # buttons with white words on them, ticks, what has the focus
    stages: tuple[str, ...]
    scheme: tuple[str, ...]  # low to high


LIGHT = Theme(
    name="light",
    ground="#ffffff",
    raised="#f4f6f8",
    text="#1c2530",
    quiet="#5b6673",
    grid="#e8ebef",
    grey="#7d8793",
    fail="#c44e00",
    good="#00795a",
    accent="#0067a8",
    stages=("#0067a8", "#00795a", "#9c4580", "#3a2f9e", "#7a1f2b", "#1f97c7", "#5a4a00"),
    scheme=("#f2f5f9", "#c3d3e6", "#86a9cf", "#4a7db4", "#1f5289", "#0b2d57"),
)
DARK = Theme(
    name="dark",
    ground="#0e1117",
    raised="#1a1f29",
    text="#eef1f5",
    quiet="#a3adba",
    grid="#252b35",
    grey="#828b98",
    fail="#ff8a3d",
    good="#2fc79b",
    accent="#2676bd",
    stages=("#58a8e8", "#2fc79b", "#f07fc0", "#8f7bff", "#f3e58a", "#c9ecff", "#c4506e"),
    scheme=("#171c25", "#243b5a", "#2f5f93", "#4a8bc9", "#86b9e6", "#d3e8fb"),
)


@dataclass(frozen=True)
class Words:
    """What a chart says: a title that states what is seen, how to read it, and one text for those
    who do not see it."""

    title: str
    subtitle: str
    description: str


@dataclass(frozen=True)
class Drawing:
    """A finished chart: Vega-Lite JSON, of which nothing is to be changed in place."""

    spec: Mapping[str, Any]

    def to_dict(self, *, validate: bool = True) -> dict[str, Any]:
        """The specification; with ``validate`` held against Vega-Lite's schema first."""
        if validate:
            alt.Root.validate(dict(self.spec))
        return dict(self.spec)


def stage_scale(stages: Sequence[str], theme: Theme) -> alt.Scale:
    """The hue of each stage, by the order in which the run came to them."""
    found = scale_of(stages, theme)
    return alt.Scale(domain=found["domain"], range=found["range"])


def scale_of(stages: Sequence[str], theme: Theme) -> dict[str, list[str]]:
    """The same as Vega-Lite JSON."""
    names = list(dict.fromkeys(stages))
    return {"domain": names, "range": [hue(i, theme) for i in range(len(names))]}


def hue(position: int, theme: Theme) -> str:
    """The hue of the stage (or series) at this position; they repeat after seven."""
    return theme.stages[position % len(theme.stages)]


def stage_colour(stages: Sequence[str], theme: Theme) -> Any:
    """The colour channel of marks: the stage's hue, grey if inconclusive, vermillion if failed.

    The data need ``stage`` and ``status``.
    """
    return alt.Color(
        "stage:N",
        scale=stage_scale(stages, theme),
        legend=None,
        condition=verdict_hues(theme),
    )


def verdict_hues(theme: Theme) -> list[dict[str, str]]:
    """What a verdict does to a mark's colour, as Vega-Lite JSON."""
    return [
        {"test": "datum.status === 'fail'", "value": theme.fail},
        {"test": "datum.status === 'inconclusive'", "value": theme.grey},
    ]


def status_shape() -> alt.Shape:
    """● pass, ▲ inconclusive, ✕ fail; a circle too where no gate looked."""
    return alt.Shape(
        "status:N", scale=alt.Scale(domain=list(STATUSES), range=list(SHAPES)), legend=None
    )


def finish(
    chart: Any,
    theme: Theme,
    words: Words,
    *,
    height: int | None = None,
    width: int | None = None,
    wrap: int = 98,
) -> Drawing:
    """The chart with its title, description and look. ``wrap``: characters a line of the title.

    ``chart`` is of Altair, or Vega-Lite JSON: Altair takes tens of milliseconds a chart, too long
    for a page of many.

    Without ``width`` the chart fills its container. Everything is drawn from data in the spec:
    nothing is fetched.
    """
    spec = dict(chart) if isinstance(chart, Mapping) else chart.to_dict(validate=False)
    spec |= {
        "title": {
            "text": _lines(words.title, wrap),
            "subtitle": _lines(words.subtitle, round(wrap * 1.18)),
            "anchor": "start",
            "frame": "bounds",
            "offset": 10,
        },
        "description": words.description,
        "width": width if width is not None else "container",
        "config": _config(theme),
    }
    if height is not None:
        spec["height"] = height
    return Drawing({"$schema": alt.SCHEMA_URL, **spec})


def _lines(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width) or [""]


@lru_cache(maxsize=4)
def _config(theme: Theme) -> dict[str, Any]:
    label: dict[str, Any] = {"labelFont": FONT, "titleFont": FONT, "labelColor": theme.quiet}
    return {
        "background": "transparent",
        "font": FONT,
        "autosize": {"type": "fit-x", "contains": "padding"},
        "padding": {"left": 2, "right": 8, "top": 4, "bottom": 2},
        "view": {"stroke": None, "continuousWidth": 300, "continuousHeight": 300},
        "title": {
            "font": FONT,
            "fontSize": 16,
            "fontWeight": 600,
            "color": theme.text,
            "subtitleFont": FONT,
            "subtitleFontSize": 12.5,
            "subtitleColor": theme.quiet,
            "subtitlePadding": 4,
            "lineHeight": 20,
            "subtitleLineHeight": 16,
        },
        "axis": {
            **label,
            "titleColor": theme.quiet,
            "titleFontWeight": "normal",
            "titleFontSize": 12.5,
            "labelFontSize": 12,
            "gridColor": theme.grid,
            "domainColor": theme.grid,
            "tickColor": theme.grid,
            "tickSize": 4,
            "labelPadding": 5,
            "titlePadding": 8,
        },
        "legend": {
            **label,
            "titleColor": theme.quiet,
            "labelFontSize": 12.5,
            "symbolSize": 90,
            "padding": 0,
            "offset": 8,
        },
        "header": {
            "labelFont": FONT,
            "labelColor": theme.text,
            "titleFont": FONT,
            "titleColor": theme.quiet,
        },
    }


def lookup(labels: Mapping[int, str] | Sequence[str]) -> str:
    """A Vega expression that turns an axis value into its label; nothing in them is evaluated."""
    pairs = labels.items() if isinstance(labels, Mapping) else enumerate(labels)
    table = json.dumps({str(key): text for key, text in pairs})
    return f"{table}[toString(datum.value)] || ''"


def ticks(positions: Iterable[int], most: int = 12) -> list[int]:
    """At most ``most`` of these, evenly, the last among them."""
    there = sorted(set(positions))
    step = max(1, -(-len(there) // most))
    return there[::-1][::step][::-1]


def legend(stages: Sequence[str], theme: Theme, *, limits: bool = True) -> Any:
    """One line that explains the marks of all charts of a page."""
    names = list(dict.fromkeys(stages))
    entries: list[dict[str, Any]] = [
        {"text": name, "colour": hue(i, theme), "shape": "stroke"} for i, name in enumerate(names)
    ]
    entries += [
        {"text": "pass", "colour": theme.text, "shape": "circle"},
        {"text": "inconclusive", "colour": theme.grey, "shape": "triangle-up"},
        {"text": "fail", "colour": theme.fail, "shape": CROSS},
        {"text": "picked", "colour": theme.text, "shape": "ring"},
    ]
    if limits:
        entries.append({"text": "limit", "colour": theme.fail, "shape": "dash"})
    x = 8.0
    for entry in entries:
        entry["x"] = x
        x += 34 + 6.6 * len(str(entry["text"]))
    said = ", ".join(f"{e['text']}" for e in entries)
    data = alt.Data(values=entries)
    base = alt.Chart(data).encode(
        x=alt.X("x:Q", axis=None, scale=alt.Scale(domain=[0, x], range=[0, x]))
    )
    colour = alt.Color("colour:N", scale=None)
    layers = [
        base.transform_filter("datum.shape == 'stroke'")
        .mark_point(shape="stroke", size=260, strokeWidth=4)
        .encode(color=colour),
        base.transform_filter("datum.shape == 'dash'")
        .mark_text(text="╌╌", fontSize=14)
        .encode(color=colour),
        base.transform_filter("datum.shape == 'ring'")
        .mark_point(shape="circle", size=170, strokeWidth=2)
        .encode(color=colour),
        base.transform_filter(
            "datum.shape != 'stroke' && datum.shape != 'dash' && datum.shape != 'ring'"
        )
        .mark_point(filled=True, size=85, opacity=1)
        .encode(color=colour, shape=alt.Shape("shape:N", scale=None)),
        base.mark_text(align="left", dx=14, fontSize=12.5, font=FONT, color=theme.quiet).encode(
            text=alt.Text("text:N")
        ),
    ]
    chart = alt.layer(*layers).properties(
        width=x, height=18, description=f"How to read the marks: {said}."
    )
    return chart.configure(
        background="transparent", font=FONT, view=alt.ViewConfig(stroke=None), padding=2
    )
