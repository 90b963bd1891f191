"""Two checkpoints on the same rows: which verdicts turned, and what moved by how much."""

from __future__ import annotations

from typing import Any

import altair as alt
import pandas as pd

from dashboards import words
from dashboards.charts.layers import layered
from dashboards.charts.rows import Row, highest, rows_of
from dashboards.charts.size import around
from dashboards.charts.theme import Theme, Words, finish

ALPHA = 0.05


def matrix_words(matrix: pd.DataFrame, before: str, after: str, metric: str) -> Words:
    """How many rows turned, and the commonest turn."""
    total = int(matrix["n"].sum()) if len(matrix) else 0
    label = words.label(metric)
    if not total:
        nothing = f"{label}: no row was scored at both {before} and {after}"
        return Words(nothing, "", f"{nothing}.")
    turned = matrix[matrix["before"] != matrix["after"]]
    count = int(turned["n"].sum())
    if count:
        most = highest(turned, "n")
        title = (
            f"{count} of {total} rows turn, most often from {_plain(most['before'])} to "
            f"{_plain(most['after'])} ({int(most['n'])})"
        )
    else:
        title = f"None of {total} rows turns"
    subtitle = f"{label} · down: {before}, across: {after} · the same n = {total} rows"
    return Words(title, subtitle, f"{title}. {subtitle}.")


def matrix(
    found: pd.DataFrame,
    theme: Theme,
    before: str,
    after: str,
    metric: str,
    *,
    wrap: int = 98,
) -> Any:
    """Classes before against classes after; the diagonal stayed."""
    data = found.assign(before=found["before"].map(_plain), after=found["after"].map(_plain))
    names = _in_order({*data["before"], *data["after"]})
    cells = pd.MultiIndex.from_product([names, names], names=["before", "after"])
    counts = data.groupby(["before", "after"])["n"].sum().reindex(cells, fill_value=0)
    data = counts.reset_index()
    data["stayed"] = data["before"] == data["after"]
    base = alt.Chart(data).encode(
        x=alt.X(
            "after:N",
            sort=names,
            scale=alt.Scale(domain=names),
            title=after,
            axis=alt.Axis(labelAngle=0, domain=False, orient="top", labelLimit=160),
        ),
        y=alt.Y(
            "before:N",
            sort=names,
            scale=alt.Scale(domain=names),
            title=before,
            axis=alt.Axis(domain=False, labelLimit=160),
        ),
    )
    turned = data[~data["stayed"]]["n"]
    most = max(1, int(turned.max()) if len(turned) else 1)
    shade = alt.Scale(domain=[0, most], range=list(theme.scheme), clamp=True)
    cells = base.mark_rect(cornerRadius=4).encode(
        color=alt.when(alt.datum.stayed)
        .then(alt.value(theme.grid))
        .otherwise(alt.Color("n:Q", scale=shade, legend=None)),
        tooltip=[alt.Tooltip("before:N"), alt.Tooltip("after:N"), alt.Tooltip("n:Q", title="rows")],
    )
    strong = "#ffffff" if theme.name == "light" else "#0e1117"
    text = base.mark_text(fontSize=15, fontWeight=600).encode(
        text=alt.Text("n:Q"),
        color=alt.when(f"!datum.stayed && datum.n > {most / 2}")
        .then(alt.value(strong))
        .otherwise(alt.value(theme.text)),
    )
    chart = layered(cells, text)
    said = matrix_words(found, before, after, metric)
    height = around(44 * max(2, min(len(names), 8)), said, wrap, axis_title=True)
    return finish(chart, theme, said, height=height, wrap=wrap)


def dumbbell_words(moves: pd.DataFrame, before: str, after: str, *, of: int | None = None) -> Words:
    """How many of the metrics moved, and which way. ``moves``: see ``data.pairs``. ``of``: how many
    metrics p was adjusted for, if more than are shown."""
    if moves.empty:
        nothing = f"{before} and {after} have no metric in common"
        return Words(nothing, "", f"{nothing}.")
    sure = [row for row in rows_of(moves) if _sure(row)]
    ways = [_way(row) for row in sure]
    title = f"{len(sure)} of {words.plural(len(moves), 'metric')} moved"
    if sure:
        title += f": {ways.count('better')} for the better, {ways.count('worse')} for the worse"
    subtitle = _dumbbell_subtitle(before, after, _span(moves["n"]), of or len(moves), "metrics")
    parts = [
        f"{words.label(row['metric'])} {words.number(row['a'])} to {words.number(row['b'])}"
        for row in rows_of(moves)
    ]
    return Words(title, subtitle, f"{title}. {'; '.join(parts)}.")


