"""The trade-off: what training bought against what it cost, checkpoint by checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Literal

import altair as alt
import pandas as pd

from dashboards import words
from dashboards.charts.layers import layered
from dashboards.charts.rows import Row, first_of, last_of, rows_of
from dashboards.charts.theme import Theme, Words, finish, stage_colour, status_shape
from dashboards.data.changes import Shift
from dashboards.data.schedule import Limit
from dashboards.data.tradeoff import Axis, Plane

_NEAR = 0.045  # of an axis: points that close share a label
_MOST_LABELS = 14
_LETTER = 0.0095  # width of a letter, as a share of the plot


POINT = "point"


def tradeoff_words(plane: Plane, *, level: float, rows: str) -> Words:
    """Title, subtitle and description, computed from the points."""
    points = plane.points
    if points.empty:
        nothing = "No checkpoint has both metrics yet"
        return Words(nothing, "", f"{nothing}.")
    first, last = first_of(points), last_of(points)
    smallest, largest = (int(f(points[["x_n", "y_n"]].to_numpy().ravel())) for f in (min, max))
    n = f"{smallest}" if smallest == largest else f"{smallest}–{largest}"
    subtitle = (
        f"{words.plural(len(points), 'checkpoint')} in the order of training · bars: "
        f"{words.level(level)} intervals, n = {n} · {rows}"
    )
    said = [f"Trade-off of {plane.y.label.lower()} against {plane.x.label.lower()}."]
    for name, row in (("first", first), ("last", last)):
        said.append(f"The {name} checkpoint, {row['checkpoint']}, is at {_at(row, plane)}.")
    picked = points[points["picked"]]
    if len(picked):
        said.append(f"Picked: {first_of(picked)['checkpoint']}, at {_at(first_of(picked), plane)}.")
    front = points[points["on_front"]]["checkpoint"].tolist()
    if front:
        said.append(f"On the Pareto front: {', '.join(front)}.")
    failed = points[points["status"] == "fail"]["checkpoint"].tolist()
    if failed:
        said.append(f"A gate failed at {', '.join(failed)}.")
    return Words(_title(plane), subtitle, " ".join(said))


def tradeoff(
    plane: Plane,
    theme: Theme,
    *,
    stages: Sequence[str] = (),
    level: float = 0.95,
    rows: str = "",
    height: int = 480,
    width: int | None = None,
) -> Any:
    """The path of the checkpoints with their intervals on both axes.

    The staircase joins the Pareto front, dashes are gates and the pick's conditions, the ring is
    the pick, shapes are verdicts. ``stages``: all of the run's, in order, for the hues. A click on
    a point selects its checkpoint: parameter ``POINT``, field ``checkpoint``.
    """
    labels = _labels(plane.points, plane)
    points = plane.points.assign(
        text=[label.text for label in labels],
        side=[label.side for label in labels],
        edge=[label.edge for label in labels],
    )
    names = list(stages) or points["stage"].tolist()
    x, y = _channel(plane.x, points, "x"), _channel(plane.y, points, "y")
    colour = stage_colour(names, theme)
    base = alt.Chart().encode(x=x, y=y)
    bars = alt.value(0.45 if len(points) <= 30 else 0.18)
    layers: list[Any] = [
        *_limits(plane.x, "x", points, theme),
        *_limits(plane.y, "y", points, theme),
        *_staircase(plane, x, y, theme),
        base.mark_line(color=theme.grey, strokeWidth=1.5, opacity=0.45).encode(
            order=alt.Order("order:Q")
        ),
        base.mark_rule(strokeWidth=1.2).encode(
            x=alt.X("x_low:Q"), x2=alt.X2("x_high:Q"), color=colour, opacity=bars
        ),
        base.mark_rule(strokeWidth=1.2).encode(
            y=alt.Y("y_low:Q"), y2=alt.Y2("y_high:Q"), color=colour, opacity=bars
        ),
        base.transform_filter(alt.datum.picked).mark_point(
            shape="circle", size=380, strokeWidth=2.2, filled=False, color=theme.text, opacity=1
        ),
        base.mark_point(
            filled=True, size=110 if len(points) <= 30 else 60, opacity=1, cursor="pointer"
        )
        .encode(color=colour, shape=status_shape(), tooltip=_tooltip(plane))
        .properties(name="checkpoints")
        # Only the points themselves: a click on the path would select its first checkpoint.
        .add_params(
            alt.selection_point(name=POINT, fields=["checkpoint"], on="@checkpoints_marks:click")
        ),
        *_texts(base, theme, {(label.side, label.edge) for label in labels if label.text}),
    ]
    # The data are given once: Altair converts and hashes them for each chart that has its own.
    chart = layered(*layers, data=points)
    said = tradeoff_words(plane, level=level, rows=rows)
    return finish(chart, theme, said, height=height, width=width)


def _texts(base: Any, theme: Theme, places: AbstractSet[tuple[str, str]]) -> list[Any]:
    """The labels, on a halo of the ground's colour so that lines do not run through them."""
    layers = []
    for side, edge in sorted(places):
        align, dx = ("left", 9) if side == "right" else ("right", -9)
        dy = 7 if edge == "top" else -7
        there = base.transform_filter(
            f"datum.text != '' && datum.side == '{side}' && datum.edge == '{edge}'"
        )
        common: dict[str, Any] = {"align": align, "baseline": edge, "dx": dx, "dy": dy}
        for look in (
            {"color": theme.ground, "stroke": theme.ground, "strokeWidth": 4},
            {"color": theme.text},
        ):
            layer = there.encode(text=alt.Text("text:N"))
            layer.mark = alt.MarkDef("text", fontSize=12, **common, **look)
            layers.append(layer)
    return layers


