"""The runs of a folder, each in a row."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from dashboards.data.index import RunIndex, find_runs, read_index
from harness.store.kinds import REWARD

COLUMNS = [
    *("run", "state", "created", "seed", "stage", "checkpoints", "evaluated"),
    *("picked", "stopped_by", "problems"),
]


@dataclass(frozen=True)
class RunRow:
    """A run and what it came to."""

    index: RunIndex
    state: str
    stage: str  # the last that was started
    stopped_by: str | None


def runs(folder: Path) -> pd.DataFrame:
    """One row a run, newest first: ``COLUMNS``. Policy checkpoints are counted."""
    rows = [run_row(path) for path in find_runs(folder)]
    return pd.DataFrame(
        [
            {
                "run": row.index.name,
                "state": row.state,
                "created": str(row.index.info.get("created", "")),
                "seed": row.index.info.get("seed"),
                "stage": row.stage,
                "checkpoints": sum(c.kind != REWARD for c in row.index.checkpoints),
                "evaluated": len({e.checkpoint for e in row.index.evaluations}),
                "picked": row.index.picked or "",
                "stopped_by": row.stopped_by or "",
                "problems": len(row.index.problems),
            }
            for row in rows
        ],
        columns=COLUMNS,
    )


def run_row(path: Path) -> RunRow:
    """One run."""
    index = read_index(path)
    started, done = index.last("stage_started"), index.last("done")
    return RunRow(
        index,
        index.state(),
        str(started.get("stage", "")) if started else "",
        done.get("stopped_by") if done else None,
    )