def dumbbells(
    moves: pd.DataFrame,
    theme: Theme,
    before: str,
    after: str,
    *,
    share: bool = True,
    bounds: tuple[float, float] | None = None,
    of: int | None = None,
    wrap: int = 98,
) -> Any:
    """A line a metric from before to after, all on one scale: give metrics of one unit. ``bounds``:
    their possible values, if not those of a share.

    Vermillion: worse; green: better; grey: within the noise (p adjusted by Holm's method).
    """
    data = moves.assign(label=moves["metric"].map(words.label))
    said = dumbbell_words(moves, before, after, of=of)
    return _dumbbells(data, theme, said, share=share, bounds=bounds, wrap=wrap)


def category_words(rows: pd.DataFrame, before: str, after: str, metric: str) -> Words:
    """In how many categories a metric moved for certain, and where most. ``rows``: see
    ``data.pairs.sides_by_category``."""
    known = rows.dropna(subset=["a", "b", "difference"])
    label = words.label(metric)
    if known.empty:
        nothing = f"{label}: no category has rows scored on both sides"
        return Words(nothing, "", f"{nothing}.")
    sure = [row for row in rows_of(known) if _sure(row)]
    many = words.plural(len(known), "category", "categories")
    title = f"{label} moved in {len(sure)} of {many}"
    if sure:
        most = max(sure, key=lambda row: abs(row["difference"]))
        share = max(known["a"].max(), known["b"].max()) <= 1.0
        sides = [words.number(most[side], share=share) for side in ("a", "b")]
        title += f", most in {most['category']}: {sides[0]} to {sides[1]}"
    span = f"{_span(known['n'])} a category"
    subtitle = _dumbbell_subtitle(before, after, span, len(known), "categories")
    parts = [
        f"{row['category']} {words.number(row['a'])} to {words.number(row['b'])}"
        for row in rows_of(known)
    ]
    return Words(title, subtitle, f"{title}. {'; '.join(parts)}.")


def category_dumbbells(
    rows: pd.DataFrame,
    theme: Theme,
    before: str,
    after: str,
    metric: str,
    *,
    share: bool = True,
    bounds: tuple[float, float] | None = None,
    wrap: int = 98,
) -> Any:
    """A line a category from before to after, the largest rise first. ``bounds``: the possible
    values of the metric, if not those of a share."""
    data = rows.dropna(subset=["a", "b", "difference"]).sort_values(
        "difference", ascending=False, kind="stable"
    )
    said = category_words(rows, before, after, metric)
    data = data.assign(label=data["category"])
    return _dumbbells(data, theme, said, share=share, bounds=bounds, wrap=wrap)


def _dumbbells(
    data: pd.DataFrame,
    theme: Theme,
    said: Words,
    *,
    share: bool,
    bounds: tuple[float, float] | None = None,
    wrap: int = 98,
) -> Any:
    """``data``: label, a, b, difference, low, high, better, n, rose, fell, p, p_holm. The thin bar
    is the paired interval of the difference, drawn from the hollow mark as far as is possible."""
    least, most = bounds or ((0.0, 1.0) if share else (None, None))
    data = data.assign(
        way=[_way(row) for row in rows_of(data)],
        from_low=(data["a"] + data["low"]).clip(least, most),
        from_high=(data["a"] + data["high"]).clip(least, most),
    )
    hues = alt.Scale(
        domain=["better", "unclear", "worse"], range=[theme.good, theme.grey, theme.fail]
    )
    colour = alt.Color("way:N", scale=hues, legend=alt.Legend(title=None, orient="top"))
    order = list(dict.fromkeys(data["label"]))
    y = alt.Y("label:N", sort=order, title=None, axis=alt.Axis(grid=False, labelLimit=220))
    base = alt.Chart(data).encode(y=y, color=colour)
    shape = "+.1%" if share else "+.3~f"
    side = ".1%" if share else ".3~f"
    tooltip = [
        alt.Tooltip("label:N", title="of"),
        *(
            alt.Tooltip(f"{c}:Q", format=side, title=t)
            for c, t in (("a", "before"), ("b", "after"))
        ),
        *(alt.Tooltip(f"{c}:Q", format=shape) for c in ("difference", "low", "high")),
        alt.Tooltip("p:Q", format=".3g"),
        alt.Tooltip("p_holm:Q", format=".3g", title="p, Holm"),
        "n:Q",
        alt.Tooltip("rose:Q", title="rows that rose"),
        alt.Tooltip("fell:Q", title="rows that fell"),
    ]
    x = alt.X(
        "a:Q",
        title=None,
        axis=alt.Axis(format=".0%" if share else ".3~f", tickCount=6),
        scale=alt.Scale(zero=False, padding=14),
    )
    layers = [
        base.mark_rule(strokeWidth=3, opacity=0.55).encode(x=x, x2=alt.X2("b:Q")),
        base.mark_rule(strokeWidth=1.2, opacity=0.9).encode(
            x=alt.X("from_low:Q"), x2=alt.X2("from_high:Q")
        ),
        *(
            base.mark_tick(thickness=1.4, size=9, opacity=0.9).encode(x=alt.X(f"{end}:Q"))
            for end in ("from_low", "from_high")
        ),
        base.mark_point(size=75, filled=False, fill=theme.ground, strokeWidth=2, opacity=1).encode(
            x=alt.X("a:Q"), tooltip=tooltip
        ),
        base.mark_point(size=95, filled=True, opacity=1).encode(x=alt.X("b:Q"), tooltip=tooltip),
    ]
    height = around(26 * max(2, len(order)), said, wrap, legends=1)
    return finish(layered(*layers), theme, said, height=height, wrap=wrap)


