"""The pick: the best checkpoint by one metric among those that keep within limits, and why.

Chosen on split A by point estimates, reported on split B: the best of 20 checkpoints by its own
estimate reads 6.3 % where the truth is 10 %, because the luckiest is chosen; split B knows nothing
of that luck. That no checkpoint is eligible is an answer too, given with the nearest misses. A
checkpoint without a value for one of the metrics is never eligible: unscored is not zero.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from harness.evaluation import Estimate, Evaluation

NEAREST = 3  # how many misses are named


class Constraint(Protocol):
    """A limit on a metric; exactly one of the two is given."""

    @property
    def metric(self) -> str: ...
    @property
    def at_most(self) -> float | None: ...
    @property
    def at_least(self) -> float | None: ...


class Pick(Protocol):
    """The fields of ``pick`` in a schedule; exactly one of maximize and minimize is given."""

    @property
    def maximize(self) -> str | None: ...
    @property
    def minimize(self) -> str | None: ...
    @property
    def subject_to(self) -> Sequence[Constraint]: ...


@dataclass(frozen=True)
class Candidate:
    """One checkpoint under the pick's metrics (goal first), on both splits.

    ``violated`` says why it is not eligible, a phrase each. ``miss`` is how far it is from being
    eligible: the largest excess over a limit, as a share of that limit (as it is where the limit is
    0); 0 for eligible ones, None where a metric has no value.
    """

    checkpoint: str
    a: Mapping[str, Estimate]
    b: Mapping[str, Estimate]
    eligible: bool
    violated: tuple[str, ...]
    miss: float | None
    on_pareto_front: bool


@dataclass(frozen=True)
class Selection:
    """The answer: a checkpoint's name or None, everything it was chosen from, and the reason."""

    picked: str | None
    goal: str
    candidates: tuple[Candidate, ...]
    nearest: tuple[str, ...]
    reason: str


def pick(evaluations: Sequence[Evaluation], goal: Pick) -> Selection:
    """Choose among the evaluated checkpoints, given in the order of training.

    Of equals the earliest is taken: it has been trained least. The Pareto front is over the goal
    and every constrained metric, on split A.
    """
    wanted, sign = _goal(goal)
    front = set(
        pareto_front({e.checkpoint: _objectives(e, goal, wanted, sign) for e in evaluations})
    )
    candidates = tuple(_candidate(e, goal, wanted, e.checkpoint in front) for e in evaluations)
    eligible = [c for c in candidates if c.eligible]
    chosen = max(eligible, key=lambda c: sign * _value(c.a[wanted]), default=None)
    missed = sorted(
        (c for c in candidates if not c.eligible and c.miss is not None), key=lambda c: c.miss or 0
    )
    nearest = missed[:NEAREST] if chosen is None else []
    return Selection(
        picked=chosen.checkpoint if chosen else None,
        goal=f"{'maximize' if sign > 0 else 'minimize'} {wanted}",
        candidates=candidates,
        nearest=tuple(c.checkpoint for c in nearest),
        reason=_chosen_because(chosen, eligible, candidates, goal, wanted, sign)
        if chosen
        else _none_because(candidates, nearest),
    )


def pareto_front(points: Mapping[str, Sequence[float] | None]) -> list[str]:
    """The names of points that no other beats: at least as large everywhere, larger somewhere.

    Every number is "larger is better". None (something is unscored) is never on the front and beats
    nobody. Equal points are all on it.
    """
    known = {name: tuple(point) for name, point in points.items() if point is not None}
    return [
        name
        for name, point in known.items()
        if not any(
            other != point and all(o >= p for o, p in zip(other, point, strict=True))
            for other in known.values()
        )
    ]


def _goal(goal: Pick) -> tuple[str, int]:
    """The goal's metric, and 1 for the largest, -1 for the smallest."""
    if goal.maximize is not None:
        return goal.maximize, 1
    if goal.minimize is not None:
        return goal.minimize, -1
    raise ValueError("the pick has neither maximize nor minimize")