def _title(plane: Plane) -> str:
    points, x, y = plane.points, plane.x, plane.y
    first, last = first_of(points), last_of(points)
    if len(points) == 1:
        return f"One checkpoint so far, {first['checkpoint']}: {_at(first, plane)}"
    failed = points[points["status"] == "fail"]
    if len(failed):
        row = first_of(failed)
        names = ("x", "y") if row["x_status"] == "fail" else ("y", "x")
        axes = {"x": x, "y": y}
        return (
            f"{row['checkpoint']} fails the gate on {_lower(axes[names[0]].label)}: "
            f"{_number(row, names[0], plane)}, with {_lower(axes[names[1]].label)} at "
            f"{_number(row, names[1], plane)}"
        )
    moves = {"x": _moved(plane.x_shift, x), "y": _moved(plane.y_shift, y)}
    spans = {
        name: f"{words.number(first[name], share=of.share)} to "
        f"{words.number(last[name], share=of.share)}"
        for name, of in (("x", x), ("y", y))
    }
    if moves["x"] and moves["y"]:
        return (
            f"{y.label}: {moves['y']}, {spans['y']}; {_lower(x.label)}: {moves['x']}, {spans['x']}"
        )
    if moves["y"]:
        return f"{y.label}: {moves['y']}, {spans['y']}; no sure change of {_lower(x.label)}"
    if moves["x"]:
        return f"{x.label}: {moves['x']}, {spans['x']}; no sure change of {_lower(y.label)}"
    return "From first to last, neither metric has surely moved"


def _moved(moved: Shift | None, axis: Axis) -> str:
    """up, down or nothing: by the paired interval of the difference."""
    if moved is None or not moved.sure:
        return ""
    return "up" if (moved.difference > 0) != axis.complement else "down"


def _lower(label: str) -> str:
    return label[:1].lower() + label[1:] if label[1:2].islower() else label


def _number(row: Row, name: str, plane: Plane) -> str:
    axis = plane.x if name == "x" else plane.y
    return words.estimate(
        row[name], row[f"{name}_low"], row[f"{name}_high"], int(row[f"{name}_n"]), share=axis.share
    )


def _at(row: Row, plane: Plane) -> str:
    return "; ".join(
        f"{_lower(of.label)} {_number(row, name, plane)}"
        for name, of in (("y", plane.y), ("x", plane.x))
    )


