"""Reward models: where replies lie, how far members disagree, what moved, how right they are."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from dashboards import dialogue, show, sidebar, words
from dashboards.charts import reward as charts
from dashboards.charts.theme import Theme
from dashboards.controls import choose
from dashboards.data.index import View
from dashboards.data.queries import damaged
from dashboards.data.reward import (
    accuracy_by_rating,
    cell_replies,
    member_correlation,
    reward_entry,
    reward_models,
    reward_plane,
    score_move,
    score_shift,
    scored_checkpoints,
)
from dashboards.data.samples import PAGE, first_and_last, sample
from dashboards.data.summaries import problems
from dashboards.sidebar import State

_PROXY = "Proxy reward"


def page() -> None:
    state = sidebar.current()
    show.heading("Reward", "What the reward models like, and how far they can be trusted.")
    if state.index is None or state.view is None:
        show.no_run(state.folder_argument)
        return
    known = scored_checkpoints(state.view)
    if known:
        _scores(state, state.view, known)
    else:
        show.empty(
            "No reply was scored by reward models yet. It takes an eval set of the probe `reward` "
            "(such as pocket/reward) under `evaluate.sets`, and a stage of the kind `reward`. If "
            "the run is not there yet, this goes on:",
            f"aldente resume {state.run_argument}",
        )
    _accuracy(state, state.view)
    show.problems([*problems(state.view), *damaged(state.view.entries())])


def _scores(state: State, view: View, known: list[str]) -> None:
    picked = view.index.picked
    one, two, three = st.columns(3)
    with one:
        checkpoint = choose(
            "Checkpoint", known, key="checkpoint", default=picked if picked in known else known[-1]
        )
    others = [name for name in known if name != checkpoint]
    with two:
        first = state.baseline if state.baseline in others else None
        before = choose("Shift since", others, key="against", default=first) if others else ""
    with three:
        models = list(reward_models(view, checkpoint))
        model = choose("Shift of", ["", *models], key="score", format_func=lambda m: m or _PROXY)
    found = reward_plane(view, checkpoint)
    if found is None or found.cells.empty:
        show.empty(
            "This checkpoint has no two reward models or members to hold against each other on "
            "these rows; choose another checkpoint, or other rows."
        )
        return
    left, right = st.columns([3, 2], gap="large")
    with right:
        cell = _cell(view, checkpoint)
    with left:
        show.chart(
            _plane(view, checkpoint, cell, state.theme),
            key="plane",
            on_select=_take(view, checkpoint),
        )
    left, right = st.columns(2, gap="large")
    with left:
        show.chart(_correlation(view, checkpoint, state.theme))
    with right:
        if before:
            show.chart(_moved(view, before, checkpoint, model, state.theme))
        else:
            show.empty("It takes a second checkpoint with scored replies to show how they move.")
    if part := show.folded("The numbers: members"):
        with part:
            pairs = member_correlation(view, checkpoint).copy()
            pairs["r"] = [
                words.estimate(r, low, high, int(n))
                for r, low, high, n in pairs[["r", "low", "high", "n"]].itertuples(index=False)
            ]
            show.table(
                pairs[["a", "b", "r"]],
                names={"a": "member", "b": "with", "r": "Pearson's r"},
            )


@show.drawn
def _plane(view: View, checkpoint: str, cell: tuple[int, int], theme: Theme) -> Any:
    found = reward_plane(view, checkpoint)
    assert found is not None
    return charts.plane(found, theme, checkpoint, chosen=cell, wrap=56)


@show.drawn
def _correlation(view: View, checkpoint: str, theme: Theme) -> Any:
    return charts.correlation(member_correlation(view, checkpoint), theme, checkpoint, wrap=44)


@show.drawn
def _moved(view: View, before: str, after: str, model: str, theme: Theme) -> Any:
    bins = score_shift(view, before, after, model or None)
    moved = score_move(view, before, after, model or None)
    return charts.shift(bins, theme, model or _PROXY, moved=moved, wrap=44)


def _take(view: View, checkpoint: str) -> Any:
    """What a click on the plane does: the cell is chosen as if by the select box."""

    def taken() -> None:
        chosen = st.session_state["plane"]["selection"].get(charts.CELL) or []
        if chosen and {"i", "j"} <= set(chosen[0]):
            name = f"{int(chosen[0]['i'])}-{int(chosen[0]['j'])}"
            if name in _cells(view, checkpoint):
                st.session_state["cell"] = name

    return taken


def _cells(view: View, checkpoint: str) -> dict[str, str]:
    """The cells by name, those where members differ most first, and what each is called."""
    found = reward_plane(view, checkpoint)
    if found is None:
        return {}
    ranked = found.cells.sort_values("disagreement", ascending=False, kind="stable")
    return {
        f"{row['i']}-{row['j']}": (
            f"{found.x} {words.number(row['x0'])} to {words.number(row['x1'])}, "
            f"{found.y} {words.number(row['y0'])} to {words.number(row['y1'])}: "
            f"{words.plural(row['n'], 'reply', 'replies')}, differ by "
            f"{words.number(row['disagreement'])}"
        )
        for row in ranked.to_dict("records")
    }


def _cell(view: View, checkpoint: str) -> tuple[int, int]:
    """The replies of the chosen cell, and one of them in full. Returns the cell."""
    cells = _cells(view, checkpoint)
    name = choose(
        "Cell: a click on the plane chooses it too",
        list(cells),
        key="cell",
        format_func=cells.__getitem__,
        help="Those on which the members differ most come first.",
    )
    i, j = map(int, name.split("-"))
    found = cell_replies(view, checkpoint, i, j)
    rows = found.head(PAGE)
    if len(found) > PAGE:
        st.caption(f"The first {PAGE} of {len(found)} replies")
    row = choose("Reply", rows["row_id"].tolist(), key="reply")
    entry = reward_entry(view, checkpoint)
    said = sample(view, checkpoint, entry.set, row) if entry is not None else None
    if said is None:
        show.empty("The transcript of this reply cannot be read.")
        return i, j
    of = rows[rows["row_id"] == row].iloc[0]
    plane = reward_plane(view, checkpoint)
    assert plane is not None
    show.line(
        f"{plane.x} {words.number(of['x'])}, {plane.y} {words.number(of['y'])}; members "
        f"differ by {words.number(of['disagreement'])}"
    )
    dialogue.messages(said.conversation())
    if part := show.folded("What was made of it"):
        with part:
            dialogue.judgement(said)
    dialogue.link(checkpoint, said.set, row)
    if part := show.folded("All replies of the cell"):
        with part:
            show.table(_listed(view, checkpoint, said.set, rows))
    return i, j


def _listed(view: View, checkpoint: str, of_set: str, rows: pd.DataFrame) -> pd.DataFrame:
    said = first_and_last(view, checkpoint, of_set, tuple(rows["row_id"]))
    frame = rows[["row_id", "category", "x", "y", "disagreement"]].merge(
        said, on="row_id", how="left"
    )
    for column in ("row_id", "category", "prompt", "reply"):
        frame[column] = frame[column].fillna("")
    return frame.rename(columns={"row_id": "row"})


@show.drawn
def _right(view: View, theme: Theme) -> Any:
    return charts.accuracy(accuracy_by_rating(view.index), theme)


def _accuracy(state: State, view: View) -> None:
    rows = accuracy_by_rating(view.index)
    if rows.empty:
        show.empty(
            "No reward model is trained yet, so there is no accuracy to show. If the run is not "
            "there yet, this goes on:",
            f"aldente resume {state.run_argument}",
        )
        return
    show.chart(_right(view, state.theme))
    if part := show.folded("The numbers: accuracy"):
        with part:
            frame = rows[["checkpoint", "rating"]].copy()
            frame["accuracy"] = [
                words.estimate(v, low, high, int(n), share=True)
                for v, low, high, n in rows[["value", "low", "high", "n"]].itertuples(index=False)
            ]
            show.table(frame)


page()
