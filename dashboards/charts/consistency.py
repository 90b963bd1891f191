"""How long an instruction holds: a heat map over the training, and survival curves."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dashboards import words
from dashboards.charts.layers import layered
from dashboards.charts.rows import first_of, last_of
from dashboards.charts.theme import Theme, Words, finish, hue, lookup, ticks
from dashboards.data.consistency import Survival

_SAYS = {
    "held": "the instruction holds in {} of dialogues",
    "survival": "no check failed so far in {} of dialogues",
    "control": "the check passes without the instruction in {} of dialogues",
}
_ROOM = 14  # checkpoints up to which each cell has room for its number and n


def heat_words(turns: pd.DataFrame, metric: str = "held") -> Words:
    """How much holds at the first and the last turn, at the last checkpoint."""
    if turns.empty:
        nothing = "No dialogue was checked turn by turn yet"
        return Words(nothing, "", f"{nothing}.")
    last = turns[turns["order"] == turns["order"].max()].sort_values("turn")
    start, end = first_of(last), last_of(last)
    said = _SAYS[metric].format(words.number(start["value"], share=True))
    title = (
        f"At {start['checkpoint']} {said} at turn {int(start['turn'])}, in "
        f"{words.number(end['value'], share=True)} at turn {int(end['turn'])}"
    )
    fewest, most = int(turns["n"].min()), int(turns["n"].max())
    n = f"{most}" if fewest == most else f"{fewest}–{most}"
    subtitle = (
        f"{words.plural(turns['checkpoint'].nunique(), 'checkpoint')} in the order of training · "
        f"n = {n} dialogues a cell, both splits · 95 % intervals on the marks"
    )
    return Words(title, subtitle, f"{title} (n = {int(end['n'])}).")


def heat(
    turns: pd.DataFrame, theme: Theme, *, metric: str = "held", height: int | None = None
) -> Any:
    """Turn against checkpoint; the darker (on dark ground: the lighter), the more holds.

    ``metric``: held, survival or control. Where there is room the cells say their number and n.
    """
    labels = {
        int(order): f"{stage} {name.rpartition('-e')[2].lstrip('0') or '0'}"
        for order, stage, name in zip(
            turns["order"], turns["stage"], turns["checkpoint"], strict=True
        )
    }
    shade = alt.Scale(domain=[0, 1], range=list(theme.scheme))
    data = turns.assign(left=turns["order"] - 0.5, right=turns["order"] + 0.5)
    data["said"] = [words.number(value, share=True) for value in data["value"]]
    data["of"] = [f"n = {int(n)}" for n in data["n"]]
    cells = (
        alt.Chart(data)
        .mark_rect(stroke=theme.ground, strokeWidth=0.5)
        .encode(
            x=alt.X(
                "left:Q",
                title=None,
                scale=alt.Scale(nice=False, zero=False),
                axis=alt.Axis(values=ticks(labels, 10), labelExpr=lookup(labels), grid=False),
            ),
            x2=alt.X2("right:Q"),
            y=alt.Y("turn:O", title="Turn", axis=alt.Axis(grid=False, labelAngle=0)),
            color=alt.Color("value:Q", scale=shade, title="Held", legend=alt.Legend(format=".0%")),
            tooltip=[
                alt.Tooltip("checkpoint:N"),
                alt.Tooltip("turn:Q"),
                *(alt.Tooltip(f"{name}:Q", format=".1%") for name in ("value", "low", "high")),
                alt.Tooltip("n:Q"),
                alt.Tooltip("unscored:Q"),
            ],
        )
    )
    layers: list[Any] = [cells]
    if len(labels) <= _ROOM:
        layers += _numbers(data, theme)
    if height is None:
        height = 100 + 40 * max(3, min(10, data["turn"].nunique()))
    return finish(layered(*layers), theme, heat_words(turns, metric), height=height)


def _numbers(data: pd.DataFrame, theme: Theme) -> list[Any]:
    """Number and n in each cell, in whichever of ink and ground stands out from its shade."""
    # Above this share the shade is the far end of the scheme, where the ground's colour is read.
    ink = alt.condition("datum.value > 0.55", alt.value(theme.ground), alt.value(theme.text))
    base = alt.Chart(data).encode(x=alt.X("order:Q"), y=alt.Y("turn:O"), color=ink)
    return [
        base.mark_text(fontSize=12.5, dy=-6).encode(text=alt.Text("said:N")),
        base.mark_text(fontSize=10.5, dy=8, opacity=0.85).encode(text=alt.Text("of:N")),
    ]


def survival_words(found: Survival) -> Words:
    """When half the dialogues have lost the instruction, for each curve."""
    if found.curves.empty:
        nothing = "There is no survival curve to show"
        return Words(nothing, "", f"{nothing}.")
    parts = []
    for name, half in found.half_lives.items():
        when = f"by turn {half.turn}" if half.turn is not None else "never within the dialogue"
        low = "after the end" if half.low is None else str(half.low)
        high = "after the end" if half.high is None else str(half.high)
        parts.append(f"{name} {when} [{low}, {high}], n = {half.n}")
    title = f"Half the dialogues lose the instruction: {'; '.join(parts)}"
    subtitle = "Share of dialogues without a failed check so far · bands 95 %, over both splits"
    return Words(title, subtitle, f"{title}.")


def survival(found: Survival, theme: Theme, *, height: int = 340) -> Any:
    """Step curves with bands; the dashed line is one half."""
    curves = found.curves
    names = list(dict.fromkeys(curves["checkpoint"]))
    scale = alt.Scale(domain=names, range=[hue(i, theme) for i in range(len(names))])
    legend = alt.Legend(
        title=None, orient="top", symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=3
    )
    base = alt.Chart(curves).encode(
        x=alt.X(
            "turn:Q",
            title="Turn",
            axis=alt.Axis(values=ticks(curves["turn"].astype(int)), format="d", grid=False),
        ),
        color=alt.Color("checkpoint:N", scale=scale, sort=names, legend=legend),
    )
    y = alt.Y("value:Q", title=None, scale=alt.Scale(domain=[0, 1.02]), axis=alt.Axis(format=".0%"))
    tooltip = [
        *("checkpoint:N", "turn:Q"),
        *(alt.Tooltip(f"{name}:Q", format=".1%") for name in ("value", "low", "high")),
        "n:Q",
    ]
    half = alt.Chart(alt.Data(values=[{"at": 0.5}])).mark_rule(color=theme.quiet, strokeDash=[4, 4])
    layers = [
        half.encode(y=alt.Y("at:Q")),
        base.mark_area(opacity=0.13, interpolate="step-after").encode(
            y=alt.Y("low:Q"), y2=alt.Y2("high:Q")
        ),
        base.mark_line(strokeWidth=2.2, interpolate="step-after").encode(y=y),
        base.mark_point(filled=True, size=40, opacity=1).encode(y=y, tooltip=tooltip),
    ]
    return finish(layered(*layers), theme, survival_words(found), height=height)
