"""Over-optimisation: gold and proxy against how far the policy has gone (Gao et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from dashboards import words
from dashboards.charts.layers import layered
from dashboards.charts.rows import Row, first_of, highest, last_of
from dashboards.charts.theme import Theme, Words, finish, stage_colour, stage_scale, status_shape
from dashboards.data.overoptimization import Optimisation

_D = "Distance from the stage's start, √KL in √nats"


def gold_words(found: Optimisation, *, level: float) -> Words:
    """Whether gold has peaked: the peak with its interval, or why it cannot be told."""
    points, fit = found.points, found.fit
    label = words.label(found.gold)
    if points.empty:
        nothing = f"{found.stage}: no checkpoint has both {label} and KL"
        return Words(nothing, "", f"{nothing}.")
    n = int(points["gold_n"].max())
    subtitle = (
        f"{label} over {words.plural(len(points), 'checkpoint')} of {found.stage} · bars "
        f"{words.level(level)}, n = {n} replies each"
    )
    if fit.identified and fit.peak is not None:
        peak = fit.peak
        high = "∞" if peak.distance_high is None else words.number(peak.distance_high)
        title = (
            f"Gold peaks at d = {words.number(peak.distance)} "
            f"[{words.number(peak.distance_low)}, {high}], at {words.number(peak.gold)}"
        )
    elif fit.verdict == "does not fit":
        title = f"The law {fit.reason}"
    else:
        title = f"The peak of gold is {fit.reason}"
    first, last, best = first_of(points), last_of(points), highest(points, "gold")
    title += f"; highest measured: {_gold(best)} at {best['checkpoint']}"
    said = (
        f"{title}. {label} of stage {found.stage} against the square root of KL: "
        f"{_gold(first)} at d = {words.number(first['d'])} ({first['checkpoint']}), "
        f"{_gold(last)} at d = {words.number(last['d'])} ({last['checkpoint']})."
    )
    if fit.alpha is not None and fit.beta is not None:
        law = (
            f"fit R₀ + d(α − β log d): α = {words.number(fit.alpha)}, β = {words.number(fit.beta)}"
        )
        subtitle += f" · {law}"
        subtitle += f", scatter {words.number(fit.scatter)}"
        said += f" The {law}, scatter {words.number(fit.scatter)}, from {fit.n} checkpoints."
    return Words(title, subtitle, said)


def gold(
    found: Optimisation,
    theme: Theme,
    *,
    stages: Sequence[str] = (),
    level: float = 0.95,
    height: int = 380,
) -> Any:
    """Gold against d, with the fitted law, and the peak with its interval where there is one.

    A curve whose peak is not identified, or that does not fit, is drawn thin and dashed: it goes
    by the points, and says no more. ``stages``: all of the run's, in order, for the hues.
    """
    points = found.points
    names = list(stages) or [found.stage]
    base = alt.Chart().encode(
        x=_x(points), y=_y(points, ("gold", "gold_low", "gold_high"), words.label(found.gold))
    )
    colour = stage_colour(names, theme)
    layers: list[Any] = [*_peak(found, theme)]
    if len(found.curve):
        sure = found.fit.identified
        layers.append(
            alt.Chart(found.curve)
            .mark_line(
                color=theme.text,
                strokeWidth=1.8 if sure else 1.2,
                strokeDash=[1, 0] if sure else [4, 4],
                opacity=0.75,
                clip=True,
            )
            .encode(x=alt.X("d:Q"), y=alt.Y("gold:Q"))
        )
    layers += [
        base.mark_rule(opacity=0.4).encode(
            y=alt.Y("gold_low:Q"), y2=alt.Y2("gold_high:Q"), color=colour
        ),
        base.mark_rule(opacity=0.4).encode(x=alt.X("d_low:Q"), x2=alt.X2("d_high:Q"), color=colour),
        *_marks(base, points, names, theme, "gold"),
    ]
    return finish(
        layered(*layers, data=points), theme, gold_words(found, level=level), height=height
    )


def proxy_words(found: Optimisation) -> Words:
    """How the proxy went while gold did what it did."""
    points = found.points.dropna(subset=["proxy"])
    if points.empty:
        nothing = f"{found.stage}: no checkpoint has a proxy reward"
        return Words(nothing, "", f"{nothing}.")
    first, last = first_of(points), last_of(points)
    ends = f"{words.number(first['proxy'])} to {words.number(last['proxy'])}"
    rises = found.proxy_shift is not None and found.proxy_shift.sure
    way = "up" if last["proxy"] > first["proxy"] else "down"
    title = f"The proxy goes {way}, {ends}" if rises else f"No sure change of the proxy, {ends}"
    drop = found.gold_shift
    if drop is not None and drop.sure and drop.difference < 0:
        interval = words.estimate(drop.difference, drop.low, drop.high, drop.n)
        title += f", while gold moves by {interval} from its best, {drop.before}, to the last"
    n = int(points["kl_n"].max())
    subtitle = f"Reward that {found.stage} sees, before whitening and KL · n = {n} replies each"
    return Words(title, subtitle, f"{title}, over {words.plural(len(points), 'checkpoint')}.")


def proxy(
    found: Optimisation, theme: Theme, *, stages: Sequence[str] = (), height: int = 220
) -> Any:
    """The proxy reward over the same distances."""
    points = found.points.dropna(subset=["proxy"])
    columns = tuple(c for c in ("proxy", "proxy_low", "proxy_high") if c in points)
    base = alt.Chart().encode(x=_x(points), y=_y(points, columns, "Proxy reward"))
    names = list(stages) or [found.stage]
    hue = alt.Color("stage:N", scale=stage_scale(names, theme), legend=None)
    layers: list[Any] = []
    if "proxy_low" in points:
        layers.append(
            base.mark_rule(opacity=0.4).encode(
                y=alt.Y("proxy_low:Q"), y2=alt.Y2("proxy_high:Q"), color=stage_colour(names, theme)
            )
        )
    layers += [
        base.mark_line(strokeWidth=1.4, opacity=0.5).encode(order=alt.Order("order:Q"), color=hue),
        *_marks(base, points, names, theme, "proxy"),
    ]
    return finish(layered(*layers, data=points), theme, proxy_words(found), height=height)


def _gold(row: Row) -> str:
    return words.estimate(row["gold"], row["gold_low"], row["gold_high"], int(row["gold_n"]))


def _marks(base: Any, points: pd.DataFrame, names: list[str], theme: Theme, what: str) -> list[Any]:
    size = 95 if len(points) <= 30 else 50
    label = {"gold": "gold", "proxy": "proxy"}[what]
    low, high = f"{what}_low:Q", f"{what}_high:Q"
    tooltip = [
        alt.Tooltip("checkpoint:N"),
        alt.Tooltip("d:Q", format=".3~f", title="√KL"),
        alt.Tooltip("kl:Q", format=".3~f", title="KL, nats"),
        alt.Tooltip("kl_n:Q", title="n of KL"),
        alt.Tooltip(f"{what}:Q", format=".3~f", title=label),
        alt.Tooltip(low, format=".3~f", title="from"),
        alt.Tooltip(high, format=".3~f", title="to"),
        alt.Tooltip("gold_n:Q" if what == "gold" else "kl_n:Q", title="n"),
        alt.Tooltip("status:N", title="verdict"),
    ]
    return [
        base.mark_point(filled=True, size=size, opacity=1).encode(
            color=stage_colour(names, theme), shape=status_shape(), tooltip=tooltip
        ),
        base.transform_filter(alt.datum.picked).mark_point(
            shape="circle", size=300, strokeWidth=2, filled=False, color=theme.text, opacity=1
        ),
        base.transform_filter(alt.datum.labelled)
        .mark_text(align="left", baseline="top", dx=7, dy=6, fontSize=11.5, color=theme.quiet)
        .encode(text=alt.Text("epoch:N")),
    ]


def _peak(found: Optimisation, theme: Theme) -> list[Any]:
    peak = found.fit.peak
    if not found.fit.identified or peak is None:
        return []
    far = peak.distance_high if peak.distance_high is not None else float(found.points["d"].max())
    where = alt.Data(values=[{"low": peak.distance_low, "high": far, "at": peak.distance}])
    base = alt.Chart(where)
    return [
        base.mark_rect(color=theme.good, opacity=0.12).encode(
            x=alt.X("low:Q"), x2=alt.X2("high:Q")
        ),
        base.mark_rule(color=theme.good, strokeWidth=1.6).encode(x=alt.X("at:Q")),
    ]


def _x(points: pd.DataFrame) -> alt.X:
    known: list[float] = points[["d", "d_high"]].to_numpy(dtype=float).ravel().tolist()
    most = max((v for v in known if not pd.isna(v)), default=1.0) or 1.0
    scale = alt.Scale(domain=[-0.02 * most, 1.03 * most], nice=False, zero=False)
    return alt.X("d:Q", title=_D, scale=scale, axis=alt.Axis(tickCount=7, format=".4~r"))


def _y(points: pd.DataFrame, columns: tuple[str, ...], title: str) -> alt.Y:
    numbers: list[float] = points[list(columns)].to_numpy(dtype=float).ravel().tolist()
    known = [v for v in numbers if not pd.isna(v)] or [0.0, 1.0]
    margin = 0.06 * (max(known) - min(known)) or 0.5
    scale = alt.Scale(domain=[min(known) - margin, max(known) + margin], nice=False, zero=False)
    return alt.Y(f"{columns[0]}:Q", title=title, scale=scale, axis=alt.Axis(tickCount=5))
