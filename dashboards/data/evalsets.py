"""The eval sets of a run: what their cards say, and whether it is the card that was used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pandas as pd

from dashboards.data.index import EvalEntry, View
from dashboards.data.queries import query
from dashboards.data.remembering import remembered
from dashboards.data.schedule import plan
from dashboards.data.summaries import opened
from harness.errors import InputError
from harness.evalsets import CARD, Card, find_folder, list_evalsets, read_card, read_folder
from harness.probes.protocol import Row

Match = Literal["same", "other", "none"]


@dataclass(frozen=True)
class SetCard:
    """One eval set as this run used it.

    ``card`` is what is found on this machine; ``match`` says whether its rows hash to those used
    ("other": another version, or asked in another way, such as with a limit or a system prompt).
    ``checkpoints`` counts those evaluated on it.
    """

    set: str
    version: str
    card_version: str
    hash: str
    probe: str
    rows: int
    checkpoints: int
    wordings: str
    system_prompt: str | None
    judged: bool
    card: Card | None
    match: Match


@remembered(16, rows=False)
def set_cards(view: View) -> tuple[SetCard, ...]:
    """Every set in view, in the run's order."""
    found = []
    for name in view.sets():
        entries = view.entries(set=name)
        evaluation = next((e for e in map(opened, entries) if e is not None), None)
        if evaluation is None:
            continue
        said = evaluation.summary
        card, match = _card(view, name, evaluation.hash)
        found.append(
            SetCard(
                set=name,
                version=entries[0].version,
                card_version=str(said.get("version", "")),
                hash=evaluation.hash,
                probe=str(said.get("probe", "")),
                rows=int(said.get("rows", 0)),
                checkpoints=len({e.checkpoint for e in entries}),
                wordings=str(said.get("wordings", "first")),
                system_prompt=said.get("system_prompt"),
                judged=said.get("judge") is not None,
                card=card,
                match=match,
            )
        )
    return tuple(found)


def composition(view: View, set: str) -> pd.DataFrame:  # noqa: A002
    """How many rows of each category fall into each split: category, split, rows, clusters."""
    entries: list[EvalEntry] = view.entries(set=set)[:1]
    sql = (
        "select category, split, count(*) as rows, count(distinct cluster) as clusters "
        "from samples group by all order by all"
    )
    found = query(entries, sql)
    return found if len(found) else pd.DataFrame(columns=["category", "split", "rows", "clusters"])


def set_rows(view: View, set: str) -> Mapping[str, Row]:  # noqa: A002
    """Row id -> the row of the eval set that was used, if just that is found on this machine.

    For what the samples do not repeat, such as the answers that are accepted. Empty if the set is
    not here, or not in the version (or with as many rows) as the run used.
    """
    evaluation = next((e for e in map(opened, view.entries(set=set)) if e is not None), None)
    return {} if evaluation is None else _rows(view, set, evaluation.hash)


@remembered(32, rows=False)
def _rows(view: View, name: str, digest: str) -> Mapping[str, Row]:
    for candidate in _names(view, name):
        try:
            found = read_folder(find_folder(candidate))
        except InputError:
            continue
        if found.hash == digest:
            return {row.id: row for row in found.rows}
    return {}


def set_folder(view: View, set: str) -> Path | None:  # noqa: A002
    """The folder of the set on this machine, if possible the one whose rows were used."""
    evaluation = next((e for e in map(opened, view.entries(set=set)) if e is not None), None)
    first: Path | None = None
    for candidate in _names(view, set):
        try:
            folder = find_folder(candidate)
            found = read_folder(folder)
        except InputError:
            continue
        if evaluation is not None and found.hash == evaluation.hash:
            return folder
        first = first or folder
    return first


def _names(view: View, name: str) -> list[str]:
    """What the set may be called on this machine: by the schedule's name, else any of its name."""
    said = plan(view.index).sets.get(name)
    return [said] if said else [n for n in list_evalsets() if n.rpartition("/")[2] == name]


def _card(view: View, name: str, digest: str) -> tuple[Card | None, Match]:
    """The card that made this set: by the schedule's name for it, else any of that name."""
    other: Card | None = None
    for candidate in _names(view, name):
        try:
            folder = find_folder(candidate)
            other = other or read_card(folder / CARD)
            found = read_folder(folder)
        except InputError:
            continue
        if found.hash == digest:
            return found.card, "same"
    return other, "none" if other is None else "other"
