"""Where more of the proxy began to cost gold."""

from __future__ import annotations

from typing import Any

import streamlit as st

from dashboards import show, sidebar, words
from dashboards.charts import overoptimization as charts
from dashboards.charts import theme as looks
from dashboards.charts.theme import Theme
from dashboards.controls import choose
from dashboards.data.index import View
from dashboards.data.metrics import policy_stages
from dashboards.data.overoptimization import (
    Optimisation,
    gold_metrics,
    kl_metric,
    overoptimization,
    rl_stages,
)
from dashboards.data.summaries import problems
from dashboards.sidebar import State
from harness.store.kinds import PROXY_KINDS


def page() -> None:
    state = sidebar.current()
    show.heading(
        "Over-optimisation",
        "Gold against the distance from where the stage began, with the law of Gao et al. 2022.",
    )
    if state.view is None:
        show.no_run(state.folder_argument)
        return
    stages, golds = rl_stages(state.view), gold_metrics(state.view)
    if not stages or not golds:
        _missing(state, state.view)
        return
    left, right = st.columns(2)
    with left:
        stage = choose("Stage", stages, key="stage", default=stages[-1])
    with right:
        gold = choose(
            "Gold",
            golds,
            key="gold",
            format_func=lambda name: f"{words.label(name)} ({name})",
        )
    found = overoptimization(state.view, stage, gold)
    if found.points.empty:
        show.empty("No checkpoint of this stage has both a gold score and a KL on these rows.")
        return
    show.chart(_legend(state.view, state.theme), fill=False)
    show.chart(_gold(state.view, stage, gold, state.theme))
    if found.points["proxy"].notna().any():
        show.chart(_proxy(state.view, stage, gold, state.theme))
    _numbers(found)
    show.problems(problems(state.view))


@show.drawn
def _legend(view: View, theme: Theme) -> Any:
    return looks.legend(policy_stages(view.index), theme, limits=False)


@show.drawn
def _gold(view: View, stage: str, gold: str, theme: Theme) -> Any:
    found = overoptimization(view, stage, gold)
    return charts.gold(found, theme, stages=policy_stages(view.index), level=view.level)


@show.drawn
def _proxy(view: View, stage: str, gold: str, theme: Theme) -> Any:
    found = overoptimization(view, stage, gold)
    return charts.proxy(found, theme, stages=policy_stages(view.index))


def _missing(state: State, view: View) -> None:
    if kl_metric(view) is None:
        show.empty(
            "No checkpoint has a KL: it takes an eval set of the probe `reward` (such as "
            "pocket/reward) under `evaluate.sets`, and a stage that is trained for a reward or on "
            f"preferences ({', '.join(sorted(PROXY_KINDS))}). "
            "If the run is not there yet, this goes on:",
            f"aldente resume {state.run_argument}",
        )
    else:
        show.empty(
            "There is no RL stage with a KL and a score to hold it against yet. "
            "If the run is not there yet, this goes on:",
            f"aldente resume {state.run_argument}",
        )
    show.problems(problems(view))


def _numbers(found: Optimisation) -> None:
    if part := show.folded("The numbers"):
        with part:
            show.text(found.fit.reason)
            points = found.points
            frame = points[["checkpoint", "d", "picked"]].copy()
            for name, count in (("kl", "kl_n"), ("gold", "gold_n"), ("proxy", "kl_n")):
                frame[name] = [
                    words.estimate(row[name], row[f"{name}_low"], row[f"{name}_high"], row[count])
                    for row in points.to_dict("records")
                ]
            show.table(frame, names={"d": "√KL", "kl": "KL, nats", "gold": found.gold})


page()
