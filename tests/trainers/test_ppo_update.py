"""PPO's forward passes and optimiser steps on a real (tiny, quantised) model with adapters."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import LoraConfig
from torch import Tensor

from harness.adapters import (
    activate,
    adapter_hash,
    adapter_weights,
    add_adapter,
    copy_adapter,
)
from harness.models import ModelSpec, load
from trainers import rollouts
from trainers.actor import Actor
from trainers.learner import Learner, learner
from trainers.ppo import Batch, _explained, update
from trainers.rollouts import Replies, policy_log_probs, reply_values
from trainers.schedule_stages import Optimizer, PpoStage

STAGE = PpoStage(name="ppo", batch=8, mini_batch=8, value_clip=None, clip=0.2)
LENGTHS = [(5, 3), (2, 7), (9, 1), (4, 4), (3, 6), (6, 2), (7, 5), (1, 8)]


@pytest.fixture
def actor(tiny_llama: Path) -> Actor:
    loaded = load(ModelSpec(base=str(tiny_llama), quantization="nf4"))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = add_adapter(loaded.model, "policy", lora, seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in adapter_weights(model, "policy").items():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    copy_adapter(model, "policy", "reference")
    copy_adapter(model, "policy", "value")
    head = torch.nn.Linear(model.config.hidden_size, 1)
    with torch.no_grad():
        head.weight.copy_(0.1 * torch.randn(head.weight.shape, generator=generator))
        head.bias.zero_()
    model.eval()
    return Actor(
        model=model,
        head=head,
        pad=0,
        policy_optimizer=torch.optim.SGD(adapter_weights(model, "policy").values(), lr=1.0),
        value_optimizer=torch.optim.SGD(
            [*head.parameters(), *adapter_weights(model, "value").values()], lr=1.0
        ),
        reference="reference",
        value="value",
    )


@pytest.fixture
def sampled() -> Replies:
    generator = torch.Generator().manual_seed(11)

    def tokens(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(7, 200, (n,), generator=generator).tolist())

    prompts, replies = zip(*((tokens(p), tokens(r)) for p, r in LENGTHS), strict=True)
    return Replies(prompts, replies, (True,) * len(LENGTHS))


@pytest.fixture
def batch(actor: Actor, sampled: Replies, monkeypatch: pytest.MonkeyPatch) -> Batch:
    monkeypatch.setattr(rollouts, "TOKENS_AT_ONCE", 20)  # measured in several parts
    mask = sampled.mask()
    generator = torch.Generator().manual_seed(2)
    advantages, returns = torch.randn(2, *mask.shape, generator=generator) * mask
    activate(actor.model, "policy")
    old = actor.measured_log_probs(sampled, STAGE)
    values = actor.measured_values(sampled, STAGE)
    return Batch(sampled, mask, old, advantages, values, returns)


def _logits(actor: Actor, ids: tuple[int, ...]) -> Tensor:
    logits: Tensor = actor.model(input_ids=torch.tensor([ids])).logits[0].float()
    return logits


def test_log_probs_equal_one_plain_forward_a_row(actor: Actor, sampled: Replies) -> None:
    activate(actor.model, "policy")
    with learner(actor.model) as net:
        got, entropy = policy_log_probs(
            net, sampled.prompts, sampled.replies, pad=0, temperature=0.7, width=8
        )
    for i, (prompt, reply) in enumerate(zip(sampled.prompts, sampled.replies, strict=True)):
        log_p = (_logits(actor, prompt + reply) / 0.7).log_softmax(-1)
        for t, token in enumerate(reply):
            at = log_p[len(prompt) - 1 + t]
            assert got[i, t].item() == pytest.approx(at[token].item(), abs=1e-4)
            assert entropy[i, t].item() == pytest.approx(
                torch.distributions.Categorical(logits=at).entropy().item(), abs=1e-4
            )
        assert (got[i, len(reply) :] == 0).all()


def test_values_are_read_before_each_token(actor: Actor, sampled: Replies) -> None:
    actor.activate_value(train=False)
    net = Learner(actor.model, None)
    got = reply_values(net, actor.head, sampled.prompts, sampled.replies, pad=0, width=8)
    prompt, reply = sampled.prompts[3], sampled.replies[3]
    for t in range(len(reply)):  # the value must not see the token that it judges
        state = prompt + reply[:t]
        alone = reply_values(net, actor.head, [state], [(9,)], pad=0, width=1)
        assert got[3, t].item() == pytest.approx(alone.item(), abs=1e-4)


def test_what_is_measured_is_what_is_trained(actor: Actor, batch: Batch) -> None:
    """Measured with folded weights, in groups; trained with the adapter beside, all at once."""
    sampled, width = batch.sampled, batch.mask.shape[1]
    activate(actor.model, "policy")
    with torch.no_grad():
        with learner(actor.model) as net:
            log_probs, _ = actor.log_probs(net, sampled.prompts, sampled.replies, width, STAGE)
        actor.activate_value(train=False)
        with learner(actor.model) as net:
            values = actor.values(net, sampled.prompts, sampled.replies, width)
    torch.testing.assert_close(batch.log_probs, log_probs, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(batch.values, values, rtol=1e-4, atol=1e-5)
    assert (batch.log_probs[~batch.mask] == 0).all()


def test_what_the_sampler_knew_is_used_where_it_knew_all(sampled: Replies) -> None:
    known = tuple(tuple(-0.5 * t for t in range(len(reply))) for reply in sampled.replies)
    found = replace(sampled, log_probs=known).sampled_log_probs()
    assert found is not None
    assert found.shape == sampled.mask().shape
    for row, expected in zip(found.tolist(), known, strict=True):
        assert row == [*expected, *[0.0] * (len(row) - len(expected))]
    assert replace(sampled, log_probs=(None, *known[1:])).sampled_log_probs() is None
    assert sampled.sampled_log_probs() is None


def _plain_gradients(actor: Actor, batch: Batch) -> dict[str, Tensor]:
    """The clipped surrogate's gradient, row by row, token by token, in the plainest code."""
    activate(actor.model, "policy", train=True)
    total = torch.zeros(())
    tokens = 0
    for i, (prompt, reply) in enumerate(
        zip(batch.sampled.prompts, batch.sampled.replies, strict=True)
    ):
        log_p = _logits(actor, prompt + reply).log_softmax(-1)
        for t, token in enumerate(reply):
            ratio = torch.exp(log_p[len(prompt) - 1 + t, token] - batch.log_probs[i, t])
            advantage = batch.advantages[i, t]
            total = total - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage)
            tokens += 1
    weights = adapter_weights(actor.model, "policy")
    gradients = torch.autograd.grad(total / tokens, [*weights.values()])
    return dict(zip(weights, gradients, strict=True))


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("micro", [8, 4, 2, 1])
def test_a_step_is_the_plain_gradient_however_it_is_cut(
    actor: Actor, batch: Batch, micro: int, recompute: bool
) -> None:
    generator = torch.Generator().manual_seed(8)
    off = 0.3 * torch.randn(batch.log_probs.shape, generator=generator) * batch.mask
    batch = replace(batch, log_probs=batch.log_probs + off)  # some ratios out of the clip range
    expected = _plain_gradients(actor, batch)
    before = {k: w.detach().clone() for k, w in adapter_weights(actor.model, "policy").items()}
    stage = STAGE.model_copy(
        update={
            "micro_batch": micro,
            "gradient_checkpointing": recompute,
            "optimizer": Optimizer(max_grad_norm=1e9),
        }
    )
    seen = update(actor, batch, stage, iteration=0, seed=0, accelerator=Accelerator(cpu=True))
    assert 0.1 < seen["clip_share"] < 0.9
    for name, weight in adapter_weights(actor.model, "policy").items():
        step = before[name] - weight.detach()  # SGD with lr 1: the gradient itself
        torch.testing.assert_close(step, expected[name], rtol=1e-3, atol=2e-6)
        assert expected[name].abs().max() > 0


