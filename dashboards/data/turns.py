"""A consistency dialogue turn by turn: what was said at each, and whether the instruction held."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd

from dashboards.data.index import View
from dashboards.data.queries import query
from dashboards.data.remembering import remembered
from dashboards.data.samples import Sample, sample

_CHECKED = ("held", "control")
# A dialogue a line: the first turn of which some check failed, and how many turns were checked.
_LIST = """
select row_id, category, split,
       list_min(list_transform(list_filter(checks, lambda s: s.value < 1), lambda s: s.turn))
           as lost,
       list_max(list_transform(checks, lambda s: s.turn)) as turns
from (select *, list_filter(scores, lambda s: s.metric = $metric) as checks from samples)
where ($split = 'all' or split = $split) and len(checks) > 0
order by lost nulls last, file_row_number limit $limit
"""


@dataclass(frozen=True)
class Turn:
    """One turn: the dialogue's own messages, and apart from them those of branches, which were
    asked aside and are not part of what follows. ``checks``: how many there were, ``held``: how
    many of them the instruction passed."""

    number: int
    messages: tuple[dict[str, Any], ...]
    aside: tuple[dict[str, Any], ...]
    checks: int
    held: int


@remembered(64)
def dialogues(
    view: View,
    set: str,  # noqa: A002
    checkpoint: str,
    metric: str = "held",
    limit: int = 50,
) -> pd.DataFrame:
    """At most ``limit`` dialogues of a checkpoint, the soonest lost first.

    Columns ``row_id, category, split, lost`` (the turn of the first failed check, NaN if none
    failed) and ``turns`` (the last that was checked). ``metric``: ``held`` or ``control``.
    """
    found = query(
        view.entries(checkpoint=checkpoint, set=set),
        _LIST,
        {"metric": metric, "split": view.split, "limit": limit},
    )
    columns = ["row_id", "category", "split", "lost", "turns"]
    return found if len(found) else pd.DataFrame(columns=columns)


def turns(view: View, set: str, checkpoint: str, row_id: str) -> tuple[Turn, ...]:  # noqa: A002
    """The dialogue of one row; empty if it cannot be read."""
    found = sample(view, checkpoint, set, row_id)
    return () if found is None else by_turns(found)


def by_turns(found: Sample) -> tuple[Turn, ...]:
    """A sample cut into its turns: each ends with the reply that the dialogue goes on from."""
    checks: dict[int, list[float]] = {}
    for score in found.scores:
        if score["metric"] in _CHECKED and score.get("turn") is not None:
            checks.setdefault(int(score["turn"]), []).append(float(score["value"]))
    parts: list[Turn] = []
    said: list[dict[str, Any]] = []
    aside: list[dict[str, Any]] = []

    def close() -> None:
        number = len(parts) + 1
        passed = checks.get(number, [])
        held = sum(value >= 1.0 for value in passed)
        parts.append(Turn(number, tuple(said), tuple(aside), len(passed), held))
        said.clear()
        aside.clear()

    for message in found.conversation():
        if message.get("branch"):
            aside.append(message)
            continue
        said.append(message)
        if message.get("role") == "assistant":
            close()
    if said or aside:  # a request failed and ended the dialogue
        close()
    return tuple(parts)
