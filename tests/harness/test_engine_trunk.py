"""Layers written out give transformers' hidden states and autograd's gradients."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from counted_tokens import counted_tokens
from peft import LoraConfig
from torch import Tensor
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from harness.adapters import activate, adapter_weights, add_adapter
from harness.engines import trunk as trunk_module
from harness.engines.trunk import Trunk, trunk
from harness.models import ModelSpec, backbone, causal_model, load

# Adapters merged; beside a base laid out; beside the base as it is.
WAYS: list[dict[str, int]] = [
    {},
    {"merged_bytes": 0},
    {"merged_bytes": 0, "kept_bytes": 0},
]
Places = tuple[Tensor, Tensor, Tensor]

pytestmark = pytest.mark.usefixtures("either_way")


def llama(**changes: Any) -> LlamaForCausalLM:
    settings = {
        "vocab_size": 160,
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**settings, **changes})).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:  # or a forgotten gain would not show
            torch.nn.init.normal_(weight, 1.0, 0.3)
    return model.requires_grad_(False)


def adapted(model: Any, targets: Any = "all-linear", **changes: Any) -> Any:
    settings = {"r": 16, "lora_alpha": 48, "target_modules": targets, **changes}
    config = LoraConfig(task_type="CAUSAL_LM", **settings)
    model = add_adapter(model, "policy", config, seed=1)
    for name, weight in adapter_weights(model, "policy").items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, 0.0, 0.1)
    activate(model, "policy", train=True)
    return model


def places(lengths: list[int], words: int = 160) -> Places:
    """Token ids padded on the right, and the places of each row's second half."""
    torch.manual_seed(3)
    ids = torch.randint(0, words, (len(lengths), max(lengths)))
    found = [(i, c) for i, n in enumerate(lengths) for c in range(n // 2, n)]
    return ids, *torch.tensor(found).T


def of_autograd(model: Any, at: Places) -> tuple[Tensor, list[Tensor]]:
    ids, rows, columns = at
    states = backbone(model)(input_ids=ids, use_cache=False).last_hidden_state[rows, columns]
    return states, gradients(model, states)


def gradients(model: Any, states: Tensor) -> list[Tensor]:
    weight = torch.linspace(-1, 1, states.numel()).view_as(states)
    loss = (states * weight).sum() + states.square().sum()
    return list(torch.autograd.grad(loss, [*adapter_weights(model, "policy").values()]))


def known(model: Any, **settings: Any) -> Trunk:
    found = trunk(causal_model(model), **settings)
    assert found is not None
    return found


def same(found: tuple[Tensor, list[Tensor]], expected: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-4, atol=1e-4)
    assert len(found[1]) == len(expected[1]) > 0
    for one, other in zip(found[1], expected[1], strict=True):
        assert other.abs().max() > 0
        assert float((one - other).norm()) < 1e-4 * float(other.norm())


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("config", "targets", "lengths"),
    [
        ({}, "all-linear", [20, 20, 20]),  # no padding
        ({}, "all-linear", [20, 33, 1, 7]),
        ({}, "all-linear", [70, 33, 129]),  # attention without scores in memory
        ({"num_key_value_heads": 4}, ["q_proj", "v_proj"], [20, 33, 7]),
        ({"num_key_value_heads": 1}, ["k_proj", "o_proj", "up_proj"], [9, 12]),
        ({"num_hidden_layers": 1}, ["gate_proj", "down_proj"], [9, 12]),
        ({"head_dim": 24, "intermediate_size": 100, "rms_norm_eps": 0.1}, "all-linear", [9, 12]),
        (
            {
                "rope_parameters": {
                    "rope_type": "llama3",
                    "rope_theta": 500.0,
                    "factor": 8.0,
                    "low_freq_factor": 1.0,
                    "high_freq_factor": 4.0,
                    "original_max_position_embeddings": 64,
                }
            },
            "all-linear",
            [50, 12],
        ),
    ],
)
def test_states_and_gradients_are_autograds(
    config: dict[str, Any], targets: Any, lengths: list[int], way: dict[str, int]
) -> None:
    model, at = adapted(llama(**config), targets), places(lengths)
    states = known(model, **way).hidden(*at)
    same((states.detach(), gradients(model, states)), of_autograd(model, at))


@pytest.mark.parametrize("way", WAYS)
def test_a_rank_that_is_no_multiple_of_a_vector(way: dict[str, int]) -> None:
    model, at = adapted(llama(), r=4), places([20, 33, 7])
    states = known(model, **way).hidden(*at)
    same((states.detach(), gradients(model, states)), of_autograd(model, at))


@pytest.mark.parametrize("way", WAYS)
def test_a_quantised_base(tiny_llama: Any, way: dict[str, int]) -> None:
    spec = ModelSpec(base=str(tiny_llama), quantization="nf4", dtype="float32")
    model, at = adapted(load(spec).model), places([14, 9, 11])
    states = known(model, **way).hidden(*at)
    same((states.detach(), gradients(model, states)), of_autograd(model, at))


@pytest.mark.parametrize("changed", ["a layer", "a norm"])
def test_a_base_that_changed_is_laid_out_again(changed: str) -> None:
    model, at = adapted(llama()), places([14, 9])
    before = known(model, merged_bytes=0).hidden(*at)
    block = causal_model(model).model.layers[1]
    layer = block.mlp.up_proj.get_base_layer() if changed == "a layer" else block.input_layernorm
    with torch.no_grad():
        layer.weight.mul_(1.5)
    states = known(model, merged_bytes=0).hidden(*at)
    assert not torch.allclose(states, before)
    same((states.detach(), gradients(model, states)), of_autograd(model, at))


@pytest.mark.parametrize("recompute", [False, True])
def test_in_parts_and_computed_again(monkeypatch: pytest.MonkeyPatch, recompute: bool) -> None:
    monkeypatch.setattr(trunk_module, "_TOKENS", 24)
    model, at = adapted(llama()), places([20, 33, 1, 7, 9, 3])
    states = known(model, recompute=recompute).hidden(*at)
    same((states.detach(), gradients(model, states)), of_autograd(model, at))


def test_rows_that_nobody_asks_and_places_in_any_order() -> None:
    model, (ids, rows, columns) = adapted(llama()), places([20, 33, 1, 7, 9, 3])
    order = torch.randperm(len(rows))
    order = order[rows[order] != 1]
    at = ids, rows[order], columns[order]
    states = known(model).hidden(*at)
    same((states.detach(), gradients(model, states)), of_autograd(model, at))


def sides(lengths: list[list[int]], shared: list[int]) -> Places:
    """Sequences of several sides, row by row with so many tokens in common; asked at their ends,
    and at the last three places that they share."""
    flat = [length for side in lengths for length in side]
    ids, rows, columns = places(flat)
    for side in range(1, len(lengths)):
        for row, same in enumerate(shared):
            ids[side * len(shared) + row, :same] = ids[row, :same]
    found = [(i, n - 1) for i, n in enumerate(flat) if n]
    for i in range(len(flat)):
        same = shared[i % len(shared)]
        found += [(i, c) for c in range(max(0, same - 3), same)]
    order = torch.randperm(len(found))
    rows, columns = torch.tensor(found)[order].T
    return ids, rows, columns


SIDES: list[tuple[list[list[int]], list[int]]] = [
    ([[20, 9, 33, 4], [24, 9, 12, 6]], [15, 9, 0, 4]),
    ([[70, 33], [90, 45], [68, 34]], [64, 33]),  # attention without scores in memory
]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("lengths", "shared"), SIDES)
@pytest.mark.parametrize(
    "config", [{}, {"num_hidden_layers": 1}, {"head_dim": 24, "intermediate_size": 100}]
)
def test_what_sides_begin_with_is_computed_once(
    monkeypatch: pytest.MonkeyPatch,
    config: dict[str, Any],
    lengths: list[list[int]],
    shared: list[int],
    way: dict[str, int],
) -> None:
    model, at = adapted(llama(**config)), sides(lengths, shared)
    computed = counted_tokens(monkeypatch)
    states = known(model, **way).hidden(*at, sides=len(lengths))
    whole = sum(length for side in lengths for length in side)
    assert computed == [whole - (len(lengths) - 1) * sum(shared)]
    same((states.detach(), gradients(model, states)), of_autograd(model, at))


