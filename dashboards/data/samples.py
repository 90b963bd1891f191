"""Single rows, found by SQL and given a page at a time; whole transcripts one by one."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from dashboards.data.index import EvalEntry, Split, View
from dashboards.data.metrics import catalogue
from dashboards.data.queries import query
from dashboards.data.remembering import remembered
from dashboards.data.scores import read_already, scores

PAGE = 50  # rows a page, everywhere

# Of a row's scores those by the metric looked at, which may be another for each evaluation, so that
# sets can be searched side by side.
_CHOSEN = "list_filter(scores, lambda s: s.metric = $metrics[entry + 1])"
_VALUE = f"list_aggregate(list_transform({_CHOSEN}, lambda s: s.value), 'avg')"
_LABEL = (
    f"array_to_string(list_distinct(list_filter(list_transform({_CHOSEN}, lambda s: s.label), "
    "lambda l: l is not null)), ' / ')"
)
# Only those that are asked for are put into the query: a condition costs a column of every row.
_CONDITIONS = {
    "split": "split = $split",
    "category": "category = $category",
    "row": "row_id = $row",
    # In its decoded form, so that quotes and line ends are found as typed.
    "search": "(contains(lower(row_id), lower($search)) or len(list_filter("
    "json_extract_string(transcript, '$[*].content'), "
    "lambda t: contains(lower(t), lower($search)))) > 0)",
    "label": f"{_LABEL} = $label",
}
_SCORED = {"scored": f"{_VALUE} is not null", "unscored": f"{_VALUE} is null"}
# Which rows first, then what is in them: taking 50 apart is quick, 200,000 is not.
_PLACES = "order by entry, file_row_number limit $limit offset $offset"
_ROWS = f"""
select entry, row_id, category, split, $metrics[entry + 1] as metric, {_VALUE} as value,
       {_LABEL} as label, tokens, transcript,
       array_to_string(list_transform(
           list_filter(unscored, lambda u: u.metric = $metrics[entry + 1]),
           lambda u: u.reason), '; ') as unscored,
       array_to_string(finish_reasons, ', ') as finish_reasons
from samples
join (select unnest($entries) as entry, unnest($rows) as file_row_number)
    using (entry, file_row_number)
order by entry, file_row_number
"""
_LABELS = """
, scored as (select entry, split, unnest(scores) as score from samples)
select entry, split, score.metric as metric, coalesce(score.label, '') as label, count(*) as n
from scored group by all
"""
_COLUMNS = [
    *("checkpoint", "set", "row_id", "category", "split", "metric", "value", "label", "unscored"),
    *("tokens", "finish_reasons", "prompt", "reply"),
]


@dataclass(frozen=True)
class SamplePage:
    """``rows``: checkpoint, set, row_id, category, split, metric, value, label, unscored (why),
    tokens, finish_reasons, prompt (the first), reply (the last). ``total``: of all pages."""

    rows: pd.DataFrame
    total: int
    page: int

    @property
    def pages(self) -> int:
        """How many pages there are; at least one."""
        return max(1, -(-self.total // PAGE))


@dataclass(frozen=True)
class Sample:
    """One row in full. Messages are as in samples.parquet: role, content, branch?, judge?, …"""

    checkpoint: str
    set: str
    version: str
    row_id: str
    category: str
    cluster: str
    split: str
    messages: list[dict[str, Any]]
    scores: list[dict[str, Any]]
    unscored: list[dict[str, Any]]
    tokens: int
    finish_reasons: list[str]

    def conversation(self) -> list[dict[str, Any]]:
        """What the policy was asked and said, side branches included; nothing of the judge's."""
        return [message for message in self.messages if not message.get("judge")]

    def judging(self) -> list[dict[str, Any]]:
        """What a judge model was asked and said, if one was."""
        return [message for message in self.messages if message.get("judge")]


def headline(view: View, set: str) -> str:  # noqa: A002
    """The metric of a set that tells most about a row: the first that the probe names, of replies
    scored by reward models the reward."""
    names = row_metrics(view, set)
    return "proxy" if "proxy" in names else names[0] if names else ""


def row_metrics(view: View, set: str) -> list[str]:  # noqa: A002
    """The metrics of a set, without its name."""
    return [n.partition(".")[2] for n in catalogue(view) if n.partition(".")[0] == set]


