"""All runs of the folder, and the chosen one at a glance."""

from __future__ import annotations

import shlex

import streamlit as st

from dashboards import show, sidebar, words
from dashboards.data.index import RunIndex
from dashboards.data.metrics import checkpoints
from dashboards.data.runs import run_row, runs
from dashboards.data.schedule import plan
from dashboards.data.summaries import problems

_MARKS = {"pass": "● pass", "inconclusive": "▲ inconclusive", "fail": "✕ fail", "unjudged": "–"}
_STATES = {
    "running": "is running",
    "finished": "is finished",
    "stopped": "was stopped by a gate",
    "interrupted": "was interrupted",
}


def page() -> None:
    state = sidebar.current()
    show.heading("Runs")
    if state.index is None or state.view is None:
        show.no_run(state.folder_argument)
        return
    known = runs(state.folder)
    known["created"] = known["created"].str.slice(0, 16).str.replace("T", " ")
    known["seed"] = known["seed"].astype(str)
    show.table(
        known.drop(columns="problems") if not known["problems"].any() else known,
        names={"created": "created, UTC", "stopped_by": "stopped by", "stage": "last stage"},
    )
    _chosen(state.index)
    show.problems(problems(state.view))


def _chosen(index: RunIndex) -> None:
    found = run_row(index.path)
    run = shlex.quote(str(index.path))
    st.subheader("The chosen run", anchor=False)
    show.line(f"{index.name} {_STATES[found.state]}{_why(found.stopped_by)}")
    reason = (index.selection or {}).get("reason")
    if reason:
        show.line(f"Picked: {index.picked or 'none'}. {reason}")
    elif plan(index).goal is None:
        show.empty("The schedule of this run has no pick, so no checkpoint is chosen.")
    elif found.state in ("finished", "stopped"):
        show.empty(
            "No pick is recorded. This makes it from what was evaluated:",
            f"aldente pick {run}",
        )
    if found.state == "interrupted":
        show.empty("The run did not come to its end. This goes on:", f"aldente resume {run}")
    known = checkpoints(index)
    if known.empty:
        show.empty(
            "No checkpoint is committed yet; the first appears when its epoch is done.",
            f"aldente status {run} --follow",
        )
        return
    st.caption(f"{words.plural(len(known), 'checkpoint')} in the order of training")
    known["verdict"] = known["verdict"].map(lambda status: _MARKS.get(status, status))
    columns = ["checkpoint", "kind", "epoch", "verdict", "picked", "evaluated", "reason"]
    show.table(known[columns], names={"reason": "what the gates say"})


def _why(stopped_by: str | None) -> str:
    return f": {stopped_by}" if stopped_by else ""


page()
