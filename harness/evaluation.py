"""Reading what an evaluation found: metrics with n and interval, and the items behind them.

Only committed folders are read. Nothing here needs torch, so gates, ``aldente status`` and the
dashboard answer at once. Writing is ``harness/evaluate.py``; how each metric is defined is written
in ``docs/metrics.md``.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from harness.errors import InputError, IntegrityError, nearest
from harness.estimates import Estimate, Items, Kind, estimate

__all__ = [
    "SCHEMA",
    "Estimate",
    "Evaluation",
    "Items",
    "MetricInfo",
    "Record",
    "SetEvaluation",
    "Split",
]

SCHEMA = 1  # of summary.json and samples.parquet; see docs/run-format.md
Split = Literal["all", "A", "B"]


@dataclass(frozen=True)
class MetricInfo:
    """What a metric means, as its probe declared it when it was measured."""

    kind: Kind
    better: Literal["higher", "lower", "neither"]
    doc: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Row:
    """One row of the eval set, and what could not be scored of it: ``unscored``, metric -> why."""

    row_id: str
    category: str
    cluster: str
    split: str
    unscored: Mapping[str, str]


@dataclass(frozen=True)
class Record(Row):
    """A row as it was asked, answered and judged.

    ``transcript``: as in samples.parquet. ``labels``: metric -> the class that was seen
    (``full_refusal``), for metrics that name one; several turns' classes have " / " between.
    """

    transcript: list[dict[str, Any]]
    labels: Mapping[str, str]

    def asked(self) -> list[str]:
        """What the user said, turn by turn; of the judge's exchange nothing."""
        return [m["content"] for m in self._messages() if m["role"] == "user"]

    def exchanges(self) -> list[tuple[str, str]]:
        """(question, reply) of every reply: the question is all that was said since the last."""
        found: list[tuple[str, str]] = []
        said: list[str] = []
        for message in self._messages():
            if message["role"] == "assistant":
                found.append(("\n\n".join(said), message["content"]))
                said = []
            else:
                said.append(message["content"])
        return found

    def _messages(self) -> list[dict[str, Any]]:
        return [message for message in self.transcript if not message.get("judge")]