def _candidate(evaluation: Evaluation, goal: Pick, wanted: str, on_front: bool) -> Candidate:
    metrics = dict.fromkeys([wanted, *(c.metric for c in goal.subject_to)])
    measured = [metric for metric in metrics if metric in evaluation.names()]
    a = {metric: evaluation.metric(metric, "A") for metric in measured}
    b = {metric: evaluation.metric(metric, "B") for metric in measured}
    violated = []
    for metric in metrics:
        if metric not in a:
            violated.append(f"{metric} was not measured")
        elif a[metric].value is None:
            violated.append(f"{metric}: no row could be scored")
    known = not violated
    miss = 0.0
    for constraint in goal.subject_to:
        if constraint.metric not in a or a[constraint.metric].value is None:
            continue
        excess, limit = _excess(constraint, _value(a[constraint.metric]))
        if excess > 0:
            miss = max(miss, excess / abs(limit) if limit else excess)
            word = "at most" if constraint.at_most is not None else "at least"
            violated.append(
                f"{constraint.metric} {_value(a[constraint.metric]):.4g}, not {word} {limit:g}"
            )
    return Candidate(
        checkpoint=evaluation.checkpoint,
        a=a,
        b=b,
        eligible=not violated,
        violated=tuple(violated),
        miss=miss if known else None,
        on_pareto_front=on_front,
    )


def _objectives(
    evaluation: Evaluation, goal: Pick, wanted: str, sign: int
) -> tuple[float, ...] | None:
    signs = {wanted: sign}
    for constraint in goal.subject_to:
        signs.setdefault(constraint.metric, 1 if constraint.at_least is not None else -1)
    values = []
    for metric, direction in signs.items():
        if metric not in evaluation.names():
            return None
        value = evaluation.metric(metric, "A").value
        if value is None:
            return None
        values.append(direction * value)
    return tuple(values)


def _excess(constraint: Constraint, value: float) -> tuple[float, float]:
    """How far ``value`` is beyond the limit (negative: within), and the limit."""
    if constraint.at_most is not None:
        return value - constraint.at_most, constraint.at_most
    if constraint.at_least is not None:
        return constraint.at_least - value, constraint.at_least
    raise ValueError(f"the constraint on {constraint.metric} has no limit")


def _chosen_because(
    chosen: Candidate,
    eligible: Sequence[Candidate],
    candidates: Sequence[Candidate],
    goal: Pick,
    wanted: str,
    sign: int,
) -> str:
    word = "highest" if sign > 0 else "lowest"
    limits = " and ".join(_words(c) for c in goal.subject_to)
    among = (
        f"of the {len(eligible)} of {len(candidates)} checkpoints with {limits}"
        if limits
        else f"of {len(eligible)} checkpoints"
    )
    text = (
        f"{chosen.checkpoint} has the {word} {wanted} {among}: {_value(chosen.a[wanted]):.4g} on "
        f"split A. On split B, which played no part in the choice: "
    )
    text += ", ".join(_with_interval(metric, found) for metric, found in chosen.b.items()) + "."
    beyond = [
        _words(c)
        for c in goal.subject_to
        if chosen.b[c.metric].value is not None and _excess(c, _value(chosen.b[c.metric]))[0] > 0
    ]
    if beyond:
        text += f" Beware: on split B it does not have {' and '.join(beyond)}."
    better = [
        c
        for c in candidates
        if wanted in c.a
        and c.a[wanted].value is not None
        and sign * (_value(c.a[wanted]) - _value(chosen.a[wanted])) > 0
    ]
    if better:
        best = max(better, key=lambda c: sign * _value(c.a[wanted]))
        text += (
            f" {best.checkpoint} reads {_value(best.a[wanted]):.4g} but is not eligible: "
            f"{'; '.join(best.violated)}."
        )
    return text


def _none_because(candidates: Sequence[Candidate], nearest: Sequence[Candidate]) -> str:
    if not candidates:
        return "No checkpoint was evaluated."
    text = f"None of {len(candidates)} checkpoints is eligible."
    if nearest:
        misses = " ".join(f"{c.checkpoint}: {'; '.join(c.violated)}." for c in nearest)
        return f"{text} Nearest misses: {misses}"
    reasons = dict.fromkeys(reason for c in candidates for reason in c.violated)
    return f"{text} {'; '.join(reasons)}."


def _words(constraint: Constraint) -> str:
    if constraint.at_most is not None:
        return f"{constraint.metric} at most {constraint.at_most:g}"
    return f"{constraint.metric} at least {constraint.at_least:g}"


def _with_interval(metric: str, found: Estimate) -> str:
    if found.value is None:
        return f"{metric} unscored"
    if found.low is None or found.high is None:
        return f"{metric} {found.value:.4g} (n = {found.n})"
    return f"{metric} {found.value:.4g} [{found.low:.4g}, {found.high:.4g}] (n = {found.n})"


def _value(estimate: Estimate) -> float:
    if estimate.value is None:
        raise ValueError("an unscored metric has no value")
    return estimate.value
