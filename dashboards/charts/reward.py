"""Reward models: where replies lie, how far members disagree, what moved, how right they are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from dashboards import words
from dashboards.charts.layers import layered
from dashboards.charts.rows import lowest, rows_of
from dashboards.charts.size import around
from dashboards.charts.theme import Theme, Words, finish, hue
from dashboards.data.changes import Shift
from dashboards.data.reward import RewardPlane

CELL = "cell"


def plane_words(found: RewardPlane | None, checkpoint: str) -> Words:
    """Where most replies are, and where the members disagree most."""
    if found is None or found.cells.empty:
        nothing = f"{checkpoint}: no reply was scored by reward models"
        return Words(nothing, "", f"{nothing}.")
    cells = found.cells
    mean = found.spread.value or 0.0
    loud = cells[cells["disagreement"] > 1.5 * mean]["n"].sum() / found.n
    shares = [
        words.number(v, share=True) for v in (found.below.value, found.below.low, found.below.high)
    ]
    means = [words.number(v) for v in (mean, found.spread.low, found.spread.high)]
    title = (
        f"{shares[0]} [{shares[1]}, {shares[2]}] of replies score below 0 on {found.x}; members "
        f"differ by {means[0]} [{means[1]}, {means[2]}] on average"
    )
    subtitle = (
        f"{checkpoint} · n = {found.n} replies · a cell's size: replies, its shade: disagreement "
        f"(standard deviation over members)"
    )
    said = (
        f"{title}. {words.number(loud, share=True)} of the {found.n} replies of {checkpoint} lie "
        f"in cells where members differ by more than half again as much as on average."
    )
    return Words(title, subtitle, said)


def plane(
    found: RewardPlane,
    theme: Theme,
    checkpoint: str,
    *,
    chosen: tuple[int, int] | None = None,
    plot: int = 380,
    wrap: int = 98,
) -> Any:
    """Replies by two scores, in cells: marked by how many, shaded by how much members disagree.

    A click on a cell selects it: parameter ``CELL``, fields ``i`` and ``j``. ``chosen``: the one
    with a frame around it.
    """
    cells = found.cells.assign(
        x=(found.cells["x0"] + found.cells["x1"]) / 2, y=(found.cells["y0"] + found.cells["y1"]) / 2
    )
    zero = alt.Data(values=[{"at": 0.0}])
    rule = alt.Chart(zero).mark_rule(color=theme.quiet, strokeDash=[2, 3], opacity=0.7)
    scale = alt.Scale(zero=False, nice=True, padding=12)
    marks = (
        alt.Chart(cells)
        .mark_square(opacity=0.95, stroke=theme.quiet, strokeWidth=0.4, cursor="pointer")
        .encode(
            x=alt.X("x:Q", title=f"{found.x} (logit)", scale=scale),
            y=alt.Y("y:Q", title=f"{found.y} (logit)", scale=scale),
            size=alt.Size(
                "n:Q",
                scale=alt.Scale(domain=[1, max(2, int(cells["n"].max()))], range=[30, 420]),
                title="Replies",
                legend=alt.Legend(
                    orient="bottom",
                    direction="horizontal",
                    values=_counts(int(cells["n"].max())),
                    symbolType="square",
                    symbolFillColor=theme.grey,
                    symbolStrokeColor=theme.grey,
                    format="d",
                ),
            ),
            color=alt.Color(
                "disagreement:Q",
                scale=alt.Scale(range=list(theme.scheme)),
                title="Disagreement",
                legend=alt.Legend(orient="bottom", direction="horizontal", gradientLength=140),
            ),
            tooltip=[
                alt.Tooltip("n:Q", title="replies"),
                alt.Tooltip("disagreement:Q", format=".2f"),
                alt.Tooltip("x:Q", format=".2f", title=found.x),
                alt.Tooltip("y:Q", format=".2f", title=found.y),
            ],
        )
        .properties(name="cells")
        .add_params(alt.selection_point(name=CELL, fields=["i", "j"]))
    )
    frame = cells[(cells["i"] == chosen[0]) & (cells["j"] == chosen[1])] if chosen else cells[:0]
    around_it = (
        alt.Chart(frame)
        .mark_point(shape="square", size=700, strokeWidth=2, color=theme.text, opacity=1)
        .encode(x=alt.X("x:Q"), y=alt.Y("y:Q"))
    )
    layers = [rule.encode(x=alt.X("at:Q")), rule.encode(y=alt.Y("at:Q")), marks]
    layers += [around_it] if len(frame) else []
    said = plane_words(found, checkpoint)
    height = around(plot, said, wrap, axis_title=True, legends=2)
    return finish(layered(*layers), theme, said, height=height, wrap=wrap)


def correlation_words(pairs: pd.DataFrame, checkpoint: str) -> Words:
    """How alike the members of one model are."""
    own = pairs[_model(pairs["a"]) == _model(pairs["b"])].dropna(subset=["r"])
    if own.empty:
        nothing = f"{checkpoint}: no reward model has two members to compare"
        return Words(nothing, "", f"{nothing}.")
    least = lowest(own, "r")
    r = words.estimate(least["r"], least["low"], least["high"], int(least["n"]))
    title = f"Members of one model agree least at r = {r}"
    subtitle = f"{checkpoint} · Pearson's r of members over the same replies · Fisher intervals"
    return Words(title, subtitle, f"{title}: {least['a']} with {least['b']}.")


def correlation(
    pairs: pd.DataFrame, theme: Theme, checkpoint: str, *, plot: int = 260, wrap: int = 98
) -> Any:
    """Every two members, shaded by |r|; the number is r."""
    mirrored = pairs.rename(columns={"a": "b", "b": "a"})
    both = pd.concat([pairs, mirrored], ignore_index=True).dropna(subset=["r"])
    both["strength"] = both["r"].abs()
    names = sorted({*both["a"], *both["b"]})
    base = alt.Chart(both).encode(
        x=alt.X("a:N", title=None, sort=names, axis=alt.Axis(labelAngle=0, domain=False)),
        y=alt.Y("b:N", title=None, sort=names, axis=alt.Axis(domain=False)),
    )
    shade = alt.Scale(domain=[0, 1], range=list(theme.scheme))
    cells = base.mark_rect(cornerRadius=3).encode(
        color=alt.Color("strength:Q", scale=shade, legend=None),
        tooltip=[
            alt.Tooltip("a:N"),
            alt.Tooltip("b:N"),
            *_numbers("r", "low", "high"),
            alt.Tooltip("n:Q"),
        ],
    )
    strong = "#ffffff" if theme.name == "light" else "#0e1117"
    text = base.mark_text(fontSize=12.5).encode(
        text=alt.Text("r:Q", format=".2f"),
        color=alt.when(alt.datum.strength > 0.5)
        .then(alt.value(strong))
        .otherwise(alt.value(theme.text)),
    )
    said = correlation_words(pairs, checkpoint)
    height = around(plot, said, wrap)
    return finish(layered(cells, text), theme, said, height=height, wrap=wrap)


def shift_words(bins: pd.DataFrame, score: str, moved: Shift | None = None) -> Words:
    """How far the scores moved between two checkpoints; ``moved``: the paired difference."""
    means = bins.dropna(subset=["mean"]).drop_duplicates("checkpoint")
    if len(means) < 2:
        nothing = f"{score}: there are not two checkpoints with scored replies"
        return Words(nothing, "", f"{nothing}.")
    first, last = rows_of(means)[:2]
    sides = f"{words.number(first['mean'])} to {words.number(last['mean'])} on average"
    subtitle = (
        f"{first['checkpoint']} (n = {int(first['n'])}) and {last['checkpoint']} "
        f"(n = {int(last['n'])}) · shares of each checkpoint's replies"
    )
    title = f"{score}: {sides}"
    if moved is not None:
        way = "no sure move" if not moved.sure else "up" if moved.difference > 0 else "down"
        title = f"{score}: {way}, {sides}"
        change = words.estimate(moved.difference, moved.low, moved.high, moved.n)
        subtitle += f" · paired change, 95 %: {change}"
    return Words(title, subtitle, f"{title}. Shown: {subtitle}.")


def shift(
    bins: pd.DataFrame,
    theme: Theme,
    score: str = "Proxy reward",
    *,
    moved: Shift | None = None,
    plot: int = 220,
    wrap: int = 98,
) -> Any:
    """Two distributions over the same bins, the baseline in grey."""
    names = list(dict.fromkeys(bins["checkpoint"]))
    scale = alt.Scale(domain=names, range=[theme.grey, theme.stages[0]][: len(names)])
    data = bins.assign(middle=(bins["x0"] + bins["x1"]) / 2)
    marks = (
        alt.Chart(data)
        .mark_area(interpolate="step", opacity=0.35, line={"strokeWidth": 1.8})
        .encode(
            x=alt.X("middle:Q", title=f"{score} (logit)", scale=alt.Scale(zero=False)),
            y=alt.Y("share:Q", title="Share of replies", stack=None, axis=alt.Axis(format=".0%")),
            color=alt.Color("checkpoint:N", scale=scale, sort=names, legend=_top()),
            tooltip=[
                alt.Tooltip("checkpoint:N"),
                *_numbers("x0", "x1"),
                alt.Tooltip("share:Q", format=".1%"),
            ],
        )
    )
    mean = (
        alt.Chart(data.drop_duplicates("checkpoint").dropna(subset=["mean"]))
        .mark_rule(strokeWidth=2, strokeDash=[4, 3])
        .encode(x=alt.X("mean:Q"), color=alt.Color("checkpoint:N", scale=scale, legend=None))
    )
    said = shift_words(bins, score, moved)
    height = around(plot, said, wrap, axis_title=True, legends=1)
    return finish(layered(marks, mean), theme, said, height=height, wrap=wrap)


def accuracy_words(rows: pd.DataFrame) -> Words:
    """How right the reward models are, and on which pairs they are not."""
    whole = rows[rows["rating"] == "all"]
    if whole.empty:
        return Words("No reward model was measured", "", "No reward model was measured.")
    last = whole.sort_values("epoch").groupby("stage", sort=False).tail(1)
    parts = [
        f"{row['stage']} "
        + words.estimate(row["value"], row["low"], row["high"], int(row["n"]), share=True)
        for row in rows_of(last)
    ]
    by_rating = rows[rows["rating"] != "all"].dropna(subset=["low"])
    guesses = by_rating[(by_rating["low"] <= 0.5) & (by_rating["high"] >= 0.5)]
    title = f"Right on held-out pairs: {'; '.join(parts)}"
    if len(guesses):
        worst = ", ".join(dict.fromkeys(guesses["rating"]))
        title += f". No better than chance where rated {worst}"
    return Words(
        title, "By how clear the raters found the difference · 95 % intervals", f"{title}."
    )


def accuracy(
    rows: pd.DataFrame, theme: Theme, *, ratings: Sequence[str] = (), height: int = 280
) -> Any:
    """Accuracy by rating with intervals, a hue for each reward model; the line is chance."""
    last = rows.sort_values("epoch").groupby(["stage", "rating"], sort=False).tail(1)
    order = list(ratings) or _by_clarity(rows["rating"])
    names = list(dict.fromkeys(rows["stage"]))
    scale = alt.Scale(domain=names, range=[hue(i, theme) for i in range(len(names))])
    base = alt.Chart(last).encode(
        y=alt.Y("rating:N", sort=order, title=None, axis=alt.Axis(grid=False)),
        yOffset=alt.YOffset("stage:N", sort=names),
        color=alt.Color("stage:N", scale=scale, sort=names, legend=_top()),
    )
    # On every layer: one without it would pull the axis to 0.
    scale_x = alt.Scale(domain=[min(0.3, float(last["low"].min())), 1.0], nice=False, zero=False)
    axis = alt.Axis(format=".0%", tickCount=8)
    x = alt.X("value:Q", title="Accuracy", axis=axis, scale=scale_x)
    chance = alt.Chart(alt.Data(values=[{"at": 0.5}])).mark_rule(
        color=theme.quiet, strokeDash=[4, 4]
    )
    tooltip = ["checkpoint:N", "rating:N", *_percents("value", "low", "high"), "n:Q"]
    layers = [
        chance.encode(x=alt.X("at:Q", scale=scale_x)),
        base.mark_rule(strokeWidth=2, opacity=0.55).encode(
            x=alt.X("low:Q", scale=scale_x), x2=alt.X2("high:Q")
        ),
        base.mark_point(filled=True, size=90, opacity=1).encode(x=x, tooltip=tooltip),
    ]
    return finish(layered(*layers), theme, accuracy_words(rows), height=height)


_CLARITY = ("negligibly better", "slightly better", "better", "significantly better", "all")


def _by_clarity(ratings: pd.Series) -> list[str]:
    there = list(dict.fromkeys(ratings))
    known = [name for name in _CLARITY if name in there and name != "all"]
    rest = sorted(name for name in there if name not in _CLARITY)
    return ["all", *known, *rest]


def _model(members: pd.Series) -> pd.Series:
    return members.str.rpartition("/")[0]


def _counts(most: int) -> list[int]:
    """Sizes to show in the legend: whole replies."""
    return sorted({1, max(1, round(most / 2)), max(1, most)})


def _numbers(*names: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:Q", format=".3~f") for name in names]


def _percents(*names: str) -> list[alt.Tooltip]:
    return [alt.Tooltip(f"{name}:Q", format=".1%") for name in names]


def _top() -> alt.Legend:
    return alt.Legend(title=None, orient="top")