def test_an_update_moves_policy_and_value_and_nothing_else(actor: Actor, batch: Batch) -> None:
    def base_hash() -> str:
        digest = hashlib.sha256()
        for name, weight in actor.model.named_parameters():
            if "lora_" not in name:
                digest.update(weight.detach().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    def hashes() -> dict[str, str]:
        names = ("policy", "reference", "value")
        return {name: adapter_hash(actor.model, name) for name in names} | {"base": base_hash()}

    before = hashes()
    update(
        actor,
        batch,
        STAGE,
        iteration=0,
        seed=0,
        accelerator=Accelerator(cpu=True),
        train_policy=False,
    )
    warm = hashes()
    assert [k for k in before if before[k] != warm[k]] == ["value"]
    update(actor, batch, STAGE, iteration=0, seed=0, accelerator=Accelerator(cpu=True))
    after = hashes()
    assert [k for k in warm if warm[k] != after[k]] == ["policy", "value"]


def test_fresh_policy_has_ratio_one(actor: Actor, batch: Batch) -> None:
    seen = update(actor, batch, STAGE, iteration=0, seed=0, accelerator=Accelerator(cpu=True))
    assert seen["clip_share"] == 0
    assert abs(seen["update_kl"]) < 1e-6


def test_target_kl_throws_the_step_away(actor: Actor, batch: Batch) -> None:
    far = replace(batch, log_probs=batch.log_probs - 1.0 * batch.mask)
    stage = STAGE.model_copy(update={"target_kl": 0.01})
    before = adapter_hash(actor.model, "policy")
    seen = update(actor, far, stage, iteration=0, seed=0, accelerator=Accelerator(cpu=True))
    assert seen["stopped_early"] == 1
    assert adapter_hash(actor.model, "policy") == before


def test_switching_between_forward_and_backward_would_zero_the_gradient(
    actor: Actor, sampled: Replies
) -> None:
    """The trap that the order of ``iterate`` and ``update`` avoids (design: one base), with the
    library's layers."""
    weights = [*adapter_weights(actor.model, "policy").values()]

    def gradient(switch: bool) -> float:
        activate(actor.model, "policy", train=True)
        for weight in weights:
            weight.grad = None
        net = Learner(actor.model, None)
        log_probs, _ = policy_log_probs(
            net, sampled.prompts, sampled.replies, pad=0, temperature=1.0, width=8
        )
        if switch:
            activate(actor.model, "value", train=True)
        if log_probs.requires_grad:
            log_probs.sum().backward()
        return sum(float(w.grad.abs().sum()) for w in weights if w.grad is not None)

    assert gradient(switch=False) > 0
    assert gradient(switch=True) == 0


def test_a_stop_is_of_the_update_not_of_its_steps(actor: Actor, batch: Batch) -> None:
    stage = STAGE.model_copy(update={"target_kl": 1e-9, "inner_epochs": 4})
    seen = update(actor, batch, stage, iteration=0, seed=0, accelerator=Accelerator(cpu=True))
    assert seen["policy_grad_norm"] > 0  # the first step was taken
    assert seen["stopped_early"] == 1


class SecondOfTwo:
    """The second of two processes, the first of which has nothing to say."""

    process_index, num_processes, device = 1, 2, torch.device("cpu")

    def reduce(self, tensor: Tensor, how: str) -> Tensor:
        assert how == "sum"
        return tensor


def test_a_process_without_a_row_of_a_mini_batch_takes_the_step_too(
    actor: Actor, batch: Batch
) -> None:
    before = adapter_hash(actor.model, "policy")
    stage = STAGE.model_copy(update={"mini_batch": 1})
    accelerator: Any = SecondOfTwo()
    seen = update(actor, batch, stage, iteration=0, seed=0, accelerator=accelerator)
    assert seen["policy_grad_norm"] == 0  # all rows are the first process's
    assert adapter_hash(actor.model, "policy") == before


def test_what_the_values_explain_takes_two_tokens() -> None:
    values, returns = torch.tensor([[0.0, 1.0]]), torch.tensor([[0.5, 2.5]])
    # errors 0.5 and 1.5, variance 0.5, of returns' 2
    assert _explained(values, returns, torch.ones(1, 2, dtype=torch.bool)) == {
        "value_explained": pytest.approx(0.75)
    }
    assert _explained(values, returns, torch.tensor([[True, False]])) == {}
