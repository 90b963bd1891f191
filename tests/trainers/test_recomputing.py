"""Gradient checkpointing of PPO's steps: the same gradients, no dropout, and the traps."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from live_tensors import LiveTensors
from peft import LoraConfig, PeftModel
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM
from transformers.modeling_layers import GradientCheckpointingLayer

from harness.adapters import activate, adapter_weights, add_adapter, copy_adapter
from harness.engines.merged import merged_linears
from harness.errors import InputError
from harness.models import ModelSpec, Quantization, causal_model, load
from trainers.actor import Actor
from trainers.learner import Learner
from trainers.ppo import Batch, update
from trainers.recomputing import recomputed
from trainers.rollouts import Replies, policy_log_probs
from trainers.schedule_stages import Optimizer, PpoStage
from trainers.sft_rows import Example
from trainers.sft_term import SftTerm

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
ROWS, PROMPT, REPLY = 4, 24, 40


def policy_on(base: Any) -> PeftModel:
    """With adapters ``policy`` and ``value`` that do something, in eval mode."""
    model = add_adapter(base, "policy", LORA, seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in adapter_weights(model, "policy").items():
            if "lora_B" in name:
                weight.copy_(0.05 * torch.randn(weight.shape, generator=generator))
    copy_adapter(model, "policy", "value")
    model.eval()
    return model


def actor_on(folder: Path, quantization: Quantization) -> Actor:
    model = policy_on(load(ModelSpec(base=str(folder), quantization=quantization)).model)
    head = nn.Linear(model.config.hidden_size, 1)
    with torch.no_grad():
        head.weight.copy_(0.1 * torch.randn(head.weight.shape, generator=torch.manual_seed(3)))
        head.bias.zero_()
    values = [*head.parameters(), *adapter_weights(model, "value").values()]
    return Actor(
        model=model,
        head=head,
        pad=0,
        policy_optimizer=torch.optim.SGD(adapter_weights(model, "policy").values(), lr=1.0),
        value_optimizer=torch.optim.SGD(values, lr=1.0),
        reference=None,
        value="value",
    )


def sampled() -> Replies:
    tokens = torch.randint(7, 200, (ROWS, PROMPT + REPLY), generator=torch.manual_seed(2)).tolist()
    return Replies(
        tuple(tuple(row[:PROMPT]) for row in tokens),
        tuple(tuple(row[PROMPT:]) for row in tokens),
        (True,) * ROWS,
    )


def batch() -> Batch:
    numbers = torch.randn(4, ROWS, REPLY, generator=torch.manual_seed(4))
    return Batch(sampled(), sampled().mask(), numbers[0] - 5.0, *numbers[1:])


def stage(**settings: Any) -> PpoStage:
    given = {"optimizer": Optimizer(max_grad_norm=1e9), "target_kl": None, "value_clip": None}
    return PpoStage(name="ppo", batch=ROWS, mini_batch=ROWS, **(given | settings))


def stepped(actor: Actor, **settings: Any) -> dict[str, Tensor]:
    """How far an update moves each trained weight: SGD with rate 1, so its gradient."""
    parts: dict[str, Tensor] = {}
    for name in ("policy", "value"):
        weights = adapter_weights(actor.model, name)
        parts |= {f"{name}/{key}": weight for key, weight in weights.items()}
    parts["head"] = actor.head.weight
    before = {key: weight.detach().clone() for key, weight in parts.items()}
    demonstrations = SftTerm(
        rows=(Example([5, 6, 7, 8, 9], [-100, -100, 7, 8, 9]), Example([9, 8, 7], [-100, 8, 7])),
        weight=2.0,
        batch=2,
        micro=1,
        pad=0,
    )
    update(
        actor,
        batch(),
        stage(**settings),
        iteration=0,
        seed=0,
        accelerator=Accelerator(cpu=True),
        demonstrations=demonstrations,
    )
    return {key: before[key] - weight.detach() for key, weight in parts.items()}


@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_the_gradients_are_those_without(tiny_llama: Path, quantization: Quantization) -> None:
    """Of policy, value function and demonstrations; the entropy bonus has a gradient too."""
    settings = {"micro_batch": 2, "entropy_weight": 0.1}
    plain = stepped(actor_on(tiny_llama, quantization), **settings)
    again = stepped(actor_on(tiny_llama, quantization), gradient_checkpointing=True, **settings)
    assert plain.keys() == again.keys()
    for key, moved in plain.items():
        torch.testing.assert_close(again[key], moved, rtol=1e-5, atol=1e-7)
        assert moved.abs().max() > 0, key


# ------------------------------------------------------------------------- what it does


def small_llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=160,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).eval()


def layers_of(model: PeftModel) -> list[nn.Module]:
    modules = causal_model(model).modules()
    return [module for module in modules if isinstance(module, GradientCheckpointingLayer)]


def loss_of(model: PeftModel) -> Tensor:
    prompts, replies = sampled().prompts, sampled().replies
    few = [tuple(t % 128 for t in prompt) for prompt in prompts]
    said = [tuple(t % 128 for t in reply) for reply in replies]
    found, _ = policy_log_probs(
        Learner(model, None), few, said, pad=0, temperature=1.0, width=REPLY
    )
    return found.sum()


@pytest.mark.parametrize("merged", [False, True])
def test_layers_are_computed_twice_and_what_they_kept_is_not(merged: bool) -> None:
    model = policy_on(small_llama())
    activate(model, "policy", train=True)
    calls: list[nn.Module] = []
    attention: Any = causal_model(model).model.layers[1].self_attn
    attention.register_forward_pre_hook(lambda module, _: calls.append(module))
    kept, times = [], []
    for enabled in (False, True):
        calls.clear()
        live = LiveTensors(model)
        with merged_linears(model) if merged else nullcontext(), live, recomputed(model, enabled):
            loss = loss_of(model)
            kept.append(live.now)
            loss.backward()
        times.append(len(calls))
        del loss
    assert times == [1, 2]
    assert kept[1] < 0.4 * kept[0]


def test_the_model_is_as_it_was_afterwards() -> None:
    model = policy_on(small_llama())

    def state() -> list[Any]:
        flags = [module.training for module in model.modules()]
        return [flags, *("forward" in vars(layer) for layer in layers_of(model))]

    before = state()
    with recomputed(model):
        assert all(state()[1:])
        assert state()[0] == before[0]
    assert state() == before
    with pytest.raises(ValueError, match="input_ids"), recomputed(model):
        model()
    assert state() == before
    assert not any(before[1:])


def test_no_dropout_not_even_in_a_layers_own_code() -> None:
    """OPT's layers call dropout themselves, by their own training flag."""
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=128,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=32,
        dropout=0.5,
    )
    model = policy_on(OPTForCausalLM(config).eval())
    weights = [*adapter_weights(model, "policy").values()]

    def computed(enabled: bool) -> tuple[Tensor, ...]:
        activate(model, "policy", train=True)
        with recomputed(model, enabled):
            loss = loss_of(model)
            return loss.detach(), *torch.autograd.grad(loss, weights)

    for plain, again in zip(computed(False), computed(True), strict=True):
        torch.testing.assert_close(again, plain, rtol=1e-5, atol=1e-6)