def _channel(axis: Axis, points: pd.DataFrame, name: str) -> Any:
    kind = alt.X if name == "x" else alt.Y
    arrow = {"higher": " → better", "lower": " → worse"}.get(axis.better, "")
    low, high = _domain(axis, points, name)
    values = [i / 10 for i in range(11) if low <= i / 10 <= high] if axis.share else alt.Undefined
    return kind(
        f"{name}:Q",
        title=axis.label + arrow,
        scale=alt.Scale(domain=[low, high], nice=False, zero=False),
        axis=alt.Axis(
            format=".0%" if axis.share else ".4~r",
            values=values if axis.share and high - low > 0.3 else alt.Undefined,
            tickCount=6,
        ),
    )


def _domain(axis: Axis, points: pd.DataFrame, name: str) -> tuple[float, float]:
    columns = [name, f"{name}_low", f"{name}_high"]
    numbers = points[columns].to_numpy(dtype=float).ravel()
    numbers = numbers[~pd.isna(numbers)]
    known = [*numbers, *(limit.value for limit in axis.limits if limit.kind != "drop")]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    margin = 0.04 * (high - low) or 0.5
    low, high = low - margin, high + margin
    least, most = axis.bounds
    # Half a mark of room beyond what is possible, so that points on the edge are seen whole.
    if least is not None:
        low = max(low, least - 0.6 * margin)
    if most is not None:
        high = min(high, most + 0.6 * margin)
    return low, high


def _limits(axis: Axis, name: str, points: pd.DataFrame, theme: Theme) -> list[Any]:
    """Dashes at gates' limits (vermillion) and the pick's (quiet), labelled at the edge."""
    layers = []
    seen: set[float] = set()
    low, high = _domain(axis, points, name)
    last = max((limit.value for limit in axis.limits if limit.kind != "drop"), default=0.0)
    for limit in sorted(axis.limits, key=lambda of: of.source):
        if limit.kind == "drop" or limit.value in seen:
            continue
        seen.add(limit.value)
        gate = limit.source == "gate"
        colour = theme.fail if gate else theme.quiet
        data = alt.Data(values=[{"at": limit.value, "text": _limit_text(limit, axis)}])
        base = alt.Chart(data)
        dash = [6, 4] if gate else [2, 3]
        rule = base.mark_rule(color=colour, strokeDash=dash, strokeWidth=1.4)
        text: dict[str, Any] = {"fontSize": 11.5, "color": colour}
        if name == "x":
            # Before its line where another limit follows, which would run through the words.
            before = limit.value < last and limit.value - low > 0.15 * (high - low)
            words_at = base.mark_text(
                align="right" if before else "left",
                baseline="bottom",
                dx=-5 if before else 5,
                dy=-4 - 16 * (len(seen) - 1),
                **text,
            )
            layers += [
                rule.encode(x=alt.X("at:Q")),
                words_at.encode(x=alt.X("at:Q"), y=alt.value("height"), text=alt.Text("text:N")),
            ]
        else:
            words_at = base.mark_text(align="right", baseline="bottom", dx=-4, dy=-4, **text)
            layers += [
                rule.encode(y=alt.Y("at:Q")),
                words_at.encode(y=alt.Y("at:Q"), x=alt.value("width"), text=alt.Text("text:N")),
            ]
    return layers


def _limit_text(limit: Limit, axis: Axis) -> str:
    word = "at most" if limit.kind == "at_most" else "at least"
    return f"{limit.source}: {word} {words.number(limit.value, share=axis.share)}"


def _staircase(plane: Plane, x: Any, y: Any, theme: Theme) -> list[Any]:
    front = plane.points[plane.points["on_front"]]
    front = front.drop_duplicates(["x", "y"]).sort_values(["x", "y"])
    if len(front) < 2:
        return []
    # The corner between two of the front lies at the better of what either guarantees.
    lower_is_better = plane.x.better == "lower"
    step: Literal["step-after", "step-before"] = "step-after" if lower_is_better else "step-before"
    return [
        alt.Chart(front)
        .mark_line(interpolate=step, color=theme.good, strokeWidth=2.4, opacity=0.5)
        .encode(x=x, y=y)
    ]


