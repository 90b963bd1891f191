"""samples.jsonl: written, read back, and what is wrong with it told."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from harness.chat import assistant, system, user
from harness.errors import InputError
from trainers.samples_file import (
    Best,
    content_hash,
    demonstrations,
    files_of,
    read_samples,
    read_source,
    write_lines,
)

BEST = Best(
    stage="v1",
    round=1,
    id="p",
    messages=(system("Be kind."), user("a\u2028b")),
    safety=True,
    prompt_ids=[1, 2],
    reply_ids=[3, 4],
    text="so “be it”",
    ended=True,
    reward=1.0,
    mean_reward=0.5,
    source="safety",
)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    write_lines([BEST, replace(BEST, round=2)], path)
    assert read_samples(tmp_path) == [BEST, replace(BEST, round=2)]
    rows = read_source(path)
    assert [str(place) for place, _ in rows] == [f"{path}:1", f"{path}:2"]
    [row, _] = demonstrations(rows)
    assert row.messages == (*BEST.messages, assistant(BEST.text))
    before = content_hash(path)
    assert before == hashlib.sha256(path.read_bytes()).hexdigest()  # as sha256sum says
    write_lines([BEST], path)
    assert content_hash(path) != before
    assert read_samples(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"reward": "high"}, r"samples.jsonl:2: reward: is 'high'; expected a number"),
        ({"reward": True}, "reward: is True"),
        ({"round": 1.5}, "round: is 1.5; expected a whole number"),
        ({"safety": 1}, "safety: is 1; expected true or false"),
        ({"messages": []}, "messages: is an empty list"),
        ({"messages": [{"role": "human", "content": "a"}]}, r"messages\[0\].role: is 'human'"),
        ({"messages": [{"role": "assistant", "content": "a"}]}, "is assistant; expected user"),
        ({"reply_ids": [1.0]}, "reply_ids: is no list of tokens"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, changed: dict[str, Any], message: str) -> None:
    rows = [asdict(BEST), {**asdict(BEST), **changed}]
    path = tmp_path / "samples.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(InputError, match=message):
        read_source(path)


def test_what_is_no_samples_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no samples here"):
        files_of(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="not a committed checkpoint"):
        files_of(tmp_path)
    path = tmp_path / "samples.jsonl"
    path.write_text("")
    with pytest.raises(InputError, match="holds no samples"):
        read_source(path)
    path.write_text('{"prompt": "a"}\n')
    with pytest.raises(InputError, match=r"samples\.jsonl:1: stage: is missing"):
        read_source(path)
    path.write_text("[1]\n")
    with pytest.raises(InputError, match="not a sample"):
        read_source(path)