def _dumbbell_subtitle(before: str, after: str, n: str, tests: int, what: str) -> str:
    return (
        f"Hollow: {before}, filled: {after} · n = {n} · thin: 95 % interval, paired · moved: "
        f"p < {ALPHA:g}, adjusted for {tests} {what} (Holm)"
    )


def _span(counts: pd.Series) -> str:
    smallest, largest = int(counts.min()), int(counts.max())
    return f"{smallest}" if smallest == largest else f"{smallest}–{largest}"


def difference_words(rows: pd.DataFrame, metric: str) -> Words:
    """Where a metric moved most. ``rows``: see ``data.pairs.moves_by_category``."""
    known = rows.dropna(subset=["difference"])
    if known.empty:
        nothing = f"{words.label(metric)}: no category has rows scored on both sides"
        return Words(nothing, "", f"{nothing}.")
    most = max(rows_of(known), key=lambda row: abs(row["difference"]))
    value = words.estimate(most["difference"], most["low"], most["high"], int(most["n"]))
    title = f"{words.label(metric)} moves most in {most['category']}: {value}"
    return Words(title, "After − before, by category · 95 % intervals, paired", f"{title}.")


def differences(rows: pd.DataFrame, theme: Theme, metric: str, *, share: bool = False) -> Any:
    """The difference by category with its interval; the line is no change."""
    data = rows.dropna(subset=["difference"]).sort_values("difference", ascending=False)
    form = "+.0%" if share else "+.3~f"
    y = alt.Y("category:N", sort=data["category"].tolist(), title=None, axis=alt.Axis(grid=False))
    base = alt.Chart(data).encode(y=y)
    tooltip = [
        "category:N",
        *(alt.Tooltip(f"{c}:Q", format=".3~f") for c in ("difference", "low", "high")),
        "n:Q",
    ]
    zero = alt.Chart(alt.Data(values=[{"at": 0.0}])).mark_rule(color=theme.quiet)
    layers = [
        zero.encode(x=alt.X("at:Q")),
        base.mark_rule(color=theme.stages[0], strokeWidth=2, opacity=0.5).encode(
            x=alt.X("low:Q"), x2=alt.X2("high:Q")
        ),
        base.mark_point(color=theme.stages[0], filled=True, size=85, opacity=1).encode(
            x=alt.X("difference:Q", title=None, axis=alt.Axis(format=form)), tooltip=tooltip
        ),
    ]
    height = 24 * max(2, len(data)) + 10
    return finish(layered(*layers), theme, difference_words(rows, metric), height=height)


def _sure(row: Row) -> bool:
    """Whether the difference is more than chance, all that is tested beside it considered."""
    return bool(row["p_holm"] < ALPHA)


def _way(row: Row) -> str:
    if not _sure(row) or row["better"] not in ("higher", "lower"):
        return "unclear"
    return "better" if (row["difference"] > 0) == (row["better"] == "higher") else "worse"


def _in_order(names: set[str]) -> list[str]:
    """Numbers by size, words by the alphabet."""
    try:
        return sorted(names, key=float)
    except ValueError:
        return sorted(names)


def _plain(label: object) -> str:
    return str(label).replace("_", " ")
