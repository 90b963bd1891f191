"""Checkpoints in the order of training, with metrics, intervals and verdicts.

Numbers at 95 % are those of the summaries, as gates and pick read them. Other levels are computed
from the rows by the harness's own estimators.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd

from dashboards.data.estimating import at_level
from dashboards.data.index import EvalEntry, RunIndex, View
from dashboards.data.remembering import remembered
from dashboards.data.summaries import opened
from harness.store.kinds import REWARD

CHECKPOINT_COLUMNS = ["checkpoint", "order", "stage", "kind", "epoch", "verdict", "action"]
METRIC_COLUMNS = [
    *("checkpoint", "order", "stage", "kind", "epoch"),
    *("metric", "value", "low", "high", "n", "unscored", "status", "picked"),
]
UNJUDGED = "unjudged"  # no gate looked
_WORST = ("fail", "inconclusive", "pass")


@dataclass(frozen=True)
class Metric:
    """One metric of a run: ``name`` is ``set.metric``; bounds are the possible values, or None."""

    name: str
    set: str
    probe: str
    better: str
    kind: str
    low: float | None
    high: float | None
    doc: str

    @property
    def share(self) -> bool:
        """Whether it lies between 0 and 1 and is shown in per cent."""
        return self.low == 0.0 and self.high == 1.0


def checkpoints(index: RunIndex) -> pd.DataFrame:
    """One row a committed checkpoint, in the order of training, reward models included.

    Columns ``CHECKPOINT_COLUMNS`` and ``picked``, ``evaluated``, ``reason`` (the words of the gates
    that did not pass). ``order`` counts policy checkpoints only and is -1 for reward models;
    ``verdict`` is ``unjudged`` where no gate watched.
    """
    return _checkpoints(index).copy()


@lru_cache(maxsize=32)
def _checkpoints(index: RunIndex) -> pd.DataFrame:
    verdicts = {e.get("checkpoint"): e for e in index.events if e["event"] == "verdict"}
    measured = {entry.checkpoint for entry in index.evaluations}
    rows: list[dict[str, Any]] = []
    order = 0
    for info in index.checkpoints:
        policy = info.kind != REWARD
        verdict = verdicts.get(info.name, {})
        rows.append(
            {
                "checkpoint": info.name,
                "order": order if policy else -1,
                "stage": info.stage,
                "kind": info.kind,
                "epoch": info.epoch,
                "verdict": verdict.get("status") or UNJUDGED,
                "action": verdict.get("action") or "",
                "picked": info.name == index.picked,
                "evaluated": info.name in measured,
                "reason": "; ".join(
                    f"{result.get('rule')}: {result.get('reason')}"
                    for result in verdict.get("results", [])
                    if result.get("status") != "pass"
                ),
            }
        )
        order += policy
    columns = [*CHECKPOINT_COLUMNS, "picked", "evaluated", "reason"]
    return pd.DataFrame(rows, columns=columns)


def policy_stages(index: RunIndex) -> list[str]:
    """The stages that train the policy, in the order in which the run came to them."""
    known = _checkpoints(index)
    return list(dict.fromkeys(known[known["order"] >= 0]["stage"]))


@remembered(32, rows=False)
def catalogue(view: View) -> dict[str, Metric]:
    """``set.metric`` -> what it is, for every metric that some checkpoint in view has."""
    found: dict[str, Metric] = {}
    by_set: dict[str, list[EvalEntry]] = {}
    for entry in view.entries():
        by_set.setdefault(entry.set, []).append(entry)
    for name in view.sets():
        for entry in by_set[name]:
            evaluation = opened(entry)
            if evaluation is None:
                continue
            for metric, said in evaluation.summary["metrics"].items():
                full = f"{name}.{metric}"
                if full not in found:
                    found[full] = Metric(
                        full,
                        name,
                        str(evaluation.summary.get("probe", "")),
                        said["better"],
                        said["kind"],
                        said.get("low"),
                        said.get("high"),
                        said["doc"],
                    )
    return found


def metrics(view: View, names: tuple[str, ...]) -> pd.DataFrame:
    """These metrics of every evaluated checkpoint, one row each: ``METRIC_COLUMNS``.

    Metric by metric as named, in the order of training, on the view's rows and at its level.
    ``status`` is the worst verdict of the gates on that metric. ``value`` is NaN if no row was
    scored. Do not change the frame in place: it is shared.
    """
    parts = [_metric(view, name) for name in names]
    if len(parts) == 1:
        return parts[0]
    filled = [part for part in parts if len(part)]
    return pd.concat(filled or parts[:1] or [_frame([])], ignore_index=True)


@lru_cache(maxsize=1024)
def _metric(view: View, name: str) -> pd.DataFrame:
    gates = _gate_status(view.index)
    info = _checkpoints(view.index).set_index("checkpoint").to_dict("index")
    of_set, _, metric = name.partition(".")
    entries = [e for e in view.entries(set=of_set) if e.checkpoint in info]
    found = _estimates(view, entries, metric)
    rows = []
    for entry, number in found.items():
        of = info[entry.checkpoint]
        rows.append(
            {
                "checkpoint": entry.checkpoint,
                **{key: of[key] for key in ("order", "stage", "kind", "epoch", "picked")},
                "metric": name,
                **number,
                "status": gates.get((entry.checkpoint, name), UNJUDGED),
            }
        )
    return _frame(rows).sort_values("order", ignore_index=True)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=METRIC_COLUMNS)
    return frame.astype({"value": float, "low": float, "high": float})


def _estimates(
    view: View, entries: list[EvalEntry], metric: str
) -> dict[EvalEntry, dict[str, Any]]:
    """The metric of each evaluation as ``value, low, high, n, unscored``."""
    found = {}
    for entry in entries:
        evaluation = opened(entry)
        if evaluation is not None and metric in evaluation.summary["metrics"]:
            found[entry] = dict(evaluation.summary["metrics"][metric][view.split])
    if view.level != 0.95 and found:
        first = opened(next(iter(found)))
        if first is not None:
            intervals = at_level(list(found), metric, first.info(metric), view.split, view.level)
            for entry, (low, high) in intervals.items():
                found[entry] |= {"low": low, "high": high}
    return found


@lru_cache(maxsize=32)
def _gate_status(index: RunIndex) -> dict[tuple[str, str], str]:
    """(checkpoint, metric) -> the worst status that its gates gave."""
    found: dict[tuple[str, str], str] = {}
    for event in index.events:
        if event["event"] != "verdict":
            continue
        for result in event.get("results", []):
            key = (str(event.get("checkpoint")), str(result.get("metric")))
            status = str(result.get("status"))
            if status in _WORST and (
                key not in found or _WORST.index(status) < _WORST.index(found[key])
            ):
                found[key] = status
    return found
