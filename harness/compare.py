"""Two models on the same rows: what changed, by how much, and which replies turned.

Every comparison is paired (``harness/stats``): two intervals that overlap say little about the
difference of two models that were asked the same. p-values are adjusted over all compared metrics
(Holm 1979). What is compared is found by ``harness/compare_open.py``. No torch here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness import stats
from harness.conditions import differences, one_sided, same_model_in
from harness.errors import InputError, nearest
from harness.estimates import Estimate, Items, estimate
from harness.evaluation import Evaluation, Record, SetEvaluation, Split


@dataclass(frozen=True)
class Share:
    """So many rows, as a share of all, with its interval (None: too few independent rows)."""

    rows: int
    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Moves:
    """The rows that both scored: how the mean moved, and how many rows rose and fell.

    ``low`` and ``high`` bound ``difference`` (b - a); ``p`` is two-sided, by ``test``. All are None
    where there are too few independent rows; the bounds also where a bootstrap has nothing to go
    by, no row having moved. ``n`` counts rows.
    """

    n: int
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    test: str | None
    rose: Share | None
    fell: Share | None


@dataclass(frozen=True)
class Change:
    """One metric. ``a`` and ``b`` are over the rows that both scored, so that b - a is the change.

    Their ``unscored`` counts, of all rows compared, those that this side could not score.
    ``listed``: whether its rows that moved are among the flips. ``p_holm``: adjusted over all
    metrics of the comparison. ``noise``: given where both sides are the same model; what a
    difference must exceed to be more than noise.
    """

    metric: str
    better: str
    a: Estimate
    b: Estimate
    moves: Moves
    by_category: Mapping[str, Moves]
    listed: bool
    p_holm: float | None = None
    noise: stats.NoiseFloor | None = None


@dataclass(frozen=True)
class Turn:
    """A row's value of one metric on either side, and the class seen, if the metric has classes."""

    metric: str
    a: float
    b: float
    label_a: str | None
    label_b: str | None


@dataclass(frozen=True)
class Flip:
    """A row whose verdict turned, with what both said. ``worse``: 1 worse, -1 better, 0 neither."""

    set: str
    row_id: str
    category: str
    turns: tuple[Turn, ...]
    worse: int
    a: Record
    b: Record


@dataclass(frozen=True)
class Comparison:
    """``rows``: set -> rows compared. ``notes``: what else is different, or left out."""

    names: tuple[str, str]
    split: Split
    rows: Mapping[str, int]
    changes: tuple[Change, ...]
    flips: tuple[Flip, ...]
    notes: tuple[str, ...]


def compare(
    a: Evaluation,
    b: Evaluation,
    *,
    metrics: Sequence[str] = (),
    split: Split = "all",
    across_versions: bool = False,
    flips: bool = True,
) -> Comparison:
    """Compare b with a on every metric that both have (or those named).

    Two versions of an eval set are compared only if ``across_versions``: then on the rows that have
    the same id and the same questions in both. Flips are of metrics that are 0 or 1 a row; of other
    metrics only where they are named; without ``flips`` no transcript is read, and there are none.
    Raises ``InputError`` for different versions and for metrics that are not in both.
    """
    chosen = _chosen(a, b, metrics)
    sets = {name: (a.sets[name], b.sets[name]) for name in dict.fromkeys(_set(m) for m in chosen)}
    notes: list[str] = []
    rows = {
        name: _rows(name, first, second, across_versions, notes)
        for name, (first, second) in sets.items()
    }
    same_model = all(same_model_in(first, second) for first, second in sets.values())
    notes += differences(sets)
    if same_model:
        notes.append("both sides name the same model: what differs is noise")
    if not metrics:
        notes += one_sided(a, b)
    changes = _with_holm(
        [
            _change(a, b, m, split, rows[_set(m)], same_model=same_model, named=bool(metrics))
            for m in chosen
        ]
    )
    turned: list[Flip] = []
    for name in sets if flips else ():
        of_set = [change for change in changes if _set(change.metric) == name]
        turned += _flips(a, b, name, of_set, split, rows[name])
    counted = {
        name: sum(split in ("all", first.rows[row].split) for row in rows[name])
        for name, (first, _) in sets.items()
    }
    return Comparison(
        (a.checkpoint, b.checkpoint), split, counted, tuple(changes), tuple(turned), tuple(notes)
    )


def _set(metric: str) -> str:
    return metric.partition(".")[0]


def _chosen(a: Evaluation, b: Evaluation, metrics: Sequence[str]) -> list[str]:
    there = set(b.names())
    shared = [name for name in a.names() if name in there]
    if not shared:
        raise InputError(
            f"{a.checkpoint} and {b.checkpoint} have no metric in common",
            expected="evaluations on the same eval sets",
        )
    for name in metrics:
        if name not in shared:
            raise InputError(
                f"no metric {name!r} in both",
                expected="one of " + ", ".join(shared),
                nearest=nearest(name, shared),
            )
    return list(dict.fromkeys(metrics)) or shared


