"""A sample on the screen: who said what, each message as text in a block of its own.

Who speaks stands outside the blocks, in our own words, so that no reply can pretend to be the next
speaker.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from dashboards import show
from dashboards.data.samples import Sample, reasons

_WHO = {"system": "System", "user": "User", "assistant": "Reply"}
_SIDEBAR = ("run", "baseline", "level", "rows")
_ENDS = {"length": "cut off at the longest length", "error": "the request failed"}


def opened(checkpoint: str, of_set: str, row: str) -> str:
    """What the transcripts page calls a sample, in its URL too."""
    return f"{checkpoint} / {of_set} / {row}"


def link(checkpoint: str, of_set: str, row: str) -> None:
    """To the transcripts page: this row at every checkpoint, this one opened, nothing left out."""
    given = st.query_params.to_dict()
    sidebar = {k: v for k, v in given.items() if k in _SIDEBAR or k.startswith("version-")}
    st.page_link(
        "app_pages/transcripts.py",
        label="This prompt at every checkpoint →",
        query_params={
            **sidebar,
            **dict.fromkeys(("at", "category", "verdict_by", "class", "search"), ""),
            "scored": "all",
            "set": of_set,
            "row": row,
            "open": opened(checkpoint, of_set, row),
        },
    )


def messages(said: Sequence[Mapping[str, Any]]) -> None:
    """Messages as in samples.parquet, one below the other; replies are counted if several."""
    number = 0
    several = sum(message.get("role") == "assistant" for message in said) > 1
    for message in said:
        who = _WHO.get(str(message.get("role")), "Somebody else")
        if who == "Reply" and several:
            number += 1
            who = f"Reply {number}"
        remarks = [_ENDS[end] for end in [message.get("finish_reason")] if end in _ENDS]
        if message.get("branch"):
            remarks.insert(0, "asked aside, not part of what follows")
        st.caption(f"{who} ({'; '.join(remarks)})" if remarks else who)
        show.text(str(message.get("content") or ""))


def judgement(sample: Sample) -> None:
    """What rules, rubrics, reward models or a judge made of it, with their reasons."""
    found = reasons(sample)
    if found.empty:
        show.empty("Nothing was made of this reply.")
        return
    found["value"] = ["" if v != v else f"{v:.3g}" for v in found["value"]]
    kept = [c for c in found.columns if c == "metric" or (found[c] != "").any()]
    show.table(found[kept], names={"label": "class seen"}, wide=("why",))
    judged = sample.judging()
    if judged and (part := show.folded("What the judge was asked and said")):
        with part:
            messages(judged)
