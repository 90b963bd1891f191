"""Single rows of a frame as plain mappings, for the words that go with a chart."""

from __future__ import annotations

from typing import Any

import pandas as pd

Row = dict[str, Any]


def rows_of(frame: pd.DataFrame) -> list[Row]:
    """Every row, in order."""
    columns = {str(name): frame[name].tolist() for name in frame.columns}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def records(frame: pd.DataFrame) -> list[Row]:
    """Every row as it can be written as JSON: NaN as null."""
    columns = {
        str(name): [None if value != value else value for value in frame[name].tolist()]
        for name in frame.columns
    }
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def first_of(frame: pd.DataFrame) -> Row:
    """The first row; IndexError if there is none."""
    return rows_of(frame.iloc[:1])[0]


def last_of(frame: pd.DataFrame) -> Row:
    """The last row; IndexError if there is none."""
    return rows_of(frame.iloc[-1:])[0]


def highest(frame: pd.DataFrame, column: str) -> Row:
    """The (first) row with the highest value; ``column`` must hold one that is not NaN."""
    return rows_of(frame.iloc[[int(frame[column].to_numpy().argmax())]])[0]


def lowest(frame: pd.DataFrame, column: str) -> Row:
    """The (first) row with the lowest value."""
    return rows_of(frame.iloc[[int(frame[column].to_numpy().argmin())]])[0]