@dataclass(frozen=True)
class _Label:
    """A checkpoint's label: what it says, and on which sides of its point it stands."""

    text: str = ""
    side: str = "right"
    edge: str = "top"  # of the text; "top" puts it below the point


def _labels(points: pd.DataFrame, plane: Plane) -> list[_Label]:
    """One label for each place: a run of neighbours in training that sit together shares it.

    Below its point, else above, else not at all; the first, the last and the picked before others.
    """
    found = [_Label()] * len(points)
    if points.empty:
        return found
    lows, spans = {}, {}
    for name, axis in (("x", plane.x), ("y", plane.y)):
        low, high = _domain(axis, points, name)
        lows[name], spans[name] = low, high - low
    rows = rows_of(points)
    marks = [tuple((row[n] - lows[n]) / spans[n] for n in ("x", "y")) for row in rows]
    groups, start = [], 0
    while start < len(rows):
        end = start
        while end + 1 < len(rows) and _close(rows[start], rows[end + 1], spans):
            end += 1
        groups.append((start, end))
        start = end + 1

    def must(group: tuple[int, int]) -> bool:
        first, last = group
        return (
            first == 0 or last == len(rows) - 1 or any(r["picked"] for r in rows[first : last + 1])
        )

    taken: list[tuple[float, float, float, float]] = []
    # Of many places every so-manieth, lest the early ones use up the labels.
    stride = -(-len(groups) // _MOST_LABELS)
    wanted = {group: (not must(group), i % stride != 0) for i, group in enumerate(groups)}
    for first, last in sorted(groups, key=wanted.__getitem__):
        text = _range(rows[first : last + 1])
        x, y = marks[last]
        side = "left" if x + 0.02 + _LETTER * len(text) > 1.0 else "right"
        boxes = {edge: _box(x, y, text, side, edge) for edge in ("top", "bottom")}
        free = [e for e, box in boxes.items() if not any(_meet(box, other) for other in taken)]
        if must((first, last)) or (free and len(taken) < _MOST_LABELS):
            edge = free[0] if free else "top"
            found[last] = _Label(text, side, edge)
            taken.append(boxes[edge])
    return found


def _box(x: float, y: float, text: str, side: str, edge: str) -> tuple[float, float, float, float]:
    """Left, right, bottom and top of a label, as shares of the plot."""
    width = _LETTER * len(text)
    left = x + 0.01 if side == "right" else x - 0.01 - width
    bottom = y - 0.05 if edge == "top" else y + 0.015
    return left, left + width, bottom, bottom + 0.035


def _meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[1] and b[0] < a[1] and a[2] < b[3] and b[2] < a[3]


def _close(a: dict[str, Any], b: dict[str, Any], spans: dict[str, float]) -> bool:
    return a["stage"] == b["stage"] and all(
        abs(a[name] - b[name]) <= _NEAR * spans[name] for name in ("x", "y")
    )


def _range(rows: list[dict[str, Any]]) -> str:
    first, last = rows[0], rows[-1]
    text = f"{first['stage']} {first['epoch']}"
    if len(rows) > 1:
        text += f"–{last['epoch']}"
    return f"{text} · picked" if any(row["picked"] for row in rows) else text


def _tooltip(plane: Plane) -> list[Any]:
    found: list[Any] = [
        alt.Tooltip("checkpoint:N"),
        alt.Tooltip("status:N", title="verdict"),
    ]
    for name, axis in (("x", plane.x), ("y", plane.y)):
        shape = ".1%" if axis.share else ".3~f"
        found += [
            alt.Tooltip(f"{name}:Q", title=axis.label, format=shape),
            alt.Tooltip(f"{name}_low:Q", title="from", format=shape),
            alt.Tooltip(f"{name}_high:Q", title="to", format=shape),
            alt.Tooltip(f"{name}_n:Q", title="n"),
            alt.Tooltip(f"{name}_unscored:Q", title="unscored"),
        ]
    return found
