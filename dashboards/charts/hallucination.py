"""Right, not said, wrong: stacked shares, over the training or by family of questions."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dashboards import words
from dashboards.charts.layers import layered
from dashboards.charts.rows import first_of, highest, last_of, lowest
from dashboards.charts.theme import Theme, Words, finish, lookup, ticks

_FRAME = 130  # pixels of title, legend and axis, which a page counts as part of the height
_NAMES = {"correct": "correct", "not_attempted": "not attempted", "incorrect": "wrong"}


def outcome_words(rows: pd.DataFrame, *, level: float) -> Words:
    """How the wrong answers went, beside those left open: silence is not honesty."""
    known = rows.dropna(subset=["value"])
    if known.empty:
        nothing = "No answer was graded yet"
        return Words(nothing, "", f"{nothing}.")
    wrong = known[known["outcome"] == "incorrect"]
    silent = known[known["outcome"] == "not_attempted"]
    first, last = first_of(wrong), last_of(wrong)
    left = last_of(silent)
    numbers = words.estimate(last["value"], last["low"], last["high"], int(last["n"]), share=True)
    title = (
        f"Wrong answers: {words.number(first['value'], share=True)} at {first['checkpoint']}, "
        f"{words.number(last['value'], share=True)} at {last['checkpoint']}; "
        f"{words.number(left['value'], share=True)} left open"
    )
    subtitle = (
        f"Shares of all questions, n = {int(last['n'])} · intervals ({words.level(level)}) on the "
        "marks"
    )
    return Words(title, subtitle, f"{title}. Wrong at the last: {numbers}.")


def outcomes(rows: pd.DataFrame, theme: Theme, *, level: float = 0.95, height: int = 340) -> Any:
    """A bar a checkpoint in the order of training; wrong ones at the bottom, where they compare."""
    data = _named(rows)
    labels = {
        int(order): f"{stage} {name.rpartition('-e')[2].lstrip('0') or '0'}"
        for order, stage, name in zip(rows["order"], rows["stage"], rows["checkpoint"], strict=True)
    }
    data = data.assign(left=data["order"] - 0.42, right=data["order"] + 0.42)
    chart = (
        alt.Chart(data)
        .mark_rect()
        .encode(
            x=alt.X(
                "left:Q",
                title=None,
                scale=alt.Scale(nice=False, zero=False, padding=4),
                axis=alt.Axis(values=ticks(labels, 10), labelExpr=lookup(labels), grid=False),
            ),
            x2=alt.X2("right:Q"),
            y=alt.Y(
                "start:Q", title=None, axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1])
            ),
            y2=alt.Y2("end:Q"),
            color=_colour(theme),
            tooltip=_tooltip("checkpoint:N"),
        )
    )
    return finish(chart, theme, outcome_words(rows, level=level), height=height, wrap=44)


def family_words(rows: pd.DataFrame, checkpoint: str) -> Words:
    """The family with most wrong answers."""
    wrong = rows[rows["outcome"] == "incorrect"].dropna(subset=["value"])
    if wrong.empty:
        nothing = f"{checkpoint}: no family was graded"
        return Words(nothing, "", f"{nothing}.")
    worst = highest(wrong, "value")
    number = words.estimate(
        worst["value"], worst["low"], worst["high"], int(worst["n"]), share=True
    )
    title = f"Most wrong answers at {checkpoint}: {_plain(worst['category'])}, {number}"
    return Words(title, "By family of questions · over both splits, 95 %", f"{title}.")


def families(rows: pd.DataFrame, theme: Theme, checkpoint: str) -> Any:
    """A bar a family at one checkpoint, the worst first."""
    data = _named(rows).assign(family=rows["category"].map(_plain).to_numpy())
    wrong = data[data["outcome"] == "incorrect"].sort_values("value", ascending=False)
    order = wrong["family"].tolist()
    chart = (
        alt.Chart(data)
        .mark_bar(height=alt.RelativeBandSize(0.72))
        .encode(
            y=alt.Y("family:N", sort=order, title=None, axis=alt.Axis(grid=False)),
            x=alt.X(
                "start:Q", title=None, axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1])
            ),
            x2=alt.X2("end:Q"),
            color=_colour(theme),
            tooltip=_tooltip("family:N"),
        )
    )
    height = _FRAME + 34 * max(1, data["family"].nunique())
    return finish(chart, theme, family_words(rows, checkpoint), height=height, wrap=44)


def attempted_words(rows: pd.DataFrame, *, level: float) -> Words:
    """Both ends of the accuracy among attempts, and how many attempts were left."""
    known = rows.dropna(subset=["value"])
    if known.empty:
        nothing = "No question was attempted"
        return Words(nothing, "", f"{nothing}.")
    first, last = first_of(known), last_of(known)
    title = (
        f"Right when attempted: {words.number(first['value'], share=True)} of {int(first['n'])} at "
        f"{first['checkpoint']}, {words.number(last['value'], share=True)} of {int(last['n'])} at "
        f"{last['checkpoint']}"
    )
    subtitle = (
        f"Accuracy among attempted questions, whose number changes · band {words.level(level)}"
    )
    number = words.estimate(last["value"], last["low"], last["high"], int(last["n"]), share=True)
    return Words(title, subtitle, f"{title}. At the last: {number}.")


def attempted(rows: pd.DataFrame, theme: Theme, *, level: float = 0.95, height: int = 340) -> Any:
    """Accuracy among attempted questions over the training, with its band."""
    known = rows.dropna(subset=["value"])
    labels = {
        int(order): f"{stage} {name.rpartition('-e')[2].lstrip('0') or '0'}"
        for order, stage, name in zip(rows["order"], rows["stage"], rows["checkpoint"], strict=True)
    }
    base = alt.Chart(known).encode(
        x=alt.X(
            "order:Q",
            title=None,
            scale=alt.Scale(nice=False, zero=False, padding=10),
            axis=alt.Axis(values=ticks(labels, 10), labelExpr=lookup(labels), grid=False),
        )
    )
    y = alt.Y("value:Q", title=None, axis=alt.Axis(format=".0%"), scale=alt.Scale(domain=[0, 1]))
    mark = 55 if len(known) <= 30 else 22
    layers = [
        base.mark_area(opacity=0.16, color=theme.stages[0]).encode(
            y=alt.Y("low:Q"), y2=alt.Y2("high:Q")
        ),
        base.mark_line(strokeWidth=2, color=theme.stages[0]).encode(y=y),
        base.mark_point(filled=True, size=mark, opacity=1, color=theme.stages[0]).encode(
            y=y, tooltip=_numbers("checkpoint:N")
        ),
    ]
    return finish(
        layered(*layers), theme, attempted_words(rows, level=level), height=height, wrap=44
    )


def attempted_family_words(rows: pd.DataFrame, checkpoint: str) -> Words:
    """The family that is right least often when it answers."""
    known = rows.dropna(subset=["value"])
    if known.empty:
        nothing = f"{checkpoint}: no question was attempted"
        return Words(nothing, "", f"{nothing}.")
    worst = lowest(known, "value")
    number = words.estimate(
        worst["value"], worst["low"], worst["high"], int(worst["n"]), share=True
    )
    title = f"Least right when attempted at {checkpoint}: {_plain(worst['category'])}, {number}"
    subtitle = "Accuracy among attempted questions · over both splits, intervals 95 %"
    return Words(title, subtitle, f"{title}.")


def attempted_families(
    rows: pd.DataFrame, order: pd.DataFrame, theme: Theme, checkpoint: str
) -> Any:
    """A point with its interval a family, in the order in which ``families`` has the bars of
    ``order`` (its rows), so that the two charts can be read side by side."""
    data = rows.assign(family=rows["category"].map(_plain))
    data["said"] = [f"n = {int(n)}" for n in data["n"]]
    wrong = order[order["outcome"] == "incorrect"].sort_values("value", ascending=False)
    names = wrong["category"].map(_plain).tolist()
    shown = data.dropna(subset=["value"])
    scale = alt.Scale(domain=names)
    y = alt.Y("family:N", sort=names, scale=scale, title=None, axis=alt.Axis(grid=False))
    domain = alt.Scale(domain=[0, 1])
    x = alt.X("value:Q", title=None, axis=alt.Axis(format=".0%"), scale=domain)
    base = alt.Chart(shown).encode(y=y)
    right = alt.Chart(data).encode(y=y).mark_text(align="right", dx=-4, dy=-9, fontSize=11)
    layers = [
        base.mark_rule(strokeWidth=2, opacity=0.55, color=theme.stages[0]).encode(
            x=alt.X("low:Q", scale=domain), x2=alt.X2("high:Q")
        ),
        base.mark_point(filled=True, size=90, opacity=1, color=theme.stages[0]).encode(
            x=x, tooltip=_numbers("family:N")
        ),
        right.encode(text=alt.Text("said:N"), x=alt.value("width"), color=alt.value(theme.quiet)),
    ]
    text = attempted_family_words(rows, checkpoint)
    height = _FRAME + 34 * max(1, len(names))
    return finish(layered(*layers), theme, text, height=height, wrap=44)


def _named(rows: pd.DataFrame) -> pd.DataFrame:
    """With the outcome in words and the ends of its part of the bar, wrong ones first."""
    place = {"incorrect": 0, "not_attempted": 1, "correct": 2}
    data = rows.assign(answer=rows["outcome"].map(_NAMES), place=rows["outcome"].map(place))
    keys = ["checkpoint", "category"] if "category" in rows else ["checkpoint"]
    data = data.sort_values([*keys, "place"])
    ends = data.groupby(keys, sort=False)["value"].cumsum()
    return data.assign(start=ends - data["value"], end=ends).loc[rows.index]


def _colour(theme: Theme) -> alt.Color:
    names = ["wrong", "not attempted", "correct"]
    scale = alt.Scale(domain=names, range=[theme.fail, theme.grey, theme.stages[0]])
    return alt.Color(
        "answer:N", scale=scale, sort=names, legend=alt.Legend(title=None, orient="top")
    )


def _tooltip(first: str) -> list[Any]:
    return [alt.Tooltip(first), alt.Tooltip("answer:N"), *_numbers(first)[1:]]


def _numbers(first: str) -> list[Any]:
    return [
        alt.Tooltip(first),
        *(alt.Tooltip(f"{name}:Q", format=".1%") for name in ("value", "low", "high")),
        *(alt.Tooltip(f"{name}:Q") for name in ("n", "unscored")),
    ]


def _plain(label: object) -> str:
    return str(label).replace("_", " ")
