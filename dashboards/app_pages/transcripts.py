"""Every sample: found by words, class and category, read in full, labelled by people."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd
import streamlit as st

from dashboards import dialogue, labelling, show, sidebar, words
from dashboards.controls import choose
from dashboards.data.index import View
from dashboards.data.queries import damaged
from dashboards.data.samples import (
    PAGE,
    Sample,
    SamplePage,
    categories,
    headline,
    label_counts,
    row_history,
    row_metrics,
    sample_page,
)
from dashboards.data.summaries import problems
from dashboards.sidebar import State

_SCORED = {"all": "Scored or not", "scored": "Scored", "unscored": "Unscored"}
_LONGEST = 300  # characters of a cell in the list; the transcript below has all


@dataclass(frozen=True)
class _Filter:
    """What is looked for; empty: anything."""

    set: str
    checkpoint: str
    metric: str
    category: str
    label: str
    verdict: str
    search: str
    row: str


def page() -> None:
    state = sidebar.current()
    show.heading("Transcripts", "What was asked, what was said, what was made of it; and labels.")
    if state.view is None or state.index is None:
        show.no_run(state.folder_argument)
        return
    if not state.view.entries():
        show.empty(
            "No checkpoint of this run is evaluated yet. If it is not running, this goes on:",
            f"aldente resume {state.run_argument}",
        )
        show.problems([*problems(state.view), *damaged(state.view.entries())])
        return
    wanted = _filters(state.view)
    blind = st.toggle(
        "Blind: hide what rules and judges said",
        key="blind",
        bind="query-params",
        help="A label is worth more if it was given without knowing theirs.",
    )
    opened = _list(state.view, wanted, blind=blind)
    if opened is not None:
        _sample(state, state.view, opened, blind=blind)
    labelling.all_labels(state.index.path)
    show.problems([*problems(state.view), *damaged(state.view.entries())])


def _filters(view: View) -> _Filter:
    one, two, three, four = st.columns(4)
    with one:
        of_set = choose(
            "Eval set", ["", *view.sets()], key="set", format_func=lambda n: n or "All eval sets"
        )
    known = list(dict.fromkeys(entry.checkpoint for entry in view.entries(set=of_set or None)))
    with two:
        checkpoint = choose(
            "Checkpoint", ["", *known], key="at", format_func=lambda n: n or "All checkpoints"
        )
    with three:
        category = choose(
            "Category",
            ["", *categories(view, of_set)],
            key="category",
            format_func=lambda n: n or "All categories",
        )
    with four:
        search = st.text_input(
            "Search",
            key="search",
            bind="query-params",
            placeholder="what was said, or a row",
            help="Words that anybody said, or a part of a row's name; in any case.",
        )
    one, two, three, four = st.columns(4)
    with one:
        metrics = row_metrics(view, of_set) if of_set else []
        metric = choose(
            "Verdict by",
            ["", *metrics],
            key="verdict_by",
            format_func=lambda n: words.label(f"{of_set}.{n}") if n else "Each set's first metric",
        )
    counts = label_counts(view, of_set, metric, checkpoint or None)
    named = {
        str(text): int(n) for text, n in zip(counts["label"], counts["n"], strict=True) if text
    }
    with two:
        label = choose(
            "Class seen",
            ["", *named],
            key="class",
            format_func=lambda n: f"{n} ({named[n]:,})" if n in named else "All classes",
        )
    with three:
        verdict = choose("Scored", list(_SCORED), key="scored", format_func=_SCORED.__getitem__)
    with four:
        row = st.text_input(
            "Just this row", key="row", bind="query-params", placeholder="its name, in full"
        )
    return _Filter(of_set, checkpoint, metric, category, label, verdict, search.strip(), row)


def _list(view: View, wanted: _Filter, *, blind: bool) -> Sample | None:
    """The page of rows, and the sample that is opened from it."""
    count = _page(view, wanted, 0)
    if not count.total:
        show.empty("No sample is like that on these rows; look for less above.")
        return None
    left, right = st.columns([3, 2], vertical_alignment="center")
    with right:
        number = st.pagination(count.pages, key="page", bind="query-params")
    found = _page(view, wanted, number - 1)
    with left:
        start = (number - 1) * PAGE
        st.caption(
            f"{start + 1:,}–{start + len(found.rows):,} of {found.total:,} samples, "
            "in the order of training. A click on a row opens it."
        )
    names = [
        dialogue.opened(str(row.checkpoint), str(row.set), str(row.row_id))
        for row in found.rows.itertuples(index=False)
    ]

    def opened() -> None:
        chosen = st.session_state["samples"]["selection"]["rows"]
        if chosen:
            st.session_state["open"] = names[chosen[0]]

    show.table(
        _shown(found.rows, wanted, blind=blind),
        names={"row_id": "row", "label": "class seen"},
        wide=("reply",),
        key="samples",
        on_select=opened,
    )
    name = choose("Opened", names, key="open")
    row = found.rows.iloc[names.index(name)]
    history = row_history(view, row["set"], row["row_id"])
    return next((s for s in history if s.checkpoint == row["checkpoint"]), None)


def _page(view: View, wanted: _Filter, page: int) -> SamplePage:
    return sample_page(
        view,
        wanted.set,
        wanted.metric,
        checkpoint=wanted.checkpoint or None,
        category=wanted.category,
        label=wanted.label,
        verdict=wanted.verdict,
        search=wanted.search,
        row=wanted.row.strip(),
        page=page,
    )


def _shown(rows: pd.DataFrame, wanted: _Filter, *, blind: bool) -> pd.DataFrame:
    columns = ["prompt", "reply", "checkpoint", "row_id", "set", "category"]
    if wanted.set:
        columns.remove("set")
    if not blind:
        columns[2:2] = ["label", "value"] if (rows["label"].fillna("") != "").any() else ["value"]
    if not blind and (rows["unscored"] != "").any():
        columns.append("unscored")
    frame = rows[columns].copy()
    for column in frame.columns:
        if column == "value":
            frame[column] = ["" if v != v else f"{v:.3g}" for v in frame[column].astype(float)]
        else:
            frame[column] = [str(text)[:_LONGEST] for text in frame[column].fillna("")]
    return frame


def _sample(state: State, view: View, opened: Sample, *, blind: bool) -> None:
    history = {s.checkpoint: s for s in row_history(view, opened.set, opened.row_id)}
    left, right = st.columns([3, 2], gap="large")
    with left:
        show.line(f"{opened.row_id} · {opened.set} · {opened.category or 'no category'}")
        names = list(history)
        at = st.selectbox(
            "At checkpoint",
            names,
            index=names.index(opened.checkpoint),
            key=f"shown-{opened.checkpoint}/{opened.set}/{opened.row_id}",
        )
        chosen = history[at]
        dialogue.messages(chosen.conversation())
        if not blind:
            st.subheader("What was made of it", anchor=False)
            dialogue.judgement(chosen)
    with right:
        labelling.form(view, chosen)
    st.subheader("This prompt at every checkpoint", anchor=False)
    show.table(
        _history(view, list(history.values()), blind=blind),
        names={"label": "class seen"},
        wide=("last reply",),
    )


def _history(view: View, history: list[Sample], *, blind: bool) -> pd.DataFrame:
    metric = headline(view, history[0].set)
    rows = []
    for found in history:
        scores = [s for s in found.scores if s["metric"] == metric]
        said = [m["content"] for m in found.conversation() if m["role"] == "assistant"]
        value = sum(float(s["value"]) for s in scores) / len(scores) if scores else None
        rows.append(
            {
                "checkpoint": found.checkpoint,
                words.label(f"{found.set}.{metric}"): "" if value is None else f"{value:.3g}",
                "label": " / ".join(dict.fromkeys(s["label"] for s in scores if s["label"])),
                "tokens": found.tokens,
                "last reply": said[-1] if said else "",
            }
        )
    frame = pd.DataFrame(rows)
    if blind:
        return frame.drop(columns=list(frame.columns[1:3]))
    return frame if (frame["label"] != "").any() else frame.drop(columns="label")


page()