def test_a_model_without_layers_to_checkpoint_is_an_error() -> None:
    model: Any = nn.Linear(2, 2)
    with pytest.raises(InputError, match="does not support it"), recomputed(model):
        pass
    with recomputed(model, enabled=False):
        pass


def test_llm_int8_lets_go_of_its_inputs_after_each_backward(tiny_llama: Path) -> None:
    """As many micro-batches as there are rows need no more than one of them."""
    peaks = []
    for rows in (1, ROWS):
        actor = actor_on(tiny_llama, "int8")
        made = batch()
        some = Replies(
            made.sampled.prompts[:rows], made.sampled.replies[:rows], made.sampled.ended[:rows]
        )
        numbers = (made.mask, made.log_probs, made.advantages, made.values, made.returns)
        part = Batch(some, *(number[:rows] for number in numbers))
        settings = stage().model_copy(update={"mini_batch": rows, "micro_batch": 1})
        live = LiveTensors(actor.model)
        with live:
            update(actor, part, settings, iteration=0, seed=0, accelerator=Accelerator(cpu=True))
        peaks.append(live.peak)
    assert peaks[1] < 1.1 * peaks[0]


# ------------------------------------------------------------------------- the traps


def gradients(model: PeftModel, between: Callable[[], None]) -> list[Tensor | None]:
    """The policy's, with something done between forward and backward."""
    weights = [*adapter_weights(model, "policy").values()]
    activate(model, "policy", train=True)
    for weight in weights:
        weight.grad = None
    with recomputed(model):
        loss = loss_of(model)
        between()
        loss.backward()
    return [weight.grad for weight in weights]


def test_switching_between_forward_and_backward_is_never_right() -> None:
    """It computes the layers again through the other adapter, or not at all: which is why a step's
    function does forward and backward together."""
    model = policy_on(small_llama())
    with torch.no_grad():
        for weight in adapter_weights(model, "value").values():
            weight.mul_(2.0)
    right = gradients(model, lambda: None)
    assert all(found is not None and found.abs().max() > 0 for found in right)
    for name, train in (("value", False), ("value", True), (None, False)):
        try:
            wrong = gradients(model, lambda: activate(model, name, train=train))  # noqa: B023
        except RuntimeError:
            continue
        same = [w is not None and torch.allclose(w, r) for w, r in zip(wrong, right, strict=True)]  # type: ignore[arg-type]
        assert not any(same)


def test_switching_after_the_backward_does_no_harm() -> None:
    model = policy_on(small_llama())
    first = [found.clone() for found in gradients(model, lambda: None) if found is not None]
    activate(model, "value", train=True)
    with recomputed(model):
        loss_of(model).backward()
    again = [found for found in gradients(model, lambda: None) if found is not None]
    assert all(map(torch.equal, first, again))
