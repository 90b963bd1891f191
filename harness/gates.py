"""Gates: a rule on one metric, judged by its interval, not by its point estimate.

Point-estimate gates are noise: with 20 healthy checkpoints (true rate 8 %, limit 10 %, 210 rows)
one fires in 92 % of runs, a gate on the Wilson bound in 3 %. So a verdict has three outcomes:

- ``at_most L``: fail if the interval's lower bound is above L, pass if its upper bound is not,
  inconclusive between. ``at_least L`` is the mirror image.
- ``drop_at_most D against first|previous|best``: the same on how far the metric has dropped since
  that earlier checkpoint, measured on the same rows (paired). A drop is a decrease of the number,
  whichever direction is better.

Inconclusive, never passed, is also: too many unscored rows, a metric that was not measured, nothing
earlier to compare with, another version of the eval set. Everything is read on split A.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Literal, Protocol

from harness import stats
from harness.evaluation import Estimate, Evaluation, Items

SPLIT: Literal["A"] = "A"


class Status(StrEnum):
    """What a gate says of a checkpoint."""

    PASS = "pass"
    INCONCLUSIVE = "inconclusive"
    FAIL = "fail"


class Action(StrEnum):
    """What the runner does next."""

    CONTINUE = "continue"
    ROLLBACK = "rollback"
    STOP = "stop"


class Gate(Protocol):
    """The fields of a gate in a schedule; see the schedule reference for their meaning."""

    @property
    def metric(self) -> str: ...
    @property
    def at_most(self) -> float | None: ...
    @property
    def at_least(self) -> float | None: ...
    @property
    def drop_at_most(self) -> float | None: ...
    @property
    def against(self) -> Literal["first", "previous", "best"] | None: ...
    @property
    def on_fail(self) -> str: ...
    @property
    def during(self) -> Collection[str] | None: ...
    @property
    def confidence(self) -> float: ...
    @property
    def max_unscored(self) -> float: ...


@dataclass(frozen=True)
class GateResult:
    """One gate on one checkpoint.

    ``estimate`` is what was held against ``limit``: the metric, or for ``drop_at_most`` the drop
    since the checkpoint ``against``. ``p`` tests "no change since ``against``" (exact McNemar for
    0/1 rows, else paired bootstrap); ``p_holm`` is adjusted for all tests of the verdict.
    """

    metric: str
    rule: str
    status: Status
    estimate: Estimate | None
    limit: float
    n: int
    p: float | None
    on_fail: str
    reason: str
    p_holm: float | None = None
    test: str | None = None
    against: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What all gates that watch a stage say of one checkpoint.

    ``status`` is the worst of the results; ``action`` the strongest that a failed gate asks for.
    """

    checkpoint: str
    results: tuple[GateResult, ...]
    status: Status
    action: Action

    @property
    def acceptable(self) -> bool:
        """Whether no gate failed but those that only warn; a rollback goes back to such a one."""
        return self.action is Action.CONTINUE

    @property
    def decided_by(self) -> GateResult | None:
        """The failed gate that asks for the action, the first if several do."""
        for result in self.results:
            if result.status is Status.FAIL and result.on_fail == self.action.value:
                return result
        return None


def judge(
    gates: Sequence[Gate],
    history: Sequence[Evaluation],
    current: Evaluation,
    *,
    stage: str,
    rl_stages: Collection[str] | None = None,
    seed: int = 0,
) -> Verdict:
    """The verdict on ``current``, a checkpoint of ``stage``.

    Args:
        history: earlier evaluations that drops are measured against, oldest first, without
            ``current``.
        rl_stages: the stages that a gate without ``during`` watches; None: any stage.
        seed: of the bootstrap.

    Gates that do not watch the stage give no result; without results the verdict is a pass.
    """
    results = []
    for gate in gates:
        watched = gate.during if gate.during is not None else rl_stages
        if watched is None or stage in watched:
            results.append(_judge_one(gate, history, current, seed))
    results = _with_holm(results)
    failed = {r.on_fail for r in results if r.status is Status.FAIL}
    statuses = {r.status for r in results}
    return Verdict(
        checkpoint=current.checkpoint,
        results=tuple(results),
        status=next((s for s in (Status.FAIL, Status.INCONCLUSIVE) if s in statuses), Status.PASS),
        action=next((a for a in (Action.STOP, Action.ROLLBACK) if a in failed), Action.CONTINUE),
    )


def last_acceptable(verdicts: Sequence[Verdict]) -> str | None:
    """The last checkpoint whose verdict is acceptable: where a rollback goes. None if none is."""
    return next((v.checkpoint for v in reversed(verdicts) if v.acceptable), None)


def describe(gate: Gate) -> str:
    """The rule in a line, such as ``borderline.false_refusal at most 0.2``."""
    if gate.at_most is not None:
        return f"{gate.metric} at most {gate.at_most:g}"
    if gate.at_least is not None:
        return f"{gate.metric} at least {gate.at_least:g}"
    return f"{gate.metric} drop at most {gate.drop_at_most:g} against {gate.against}"


def verdict_from_json(record: dict[str, Any]) -> Verdict:
    """A verdict as it was recorded (fields of a ``verdict`` event)."""
    results = []
    for entry in record["results"]:
        estimate = entry["estimate"]
        results.append(
            GateResult(
                **{
                    **entry,
                    "status": Status(entry["status"]),
                    "estimate": None if estimate is None else Estimate(**estimate),
                }
            )
        )
    return Verdict(
        record["checkpoint"], tuple(results), Status(record["status"]), Action(record["action"])
    )


