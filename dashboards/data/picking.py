"""The pick as ``aldente pick`` makes it, and writing it down.

The schedule's goal is read as plain YAML (``data.schedule``) and handed to ``harness.selection``,
with the same evaluations in the same order: what is shown, what is written and what the command
says are one thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dashboards.data.index import RunIndex, read_index
from dashboards.data.schedule import plan
from harness.selection import Selection, pick
from harness.store.kinds import REWARD
from harness.store.run import Run


@dataclass(frozen=True)
class _Constraint:
    metric: str
    at_most: float | None = None
    at_least: float | None = None


@dataclass(frozen=True)
class _Goal:
    maximize: str | None
    minimize: str | None
    subject_to: tuple[_Constraint, ...]


@lru_cache(maxsize=32)
def selection(index: RunIndex) -> Selection | None:
    """What the schedule's pick chooses among what is evaluated; None if it has no pick.

    Raises ``InputError`` and ``IntegrityError`` where ``aldente pick`` would.
    """
    goal = _goal(index)
    if goal is None:
        return None
    run = Run.open(index.path)
    policies = [c.name for c in index.checkpoints if c.kind != REWARD]
    found = [run.evaluation(name) for name in policies]
    return pick([evaluation for evaluation in found if evaluation is not None], goal)


def is_recorded(index: RunIndex, chosen: Selection) -> bool:
    """Whether selection.json says the same already."""
    known = index.selection
    return known is not None and (known.get("picked"), known.get("reason")) == (
        chosen.picked,
        chosen.reason,
    )


def record(path: Path) -> Selection:
    """Make the pick anew and replace the run's selection.json by it; holds the run's lock.

    Where the run is over, the event ``picked`` is appended too, so that ``status`` says the same.
    While it is not, the run itself has yet to pick, and takes such an event for its own.

    Raises ``LockedError`` while somebody writes the run, ``ValueError`` if its schedule has no
    pick, and what ``selection`` and the disk raise.
    """
    run = Run.open(path)
    with run.lock():
        index = read_index(path)
        chosen = selection(index)
        if chosen is None:
            raise ValueError(f"{path}: the schedule has no pick")
        run.write_selection(chosen)
        if index.last("done") is not None:
            run.append("picked", picked=chosen.picked, reason=chosen.reason)
    return chosen


def _goal(index: RunIndex) -> _Goal | None:
    said = plan(index)
    if said.goal is None:
        return None
    constraints = tuple(
        _Constraint(
            limit.metric,
            limit.value if limit.kind == "at_most" else None,
            limit.value if limit.kind == "at_least" else None,
        )
        for limit in said.limits
        if limit.source == "pick" and limit.kind != "drop"
    )
    return _Goal(
        said.goal if said.maximize else None, None if said.maximize else said.goal, constraints
    )