@dataclass(frozen=True)
class SetEvaluation:
    """One checkpoint on one eval set, as committed in ``folder``."""

    set: str
    hash: str
    checkpoint: str
    folder: Path
    summary: Mapping[str, Any] = field(repr=False, compare=False)

    @classmethod
    def open(cls, folder: Path) -> SetEvaluation:
        """Read a committed folder; ``IntegrityError`` if it is not committed or not readable."""
        if not (folder / "COMMIT").is_file():
            raise IntegrityError(f"{folder}: this evaluation is not committed (no COMMIT)")
        try:
            summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError) as error:
            raise IntegrityError(f"{folder / 'summary.json'}: {error}") from error
        if summary.get("schema") != SCHEMA:
            raise InputError(
                f"written with schema {summary.get('schema')!r}",
                path=folder / "summary.json",
                field="schema",
                expected=str(SCHEMA),
            )
        return cls(
            set=summary["set"],
            hash=summary["hash"],
            checkpoint=summary["checkpoint"],
            folder=folder,
            summary=summary,
        )

    def names(self) -> list[str]:
        """The metrics of this set, without the set's name."""
        return list(self.summary["metrics"])

    def info(self, metric: str) -> MetricInfo:
        found = self._entry(metric)
        return MetricInfo(
            found["kind"], found["better"], found["doc"], found.get("low"), found.get("high")
        )

    def metric(self, name: str, split: Split = "A", *, confidence: float = 0.95) -> Estimate:
        """The metric over the rows of ``split``; another ``confidence`` is computed from items."""
        _check_split(split)
        found = self._entry(name)
        if confidence == 0.95:
            return _estimate(found[split])
        info = self.info(name)
        return replace(
            estimate(
                self.items(name, split),
                info.kind,
                confidence=confidence,
                bounds=(info.low, info.high),
            ),
            unscored=found[split]["unscored"],
        )

    def items(self, metric: str, split: Split = "A") -> Items:
        """One value a row (mean over its turns); rows that are unscored are absent."""
        _check_split(split)
        self._entry(metric)
        items = self._items.get(metric)
        if items is None:
            return Items([], np.zeros(0), [], np.zeros(0))
        if split == "all":
            return items
        rows = self.rows
        return items.take([i for i, row in enumerate(items.ids) if rows[row].split == split])

    def by_category(self, metric: str) -> dict[str, Estimate]:
        """Category -> estimate over all rows of it (both splits)."""
        self._entry(metric)
        found = self.summary["by_category"].get(metric, {})
        return {category: _estimate(value) for category, value in found.items()}

    def by_turn(self, metric: str) -> dict[int, Estimate]:
        """Turn -> estimate over all rows scored at it; empty for metrics without turns."""
        self._entry(metric)
        found = self.summary["by_turn"].get(metric, {})
        return {int(turn): _estimate(value) for turn, value in found.items()}

    @cached_property
    def rows(self) -> Mapping[str, Row]:
        """Row id -> the row, in the eval set's order; reads no transcript."""
        table = self._table
        unscored: list[dict[str, str]] = [{} for _ in range(table.num_rows)]
        missing = table["unscored"].combine_chunks()
        for i, entry in zip(
            missing.value_parent_indices().to_pylist(), missing.flatten().to_pylist(), strict=True
        ):
            unscored[i][entry["metric"]] = entry["reason"]
        columns = (table[name].to_pylist() for name in ("row_id", "category", "cluster", "split"))
        found = map(Row, *columns, unscored)
        return {row.row_id: row for row in found}

    def records(self, rows: Iterable[str]) -> dict[str, Record]:
        """These rows with what was said in them; row id -> record."""
        place = {row: i for i, row in enumerate(self.rows)}
        chosen = list(dict.fromkeys(rows))
        table = self._table.append_column("transcript", self._read("transcript")["transcript"])
        table = table.take(pa.array([place[row] for row in chosen], pa.int64()))
        found = {}
        for name, scores, transcript in zip(
            chosen, table["scores"].to_pylist(), table["transcript"].to_pylist(), strict=True
        ):
            labels: dict[str, str] = {}
            for score in scores:
                if score["label"] is not None:
                    before = labels.get(score["metric"])
                    shown = score["label"] if before is None else f"{before} / {score['label']}"
                    labels[score["metric"]] = shown
            row = self.rows[name]
            found[name] = Record(
                row.row_id,
                row.category,
                row.cluster,
                row.split,
                row.unscored,
                json.loads(transcript),
                labels,
            )
        return found

    def _entry(self, metric: str) -> dict[str, Any]:
        metrics = self.summary["metrics"]
        if metric not in metrics:
            raise InputError(
                f"the set {self.set!r} has no metric {metric!r}",
                expected="one of " + ", ".join(metrics),
                nearest=nearest(metric, metrics),
            )
        entry: dict[str, Any] = metrics[metric]
        return entry

    @cached_property
    def _table(self) -> pa.Table:
        """All that is known of the rows but what was said."""
        return self._read("row_id", "category", "cluster", "split", "scores", "unscored")

    def _read(self, *columns: str) -> pa.Table:
        with pq.ParquetFile(self.folder / "samples.parquet") as samples:
            return samples.read(columns=list(columns))

    @cached_property
    def _items(self) -> dict[str, Items]:
        """Every metric's items, in the rows' order, read once."""
        table = self._table
        ids = table["row_id"].to_pylist()
        clusters = table["cluster"].to_pylist()
        scores = table["scores"].combine_chunks()
        rows = np.asarray(scores.value_parent_indices())
        flat = scores.flatten()
        metrics = np.asarray(flat.field("metric").to_pylist(), dtype=object)
        values = np.asarray(flat.field("value"), dtype=np.float64)
        weights = np.asarray(flat.field("weight"), dtype=np.float64)
        missing = table["unscored"].combine_chunks()
        without: dict[str, set[int]] = {}
        for row, metric in zip(
            missing.value_parent_indices().to_pylist(),
            missing.flatten().field("metric").to_pylist(),
            strict=True,
        ):
            without.setdefault(metric, set()).add(row)
        found: dict[str, Items] = {}
        for metric in dict.fromkeys(metrics.tolist()):
            of_metric = metrics == metric
            found[metric] = Items.of_scores(
                rows[of_metric],
                values[of_metric],
                weights[of_metric],
                ids,
                clusters,
                without=without.get(metric, set()),
            )
        return found


@dataclass(frozen=True)
class Evaluation:
    """One checkpoint on several eval sets; metrics are addressed as ``set.metric``."""

    checkpoint: str
    sets: Mapping[str, SetEvaluation]

    @classmethod
    def open(cls, checkpoint: str, folders: Iterable[Path]) -> Evaluation:
        """The committed evaluations in ``folders``, by their sets' names."""
        sets: dict[str, SetEvaluation] = {}
        for folder in folders:
            found = SetEvaluation.open(folder)
            if found.set in sets:
                raise InputError(
                    f"two eval sets are called {found.set!r}; give one of them an alias",
                    path=folder,
                )
            sets[found.set] = found
        return cls(checkpoint, sets)

    def names(self) -> list[str]:
        """Every metric as ``set.metric``."""
        return [f"{name}.{metric}" for name, found in self.sets.items() for metric in found.names()]

    def metric(self, name: str, split: Split = "A", *, confidence: float = 0.95) -> Estimate:
        found, metric = self._find(name)
        return found.metric(metric, split, confidence=confidence)

    def items(self, name: str, split: Split = "A") -> Items:
        found, metric = self._find(name)
        return found.items(metric, split)

    def info(self, name: str) -> MetricInfo:
        found, metric = self._find(name)
        return found.info(metric)

    def _find(self, name: str) -> tuple[SetEvaluation, str]:
        set_name, _, metric = name.partition(".")
        if set_name not in self.sets or metric not in self.sets[set_name].names():
            raise InputError(
                f"no metric {name!r} was measured for {self.checkpoint}",
                expected="one of " + ", ".join(self.names()),
                nearest=nearest(name, self.names()),
            )
        return self.sets[set_name], metric


def _check_split(split: str) -> None:
    if split not in get_args(Split):
        raise InputError(f"no split {split!r}", expected="all, A or B")


def _estimate(value: Mapping[str, Any]) -> Estimate:
    return Estimate(value["value"], value["low"], value["high"], value["n"], value["unscored"])
