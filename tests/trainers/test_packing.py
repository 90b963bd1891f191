"""Packing: no row is cut, and no logit sees another row."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from trainers import sft
from trainers.packing import IGNORED, PackedCollator, pack


def test_packing_fills_best_and_cuts_nothing() -> None:
    assert pack([5, 2, 4, 1, 3], 6) == [[0, 3], [2, 1], [4]]
    assert pack([9], 6) == [[0]]  # longer than the room: on its own, whole
    groups = pack([i % 37 + 1 for i in range(500)], 64)
    assert sorted(row for group in groups for row in group) == list(range(500))


def rows(*lengths: int) -> list[sft.Example]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for length in lengths:
        ids = torch.randint(7, 250, (length,), generator=generator).tolist()
        made.append(sft.Example(ids, [IGNORED, *ids[1:]]))
    return made


def packed_batch(examples: list[sft.Example], room: int) -> dict[str, torch.Tensor]:
    data = sft.dataset(examples, packing=True, max_length=room, seed=1)
    return PackedCollator(pad_token_id=0)([data[i] for i in range(len(data))])


def test_the_first_token_of_a_row_is_never_predicted() -> None:
    examples = [sft.Example([7, 8, 9], [7, 8, 9]), sft.Example([10, 11], [10, 11])]
    batch = packed_batch(examples, 6)
    assert batch["input_ids"].tolist() == [[7, 8, 9, 10, 11]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1]]
    assert batch["labels"].tolist() == [[IGNORED, 8, 9, IGNORED, 11]]


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_logit_sees_another_row(tiny_llama: Path, attention: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama, attn_implementation=attention)
    examples = rows(20, 11, 30, 7)
    batch = packed_batch(examples, 40)
    assert batch["input_ids"].shape == (2, 38)  # 30 and padding, 20 + 11 + 7
    inputs = {"position_ids": batch["position_ids"], "use_cache": False}
    with torch.no_grad():
        logits = model(input_ids=batch["input_ids"], **inputs).logits
        alone = {tuple(e.input_ids): model(torch.tensor([e.input_ids])).logits[0] for e in examples}
        for number, row in enumerate(batch["input_ids"].tolist()):
            for ids, expected in alone.items():
                for at in range(len(row) - len(ids) + 1):
                    if row[at : at + len(ids)] == list(ids):
                        found = logits[number, at : at + len(ids)]
                        torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
                        break
        # Bit for bit: no token of a sequence's first row moves a logit of its second or third.
        changed = batch["input_ids"].clone()
        changed[1, :20] = 5
        after = model(input_ids=changed, **inputs).logits
    assert not torch.equal(after[1, :20], logits[1, :20])
    assert torch.equal(after[1, 20:], logits[1, 20:])