def _judge_one(
    gate: Gate, history: Sequence[Evaluation], current: Evaluation, seed: int
) -> GateResult:
    undecided = GateResult(
        metric=gate.metric,
        rule=describe(gate),
        status=Status.INCONCLUSIVE,
        estimate=None,
        limit=_limit(gate),
        n=0,
        p=None,
        on_fail=str(gate.on_fail),
        reason="",
    )
    if gate.metric not in current.names():
        return replace(undecided, reason=f"{gate.metric} was not measured on {current.checkpoint}")
    now = current.metric(gate.metric, SPLIT, confidence=gate.confidence)
    if gate.drop_at_most is None:
        return _decide(gate, replace(undecided, estimate=now, n=now.n))
    earlier = _reference(gate, history)
    if earlier is None:
        return replace(
            undecided, reason=f"no earlier checkpoint has a {gate.metric} to compare with"
        )
    undecided = replace(undecided, against=earlier.checkpoint)
    if _hash(earlier, gate.metric) != _hash(current, gate.metric):
        return replace(
            undecided,
            reason=f"{earlier.checkpoint} was measured on another version of the eval set",
        )
    return _decide(gate, _drop(gate, earlier, current, now, undecided, seed))


def _reference(gate: Gate, history: Sequence[Evaluation]) -> Evaluation | None:
    """The earlier checkpoint that ``against`` means, among those where the metric has a value."""
    values = {}
    for index, evaluation in enumerate(history):
        if gate.metric in evaluation.names():
            value = evaluation.metric(gate.metric, SPLIT).value
            if value is not None:
                values[index] = value
    if not values:
        return None
    if gate.against == "first":
        return history[min(values)]
    if gate.against == "previous":
        return history[max(values)]
    return history[max(values, key=lambda i: (values[i], -i))]


def _drop(
    gate: Gate,
    earlier: Evaluation,
    current: Evaluation,
    now: Estimate,
    undecided: GateResult,
    seed: int,
) -> GateResult:
    """The drop since ``earlier`` on the rows that are scored in both, with its test."""
    before, after = earlier.items(gate.metric, SPLIT), current.items(gate.metric, SPLIT)
    common = set(before.ids) & set(after.ids)
    before, after = _only(before, common), _only(after, common)
    rows = max(now.n + now.unscored, len(common))
    # Rows missing from either side: what is left may be the easy ones.
    unscored = rows - len(common)
    if not common:
        return replace(undecided, estimate=Estimate(None, None, None, 0, unscored))
    # Drop = before - after, hence the order.
    found = stats.paired(
        after.values,
        before.values,
        before.clusters,
        weights=(after.weights, before.weights),
        confidence=gate.confidence,
        seed=seed,
    )
    bounded = found.low == found.low  # not nan
    return replace(
        undecided,
        estimate=Estimate(
            found.difference,
            found.low if bounded else None,
            found.high if bounded else None,
            found.n,
            unscored,
        ),
        n=found.n,
        p=found.p if bounded else None,
        test=found.test if bounded else None,
    )


def _only(items: Items, ids: set[str]) -> Items:
    """These rows, ordered by id."""
    chosen = sorted((i for i, row in enumerate(items.ids) if row in ids), key=items.ids.__getitem__)
    return items.take(chosen)


def _decide(gate: Gate, result: GateResult) -> GateResult:
    """Hold the estimate against the limit."""
    estimate = result.estimate
    if estimate is None or estimate.value is None or estimate.n == 0:
        return replace(result, reason=f"no row of {gate.metric} could be scored")
    share = estimate.unscored / (estimate.n + estimate.unscored)
    if share > gate.max_unscored:
        return replace(
            result,
            reason=f"{estimate.unscored} of {estimate.n + estimate.unscored} rows unscored "
            f"({share:.1%}; the gate allows {gate.max_unscored:.1%})",
        )
    low, high = estimate.low, estimate.high
    if low is None or high is None:
        return replace(result, reason="too few independent rows for an interval")
    if gate.at_least is not None:
        failed, passed = high < gate.at_least, low >= gate.at_least
    else:
        failed, passed = low > result.limit, high <= result.limit
    status = Status.FAIL if failed else Status.PASS if passed else Status.INCONCLUSIVE
    what = "drop" if gate.drop_at_most is not None else "value"
    since = f" since {result.against}" if result.against else ""
    where = {
        Status.FAIL: "beyond the limit",
        Status.PASS: "within the limit",
        Status.INCONCLUSIVE: "the interval holds the limit",
    }[status]
    reason = (
        f"{what}{since} {estimate.value:.4g} [{low:.4g}, {high:.4g}], n = {estimate.n}: {where}"
    )
    return replace(result, status=status, reason=reason)


def _limit(gate: Gate) -> float:
    for limit in (gate.at_most, gate.at_least, gate.drop_at_most):
        if limit is not None:
            return limit
    raise ValueError(f"the gate on {gate.metric} has no limit")


def _hash(evaluation: Evaluation, metric: str) -> str:
    return evaluation.sets[metric.partition(".")[0]].hash


def _with_holm(results: list[GateResult]) -> list[GateResult]:
    tested = [i for i, result in enumerate(results) if result.p is not None]
    adjusted = stats.holm([results[i].p or 0.0 for i in tested])
    for i, p in zip(tested, adjusted, strict=True):
        results[i] = replace(results[i], p_holm=p)
    return results
