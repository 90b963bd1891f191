"""Every metric over the training, side by side."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboards import show, sidebar, words
from dashboards.charts import theme as looks
from dashboards.charts.theme import Theme
from dashboards.charts.timeline import Stop, timeline
from dashboards.controls import choose_many
from dashboards.data.changes import story
from dashboards.data.index import View
from dashboards.data.metrics import Metric, catalogue, checkpoints, metrics, policy_stages
from dashboards.data.schedule import plan
from dashboards.data.summaries import problems
from dashboards.sidebar import State

_MOST = 12  # panels at a time
# What is shown first: what is optimised, what it is for, and what it may cost.
_FIRST = (
    ("reward", "proxy"),
    ("rubric", "score"),
    ("mt_bench", "score"),
    ("refusal", "false_refusal"),
    ("refusal", "compliance"),
    ("reward", "kl"),
    ("hallucination", "incorrect"),
    ("consistency", "held"),
)


def page() -> None:
    state = sidebar.current()
    show.heading("Timeline", "What rose, what fell, and where a gate drew the line.")
    if state.view is None or state.index is None:
        show.no_run(state.folder_argument)
        return
    known = catalogue(state.view)
    if not known:
        show.empty(
            "No checkpoint of this run is evaluated yet. If it is not running, this goes on:",
            f"aldente resume {state.run_argument}",
        )
        show.problems(problems(state.view))
        return
    chosen = choose_many(
        "Metrics",
        list(known),
        key="metrics",
        default=_defaults(state.view, known),
        most=_MOST,
        format_func=lambda name: f"{words.label(name)} ({name})",
    )
    if not chosen:
        show.empty("Choose a metric above.")
        return
    _panels(state, state.view, tuple(chosen))
    show.problems(problems(state.view))


@show.drawn
def _legend(view: View, theme: Theme) -> Any:
    return looks.legend(policy_stages(view.index), theme)


@show.drawn
def _panel(view: View, name: str, theme: Theme) -> Any:
    info = checkpoints(view.index)
    stops = [
        Stop(row["order"], row["action"])
        for row in info.to_dict("records")
        if row["action"] in ("stop", "rollback")
    ]
    return timeline(
        metrics(view, (name,)),
        catalogue(view)[name],
        theme,
        stages=policy_stages(view.index),
        limits=plan(view.index).limits_on(name),
        stops=stops,
        story=story(view, name),
        level=view.level,
    )


def _panels(state: State, view: View, chosen: tuple[str, ...]) -> None:
    known = catalogue(view)
    show.chart(_legend(view, state.theme), fill=False)
    columns = st.columns(2, gap="large")
    for place, name in enumerate(chosen):
        with columns[place % 2]:
            show.chart(_panel(view, name, state.theme))
    if part := show.folded("The numbers"):
        with part:
            numbers = metrics(view, chosen)
            frame = numbers[["checkpoint", "metric", "status"]].copy()
            frame["value"] = [
                words.estimate(
                    row["value"],
                    row["low"],
                    row["high"],
                    row["n"],
                    share=known[row["metric"]].share,
                    unscored=row["unscored"],
                )
                for row in numbers.to_dict("records")
            ]
            show.table(frame, names={"status": "verdict"})


def _defaults(view: View, known: dict[str, Metric]) -> list[str]:
    """One metric of each kind of ``_FIRST``; of several, those that gates or the pick name."""
    named = [limit.metric for limit in plan(view.index).limits]
    ordered = sorted(known, key=lambda name: name not in named)
    found = []
    for probe, metric in _FIRST:
        for name in ordered:
            if known[name].probe == probe and name.partition(".")[2] == metric:
                found.append(name)
                break
    return found or list(known)[:6]


page()
