from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from harness.errors import IntegrityError
from harness.store import lines


def test_appends_in_order(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert lines.read(path) == []
    for i in range(3):
        lines.append(path, {"i": i, "text": "ä\nb"}, sync=i % 2 == 0)
    assert lines.read(path) == [{"i": i, "text": "ä\nb"} for i in range(3)]
    assert path.read_bytes().count(b"\n") == 3


@pytest.mark.parametrize("torn", ['{"i": 3', '{"i": 3}', "x" * 200_000, "\x00\x00"])
def test_a_torn_last_line_is_left_out_and_cut(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "log.jsonl"
    lines.append(path, {"i": 1})
    with path.open("a") as file:
        file.write(torn)
    assert lines.read(path) == [{"i": 1}]
    lines.append(path, {"i": 2})
    assert lines.read(path) == [{"i": 1}, {"i": 2}]
    assert path.read_text() == '{"i": 1}\n{"i": 2}\n'


def test_a_file_of_one_torn_line_is_empty(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text("x" * 100_000)
    assert lines.read(path) == []
    lines.append(path, {"i": 1})
    assert lines.read(path) == [{"i": 1}]


@pytest.mark.parametrize("line", ["{]", "[1]", ""])
def test_damage_before_the_end_is_an_error(tmp_path: Path, line: str) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text(f'{{"i": 1}}\n{line}\n{{"i": 2}}\n')
    with pytest.raises(IntegrityError, match=r"log\.jsonl:2: not"):
        lines.read(path)


def test_a_full_disk_leaves_the_log_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    lines.append(path, {"i": 1})
    real, calls = os.pwrite, []

    def short_then_full(handle: int, data: bytes, offset: int) -> int:
        calls.append(offset)
        if len(calls) > 1:
            raise OSError(28, "No space left on device")
        return real(handle, data[:4], offset)

    monkeypatch.setattr(os, "pwrite", short_then_full)
    with pytest.raises(OSError, match="No space"):
        lines.append(path, {"i": 2})
    assert path.read_text() == '{"i": 1}\n'


def test_a_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, real = tmp_path / "log.jsonl", os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda h, data, at: real(h, data[:3], at))
    lines.append(path, {"text": "some words"})
    assert lines.read(path) == [{"text": "some words"}]


def test_appends_from_several_threads_stay_apart(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    def work(who: int) -> None:
        for i in range(30):
            lines.append(path, {"who": who, "i": i, "text": "x" * 500}, sync=False)

    threads = [threading.Thread(target=work, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = lines.read(path)
    for who in range(4):
        assert [r["i"] for r in found if r["who"] == who] == list(range(30))
