"""Every row's scores, each evaluation read once and kept small: what intervals at any level need.

A page at another level, or on other rows, asks for the same numbers of a hundred checkpoints again.
Reading them takes longer than all that is then computed, so they are kept, for all metrics and both
splits: 16 bytes a row and metric.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from dashboards.data.index import EvalEntry, Split
from dashboards.data.queries import damaged, query
from dashboards.data.summaries import opened
from harness.estimates import Items

Floats = NDArray[np.float64]
_MOST = 4000  # evaluations kept: 150 MB if each has 400 rows and 6 metrics

# One value a row, the mean over its turns; rows with an unscored turn are left out:
# harness.estimates.Items.of_scores.
_SCORES = """
select entry, file_row_number as row, list_position($names, score.metric) as metric,
       sum(score.value * score.weight) as total, sum(score.weight) as weight,
       bool_or(score.weight <> 1) as weighted
from (
    select entry, file_row_number, unnest(scores) as score,
           list_transform(unscored, lambda u: u.metric) as missing
    from samples
)
where list_contains($names, score.metric) and not list_contains(missing, score.metric)
group by all
having sum(score.weight) > 0
order by entry, metric, row
"""
# The rows of one version of a set are the same at every checkpoint, and then come out once.
_ROWS = """
select file_row_number as row, row_id, cluster, split, count(*) as n
from samples group by all order by row
"""
_ALL_ROWS = "select entry, row_id, cluster, split from samples order by entry, file_row_number"


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of an evaluation, in the order of its file; one object where they are the same."""

    ids: tuple[str, ...]
    clusters: tuple[str, ...]
    splits: NDArray[np.str_]

    def within(self, split: Split) -> NDArray[np.bool_]:
        """(rows,) which of them are of the split."""
        if split == "all":
            return np.ones(len(self.ids), dtype=bool)
        return np.asarray(self.splits == split, dtype=bool)

    def same(self, other: Rows) -> bool:
        return (
            self.ids == other.ids
            and self.clusters == other.clusters
            and np.array_equal(self.splits, other.splits)
        )


@dataclass(frozen=True, eq=False)
class Scored:
    """One evaluation: metric -> (rows,) value and weight; the value is NaN where a row has none,
    weights are 1 unless the metric is pooled."""

    rows: Rows
    values: dict[str, Floats] = field(default_factory=dict)
    weights: dict[str, Floats] = field(default_factory=dict)

    def kept(self, metric: str, split: Split) -> NDArray[np.bool_]:
        """(rows,) which rows of the split have a value."""
        if metric not in self.values:
            return np.zeros(len(self.rows.ids), dtype=bool)
        return self.rows.within(split) & ~np.isnan(self.values[metric])

    def items(self, metric: str, split: Split) -> Items:
        """The rows of the split that have a value."""
        kept = np.flatnonzero(self.kept(metric, split))
        places = kept.tolist()
        empty = np.empty(0)
        return Items(
            [self.rows.ids[i] for i in places],
            self.values.get(metric, empty)[kept],
            [self.rows.clusters[i] for i in places],
            self.weights.get(metric, empty)[kept],
        )


_lock = threading.Lock()
_known: OrderedDict[EvalEntry, Scored] = OrderedDict()
_rows: dict[tuple[str, str], Rows] = {}


def scores(entries: Sequence[EvalEntry]) -> dict[int, Scored]:
    """Place in ``entries`` -> its scores; evaluations that cannot be read are left out."""
    with _lock:
        by_set: dict[tuple[str, str], list[EvalEntry]] = {}
        for entry in entries:
            if entry not in _known:
                by_set.setdefault((entry.set, entry.version), []).append(entry)
        for key, missing in by_set.items():
            _known.update(_read(key, missing))
        found = {i: _known[entry] for i, entry in enumerate(entries) if entry in _known}
        for i in found:
            _known.move_to_end(entries[i])
        while len(_known) > max(_MOST, len(entries)):
            _known.popitem(last=False)
        return found


def read_already(entries: Sequence[EvalEntry]) -> bool:
    """Whether ``scores`` of these would read nothing; those that are damaged do not count."""
    with _lock:
        return all(entry in _known for entry in entries if not damaged([entry]))


def _read(key: tuple[str, str], entries: list[EvalEntry]) -> dict[EvalEntry, Scored]:
    """The scores of evaluations of one version of one set."""
    summaries = [opened(entry) for entry in entries]
    names = sorted({name for s in summaries if s is not None for name in s.summary["metrics"]})
    if not names:
        return {}
    frame = query(entries, _SCORES, {"names": names})
    rows = _rows_of(key, entries)
    found = {
        place: Scored(rows[place])
        for place, entry in enumerate(entries)
        if place in rows and not damaged([entry])
    }
    if len(frame):
        _fill(found, frame, names)
    return {entries[place]: scored for place, scored in found.items()}


def _fill(found: dict[int, Scored], frame: pd.DataFrame, names: list[str]) -> None:
    """Put the result of ``_SCORES`` into its places."""
    entry, metric, row = (frame[c].to_numpy(dtype=np.int64) for c in ("entry", "metric", "row"))
    total, weight = (frame[c].to_numpy(dtype=np.float64) for c in ("total", "weight"))
    weighted = frame["weighted"].to_numpy(dtype=bool)
    edges = np.flatnonzero(np.diff(entry * (len(names) + 1) + metric)) + 1
    for part in np.split(np.arange(len(frame)), edges):
        scored = found.get(int(entry[part[0]]))
        if scored is None:
            continue
        name, places = names[int(metric[part[0]]) - 1], row[part]
        values = np.full(len(scored.rows.ids), np.nan)
        values[places] = total[part] / weight[part]
        weights = np.ones(len(values))
        if weighted[part].any():  # else a row's several turns do not make it count more
            weights[places] = weight[part]
        scored.values[name], scored.weights[name] = values, weights


def _rows_of(key: tuple[str, str], entries: list[EvalEntry]) -> dict[int, Rows]:
    """Place -> rows, one object for all that are the same."""
    frame = query(entries, _ROWS)
    if frame.empty:
        return {}
    if frame["n"].nunique() == 1 and frame["row"].is_unique:
        shared = _shared(key, frame)
        return dict.fromkeys(range(len(entries)), shared)
    every = query(entries, _ALL_ROWS)
    return {int(str(place)): _shared(key, rows) for place, rows in every.groupby("entry")}


def _shared(key: tuple[str, str], frame: pd.DataFrame) -> Rows:
    rows = Rows(
        tuple(frame["row_id"]), tuple(frame["cluster"]), frame["split"].to_numpy(dtype=np.str_)
    )
    known = _rows.get(key)
    if known is not None and known.same(rows):
        return known
    _rows[key] = rows
    return rows
