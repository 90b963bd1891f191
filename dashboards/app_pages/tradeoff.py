"""What training bought against what it cost."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboards import show, sidebar, words
from dashboards.charts import theme as looks
from dashboards.charts.theme import Theme
from dashboards.charts.tradeoff import POINT
from dashboards.charts.tradeoff import tradeoff as draw
from dashboards.controls import choose
from dashboards.data.index import View
from dashboards.data.metrics import catalogue, policy_stages
from dashboards.data.summaries import problems
from dashboards.data.tradeoff import Axis, Plane, default_axes, tradeoff
from dashboards.sidebar import State


def page() -> None:
    state = sidebar.current()
    show.heading("Trade-off", "Best at the top left, if harmless and helpful are what you want.")
    if state.view is None:
        show.no_run(state.folder_argument)
        return
    axes = default_axes(state.view)
    if axes is None:
        show.empty(
            "No checkpoint of this run is evaluated yet. If it is not running, this goes on:",
            f"aldente resume {state.run_argument}",
        )
        show.problems(problems(state.view))
        return
    known = list(catalogue(state.view))
    left, right = st.columns(2)
    with left:
        x = _metric("Cost (x)", known, axes[0], "x")
    with right:
        y = _metric("Gain (y)", known, axes[1], "y")
    plane = tradeoff(state.view, x, y)
    if plane.points.empty:
        show.empty("No checkpoint has both of these metrics; choose others above.")
        return
    show.chart(_legend(state.view, state.theme), fill=False)
    show.chart(_plane(state.view, x, y, state.theme, state.rows), key="plane", on_select=_take)
    _pointed(state, plane)
    _numbers(plane)
    show.problems(problems(state.view))


@show.drawn
def _legend(view: View, theme: Theme) -> Any:
    return looks.legend(policy_stages(view.index), theme)


@show.drawn
def _plane(view: View, x: str, y: str, theme: Theme, rows: str) -> Any:
    return draw(
        tradeoff(view, x, y),
        theme,
        stages=policy_stages(view.index),
        level=view.level,
        rows=rows,
        height=520,
    )


def _take() -> None:
    """What a click on a point does: its checkpoint is remembered until another is clicked."""
    chosen = st.session_state["plane"]["selection"].get(POINT) or []
    st.session_state["pointed"] = str(chosen[0].get("checkpoint")) if chosen else None


def _pointed(state: State, plane: Plane) -> None:
    """The checkpoint that was clicked, and the pages that go on from it."""
    name: str | None = st.session_state.get("pointed")
    if name is None or name not in set(plane.points["checkpoint"]):
        st.caption("A click on a point goes on from that checkpoint.")
        return
    row = plane.points[plane.points["checkpoint"] == name].iloc[0]
    numbers = [
        f"{axis.label} {_estimate(row, of, axis)}" for of, axis in (("x", plane.x), ("y", plane.y))
    ]
    show.line(f"{name}: {'; '.join(numbers)}")
    kept = st.query_params.to_dict()
    left, right, _ = st.columns([1, 1, 2])
    with left:
        if name != state.baseline:
            st.page_link(
                "app_pages/compare.py",
                label="Compare it with the baseline",
                query_params={**kept, "after": name},
            )
    with right:
        st.page_link("app_pages/transcripts.py", label="Read it", query_params={**kept, "at": name})


def _estimate(row: Any, name: str, axis: Axis) -> str:
    return words.estimate(
        row[name],
        row[f"{name}_low"],
        row[f"{name}_high"],
        int(row[f"{name}_n"]),
        share=axis.share,
        unscored=int(row[f"{name}_unscored"]),
    )


def _metric(label: str, known: list[str], default: str, key: str) -> str:
    return choose(
        label,
        known,
        key=key,
        default=default,
        format_func=lambda name: f"{words.label(name)} ({name})",
    )


def _numbers(plane: Plane) -> None:
    if part := show.folded("The numbers"):
        with part:
            columns = ["checkpoint", "status", "picked", "on_front"]
            frame = plane.points[columns].copy()
            for name, axis in (("x", plane.x), ("y", plane.y)):
                shown = plane.points[
                    [name, f"{name}_low", f"{name}_high", f"{name}_n", f"{name}_unscored"]
                ]
                frame[axis.label] = [
                    words.estimate(value, low, high, n, share=axis.share, unscored=unscored)
                    for value, low, high, n, unscored in shown.itertuples(index=False)
                ]
            show.table(frame, names={"status": "verdict", "on_front": "on the Pareto front"})


page()
