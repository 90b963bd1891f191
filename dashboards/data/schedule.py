"""What a run's schedule says that pages need: gates, the pick, the stages and their lengths.

Read as plain YAML, not through the trainers' models: the dashboard shows runs on machines where
nothing can be trained. What is missing or odd is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from dashboards.data.index import RunIndex
from harness.store.kinds import RL_KINDS


@dataclass(frozen=True)
class Limit:
    """A gate, or a condition of the pick. ``value`` is the number in the rule.

    ``kind`` ``drop``: how far the metric may fall since the checkpoint that ``against`` means.
    ``stages``: names of the stages that a gate watches; None: every stage.
    """

    metric: str
    kind: Literal["at_most", "at_least", "drop"]
    value: float
    source: Literal["gate", "pick"]
    on_fail: str | None = None
    against: str | None = None
    stages: tuple[str, ...] | None = None

    def words(self) -> str:
        """The rule in a line, as ``aldente status`` names it."""
        if self.kind == "drop":
            return f"{self.metric} drop at most {self.value:g} against {self.against}"
        return f"{self.metric} {self.kind.replace('_', ' ')} {self.value:g}"


@dataclass(frozen=True)
class StagePlan:
    """A stage as the schedule has it; ``epochs`` is None if it does not say."""

    name: str
    kind: str
    epochs: int | None


@dataclass(frozen=True)
class Plan:
    """What the schedule says; empty where it could not be read."""

    stages: tuple[StagePlan, ...]
    limits: tuple[Limit, ...]
    goal: str | None  # the metric of the pick
    maximize: bool
    sets: Mapping[str, str]  # set's name in the run -> what the schedule calls it

    def limits_on(self, metric: str) -> list[Limit]:
        return [limit for limit in self.limits if limit.metric == metric]


EMPTY = Plan((), (), None, True, {})


@lru_cache(maxsize=32)
def plan(index: RunIndex) -> Plan:
    """The run's resolved schedule."""
    try:
        text = (index.path / "schedule.yaml").read_text(encoding="utf-8")
        found = YAML(typ="safe", pure=True).load(text)
    except (OSError, UnicodeDecodeError, YAMLError):
        return EMPTY
    if not isinstance(found, dict):
        return EMPTY
    stages = tuple(_stage(entry) for entry in _list(found.get("stages")) if _mapping(entry))
    watched = tuple(stage.name for stage in stages if stage.kind in RL_KINDS)
    gates = [_limit(entry, "gate", watched) for entry in _list(found.get("gates"))]
    pick = _mapping(found.get("pick"))
    conditions = [_limit(entry, "pick", None) for entry in _list(pick.get("subject_to"))]
    goal = pick.get("maximize") or pick.get("minimize")
    return Plan(
        stages,
        tuple(limit for limit in gates + conditions if limit is not None),
        str(goal) if goal else None,
        pick.get("maximize") is not None,
        _sets(found.get("evaluate")),
    )


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _stage(entry: dict[str, Any]) -> StagePlan:
    kind, fields = next(iter(entry.items()))
    fields = _mapping(fields)
    epochs = fields.get("epochs")
    return StagePlan(
        str(fields.get("name") or kind), str(kind), epochs if isinstance(epochs, int) else None
    )


def _limit(
    entry: Any, source: Literal["gate", "pick"], watched: tuple[str, ...] | None
) -> Limit | None:
    fields = _mapping(entry)
    kinds: tuple[tuple[str, Literal["at_most", "at_least", "drop"]], ...] = (
        ("at_most", "at_most"),
        ("at_least", "at_least"),
        ("drop_at_most", "drop"),
    )
    for name, kind in kinds:
        value = fields.get(name)
        if isinstance(value, int | float) and not isinstance(value, bool) and "metric" in fields:
            during = fields.get("during")
            return Limit(
                str(fields["metric"]),
                kind,
                float(value),
                source,
                fields.get("on_fail"),
                fields.get("against"),
                tuple(map(str, during)) if isinstance(during, list) else watched,
            )
    return None


def _sets(evaluate: Any) -> dict[str, str]:
    """Alias or last part of the name -> the name, of ``evaluate.sets``."""
    found = {}
    for entry in _list(_mapping(evaluate).get("sets")):
        fields = entry if isinstance(entry, dict) else {"name": entry}
        name = str(fields.get("name") or fields.get("set") or fields.get("path") or "")
        if name:
            found[str(fields.get("alias") or name.rpartition("/")[2])] = name
    return found
