"""SFT on raw text: every token carries loss, long documents are cut, nothing is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.errors import InputError
from trainers import sft
from trainers.packing import IGNORED

EOS = 2  # of the tiny tokenizer, which has one token a byte and adds no start token


def test_every_token_of_a_document_and_its_end_carry_loss(tokenizer: Any) -> None:
    rows = sft.document_examples(tokenizer, ["abcd", "x"], max_length=100, eos=(EOS,))
    assert [tokenizer.decode(row.input_ids) for row in rows] == ["abcd</s>", "x</s>"]
    assert all(row.labels == row.input_ids for row in rows)
    assert sft.document_examples(tokenizer, [], max_length=100, eos=(EOS,)) == []


def test_a_long_document_is_cut_and_not_dropped(tokenizer: Any) -> None:
    rows = sft.document_examples(tokenizer, ["abcdefgh"], max_length=3, eos=(EOS,))
    assert [tokenizer.decode(row.input_ids) for row in rows] == ["abc", "cde", "efg", "gh</s>"]
    assert [row.labels[0] == IGNORED for row in rows] == [False, True, True, True]
    assert all(row.labels[1:] == row.input_ids[1:] for row in rows)


@pytest.mark.parametrize("max_length", [2, 3, 4, 9, 10, 11, 12])
@pytest.mark.parametrize("length", range(12))
def test_every_token_but_the_first_is_predicted_once(
    tokenizer: Any, length: int, max_length: int
) -> None:
    """The end token too, also where it alone would be left for a last piece."""
    text = "abcdefghijkl"[:length]
    rows = sft.document_examples(tokenizer, [text], max_length=max_length, eos=(EOS,))
    assert all(2 <= len(row.input_ids) <= max_length for row in rows)
    predicted = [label for row in rows for label in row.labels[1:] if label != IGNORED]
    assert predicted == [*tokenizer(text)["input_ids"], EOS][1:]
    assert all(row.labels[0] == IGNORED for row in rows[1:])


def test_one_token_at_a_time_is_nothing_to_train_on(tmp_path: Path, context: Any) -> None:
    (tmp_path / "docs.jsonl").write_text(json.dumps({"text": "abc"}) + "\n")
    stage = {"kind": "sft", "data": str(tmp_path / "docs.jsonl"), "max_length": 1}
    told = "no token of 1 documents is predicted by one before it within max_length 1"
    with pytest.raises(InputError, match=told):
        list(sft.checkpoints(context(tmp_path / "run", [stage], quantization="none")))


def test_a_stage_trains_on_documents(tmp_path: Path, context: Any) -> None:
    text = "the cat sat on the mat. "
    lines = [json.dumps({"text": text * (1 + n % 3)}) for n in range(24)]
    (tmp_path / "docs.jsonl").write_text("\n".join(lines))
    stage = {
        "kind": "sft",
        "data": str(tmp_path / "docs.jsonl"),
        "epochs": 2,
        "batch": 4,
        "max_length": 40,
        "learning_rate": 1e-2,
        "lora": {"r": 4},
    }
    done = list(sft.checkpoints(context(tmp_path / "run", [stage], quantization="none")))
    assert [checkpoint.epoch for checkpoint in done] == [0, 1, 2]
    record = [json.loads((c.folder / "checkpoint.json").read_text()) for c in done]
    # Tokens with their end: 25 (whole), 49 (40 + 9) and 73 (40 + 33), eight documents of each. A
    # second piece begins with the first one's last token.
    assert record[2]["training"]["tokens"] == 8 * (25 + 50 + 74)
    assert record[2]["training"]["loss_tokens"] == 8 * (25 + 49 + 73)
    assert record[2]["training"]["rows"] == 8 * (1 + 2 + 2)
    assert record[2]["training"]["dropped"] == {"too long": 0}
    assert record[2]["training"]["loss"] < record[1]["training"]["loss"]