@remembered(128)
def sample_page(
    view: View,
    set: str = "",  # noqa: A002
    metric: str = "",
    *,
    checkpoint: str | None = None,
    category: str = "",
    label: str = "",
    verdict: str = "all",
    search: str = "",
    row: str = "",
    page: int = 0,
) -> SamplePage:
    """``PAGE`` rows of one set, or of all; of one checkpoint, or of all in the order of training.

    Args:
        set: its name; all sets if empty.
        metric: without the set's name; its value and label are given. Empty: each set's headline.
        verdict: all, scored or unscored, by that metric.
        search: part of a row's id, or of what somebody said, in any case.
        row: one row's id.
    """
    entries = view.entries(checkpoint=checkpoint, set=set or None)
    metrics = _metrics(view, entries, metric)
    given: dict[str, Any] = {"category": category, "row": row, "search": search, "label": label}
    given = {name: value for name, value in given.items() if value}
    given |= {} if view.split == "all" else {"split": view.split}
    conditions = [_CONDITIONS[name] for name in given]
    conditions += [_SCORED[verdict]] if verdict in _SCORED else []
    if "label" in given or verdict in _SCORED:
        given["metrics"] = metrics
    where = f" from samples where {' and '.join(conditions) or 'true'} "
    known = _known(entries, view.split, page) if {*given} <= {"split"} else None
    if known is not None:
        total, places = known
    else:
        total = _total(query(entries, "select count(*) as n" + where, given))
        found = query(
            entries,
            "select entry, file_row_number" + where + _PLACES,
            {**given, "limit": PAGE, "offset": page * PAGE},
        )
        places = [] if found.empty else list(found.astype(int).itertuples(index=False, name=None))
    if not places:
        return SamplePage(pd.DataFrame(columns=_COLUMNS), total, page)
    there = sorted({place for place, _ in places})
    metrics = [metrics[place] for place in there]
    chosen = {
        "metrics": metrics,
        "entries": [there.index(place) for place, _ in places],
        "rows": [number for _, number in places],
    }
    entries = [entries[place] for place in there]
    frame = query(entries, _ROWS, chosen)
    if frame.empty:
        return SamplePage(pd.DataFrame(columns=_COLUMNS), total, page)
    said = [_messages(text) for text in frame["transcript"]]
    frame["checkpoint"] = [entries[int(i)].checkpoint for i in frame["entry"]]
    frame["set"] = [entries[int(i)].set for i in frame["entry"]]
    frame["prompt"] = [_said(messages, "user", 0) for messages in said]
    frame["reply"] = [_said(messages, "assistant", -1) for messages in said]
    return SamplePage(frame[_COLUMNS], total, page)


def _known(
    entries: list[EvalEntry], split: Split, page: int
) -> tuple[int, list[tuple[int, int]]] | None:
    """How many rows of a split there are, and where those of a page are (entry, row of its file),
    if that is known already."""
    if not read_already(entries):  # the two queries that it saves are quicker than that
        return None
    found = scores(entries)
    counts = [
        int(found[i].rows.within(split).sum()) if i in found else 0 for i in range(len(entries))
    ]
    start = page * PAGE
    places: list[tuple[int, int]] = []
    for i, count in enumerate(counts):
        if start < count and len(places) < PAGE:
            rows = np.flatnonzero(found[i].rows.within(split))[start : start + PAGE - len(places)]
            places += [(i, int(row)) for row in rows]
        start = max(0, start - count)
    return sum(counts), places


@remembered(64, rows=False)
def first_and_last(
    view: View,
    checkpoint: str,
    set: str,  # noqa: A002
    rows: tuple[str, ...],
) -> pd.DataFrame:
    """The first prompt and the last reply of these rows: row_id, prompt, reply."""
    found = query(
        view.entries(checkpoint=checkpoint, set=set),
        "select row_id, transcript from samples where list_contains($rows, row_id)",
        {"rows": list(rows)},
    )
    said = [] if found.empty else [_messages(text) for text in found["transcript"]]
    return pd.DataFrame(
        {
            "row_id": [] if found.empty else found["row_id"].tolist(),
            "prompt": [_said(messages, "user", 0) for messages in said],
            "reply": [_said(messages, "assistant", -1) for messages in said],
        },
        dtype=object,
    )


@remembered(64)
def label_counts(
    view: View,
    set: str,  # noqa: A002
    metric: str = "",
    checkpoint: str | None = None,
) -> pd.DataFrame:
    """How often each class was seen: label, n; the commonest first."""
    sets = [set] if set else view.sets()
    wanted = {name: metric or headline(view, name) for name in sets}
    found = _labels(view, set)
    kept = found["metric"] == found["set"].map(wanted)
    if view.split != "all":
        kept &= found["split"] == view.split
    if checkpoint is not None:
        kept &= found["checkpoint"] == checkpoint
    counts = found[kept].groupby("label")["n"].sum().reset_index()
    return counts.sort_values(["n", "label"], ascending=[False, True], ignore_index=True)


