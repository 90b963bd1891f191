"""Finished rows on disk: the journal while an evaluation runs, parquet once it is whole.

The journal is ``samples.jsonl``: a header that says what is being evaluated, then a flushed line
for each finished row. A line that was written survives a kill of the process; one that a kill tore
is cut off and its row is asked again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from harness.probes.protocol import Reply, Row, Sample, Score, Unscored
from harness.store import lines
from harness.store.atomic import replacing

JOURNAL, PARQUET = "samples.jsonl", "samples.parquet"

_SCORE = pa.struct(
    [
        ("metric", pa.string()),
        ("value", pa.float64()),
        ("weight", pa.float64()),
        ("turn", pa.int32()),
        ("label", pa.string()),
        ("detail", pa.string()),
    ]
)
_UNSCORED = pa.struct([("metric", pa.string()), ("turn", pa.int32()), ("reason", pa.string())])
SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("category", pa.string()),
        ("cluster", pa.string()),
        ("split", pa.string()),
        ("transcript", pa.string()),
        ("scores", pa.list_(_SCORE)),
        ("unscored", pa.list_(_UNSCORED)),
        ("tokens", pa.int64()),
        ("finish_reasons", pa.list_(pa.string())),
    ]
)


class Journal:
    """The rows finished so far. ``header`` must be the same JSON for a resume to count.

    Rows of another model, seed or engine are not mixed in: with another header the journal starts
    anew. Use as a context manager.
    """

    def __init__(self, path: Path, header: Mapping[str, Any]) -> None:
        self.path = path
        self.samples: dict[str, Sample] = {}
        first: dict[str, Any] = json.loads(json.dumps({"header": header}))
        found = lines.read(path)
        if found and found[0] == first:
            self.samples = {record["row_id"]: _sample(record) for record in found[1:]}
            os.truncate(path, path.read_bytes().rfind(b"\n") + 1)
        else:
            path.write_bytes(_line(first))
        self._file = path.open("ab")

    def append(self, sample: Sample) -> None:
        """Record a finished row; once this returns, a kill of this process does not undo it."""
        self.samples[sample.row_id] = sample
        self._file.write(_line(_record(sample)))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _line(record: Mapping[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False).encode() + b"\n"


def write_parquet(
    path: Path, rows: Sequence[Row], samples: Sequence[Sample], splits: Mapping[str, str]
) -> None:
    """One parquet row a sample, in the eval set's order; the file appears whole or not at all."""
    records = [
        {
            "row_id": row.id,
            "category": row.category,
            "cluster": row.cluster or row.id,
            "split": splits[row.id],
            "transcript": json.dumps(sample.transcript, ensure_ascii=False),
            "scores": [_score(score) for score in sample.scores],
            "unscored": [_unscored(entry) for entry in sample.unscored],
            "tokens": sum(len(reply.token_ids) for reply in sample.replies),
            "finish_reasons": [reply.finish_reason for reply in sample.replies],
        }
        for row, sample in zip(rows, samples, strict=True)
    ]
    with replacing(path) as temporary:
        pq.write_table(pa.Table.from_pylist(records, schema=SCHEMA), temporary)


def _record(sample: Sample) -> dict[str, Any]:
    return {
        "row_id": sample.row_id,
        "transcript": sample.transcript,
        "replies": [[r.text, r.token_ids, r.finish_reason] for r in sample.replies],
        "scores": [_score(score) for score in sample.scores],
        "unscored": [_unscored(entry) for entry in sample.unscored],
    }


def _sample(record: Mapping[str, Any]) -> Sample:
    return Sample(
        record["row_id"],
        record["transcript"],
        [Reply(text, tuple(ids), reason) for text, ids, reason in record["replies"]],
        [_read_score(entry) for entry in record["scores"]],
        [Unscored(**entry) for entry in record["unscored"]],
    )


def _score(score: Score) -> dict[str, Any]:
    return {
        "metric": score.metric,
        "value": score.value,
        "weight": score.weight,
        "turn": score.turn,
        "label": score.label,
        "detail": json.dumps(dict(score.detail), ensure_ascii=False) if score.detail else None,
    }


def _read_score(entry: Mapping[str, Any]) -> Score:
    detail = json.loads(entry["detail"]) if entry["detail"] else {}
    return Score(**{**entry, "detail": detail})


def _unscored(entry: Unscored) -> dict[str, Any]:
    return {"metric": entry.metric, "turn": entry.turn, "reason": entry.reason}


def total_tokens(samples: Iterable[Sample]) -> int:
    """Generated tokens, ends excluded."""
    return sum(len(reply.token_ids) for sample in samples for reply in sample.replies)
