"""SQL over the committed samples: DuckDB reads exactly the files it is given.

Files are named one by one. A file that turns out damaged only when it is read is found, left out
and reported (``damaged``); the others still answer. Nothing is written and nothing is fetched:
extensions are neither installed nor loaded on demand.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd

from dashboards.data.index import EvalEntry, Problem

_SPECIAL = re.compile(r"[*?\[]")
_lock = threading.Lock()
_connection: duckdb.DuckDBPyConnection | None = None
_damaged: dict[tuple[Any, ...], Problem] = {}
_sound: set[tuple[Any, ...]] = set()


def query(
    entries: Sequence[EvalEntry], sql: str, parameters: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """The result of ``sql``, in which the table ``samples`` holds the rows of these evaluations.

    ``samples`` has the columns of samples.parquet (docs/run-format.md) and ``entry``, the place in
    ``entries`` that a row comes from. Parameters are ``$name``; no text of a user or a model is
    ever put into the SQL itself.
    """
    there = [(i, entry) for i, entry in enumerate(entries) if entry.stamp not in _damaged]
    while there:
        try:
            return _run(there, sql, parameters or {})
        except duckdb.Error:
            bad = [(i, entry) for i, entry in there if not _readable(entry)]
            if not bad:  # the query's own fault
                raise
            there = [pair for pair in there if pair not in bad]
    return pd.DataFrame()


def damaged(entries: Sequence[EvalEntry]) -> list[Problem]:
    """Those of the evaluations that a query had to leave out, and why."""
    return [_damaged[entry.stamp] for entry in entries if entry.stamp in _damaged]


def readable(entry: EvalEntry) -> bool:
    """Whether every byte of its samples can be read: to be asked before others read them whole."""
    return entry.stamp not in _damaged and (entry.stamp in _sound or _readable(entry))


def _run(
    there: Sequence[tuple[int, EvalEntry]], sql: str, parameters: Mapping[str, Any]
) -> pd.DataFrame:
    places = pd.DataFrame(
        {"filename": [str(e.samples) for _, e in there], "entry": [i for i, _ in there]}
    )
    given = {**parameters, "files": [_literal(e.samples) for _, e in there]}
    with _cursor() as cursor:
        cursor.register("places", places)
        return cursor.execute(
            "with samples as (select * exclude (filename) from read_parquet($files, "
            "filename = true, file_row_number = true) join places using (filename)) " + sql,
            given,
        ).df()


def _readable(entry: EvalEntry) -> bool:
    """Whether every byte of the file can be read as parquet; remembers those that cannot."""
    try:
        with _cursor() as cursor:
            cursor.execute(
                "select count(hash(s)) from read_parquet($files) as s",
                {"files": [_literal(entry.samples)]},
            ).fetchall()
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        _damaged[entry.stamp] = Problem(entry.samples, f"cannot be read ({first})")
        return False
    _sound.add(entry.stamp)
    return True


def _literal(path: Path) -> str:
    """The path as a pattern that matches nothing else, whatever signs the run's name has."""
    return _SPECIAL.sub(lambda sign: f"[{sign.group()}]", str(path))


def _cursor() -> duckdb.DuckDBPyConnection:
    global _connection
    with _lock:
        if _connection is None:
            _connection = duckdb.connect(
                config={
                    "autoinstall_known_extensions": "false",
                    "autoload_known_extensions": "false",
                }
            )
        return _connection.cursor()
