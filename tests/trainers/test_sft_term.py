"""The demonstrations' loss beside PPO's: its value, its gradient, and that it adds to a step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch.nn import functional
from transformers import LlamaForCausalLM

from trainers.draws import draw
from trainers.learner import Learner
from trainers.packing import IGNORED
from trainers.sft_rows import Example
from trainers.sft_term import SftTerm, cross_entropy

ROWS = (
    Example([5, 6, 7, 8, 9], [IGNORED, IGNORED, 7, 8, 9]),
    Example([10, 11, 12], [IGNORED, 11, 12]),
    Example([20, 21, 22, 23, 24, 25, 26], [IGNORED] * 5 + [25, 26]),
    Example([30, 31], [30, 31]),  # raw text: the first token has a label that nothing predicts
)
CPU = Accelerator(cpu=True)


@pytest.fixture
def trained_llama(tiny_llama: Path) -> LlamaForCausalLM:
    return LlamaForCausalLM.from_pretrained(tiny_llama, dtype=torch.float32)


def plain_loss(model: Any, row: Example) -> torch.Tensor:
    """−log π summed over the labelled tokens, one row, no padding."""
    logits = model(input_ids=torch.tensor([row.input_ids])).logits[0].float()
    pairs = [(i, label) for i, label in enumerate(row.labels) if i and label != IGNORED]
    return torch.stack(
        [functional.cross_entropy(logits[i - 1], torch.tensor(label)) for i, label in pairs]
    ).sum()


@pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ROWS[2:3], ROWS[1:3]])
def test_padded_rows_cost_what_they_cost_alone(trained_llama: Any, rows: Any) -> None:
    with torch.no_grad():
        expected = sum(float(plain_loss(trained_llama, row)) for row in rows)
        got = float(cross_entropy(Learner(trained_llama, None), rows, pad=0))
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("micro", [1, 3, 4])
def test_the_gradient_is_the_weighted_mean_over_answer_tokens(
    trained_llama: Any, micro: int
) -> None:
    term = SftTerm(ROWS, weight=2.5, batch=4, micro=micro, pad=0)
    parameters = list(trained_llama.parameters())
    loss = term.backward(Learner(trained_llama, None), 3, seed=1, accelerator=CPU)
    got = [parameter.grad.clone() for parameter in parameters]
    trained_llama.zero_grad()
    tokens = 3 + 2 + 2 + 1
    expected = torch.stack([plain_loss(trained_llama, row) for row in ROWS]).sum() / tokens
    (2.5 * expected).backward()
    assert loss == pytest.approx(float(expected.detach()), rel=1e-5)
    for ours, parameter in zip(got, parameters, strict=True):
        torch.testing.assert_close(ours, parameter.grad, rtol=1e-4, atol=1e-5)


def test_every_row_has_its_turn() -> None:
    seen = [i for step in range(2) for i in draw(len(ROWS), 2, step, seed=9)]
    assert sorted(seen) == [0, 1, 2, 3]
