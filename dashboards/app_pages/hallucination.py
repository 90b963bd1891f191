"""Right, wrong, or left open: over the training, by family of questions, and answer by answer."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboards import dialogue, show, sidebar, words
from dashboards.charts import hallucination as charts
from dashboards.charts.rows import rows_of
from dashboards.charts.theme import Theme
from dashboards.controls import choose
from dashboards.data.attempts import attempted, attempted_by_family
from dashboards.data.consistency import sets_of
from dashboards.data.evalsets import set_rows
from dashboards.data.hallucination import by_family, outcomes
from dashboards.data.index import View
from dashboards.data.queries import damaged
from dashboards.data.samples import PAGE, label_counts, sample, sample_page
from dashboards.data.summaries import problems
from dashboards.sidebar import State

_SAID = {"correct": "correct", "not_attempted": "not attempted", "incorrect": "wrong"}
_LONGEST = 300  # characters of a cell in the list


def page() -> None:
    state = sidebar.current()
    show.heading("Hallucination", "Wrong answers beside those left open: silence is not honesty.")
    if state.view is None:
        show.no_run(state.folder_argument)
        return
    known = [
        name
        for name in sets_of(state.view, "hallucination")
        if not outcomes(state.view, name).dropna(subset=["value"]).empty
    ]
    if not known:
        show.empty(
            "No answer to an eval set of the probe `hallucination` (such as pocket/hallucination) "
            "is graded yet: it takes one under `evaluate.sets`. If the run is not there yet, this "
            "goes on:",
            f"aldente resume {state.run_argument}",
        )
        show.problems(problems(state.view))
        return
    of_set = known[0] if len(known) == 1 else choose("Eval set", known, key="set")
    _training(state, state.view, of_set)
    _family(state, state.view, of_set)
    show.problems([*problems(state.view), *damaged(state.view.entries(set=of_set))])


@show.drawn
def _bars(view: View, of_set: str, theme: Theme) -> Any:
    return charts.outcomes(outcomes(view, of_set), theme, level=view.level)


@show.drawn
def _attempted(view: View, of_set: str, theme: Theme) -> Any:
    return charts.attempted(attempted(view, of_set), theme, level=view.level)


@show.drawn
def _families(view: View, of_set: str, checkpoint: str, theme: Theme) -> Any:
    return charts.families(by_family(view, of_set, checkpoint), theme, checkpoint)


@show.drawn
def _attempted_families(view: View, of_set: str, checkpoint: str, theme: Theme) -> Any:
    order = by_family(view, of_set, checkpoint)
    rows = attempted_by_family(view, of_set, checkpoint)
    return charts.attempted_families(rows, order, theme, checkpoint)


def _training(state: State, view: View, of_set: str) -> None:
    left, right = st.columns(2, gap="large")
    with left:
        show.chart(_bars(view, of_set, state.theme))
    with right:
        show.chart(_attempted(view, of_set, state.theme))
    if part := show.folded("The numbers: every checkpoint"):
        with part:
            table: dict[str, dict[str, str]] = {}
            for row in rows_of(outcomes(view, of_set)):
                line = table.setdefault(row["checkpoint"], {"checkpoint": row["checkpoint"]})
                line[_SAID[row["outcome"]]] = _number(row)
            for row in rows_of(attempted(view, of_set)):
                if row["checkpoint"] in table:
                    table[row["checkpoint"]]["correct, of those attempted"] = _number(row)
            show.table(pd.DataFrame(list(table.values())).fillna("–"))


def _family(state: State, view: View, of_set: str) -> None:
    st.subheader("By family of questions", anchor=False)
    rows = outcomes(view, of_set)
    names = list(dict.fromkeys(rows["checkpoint"]))
    picked = view.index.picked
    left, _ = st.columns(2, gap="large")
    with left:
        checkpoint = choose(
            "Checkpoint", names, key="at", default=picked if picked in names else names[-1]
        )
    families = by_family(view, of_set, checkpoint)
    if families.empty:
        show.empty("The rows of this eval set have no families.")
    else:
        left, right = st.columns(2, gap="large")
        with left:
            show.chart(_families(view, of_set, checkpoint, state.theme))
        with right:
            show.chart(_attempted_families(view, of_set, checkpoint, state.theme))
        if part := show.folded("The numbers: every family"):
            with part:
                table: dict[str, dict[str, str]] = {}
                for row in rows_of(families):
                    name = str(row["category"])
                    line = table.setdefault(name, {"family": name})
                    line[_SAID[row["outcome"]]] = _number(row)
                for row in rows_of(attempted_by_family(view, of_set, checkpoint)):
                    name = str(row["category"])
                    if name in table:
                        table[name]["correct, of those attempted"] = _number(row)
                show.table(pd.DataFrame(list(table.values())).fillna("–"))
    _answers(view, of_set, checkpoint)


def _answers(view: View, of_set: str, checkpoint: str) -> None:
    """The answers of one outcome, and one of them in full beside what would have been right."""
    st.subheader("The answers", anchor=False)
    counts = label_counts(view, of_set, "", checkpoint)
    seen = {str(t): int(n) for t, n in zip(counts["label"], counts["n"], strict=True) if t}
    if not seen:
        show.empty("No answer of this checkpoint was graded on these rows; choose other rows.")
        return
    left, right = st.columns([1, 2])
    with left:
        label = choose(
            "Class seen",
            list(seen),
            key="class",
            default="incorrect",
            format_func=lambda name: f"{name.replace('_', ' ')} ({seen[name]:,})",
        )
    found = sample_page(view, of_set, "", checkpoint=checkpoint, label=label)
    names = [str(name) for name in found.rows["row_id"]]
    if not names:
        show.empty("No answer is like that on these rows.")
        return
    asked = dict(zip(names, found.rows["prompt"].astype(str), strict=True))
    with right:
        row = choose(
            "Question",
            names,
            key="row",
            format_func=lambda name: f"{name} · {asked[name][:_LONGEST]}",
            help=f"The first {PAGE} at most; all are under Transcripts.",
        )
    said = sample(view, checkpoint, of_set, row)
    if said is None:
        show.empty("The transcript of this answer cannot be read.")
        return
    left, right = st.columns([3, 2], gap="large")
    with left:
        dialogue.messages(said.conversation())
    with right:
        _accepted(view, of_set, row)
        dialogue.judgement(said)


def _accepted(view: View, of_set: str, row: str) -> None:
    of = set_rows(view, of_set).get(row)
    if of is None:
        st.caption(
            "What is accepted as right is in the eval set, which is not on this machine in the "
            "version that the run used."
        )
        return
    for title, field in (("Accepted as right", "accepted"), ("Known to be wrong", "wrong")):
        texts = [str(text) for text in getattr(of, field, ()) or ()]
        if texts:
            st.caption(title)
            show.text("\n".join(texts))
        elif field == "accepted":
            st.caption("Nothing is accepted as right: the question has no answer that can be known")


def _number(row: dict[str, Any]) -> str:
    return words.estimate(
        row["value"],
        row["low"],
        row["high"],
        int(row["n"]),
        share=True,
        unscored=int(row["unscored"]),
    )


page()