@pytest.mark.parametrize("recompute", [False, True])
def test_sides_in_parts_and_computed_again(
    monkeypatch: pytest.MonkeyPatch, recompute: bool
) -> None:
    monkeypatch.setattr(trunk_module, "_TOKENS", 40)
    lengths, shared = [[20, 33, 9, 7, 9, 3], [21, 40, 9, 8, 2, 30]], [20, 4, 9, 0, 2, 3]
    model, at = adapted(llama()), sides(lengths, shared)
    states = known(model, recompute=recompute).hidden(*at, sides=2)
    same((states.detach(), gradients(model, states)), of_autograd(model, at))


def test_sides_that_have_nothing_or_nobody_asks() -> None:
    """Sequences that nobody asks share nothing; what is behind the last place neither."""
    model, (ids, rows, columns) = adapted(llama()), sides([[20, 9, 7], [24, 9, 7]], [15, 9, 7])
    chosen = (rows != 4) & ((rows != 0) | (columns < 13))
    at = ids, rows[chosen], columns[chosen]
    states = known(model).hidden(*at, sides=2)
    same((states.detach(), gradients(model, states)), of_autograd(model, at))
    with pytest.raises(ValueError, match="6 rows are not as many on each of 4 sides"):
        known(model).hidden(*at, sides=4)


def test_no_gradients_where_none_are_wanted() -> None:
    model, at = adapted(llama()), places([5, 9])
    with torch.no_grad():
        assert not known(model).hidden(*at).requires_grad
    activate(model, "policy")
    assert not known(model).hidden(*at).requires_grad


def test_a_second_backward_is_refused() -> None:
    model, at = adapted(llama()), places([5, 9])
    states = known(model).hidden(*at)
    states.sum().backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="second backward"):
        states.sum().backward()


def test_what_is_not_computed_here() -> None:
    assert trunk(causal_model(adapted(llama(), lora_dropout=0.0).train())) is not None
    dropping = adapted(llama(), lora_dropout=0.1)
    assert trunk(causal_model(dropping.eval())) is not None
    assert trunk(causal_model(dropping.train())) is None
    assert trunk(causal_model(adapted(llama(), use_dora=True))) is None
    half: Any = llama()
    assert trunk(causal_model(adapted(half.to(torch.bfloat16)))) is None
    assert trunk(llama().requires_grad_()) is None  # or its weights would get no gradient
    two = adapted(llama())
    two.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM"))
    two.base_model.set_adapter(["policy", "other"])
    assert trunk(causal_model(two)) is None  # peft adds the two up
    assert trunk(llama(attention_bias=True)) is None
    assert trunk(llama(hidden_act="gelu")) is None
    assert trunk(GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=16, n_head=2))) is None
