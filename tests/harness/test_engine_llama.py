"""Our own forward of small Llamas gives the model's logits, and steps aside for other models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
)

from harness.adapters import activate, adapter_weights, add_adapter, using
from harness.engines.llama import fuse
from harness.engines.local import LocalEngine
from harness.engines.protocol import Request
from harness.engines.reading import Reader
from harness.engines.room import roomy_cache
from harness.models import ModelSpec, Quantization, causal_model, load

pytestmark = pytest.mark.usefixtures("either_way")

IDS = torch.tensor([[0, 0, 7, 8, 9], [3, 4, 5, 6, 7], [0, 0, 0, 0, 11]])
MASK = (IDS > 0).long()
POSITIONS = (MASK.cumsum(1) - 1).clamp(min=0)


def llama(**changed: Any) -> LlamaForCausalLM:
    settings: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        **changed,
    }
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**settings)).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:
            weight.data = torch.rand_like(weight) + 0.5
    return model


def both(model: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Logits after a left-padded prompt and after each of three more tokens, theirs and ours."""
    fused = fuse(model)
    assert fused is not None
    found: list[list[torch.Tensor]] = []
    for ours in (False, True):
        cache = roomy_cache(model.config) if ours else DynamicCache(config=model.config)
        ids, mask, positions = IDS, MASK, POSITIONS
        logits = []
        for step in range(4):
            with torch.inference_mode():
                if ours:
                    logits.append(fused(ids, mask, positions, cache))
                else:
                    logits.append(
                        model(
                            input_ids=ids,
                            attention_mask=mask,
                            position_ids=positions,
                            past_key_values=cache,
                        ).logits[:, -1]
                    )
            width = 2 if step == 1 else 1  # several new tokens behind a cache, once
            ids = torch.full((3, width), 20 + step) + torch.arange(width)
            mask = torch.cat([mask, mask.new_ones(3, width)], dim=1)
            positions = positions[:, -1:] + 1 + torch.arange(width)
        found.append(logits)
    return found[0], found[1]


def same(model: Any) -> None:
    for theirs, ours in zip(*both(model), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1},
        {"head_dim": 24},
        {"tie_word_embeddings": True},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}},
        {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}},
        {"rms_norm_eps": 0.1},
    ],
)
def test_the_logits_are_the_models(changed: dict[str, Any]) -> None:
    same(llama(**changed))


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_with_the_active_adapter_folded_in(tiny_llama: Path, quantization: Quantization) -> None:
    found = load(ModelSpec(str(tiny_llama), quantization=quantization))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = add_adapter(found.model, "policy", lora, seed=1)
    for weight in adapter_weights(model, "policy").values():
        weight.data = 0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    activate(model, "policy")
    same(causal_model(model))
    adapted = both(causal_model(model))[1][0]
    with using(model, None):
        same(causal_model(model))
        assert not torch.allclose(both(causal_model(model))[1][0], adapted, atol=1e-2)


@pytest.mark.parametrize(
    "model",
    [
        llama().to(torch.bfloat16),
        llama(attention_bias=True),
        llama(mlp_bias=True),
        llama(hidden_act="gelu"),
        llama(rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}),
        MistralForCausalLM(
            MistralConfig(
                vocab_size=64,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=1,
                num_attention_heads=4,
                num_key_value_heads=2,
            )
        ),
    ],
    ids=["bfloat16", "attention bias", "mlp bias", "gelu", "dynamic rope", "mistral"],
)
def test_other_models_are_left_to_their_own_forward(model: Any) -> None:
    assert fuse(model) is None


def test_too_large_a_model_is_left_alone() -> None:
    assert fuse(llama(), max_bytes=1000) is None


def test_an_adapter_that_does_more_is_left_alone(tiny_llama: Path) -> None:
    found = load(ModelSpec(str(tiny_llama)))
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM", use_dora=True)
    model = add_adapter(found.model, "policy", lora, seed=1)
    activate(model, "policy")
    assert fuse(causal_model(model)) is None


def test_a_row_that_ended_at_the_contexts_limit_does_no_harm(tiny_llama: Path) -> None:
    """It lingers in the batch, one position past what the model knows."""
    found = load(ModelSpec(str(tiny_llama)))
    engine = LocalEngine(found.model, found.tokenizer, batch_size=16, max_new_tokens=40)
    engine.eos_ids = ()
    full = tuple(range(5, 205)) * 3
    asked = [Request("full", full[: engine.context - 3], 0.0, 40)]
    asked += [Request(f"{i}", (5, 6, 7 + i), 0.0, 40) for i in range(15)]
    replies = dict(engine.generate(asked, seed=0))
    assert [len(replies[i].token_ids) for i in range(16)] == [3, *[40] * 15]
    alone = dict(engine.generate(asked[1:], seed=0))
    assert [alone[i] for i in range(15)] == [replies[i + 1] for i in range(15)]


@pytest.mark.parametrize("length", [7, 70])  # by two products, and by torch's attention
@pytest.mark.parametrize("heads", [4, 2])
def test_whole_sequences_give_the_models_logits_and_states(length: int, heads: int) -> None:
    model = llama(num_key_value_heads=heads, max_position_embeddings=128)
    reader = Reader(model)
    assert reader.bytes is not None
    ids = torch.randint(1, 64, (3, length), generator=torch.Generator().manual_seed(1))
    ends = torch.tensor([length, length - 2, 3])
    padded = ids.masked_fill(torch.arange(length) >= ends[:, None], 0)
    rows, columns = torch.tensor([0, 0, 1, 2, 2]), torch.tensor([length - 1, 0, length - 3, 2, 1])
    with torch.inference_mode():
        logits = reader.logits(padded, rows, columns)
        hidden = reader.hidden(padded, rows, columns)
        for i, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
            alone = ids[row : row + 1, : int(ends[row])]
            found = model(input_ids=alone, output_hidden_states=True)
            torch.testing.assert_close(logits[i], found.logits[0, column], rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(
                hidden[i], found.hidden_states[-1][0, column], rtol=1e-4, atol=1e-4
            )
