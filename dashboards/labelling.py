"""People's labels on a page: a form below a reply, and what was labelled so far."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from dashboards import show, words
from dashboards.data.index import View
from dashboards.data.labels import (
    KINDS,
    LOG,
    LONGEST_NOTE,
    Said,
    classes,
    commands,
    give,
    given,
    kinds,
    labels,
    replies,
)
from dashboards.data.samples import Sample
from harness.errors import IntegrityError
from harness.judges.llm.labelled import Kind

_KINDS: dict[Kind, str] = {
    "refusal": "Does it refuse?",
    "single": "How good is it, from 1 to 10?",
    "factual": "Is it right?",
}
_SAID = "label_said"  # session state: what became of the last label
_GRADES = tuple(str(grade) for grade in range(1, 11))


def form(view: View, sample: Sample) -> None:
    """Label a reply of the sample; what was said of it before is there to be changed."""
    st.subheader("Your label", anchor=False)
    run = view.index.path
    said = _reply(sample)
    if said is None:
        show.empty("This sample has no reply that could be labelled.")
        return
    name = f"{sample.checkpoint}/{sample.set}/{sample.row_id}/{said.number}"
    known = kinds(view, sample)
    kind = known[0]
    if len(known) > 1:
        kind = st.selectbox("Kind", known, format_func=_KINDS.__getitem__, key=f"kind-{name}")
    try:
        before = given(run, sample, said, kind)
    except IntegrityError as error:
        _damaged(error)
        return
    with st.form(f"label-{name}-{kind}"):
        options = classes(kind) or _GRADES
        old = None if before is None else _text(before.label)
        chosen = st.radio(
            _KINDS[kind],
            options,
            index=options.index(old) if old in options else None,
            format_func=lambda text: text.replace("_", " "),
            horizontal=classes(kind) is None,
        )
        note = st.text_area(
            "Note",
            value="" if before is None else before.note,
            max_chars=LONGEST_NOTE,
            height=80,
            placeholder="why, for whoever reads it later",
        )
        left, right = st.columns(2)
        with left:
            keep = st.form_submit_button("Keep this label", type="primary")
        with right:
            back = before is not None and st.form_submit_button("Take it back")
    if _SAID in st.session_state:
        said_so, where = st.session_state.pop(_SAID)
        st.success(said_so)
        show.text(where)
    if keep and chosen is None:
        st.warning("Choose a label first.")
    elif keep and chosen is not None:
        _write(view, sample, said, kind, chosen if classes(kind) else float(chosen), note)
    elif back:
        _write(view, sample, said, kind, None, note)


def all_labels(run: Path) -> None:
    """What was labelled in this run, and the commands that use it."""
    try:
        known = labels(run)
    except IntegrityError as error:
        _damaged(error)
        return
    part = show.folded("Labels of this run")
    if part is None:
        return
    with part:
        if known.empty:
            show.empty(
                "Nobody has labelled a reply of this run yet. Labels are kept beside the run; when "
                "there are some, this holds a judge against them:",
                *commands(run, "refusal")[:1],
            )
            return
        for kind in KINDS:
            of_kind = int((known["kind"] == kind).sum())
            if of_kind:
                st.caption(f"{_KINDS[kind]} {words.plural(of_kind, 'label')}, to be used by:")
                show.command("\n".join(commands(run, kind)))
        shown = known.drop(columns=["id", "reply"])
        show.table(shown.astype(str), names={"row_id": "row"})


def _reply(sample: Sample) -> Said | None:
    """The reply to be labelled: asked only where there are several, at first the last."""
    found = replies(sample)
    if not found:
        return None
    if len(found) == 1:
        return found[0]
    number = st.selectbox(
        "Which reply",
        [said.number for said in found],
        index=len(found) - 1,
        format_func=lambda number: f"Reply {number}",
        key=f"reply-{sample.checkpoint}/{sample.set}/{sample.row_id}",
    )
    return next(said for said in found if said.number == number)


def _write(
    view: View, sample: Sample, said: Said, kind: Kind, label: str | float | None, note: str
) -> None:
    try:
        path = give(view, sample, said, kind, label, note)
    except OSError as error:
        st.error("The label could not be written. The run's folder must be writable:")
        show.text(str(error))
        return
    except IntegrityError as error:
        _damaged(error)
        return
    st.session_state[_SAID] = ("Taken back, in" if label is None else "Kept, in", str(path))
    st.rerun()  # the form as it is now, with the label in it


def _damaged(error: IntegrityError) -> None:
    st.error(f"`{LOG}` of this run is damaged, so labels are not shown:")
    show.text(str(error))


def _text(label: str | float) -> str:
    return label if isinstance(label, str) else f"{label:g}"
