"""A learner's log-probabilities, entropies and their gradients, by either way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_model import adapted
from live_tensors import LiveTensors
from torch import Tensor

from harness.adapters import adapter_weights
from harness.models import causal_model
from trainers.learner import Learner, learner

ROWS, COLUMNS = torch.tensor([0, 0, 1, 1, 1]), torch.tensor([2, 3, 0, 1, 5])
TARGETS = torch.tensor([9, 4, 7, 30, 11])


@pytest.fixture
def model(tiny_llama: Path) -> Any:
    return adapted(tiny_llama)


def ids() -> Tensor:
    return torch.randint(3, 100, (2, 6), generator=torch.Generator().manual_seed(1))


def plain(model: Any, temperature: float) -> tuple[Tensor, Tensor]:
    logits = model(input_ids=ids()).logits[ROWS, COLUMNS] / temperature
    spread = torch.distributions.Categorical(logits=logits)
    return spread.log_prob(TARGETS), spread.entropy()


def gradients(model: Any, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, [*adapter_weights(model, "policy").values()]))


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("entropy_weight", [0.0, 0.3])
@pytest.mark.parametrize("by", ["trunk", "transformers", "adapted head"])
def test_log_probs_entropy_and_gradients(
    tiny_llama: Path, temperature: float, entropy_weight: float, by: str
) -> None:
    head = ["q_proj", "lm_head"] if by == "adapted head" else "all-linear"
    model = adapted(tiny_llama, target_modules=head)
    weight = torch.tensor([1.0, -2.0, 0.5, 3.0, -1.0])
    expected, spread = plain(model, temperature)
    loss = (expected * weight).sum() + entropy_weight * (spread * weight).sum()
    right = gradients(model, loss)
    with learner(model) as net:
        if by == "transformers":
            net = Learner(model, None)
        found, entropy = net.log_probs(
            ids(), ROWS, COLUMNS, TARGETS, temperature=temperature, entropy_grad=entropy_weight > 0
        )
        assert entropy.requires_grad == (entropy_weight > 0)
        loss = (found * weight).sum() + entropy_weight * (entropy * weight).sum()
        got = gradients(model, loss)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(entropy, spread, rtol=1e-4, atol=1e-5)
    for one, other in zip(got, right, strict=True):
        assert float((one - other).norm()) < 1e-4 * float(other.norm())


def test_a_token_without_any_chance(model: Any) -> None:
    """Logits so far apart that probabilities vanish: 0·log 0 is 0, here and in the gradient."""
    head = causal_model(model).get_output_embeddings()
    with torch.no_grad():
        head.weight.mul_(1e5)
    with learner(model) as net:
        found, entropy = net.log_probs(ids(), ROWS, COLUMNS, TARGETS, entropy_grad=True)
        got = gradients(model, entropy.sum())
    assert float(found.detach().min()) < -200
    assert torch.isfinite(entropy).all()
    assert all(torch.isfinite(one).all() for one in got)


def test_recomputing_keeps_less(model: Any) -> None:
    kept = []
    for recompute in (False, True):
        with learner(model, recompute=recompute) as net, LiveTensors(model) as live:
            states = net.hidden(
                torch.arange(3, 99).view(4, 24), torch.arange(4), torch.full((4,), 23)
            )
            kept.append(live.now)
            states.sum().backward()
    assert kept[1] < 0.5 * kept[0]