def _rows(
    name: str,
    a: SetEvaluation,
    b: SetEvaluation,
    across_versions: bool,
    notes: list[str],
) -> frozenset[str]:
    """Ids of the rows that may be compared."""
    if a.hash == b.hash:
        return frozenset(a.rows)
    if not across_versions:
        raise InputError(
            f"{name}: two versions of the eval set, {a.hash[:12]} and {b.hash[:12]}",
            path=b.folder,
            expected="the same version; --across-versions compares the rows that both hold",
        )
    both = [row for row in a.rows if row in b.rows]
    first, second = a.records(both), b.records(both)
    # A dialogue that broke off has fewer questions; those that were asked must be the same.
    same = frozenset(
        row
        for row in both
        if all(x == y for x, y in zip(first[row].asked(), second[row].asked(), strict=False))
    )
    notes.append(
        f"{name}: two versions of the eval set, {a.hash[:12]} and {b.hash[:12]}; "
        f"{len(same)} rows are compared that have the same id and questions in both "
        f"({len(both) - len(same)} were reworded, {len(a.rows) - len(both)} are only in a, "
        f"{len(b.rows) - len(both)} only in b); their references or rubrics may have changed"
    )
    if not same:
        raise InputError(f"{name}: the two versions have no row in common", path=b.folder)
    return same


def _pair(a: Items, b: Items, rows: frozenset[str]) -> tuple[Items, Items]:
    """The rows that both scored, in a's order."""
    place = {row: i for i, row in enumerate(b.ids)}
    kept = [i for i, row in enumerate(a.ids) if row in place and row in rows]
    return a.take(kept), b.take([place[a.ids[i]] for i in kept])


def _change(
    a: Evaluation,
    b: Evaluation,
    name: str,
    split: Split,
    rows: frozenset[str],
    *,
    same_model: bool,
    named: bool,
) -> Change:
    first, second = _pair(a.items(name, split), b.items(name, split), rows)
    of_set, metric = _set(name), name.partition(".")[2]
    info = b.info(name)
    bounds = (info.low, info.high)
    sides = [
        estimate(
            items,
            info.kind,
            bounds=bounds,
            unscored=sum(
                metric in row.unscored
                for name, row in side.sets[of_set].rows.items()
                if name in rows and split in ("all", row.split)
            ),
        )
        for side, items in ((a, first), (b, second))
    ]
    known = a.sets[of_set].rows
    places: dict[str, list[int]] = {}
    for i, row in enumerate(first.ids):
        places.setdefault(known[row].category, []).append(i)
    by_category = {
        category: _moves(first.take(where), second.take(where))
        for category, where in places.items()
    }
    noise = None
    if same_model and bool(np.all(first.weights == 1.0) and np.all(second.weights == 1.0)):
        span = info.high - info.low if info.low is not None and info.high is not None else None
        noise = stats.noise_floor(first.values, second.values, first.clusters, span=span)
    return Change(
        name,
        info.better,
        sides[0],
        sides[1],
        _moves(first, second),
        by_category if any(by_category) else {},
        listed=named or (bounds == (0.0, 1.0) and _verdicts(first) and _verdicts(second)),
        noise=noise if first.ids else None,
    )


def _verdicts(items: Items) -> bool:
    return stats.is_binary(items.values)


def _moves(a: Items, b: Items) -> Moves:
    if not a.ids:
        return Moves(0, None, None, None, None, None, None, None)
    found = stats.paired(a.values, b.values, a.clusters, weights=(a.weights, b.weights))
    known = not math.isnan(found.low)
    bounded = known and found.low < found.high
    return Moves(
        found.n,
        found.difference,
        found.low if bounded else None,
        found.high if bounded else None,
        found.p if known else None,
        found.test if known else None,
        _share(b.values > a.values, a.clusters),
        _share(b.values < a.values, a.clusters),
    )


def _share(where: np.ndarray[Any, np.dtype[np.bool_]], clusters: Sequence[str]) -> Share:
    low, high = stats.clustered_wilson(where.astype(np.float64), clusters)
    known = not math.isnan(low)
    return Share(
        int(where.sum()),
        float(where.mean()),
        low if known else None,
        high if known else None,
    )


def _with_holm(changes: Sequence[Change]) -> list[Change]:
    """Adjusted over the metrics that have a test at all."""
    tested = [i for i, change in enumerate(changes) if change.moves.p is not None]
    adjusted = stats.holm([changes[i].moves.p or 0.0 for i in tested])
    by_place = dict(zip(tested, adjusted, strict=True))
    return [replace(change, p_holm=by_place.get(i)) for i, change in enumerate(changes)]


def _flips(
    a: Evaluation,
    b: Evaluation,
    name: str,
    changes: Iterable[Change],
    split: Split,
    rows: frozenset[str],
) -> list[Flip]:
    """The set's rows that turned: worse ones first, by how far, then in the set's order."""
    moved: dict[str, list[tuple[str, float, float]]] = {}
    worst: dict[str, tuple[int, float]] = {}
    for change in changes:
        if not change.listed:
            continue
        one, two = _pair(a.items(change.metric, split), b.items(change.metric, split), rows)
        sign = {"lower": 1, "higher": -1}.get(change.better, 0)
        for row, x, y in zip(one.ids, one.values.tolist(), two.values.tolist(), strict=True):
            if x == y:
                continue
            moved.setdefault(row, []).append((change.metric, x, y))
            worse = sign if y > x else -sign
            # Of a row's metrics the first that has a better side decides.
            if row not in worst or worst[row][0] == 0:
                worst[row] = (worse, abs(y - x))
    order = {row: i for i, row in enumerate(a.sets[name].rows)}
    ranked = sorted(moved, key=lambda row: (-worst[row][0], -worst[row][1], order[row]))
    first, second = a.sets[name].records(ranked), b.sets[name].records(ranked)

    def turn(row: str, metric: str, x: float, y: float) -> Turn:
        own = metric.partition(".")[2]
        return Turn(metric, x, y, first[row].labels.get(own), second[row].labels.get(own))

    return [
        Flip(
            name,
            row,
            first[row].category,
            tuple(turn(row, *of) for of in moved[row]),
            worst[row][0],
            first[row],
            second[row],
        )
        for row in ranked
    ]