@remembered(64, rows=False)
def _labels(view: View, set: str) -> pd.DataFrame:  # noqa: A002
    """checkpoint, set, split, metric, label, n: all classes of a set ("": of all sets) in one
    table, so that it is read once for all pages and splits."""
    entries = view.entries(set=set or None)
    found = query(entries, _LABELS)
    if found.empty:
        return pd.DataFrame(columns=["checkpoint", "set", "split", "metric", "label", "n"])
    places = [entries[int(place)] for place in found["entry"]]
    return found.assign(
        checkpoint=[entry.checkpoint for entry in places], set=[entry.set for entry in places]
    ).drop(columns="entry")


@remembered(64, rows=False)
def categories(view: View, set: str = "") -> list[str]:  # noqa: A002
    """The categories of a set, or of all."""
    first = {entry.set: entry for entry in reversed(view.entries(set=set or None))}
    found = query(list(first.values()), "select distinct category from samples order by category")
    return [str(c) for c in found["category"] if c] if len(found) else []


@remembered(64, rows=False)
def row_history(view: View, set: str, row_id: str) -> tuple[Sample, ...]:  # noqa: A002
    """The same row at every checkpoint, in the order of training."""
    return _samples(view.entries(set=set), row_id)


@remembered(64, rows=False)
def sample(view: View, checkpoint: str, set: str, row_id: str) -> Sample | None:  # noqa: A002
    """One row of one checkpoint in full."""
    found = _samples(view.entries(checkpoint=checkpoint, set=set), row_id)
    return found[0] if found else None


def reasons(found: Sample) -> pd.DataFrame:
    """What was made of a sample: metric, turn, value, label, why; unscored metrics too.

    ``why``: the rule that fired, the words that it saw, the parts of a grade, as they were
    recorded; for what is unscored the reason.
    """
    rows = [
        (s["metric"], _turn(s.get("turn")), s.get("value"), s.get("label") or "", _why(s))
        for s in found.scores
    ]
    rows += [
        (u["metric"], _turn(u.get("turn")), None, "unscored", u.get("reason") or "")
        for u in found.unscored
    ]
    frame = pd.DataFrame(rows, columns=["metric", "turn", "value", "label", "why"])
    return frame.astype({"value": float})


def _turn(turn: Any) -> str:
    return "" if turn is None else str(turn)


def _why(score: dict[str, Any]) -> str:
    """The detail of a score, as ``name: value`` one after the other."""
    detail = score.get("detail")
    if isinstance(detail, str):
        try:
            detail = json.loads(detail)
        except ValueError:
            return str(detail)
    if not isinstance(detail, dict):
        return ""
    return "; ".join(f"{name}: {_compact(value)}" for name, value in detail.items() if value != "")


def _compact(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_compact(inner)}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(_compact, value))
    return value if isinstance(value, str) else json.dumps(value)


def _samples(entries: list[EvalEntry], row_id: str) -> tuple[Sample, ...]:
    frame = query(
        entries,
        "select entry, row_id, category, cluster, split, transcript, to_json(scores) as scores, "
        "to_json(unscored) as unscored, tokens, finish_reasons from samples "
        "where row_id = $row order by entry",
        {"row": row_id},
    )
    return tuple(
        Sample(
            entries[int(row["entry"])].checkpoint,
            entries[int(row["entry"])].set,
            entries[int(row["entry"])].version,
            row["row_id"],
            row["category"],
            row["cluster"],
            row["split"],
            json.loads(row["transcript"]),
            json.loads(row["scores"]),
            json.loads(row["unscored"]),
            int(row["tokens"]),
            list(row["finish_reasons"]),
        )
        for row in frame.to_dict("records")
    )


def _metrics(view: View, entries: list[EvalEntry], metric: str) -> list[str]:
    """The metric to look at, for each evaluation."""
    return [metric or headline(view, entry.set) for entry in entries]


def _messages(transcript: str) -> list[dict[str, Any]]:
    found = json.loads(transcript)
    return [m for m in found if isinstance(m, dict) and not m.get("judge")]


def _said(messages: list[dict[str, Any]], role: str, which: int) -> str:
    said = [m.get("content") for m in messages if m.get("role") == role]
    return str(said[which] or "") if said else ""


def _total(frame: pd.DataFrame) -> int:
    return int(frame["n"].iloc[0]) if len(frame) else 0
