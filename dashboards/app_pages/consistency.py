"""How long an instruction holds: over the training, over the turns, and in single dialogues."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import streamlit as st

from dashboards import dialogue, show, sidebar, words
from dashboards.charts import consistency as charts
from dashboards.charts.rows import rows_of
from dashboards.charts.theme import Theme
from dashboards.controls import choose, choose_many
from dashboards.data.consistency import by_kind, by_turn, sets_of, survival
from dashboards.data.index import View
from dashboards.data.queries import damaged
from dashboards.data.summaries import problems
from dashboards.data.turns import Turn, dialogues, turns
from dashboards.sidebar import State

_MOST = 5  # curves that can be told apart
_METRICS = {
    "held": "The instruction holds at the turn",
    "survival": "No check failed so far",
    "control": "The check passes though the instruction was never given",
}


def page() -> None:
    state = sidebar.current()
    show.heading("Consistency", "How many turns an instruction of the first turn lasts.")
    if state.view is None:
        show.no_run(state.folder_argument)
        return
    known = sets_of(state.view, "consistency")
    if not known:
        show.empty(
            "No checkpoint was evaluated on an eval set of the probe `consistency` (such as "
            "pocket/consistency) yet: it takes one under `evaluate.sets`. If the run is not there "
            "yet, this goes on:",
            f"aldente resume {state.run_argument}",
        )
        show.problems(problems(state.view))
        return
    left, right = st.columns(2)
    with left:
        of_set = choose("Eval set", known, key="set")
    measured = [m for m in _METRICS if not by_turn(state.view, of_set, m).empty]
    if not measured:
        show.empty("No dialogue of this eval set was checked turn by turn yet; choose another.")
        show.problems(problems(state.view))
        return
    with right:
        metric = choose("What is counted", measured, key="count", format_func=_METRICS.__getitem__)
    whole = replace(state.view, level=0.95, split="all")  # what summaries say turn by turn
    show.chart(_heat(whole, of_set, metric, state.theme))
    _turn_numbers(by_turn(state.view, of_set, metric))
    _survival(state, whole, of_set)
    _kinds(state.view, of_set, metric)
    _dialogues(state, state.view, of_set)
    show.problems([*problems(state.view), *damaged(state.view.entries(set=of_set))])


@show.drawn
def _heat(view: View, of_set: str, metric: str, theme: Theme) -> Any:
    return charts.heat(by_turn(view, of_set, metric), theme, metric=metric)


@show.drawn
def _curves(view: View, of_set: str, chosen: tuple[str, ...], theme: Theme) -> Any:
    return charts.survival(survival(view, of_set, chosen), theme)


def _turn_numbers(rows: pd.DataFrame) -> None:
    if part := show.folded("The numbers: every turn of every checkpoint, with interval and n"):
        with part:
            table: dict[str, dict[str, str]] = {}
            for row in rows_of(rows):
                line = table.setdefault(row["checkpoint"], {"checkpoint": row["checkpoint"]})
                line[f"turn {int(row['turn'])}"] = _number(row)
            show.table(pd.DataFrame(list(table.values())).fillna("–"))


def _survival(state: State, view: View, of_set: str) -> None:
    curves = by_turn(view, of_set, "survival")
    if curves.empty:
        return
    st.subheader("Until the first lapse", anchor=False)
    names = list(dict.fromkeys(curves["checkpoint"]))
    ends = [state.baseline, view.index.picked, names[-1]]
    chosen = choose_many(
        "Checkpoints",
        names,
        key="curves",
        default=[name for name in dict.fromkeys(ends) if name in names],
        most=_MOST,
    )
    if not chosen:
        show.empty("Choose a checkpoint above.")
        return
    ordered = tuple(name for name in names if name in chosen)
    show.chart(_curves(view, of_set, ordered, state.theme))
    found = survival(view, of_set, ordered)
    if part := show.folded("The numbers: half-lives and curves"):
        with part:
            lives = [
                {
                    "checkpoint": name,
                    "half-life": f"{_turn(half.turn)} [{_turn(half.low)}, {_turn(half.high)}], "
                    f"n = {half.n}",
                }
                for name, half in found.half_lives.items()
            ]
            st.caption(
                "The half-life is the first turn by which half the dialogues have had a failed "
                "check; its interval holds the turns at which the curve's own does not exclude one "
                "half."
            )
            show.table(pd.DataFrame(lives))
            _pivot(found.curves[found.curves["turn"] > 0])


def _pivot(rows: pd.DataFrame) -> None:
    table: dict[int, dict[str, str]] = {}
    for row in rows_of(rows):
        line = table.setdefault(int(row["turn"]), {"turn": str(int(row["turn"]))})
        line[row["checkpoint"]] = _number(row)
    show.table(pd.DataFrame(list(table.values())).fillna("–"))


def _turn(turn: int | None) -> str:
    return "after the last turn" if turn is None else f"turn {turn}"


def _number(row: dict[str, Any]) -> str:
    return words.estimate(
        row["value"],
        row["low"],
        row["high"],
        int(row["n"]),
        share=True,
        unscored=int(row["unscored"]),
    )


def _kinds(view: View, of_set: str, metric: str) -> None:
    rows = by_kind(view, of_set, metric)
    if rows.empty:
        return
    if part := show.folded("The numbers: by kind of instruction"):
        with part:
            table: dict[str, dict[str, str]] = {}
            for row in rows_of(rows):
                line = table.setdefault(row["checkpoint"], {"checkpoint": row["checkpoint"]})
                line[str(row["category"])] = _number(row)
            show.table(pd.DataFrame(list(table.values())).fillna("–"))


def _dialogues(state: State, view: View, of_set: str) -> None:
    st.subheader("A dialogue, turn by turn", anchor=False)
    names = list(dict.fromkeys(entry.checkpoint for entry in view.entries(set=of_set)))
    picked = view.index.picked
    left, right = st.columns([1, 2])
    with left:
        checkpoint = choose(
            "Checkpoint", names, key="at", default=picked if picked in names else names[-1]
        )
    known = dialogues(view, of_set, checkpoint)
    if known.empty:
        known = dialogues(view, of_set, checkpoint, "control")
    if known.empty:
        show.empty("There is no dialogue of this checkpoint on these rows; choose other rows.")
        return
    told = {str(row["row_id"]): _told(row) for row in rows_of(known)}
    with right:
        row = choose("Dialogue", list(told), key="row", format_func=lambda name: told[name])
    said = turns(view, of_set, checkpoint, row)
    if not said:
        show.empty("The transcript of this dialogue cannot be read.")
        return
    for turn in said:
        _shown(turn)
    st.page_link(
        "app_pages/transcripts.py",
        label="This dialogue at every checkpoint",
        query_params={**st.query_params.to_dict(), "set": of_set, "row": row},
    )


def _told(row: dict[str, Any]) -> str:
    lost = row["lost"]
    gone = not pd.isna(lost)
    held = f"lost at turn {int(lost)}" if gone else f"held all {int(row['turns'])} turns"
    return f"{row['row_id']} · {row['category'] or 'no kind'} · {held}"


def _shown(turn: Turn) -> None:
    """Left what goes on, right what was asked aside; the verdict in our own words above both."""
    if not turn.checks:
        verdict = "not checked"
    elif turn.held == turn.checks:
        verdict = "● holds"
    else:
        verdict = f"✕ lost in {turn.checks - turn.held} of {words.plural(turn.checks, 'check')}"
    st.markdown(f"**Turn {turn.number}** · {verdict}")
    left, right = st.columns([3, 2], gap="large")
    with left:
        dialogue.messages(turn.messages)
    with right:
        if turn.aside:
            dialogue.messages(turn.aside)


page()
