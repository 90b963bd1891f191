"""What the run was measured with: cards, versions, sizes, what they can show, what is wrong."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboards import show, sidebar, words
from dashboards.charts.rows import rows_of
from dashboards.controls import choose
from dashboards.data import checking
from dashboards.data.checking import Checked
from dashboards.data.evalsets import SetCard, composition, set_cards
from dashboards.data.index import View
from dashboards.data.queries import damaged
from dashboards.data.summaries import problems

_MATCHES = {
    "same": "these very rows",
    "other": "another version, or asked in another way",
    "none": "not found",
}


def page() -> None:
    state = sidebar.current()
    show.heading("Eval sets", "What the numbers are over, and how small a change they can show.")
    cards = () if state.view is None else set_cards(state.view)
    if state.view is None:
        show.empty(
            "There is no run in this folder yet. The sets that are here are listed by the second "
            "command.",
            f"aldente run schedules/pocket.yaml --runs {state.folder_argument}",
            "aldente evalset ls",
        )
    elif not cards:
        show.empty(
            "No checkpoint of this run is evaluated yet. If it is not running, this goes on:",
            f"aldente resume {state.run_argument}",
        )
    else:
        _all(state.view, cards)
        name = choose("Eval set", [card.set for card in cards], key="set")
        _one(state.view, next(card for card in cards if card.set == name))
    _dropped()
    if state.view is not None:
        show.problems([*problems(state.view), *damaged(state.view.entries())])


def _all(view: View, cards: tuple[SetCard, ...]) -> None:
    rows = []
    for card in cards:
        parts = composition(view, card.set).groupby("split")["rows"].sum()
        rows.append(
            {
                "set": card.set,
                "probe": card.probe,
                "version": card.card_version,
                "hash": card.hash[:12],
                "rows": card.rows,
                "A": int(parts.get("A", 0)),
                "B": int(parts.get("B", 0)),
                "checkpoints": card.checkpoints,
                "judge": card.judged,
                "here": _MATCHES[card.match],
            }
        )
    show.table(pd.DataFrame(rows), names={"here": "on this machine"})


def _one(view: View, of: SetCard) -> None:
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("The card", anchor=False)
        _card(of)
    with right:
        st.subheader("The rows", anchor=False)
        _composition(view, of.set)
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("The smallest change that a gate can see", anchor=False)
        _effects(view, of.set)
    with right:
        st.subheader("Problems", anchor=False)
        _problems(view, of)


def _card(of: SetCard) -> None:
    if of.card is None:
        show.empty(
            "The card of this set is not on this machine; what the run recorded is in the table "
            "above. Sets that are here:",
            "aldente evalset ls",
        )
    elif of.match == "other":
        st.warning(
            "The set of this name on this machine is not the one that the run used (another "
            "version, a limit, a system prompt): its card may say something else."
        )
    said: list[tuple[str, str]] = [("hash", of.hash), ("wordings", of.wordings)]
    if of.system_prompt is not None:
        said.append(("system prompt", of.system_prompt))
    if of.card is not None:
        fields = of.card.model_dump(mode="json")
        said += [(name.replace("_", " "), str(text)) for name, text in fields.items() if text]
    show.text("\n".join(f"{name}: {text}" for name, text in said))


def _composition(view: View, name: str) -> None:
    parts = composition(view, name)
    table: dict[str, dict[str, str | int]] = {}
    for row in rows_of(parts):
        category = str(row["category"]) or "(none)"
        line = table.setdefault(category, {"category": category, "A": 0, "B": 0, "clusters": 0})
        line[str(row["split"])] = int(row["rows"])
        line["clusters"] = int(line["clusters"]) + int(row["clusters"])
    show.table(pd.DataFrame(list(table.values())))
    st.caption(
        "Rows by category and split. Those of one cluster are never divided, and count as one "
        "observation where intervals are made."
    )


def _effects(view: View, name: str) -> None:
    rows = checking.effects(view, name)
    if rows.empty:
        show.empty("The samples of this set cannot be read, so nothing can be said about it.")
        return
    table: dict[float, dict[str, str]] = {}
    for row in rows_of(rows):
        line = table.setdefault(
            row["limit"],
            {"limit of a rate": words.number(row["limit"], share=True), "gate": row["of"]},
        )
        effect = row["effect"]
        told = "none can be seen" if effect != effect else f"+{words.number(effect, share=True)}"
        line[f"split {row['split']}, n = {row['clusters']}"] = told
    frame = pd.DataFrame(list(table.values()))
    show.table(frame if (frame["gate"] != "").any() else frame.drop(columns="gate"))
    st.caption(
        "How far a rate must truly be beyond a limit for the gate to fail it in 4 of 5 "
        "evaluations (95 % intervals, exact binomial, a cluster counted once). Rules `at_least` "
        "are shown by their complement."
    )


def _problems(view: View, of: SetCard) -> None:
    found = checking.hollow(view, of)
    if found.empty:
        st.caption("Every row could be scored, at every checkpoint.")
    else:
        st.caption(f"{words.plural(int(found['rows'].sum()), 'score')} could not be given:")
        show.table(found)
    if of.match == "none":
        show.empty("The rows are not on this machine, so they cannot be checked here.")
        return
    if not st.toggle(
        "Read all rows and look for more",
        key=f"look-{of.set}",
        help="Unusable rows, unseen characters, rows that are nearly the same. Takes a few "
        "seconds for a large set.",
    ):
        return
    checked = checking.check_set(view, of.set)
    if checked is not None:
        _messages(checked)


def _dropped() -> None:
    st.subheader("Check a set of your own", anchor=False)
    st.caption(
        "Drop a card and its rows, or only the rows. They are checked as `aldente evalset check` "
        "does it; nothing is kept."
    )
    files = st.file_uploader(
        "card.yaml and rows.jsonl",
        type=[kind.removeprefix(".") for kind in checking.KINDS],
        accept_multiple_files=True,
        max_upload_size=checking.LARGEST,
        key="dropped",
    )
    if not files:
        return
    given = [(file.name, file.getvalue()) for file in files]
    probe = "refusal"
    if not any(name.lower().endswith((".yaml", ".yml")) for name, _ in given):
        probe = st.selectbox("Rows of which probe", checking.probes(), key="dropped-probe")
    checked = checking.check_files(given, probe)
    if checked.hash:
        show.line(f"{checked.name}: {words.plural(checked.rows, 'row')}, {checked.hash}")
    elif checked.rows:
        show.line(words.plural(checked.rows, "row"))
    _messages(checked)
    left, right = st.columns(2, gap="large")
    with left:
        if not checked.effects.empty:
            st.caption("The smallest change that a gate can see, rows taken as independent")
            frame = checked.effects.copy()
            frame["rate"] = [words.number(rate, share=True) for rate in frame["rate"]]
            frame["effect"] = [
                "none can be seen" if e != e else f"+{words.number(e, share=True)}"
                for e in frame["effect"]
            ]
            frame["n"] = [checked.by_split[str(split)] for split in frame["split"]]
            show.table(frame, names={"rate": "limit of a rate"})
    with right:
        if checked.by_category:
            st.caption("Rows by category")
            frame = pd.DataFrame(
                [(name or "(none)", n) for name, n in checked.by_category.items()],
                columns=["category", "rows"],
            )
            show.table(frame)
    if checked.metrics:
        st.caption("Metrics that it gives, and what they need besides the model")
        rows = [(name, ", ".join(needs)) for name, needs in checked.metrics.items()]
        show.table(pd.DataFrame(rows, columns=["metric", "needs"]))


def _messages(checked: Checked) -> None:
    if checked.errors:
        st.error(
            f"{words.plural(len(checked.errors), 'error')}: an evaluation would refuse this set."
        )
        show.text("\n".join(checked.errors))
    if checked.warnings:
        st.warning(f"{words.plural(len(checked.warnings), 'warning')}: worth a look.")
        show.text("\n".join(checked.warnings))
    if checked.more:
        st.caption(f"And {checked.more:,} more, which `aldente evalset check` lists.")
    if not checked.errors and not checked.warnings:
        st.success("Nothing is wrong with the rows.")


page()
