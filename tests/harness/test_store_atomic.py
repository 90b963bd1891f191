from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np
import pytest

from harness.store import atomic


class Colour(StrEnum):
    RED = "red"


@dataclass(frozen=True)
class Point:
    x: float
    where: Path


def test_writes_and_replaces(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    atomic.write_text(path, "one\r\n")
    atomic.write_text(path, "zwölf\n")
    assert path.read_bytes() == "zwölf\n".encode()
    atomic.write_bytes(path, b"\x00")
    assert path.read_bytes() == b"\x00"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_an_error_leaves_the_old_content_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    atomic.write_bytes(path, b"old")

    def fail_halfway() -> None:
        with atomic.replacing(path) as temporary:
            temporary.write_bytes(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def test_value_that_is_not_json_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    atomic.write_json(path, {"a": 1})
    with pytest.raises(TypeError, match="object is not JSON"):
        atomic.write_json(path, {"a": object()})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_temporary_name_is_recognisable(tmp_path: Path) -> None:
    with atomic.replacing(tmp_path / "x.parquet") as temporary:
        temporary.write_bytes(b"")
        assert temporary.name.startswith(".x.parquet.")
        assert temporary.name.endswith(atomic.TEMPORARY)
        assert temporary.parent == tmp_path


def test_json_of_our_types() -> None:
    value = {
        "point": Point(1.5, Path("a/b")),
        Colour.RED: [Colour.RED, None, True],
        3: {"b", "a"},
        "numpy": [np.float32(0.5), np.int64(7), np.array([1, 2]), np.bool_(True)],
    }
    assert json.loads(atomic.to_json(value)) == {
        "point": {"x": 1.5, "where": "a/b"},
        "red": ["red", None, True],
        "3": ["a", "b"],
        "numpy": [0.5, 7, [1, 2], True],
    }


def test_json_has_no_nan() -> None:
    value = [float("nan"), float("inf"), np.array([np.nan, 1.0]), {"a": -np.inf}]
    assert atomic.to_json(value) == '[null, null, [null, 1.0], {"a": null}]'


def test_json_refuses_keys_that_would_change() -> None:
    with pytest.raises(TypeError, match="not a JSON key"):
        atomic.to_json({None: 1})


def test_make_folder_makes_parents(tmp_path: Path) -> None:
    atomic.make_folder(tmp_path / "a" / "b")
    atomic.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()
