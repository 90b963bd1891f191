"""Tables as CSV: every metric of every checkpoint, and the data behind a figure."""

from __future__ import annotations

import pandas as pd

from dashboards.data.index import View
from dashboards.data.metrics import checkpoints
from dashboards.data.summaries import opened
from harness.visible import visible

COLUMNS = [
    *("run", "checkpoint", "order", "stage", "kind", "epoch", "verdict", "picked"),
    *("metric", "split", "value", "low", "high", "n", "unscored"),
]
# A cell that begins with one of these is run as a formula by spreadsheets.
_FORMULA = ("=", "+", "-", "@", "\t")


def metrics_table(view: View) -> pd.DataFrame:
    """``COLUMNS``: one row a checkpoint, metric and split (all, A, B), in the order of training.

    Intervals are 95 %, as committed; ``value``, ``low`` and ``high`` are NaN where there is none.
    """
    info = checkpoints(view.index).set_index("checkpoint")
    rows = []
    for entry in view.entries():
        evaluation = opened(entry)
        if evaluation is None or entry.checkpoint not in info.index:
            continue
        of = info.loc[entry.checkpoint]
        shared = {name: of[name] for name in COLUMNS[2:8]}
        for metric, said in evaluation.summary["metrics"].items():
            for split in ("all", "A", "B"):
                rows.append(
                    {
                        "run": view.index.name,
                        "checkpoint": entry.checkpoint,
                        **shared,
                        "metric": f"{entry.set}.{metric}",
                        "split": split,
                        **said[split],
                    }
                )
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return frame.astype({"value": float, "low": float, "high": float})


def csv(frame: pd.DataFrame) -> str:
    """The frame as CSV in UTF-8 text; text that a spreadsheet would run gets a quote in front."""
    safe = frame.copy()
    for column in safe.columns:
        if not pd.api.types.is_numeric_dtype(safe[column]):
            safe[column] = safe[column].map(_inert)
    return str(safe.to_csv(index=False, lineterminator="\n"))


def _inert(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = visible(value, tabs=True)  # a lone carriage return would end the row for many readers
    return f"'{text}" if text.startswith(_FORMULA) else text
