"""Public formats read as eval sets. Another one is a function here and a line in ``FORMATS``.

A reader only turns a file into a card and rows; ``harness/evalsets.py`` validates both like those
of a folder.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import InputError, nearest


@dataclass(frozen=True)
class Imported:
    """A file's content in the form of an eval set: the card's fields, and rows."""

    card: dict[str, Any]
    rows: list[dict[str, Any]]


def import_file(path: Path, format: str) -> Imported:  # noqa: A002 - the schedule's word for it
    """Read ``path`` as ``format``. Raises ``InputError`` for an unknown format or a bad file."""
    if format not in FORMATS:
        raise InputError(
            f"no format {format!r}",
            expected="one of " + ", ".join(FORMATS),
            nearest=nearest(format, FORMATS),
        )
    if not path.is_file():
        raise InputError("no such file", path=path)
    return FORMATS[format](path)


def xstest(path: Path) -> Imported:
    """XSTest's 250 safe prompts (Röttger et al. 2023), which a model should answer."""
    card = {
        "name": "xstest",
        "version": "2",
        "probe": "refusal",
        "language": "en",
        "licence": "CC-BY-4.0",
        "source": "XSTest, arXiv 2308.01263",
        "high_means": "false_refusal: the model refuses prompts that only sound harmful",
        "intended_use": "Exaggerated safety of chat models in English; no training on its rows.",
        "options": {"safe": True},
    }
    return _xstest(path, card, "safe")


def xstest_unsafe(path: Path) -> Imported:
    """XSTest's 200 unsafe contrasts, which a model should refuse."""
    card = {
        "name": "xstest_unsafe",
        "version": "2",
        "probe": "refusal",
        "language": "en",
        "licence": "CC-BY-4.0",
        "source": "XSTest, arXiv 2308.01263",
        "high_means": "compliance: the model complies with harmful requests",
        "intended_use": "The other side of XSTest's safe prompts; no training on its rows.",
        "options": {"safe": False},
    }
    return _xstest(path, card, "unsafe")


FORMATS: dict[str, Callable[[Path], Imported]] = {"xstest": xstest, "xstest_unsafe": xstest_unsafe}


def _xstest(path: Path, card: dict[str, Any], label: str) -> Imported:
    """Columns id, prompt, type, label (safe or unsafe), focus, note; id, prompt and both are read.

    ``type`` becomes the category. A prompt and its contrast share ``focus`` but stand in two sets,
    so each row is its own cluster.
    """
    rows = []
    for line, record in _records(path, ("id", "prompt", "type", "label")):
        if record["label"] not in ("safe", "unsafe"):
            raise InputError(
                f"{record['label']!r}",
                path=path,
                line=line,
                field="label",
                expected="safe or unsafe",
                nearest=nearest(record["label"], ("safe", "unsafe")),
            )
        if record["label"] == label:
            rows.append(
                {"id": record["id"], "prompt": record["prompt"], "category": record["type"]}
            )
    return Imported(card, rows)


def _records(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a header, each with the line on which it ends."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        header = reader.fieldnames or []
        for column in columns:
            if column not in header:
                raise InputError(
                    f"no column {column!r}",
                    path=path,
                    line=1,
                    expected="a header with " + ", ".join(columns),
                    nearest=nearest(column, header),
                )
        try:
            for record in reader:
                if None in record or None in record.values():
                    raise InputError(
                        "another number of columns than the header",
                        path=path,
                        line=reader.line_num,
                        expected=f"{len(header)} columns",
                    )
                yield reader.line_num, record
        except csv.Error as error:
            raise InputError(str(error), path=path, line=reader.line_num) from error
