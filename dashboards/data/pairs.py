"""Two checkpoints on the same rows: what moved, and which verdicts turned (``harness/compare``)."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from dashboards.data.index import View
from dashboards.data.metrics import catalogue
from dashboards.data.queries import query, readable
from dashboards.data.remembering import remembered
from dashboards.data.summaries import opened
from harness.compare import Comparison, Flip, compare
from harness.evaluation import Evaluation
from harness.stats import holm

MOST_CLASSES = 12  # of a matrix that can still be read

_MATRIX = """
, labelled as (
    select entry, row_id, split, string_agg(score.label, ' / ' order by score.turn) as label,
           avg(score.value) as value
    from (
        select entry, row_id, split,
               unnest(list_filter(scores, lambda s: s.metric = $metric)) as score
        from samples where ($split = 'all' or split = $split)
    )
    group by entry, row_id, split
)
select coalesce(a.label, printf('%g', if($whole, round(a.value), a.value))) as before,
       coalesce(b.label, printf('%g', if($whole, round(b.value), b.value))) as after,
       count(*) as n
from labelled a join labelled b using (row_id)
where a.entry = 0 and b.entry = 1
group by all order by all
"""


@dataclass(frozen=True)
class Pair:
    """``before`` of a run; ``after`` of it too, or of the run that ``other`` looks at.

    ``names``: as they are shown. Here and not in the page, which is executed anew each time: what
    is remembered by a pair would never be found again.
    """

    view: View
    before: str
    after: str
    other: View | None
    names: tuple[str, str]

    @property
    def of_after(self) -> View:
        return self.other or self.view


@dataclass(frozen=True)
class Mismatch:
    """An eval set that two checkpoints do not share as it is looked at: the versions (12 digits of
    the hash) in which it was asked on either side; none if it was not."""

    set: str
    before: tuple[str, ...]
    after: tuple[str, ...]

    @property
    def elsewhere(self) -> tuple[str, ...]:
        """Versions that both sides have, though not the one that is looked at."""
        return tuple(version for version in self.before if version in self.after)


@remembered(16)
def comparison(
    view: View,
    before: str,
    after: str,
    metrics: tuple[str, ...],
    other: View | None = None,
    *,
    flips: bool = True,
) -> Comparison:
    """``harness.compare`` of two checkpoints on these metrics, on the view's rows; without
    ``flips`` it takes a part of the time.

    Intervals are at 95 %, p-values adjusted over the metrics named (Holm). ``other``: the view of
    the run that ``after`` is of, if not the same. Raises ``InputError`` if a metric is not in both,
    or its set was used in two versions.
    """
    sets = frozenset(name.partition(".")[0] for name in metrics)
    pair = _evaluation(view, before, sets), _evaluation(other or view, after, sets)
    return compare(*pair, metrics=metrics, split=view.split, flips=flips)


def shared_metrics(view: View, before: str, after: str, other: View | None = None) -> list[str]:
    """The metrics that both checkpoints have, on the same version of their set."""
    pair = _evaluation(view, before), _evaluation(other or view, after)
    same = {name for name, found in pair[0].sets.items() if _hash(pair[1], name) == found.hash}
    there = {name for name in pair[0].names() if name.partition(".")[0] in same}
    return [name for name in catalogue(view) if name in there & {*pair[1].names()}]


def mismatches(
    view: View, before: str, after: str, other: View | None = None
) -> tuple[Mismatch, ...]:
    """The sets that cannot be compared, and why."""
    sides = [_versions(of, name) for of, name in ((view, before), (other or view, after))]
    shown = [
        {e.set: e.version for e in of.entries(checkpoint=name)}
        for of, name in ((view, before), (other or view, after))
    ]
    found = []
    for name in dict.fromkeys([*sides[0], *sides[1]]):
        a, b = shown[0].get(name), shown[1].get(name)
        if a is None or a != b:
            found.append(Mismatch(name, sides[0].get(name, ()), sides[1].get(name, ())))
    return tuple(found)


def moves(found: Comparison) -> pd.DataFrame:
    """One row a metric: metric, better, a, a_low, a_high, b, b_low, b_high, n, difference, low,
    high, p, p_holm, test, rose, fell."""
    rows = []
    for change in found.changes:
        m = change.moves
        rows.append(
            {
                "metric": change.metric,
                "better": change.better,
                "n": m.n,
                "a": change.a.value,
                "a_low": change.a.low,
                "a_high": change.a.high,
                "b": change.b.value,
                "b_low": change.b.low,
                "b_high": change.b.high,
                "difference": m.difference,
                "low": m.low,
                "high": m.high,
                "p": m.p,
                "p_holm": change.p_holm,
                "test": m.test,
                "rose": m.rose.rows if m.rose else 0,
                "fell": m.fell.rows if m.fell else 0,
            }
        )
    names = ["metric", "better", "n", "a", "a_low", "a_high", "b", "b_low", "b_high"]
    names += ["difference", "low", "high", "p", "p_holm", "test", "rose", "fell"]
    frame = pd.DataFrame(rows, columns=names)
    numeric = [c for c in names if c not in ("metric", "better", "test", "n", "rose", "fell")]
    return frame.astype(dict.fromkeys(numeric, float))


def moves_by_category(found: Comparison, metric: str) -> pd.DataFrame:
    """One row a category: category, n, difference, low, high, p, p_holm, test, rose, fell.

    Here p is adjusted (Holm) over the categories of this metric.
    """
    rows = []
    for change in found.changes:
        if change.metric == metric:
            for category, m in change.by_category.items():
                rows.append(
                    {
                        "category": category or "(none)",
                        "n": m.n,
                        "difference": m.difference,
                        "low": m.low,
                        "high": m.high,
                        "p": m.p,
                        "test": m.test or "",
                        "rose": m.rose.rows if m.rose else 0,
                        "fell": m.fell.rows if m.fell else 0,
                    }
                )
    names = ["category", "n", "difference", "low", "high", "p", "test", "rose", "fell"]
    frame = pd.DataFrame(rows, columns=names)
    frame = frame.astype(dict.fromkeys(["difference", "low", "high", "p"], float))
    tested = frame["p"].notna()
    frame["p_holm"] = float("nan")
    frame.loc[tested, "p_holm"] = holm(frame["p"][tested].tolist())
    return frame


@remembered(32)
def sides_by_category(
    view: View, before: str, after: str, metric: str, other: View | None = None
) -> pd.DataFrame:
    """``moves_by_category`` with ``a`` and ``b``, the metric on either side over the same rows, and
    ``better``."""
    of_set = metric.partition(".")[0]
    found = comparison(view, before, after, (metric,), other)
    frame = moves_by_category(found, metric)
    sets = frozenset([of_set])
    pair = [_evaluation(view, before, sets), _evaluation(other or view, after, sets)]
    items = [side.items(metric, view.split) for side in pair]
    both = {*items[0].ids} & {*items[1].ids}
    rows = pair[0].sets[of_set].rows
    for side, column in zip(items, ("a", "b"), strict=True):
        sums: dict[str, tuple[float, float]] = {}
        for row, value, weight in zip(side.ids, side.values, side.weights, strict=True):
            if row in both:
                category = rows[row].category or "(none)"
                above, below = sums.get(category, (0.0, 0.0))
                sums[category] = (above + value * weight, below + weight)
        means = {category: above / below for category, (above, below) in sums.items()}
        frame[column] = frame["category"].map(means).astype(float)
    return frame.assign(better=found.changes[0].better)


def flip_list(found: Comparison, which: str = "all") -> list[Flip]:
    """The rows that turned, the worst first; ``which``: all, worse or better."""
    sign = {"worse": 1, "better": -1}.get(which, 0)
    return [flip for flip in found.flips if not sign or flip.worse == sign]


@remembered(64)
def flip_matrix(
    view: View, before: str, after: str, metric: str, other: View | None = None
) -> pd.DataFrame:
    """How many rows went from which class to which: before, after, n. Rows scored on both sides.

    Rows of a metric without classes are told apart by their value; where it is a grade (bounds more
    than 1 apart), by the nearest whole number.
    """
    of_set, _, name = metric.partition(".")
    sides = ((view, before), (other or view, after))
    pair = [of.entries(checkpoint=c, set=of_set) for of, c in sides]
    if not all(pair):
        return pd.DataFrame(columns=["before", "after", "n"])
    given = {"metric": name, "split": view.split, "whole": is_grade(view, metric)}
    return query([pair[0][0], pair[1][0]], _MATRIX, given)


def is_grade(view: View, metric: str) -> bool:
    """Whether the metric is a grade of a few points, such as 1 to 10."""
    found = catalogue(view)[metric]
    return found.low is not None and found.high is not None and 1 < found.high - found.low <= 10


def has_classes(view: View, before: str, after: str, metric: str, other: View | None) -> bool:
    """Whether a matrix of the metric is worth a look: no more than ``MOST_CLASSES`` on a side."""
    found = flip_matrix(view, before, after, metric, other)
    return 0 < len({*found["before"], *found["after"]}) <= MOST_CLASSES


def _evaluation(view: View, checkpoint: str, sets: frozenset[str] | None = None) -> Evaluation:
    found = {
        entry.set: evaluation
        for entry in view.entries(checkpoint=checkpoint)
        if (sets is None or entry.set in sets)
        and readable(entry)
        and (evaluation := opened(entry)) is not None
    }
    return Evaluation(checkpoint, found)


def _hash(of: Evaluation, name: str) -> str:
    return of.sets[name].hash if name in of.sets else ""


def _versions(view: View, checkpoint: str) -> dict[str, tuple[str, ...]]:
    """Set -> every version in which the checkpoint was evaluated, in view or not."""
    found: dict[str, tuple[str, ...]] = {}
    for entry in view.index.evaluations:
        if entry.checkpoint == checkpoint:
            found[entry.set] = (*found.get(entry.set, ()), entry.version)
    return found
