"""Log-probabilities of given replies: those of a naive forward, within memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_engine import engine, loaded

from harness.engines import measuring
from harness.engines.reading import Reader
from harness.models import LoadedModel, Quantization


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> LoadedModel:
    return loaded(tiny_llama)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probs_are_those_of_a_naive_forward(
    tiny_llama: Path, quantization: Quantization, temperature: float
) -> None:
    found = loaded(tiny_llama, quantization)
    prompts = [[1, 20, 30], [1, 40], [1, 50, 60, 70, 80, 90], [1, 21]]
    answers = [[33, 34, 35, 36, 37], [99], [], [100, 2]]
    for size in (1, 3, 8):
        made_by = engine(found, batch_size=size)
        values = made_by.log_probs(prompts, answers, temperature=temperature)
        assert [tuple(value.shape) for value in values] == [(5,), (1,), (0,), (2,)]
        for prompt, answer, value in zip(prompts, answers, values, strict=True):
            assert value.dtype == torch.float32
            with torch.no_grad():
                logits = found.model(torch.tensor([prompt + answer])).logits[0]
            naive = torch.log_softmax(logits / temperature, dim=-1)
            expected = [naive[len(prompt) + t - 1, token] for t, token in enumerate(answer)]
            torch.testing.assert_close(value, torch.tensor(expected), rtol=1e-4, atol=1e-5)


def test_log_probs_need_something_to_go_on(tiny: LoadedModel) -> None:
    with pytest.raises(ValueError, match="2 prompts for 1 replies"):
        engine(tiny).log_probs([[1], [1]], [[1]])
    with pytest.raises(ValueError, match="an empty prompt"):
        engine(tiny).log_probs([[]], [[1]])
    assert engine(tiny).log_probs([], []) == []


def test_log_probs_stay_within_memory(tiny: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Long prompts beside short ones too, of a model that computes from the first reply on."""
    prompts, answers = [[1, 20]] * 6 + [[1, 20] * 9], [[30, 31, 32]] * 6 + [[40]]
    expected = engine(tiny).log_probs(prompts, answers)
    limit = 2 * 263 * 20  # two rows' worth
    monkeypatch.setattr(measuring, "_MAX_LOGITS", limit)
    logits, seen = Reader.logits, []

    def watched(self: Reader, ids: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> Any:
        seen.append(ids.shape[0] * (ids.shape[1] - int(columns.min())) * 263)
        return logits(self, ids, rows, columns)

    monkeypatch.setattr(Reader, "logits", watched)
    for value, wanted in zip(engine(tiny).log_probs(prompts, answers), expected, strict=True):
        torch.testing.assert_close(value, wanted)
    assert 1 < len(seen) < 7
    assert max(seen) <= limit
