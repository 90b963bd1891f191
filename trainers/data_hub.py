"""Training data from the Hugging Face hub: ``hub:owner/name[:config][@revision]#split``.

Read through ``datasets``, which is imported when such a name is met, downloads the files and keeps
them in its cache. Without a revision the newest is taken: pin one to train on the same rows again.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError
from trainers.data_files import Unreadable, values, without_nulls

if TYPE_CHECKING:
    import datasets
    import pyarrow

_ROWS = 1000  # read at a time
PREFIX = "hub:"
_SHAPE = "hub:owner/name[:config][@revision]#split, such as hub:Anthropic/hh-rlhf#train"
_NAME = re.compile(
    r"hub:(?P<repository>[\w-][\w.-]*/[\w-][\w.-]*)(?::(?P<config>[^:@#]+))?"
    r"(?:@(?P<revision>[^:@#]+))?#(?P<split>[^:@#]+(?:\[[^\]]*\])?)"
)


@dataclass(frozen=True)
class HubName:
    """What a ``hub:`` name says."""

    repository: str
    config: str | None
    revision: str | None
    split: str


def parse(source: str) -> HubName:
    """Raises ``InputError`` for what has another form."""
    match = _NAME.fullmatch(source)
    if match is None:
        raise InputError("not the name of a data set on the hub", path=source, expected=_SHAPE)
    return HubName(**match.groupdict())


def objects(source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """(number from 1, object) of the rows of a split. Raises ``InputError``."""
    name = parse(source)
    if Path(name.repository).exists():
        # ``datasets`` would read it instead of the hub's, whatever it holds.
        raise InputError(
            f"a folder {name.repository} is here, which would be read instead",
            path=source,
            expected=f"the folder's own path (./{name.repository}), or another working folder",
        )
    import datasets
    import pyarrow

    try:
        rows = datasets.load_dataset(
            name.repository, name.config, revision=name.revision, split=name.split
        )
        number = 0
        # As they are stored: images and sounds, which nobody reads, need not be decoded.
        for table in rows.with_format("arrow").iter(batch_size=_ROWS):
            columns = {name: _column(table[name], name, rows.features) for name in rows.features}
            for at in range(table.num_rows):
                number += 1
                row = {name: column[at] for name, column in columns.items()}
                yield number, without_nulls(row)
    # What ``datasets`` raises for: no network (ConnectionError is an OSError), no such data set,
    # configuration or split, a loading script, a file that is none.
    except (
        datasets.exceptions.DatasetsError,
        pyarrow.ArrowException,
        OSError,
        RuntimeError,
        ValueError,
    ) as error:
        raise InputError(_why(error), path=source, expected=_expected(error)) from error


def _column(column: pyarrow.ChunkedArray, name: str, features: datasets.Features) -> list[Any]:
    found = values(column)
    if not _holds_json(features[name]):
        return found
    return [
        value if isinstance(value, Unreadable) else features.decode_column([value], name)[0]
        for value in found
    ]


def _holds_json(feature: Any) -> bool:
    """Whether texts stand for objects in it: how ``datasets`` stores lists of mixed types."""
    import datasets

    if isinstance(feature, dict):
        return any(map(_holds_json, feature.values()))
    if isinstance(feature, list | tuple):
        return any(map(_holds_json, feature))
    if isinstance(feature, datasets.List | datasets.LargeList):
        return _holds_json(feature.feature)
    return isinstance(feature, getattr(datasets, "Json", ()))  # of datasets 4.0 there is none


def _why(error: Exception) -> str:
    return f"cannot be read: {' '.join(str(error).split()) or type(error).__name__}"


def _expected(error: Exception) -> str | None:
    if isinstance(error, ConnectionError):
        return (
            "a network that reaches the hub, or the data set in the cache of `datasets` "
            "(read it once where there is one), or its files in a folder"
        )
    return None
