"""The plan's bytes against what torch, peft, bitsandbytes and transformers really hold."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from live_tensors import LiveTensors
from peft import LoraConfig
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache
from trl.trainer.utils import add_fused_lm_head

from harness.adapters import activate, adapter_weights, add_adapter
from harness.engines.trunk import trunk
from harness.models import ModelSpec, backbone, causal_model, keep_nf4_layout, quantization_config
from trainers.learner import Learner
from trainers.lora import lora_config
from trainers.model_shapes import ModelShape, shape_of
from trainers.pair_batches import PairCollator, attention
from trainers.rollouts import policy_log_probs
from trainers.schedule_stages import Lora
from trainers.tensor_bytes import (
    TRUNK_TOKENS,
    Forward,
    adapter_parameters,
    base_bytes,
    computed_again,
    kept_for_backward,
    kv_bytes,
    logits_bytes,
    passing,
    tiled_loss_bytes,
    trained,
    trunk_kept,
    trunk_passing,
)

SMALL = {"hidden_size": 128, "num_attention_heads": 4, "vocab_size": 512}
LLAMA = SMALL | {
    "model_type": "llama",
    "intermediate_size": 352,
    "num_hidden_layers": 3,
    "num_key_value_heads": 4,
    "max_position_embeddings": 1024,
}
GROUPED = LLAMA | {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "num_hidden_layers": 2,
}
NEOX = SMALL | {
    "model_type": "gpt_neox",
    "intermediate_size": 640,
    "num_hidden_layers": 2,
    "max_position_embeddings": 1024,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "llama-grouped-tied": GROUPED | {"tie_word_embeddings": True},
    "llama-biases": LLAMA | {"attention_bias": True, "mlp_bias": True, "head_dim": 48},
    "mistral": GROUPED | {"model_type": "mistral", "sliding_window": None},
    "qwen2": GROUPED | {"model_type": "qwen2"},
    "qwen3": GROUPED | {"model_type": "qwen3", "head_dim": 64, "attention_bias": True},
    "gpt_neox": NEOX,
    "gpt_neox-serial": NEOX | {"use_parallel_residual": False, "attention_bias": False},
}
Quantization = Any


def configuration(config: dict[str, Any]) -> Any:
    fields = {key: value for key, value in config.items() if key != "model_type"}
    return AutoConfig.for_model(config["model_type"], **fields)


# ------------------------------------------------------------------------- counting


def saved_bytes(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes of the distinct storages that autograd saves, parameters apart."""
    known = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}
    held: list[Tensor] = []  # so that no address is given out twice

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            found[storage.data_ptr()] = storage.nbytes()
            held.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        forward()
    return sum(found.values())


Build = Callable[..., Any]


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """``build(config, quantization, dtype)``: a small model as ``harness.models`` loads one."""
    logger = logging.getLogger("bitsandbytes.autograd._functions")
    before = logger.level
    logger.setLevel(logging.ERROR)
    folders: dict[str, Path] = {}

    def make(
        config: dict[str, Any], quantization: Quantization = "none", dtype: str = "float32"
    ) -> Any:
        key = repr(sorted(config.items()))
        if key not in folders:
            folders[key] = tmp_path_factory.mktemp("model")
            model = AutoModelForCausalLM.from_config(configuration(config))
            model.save_pretrained(folders[key])
        spec = ModelSpec(base="", quantization=quantization, dtype=dtype, device="cpu")  # type: ignore[arg-type]
        loaded = AutoModelForCausalLM.from_pretrained(
            folders[key],
            dtype=getattr(torch, dtype),
            device_map={"": "cpu"},
            quantization_config=quantization_config(spec),
        )
        loaded.requires_grad_(False)
        if quantization == "nf4":
            keep_nf4_layout(loaded)
        return loaded.eval()

    yield make
    logger.setLevel(before)


def forward_of(model: Any, run: Forward) -> Callable[[], Tensor]:
    """A forward pass as ``run`` describes it, up to the hidden states."""
    ids = torch.randint(0, 512, (run.rows, run.length))
    half = torch.arange(run.length // 2)
    positions = torch.cat([half, half]).repeat(run.rows, 1) if run.mask == "packed" else None
    body = backbone(model)

    def forward() -> Tensor:
        states = body(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
        return states.float().sum()

    return forward


# ------------------------------------------------------------------------- weights


@pytest.mark.parametrize("name", FAMILIES)
def test_parameters_are_counted_exactly(name: str) -> None:
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(configuration(FAMILIES[name]))
    assert shape_of(FAMILIES[name]).parameters == sum(p.numel() for p in model.parameters())


def held_by(model: Any) -> int:
    """Bytes of the weights in memory, with bitsandbytes' constants."""
    total = 0
    for parameter in model.parameters():
        total += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            nested = state.state2
            parts = (state.absmax, state.code, state.offset, nested.absmax, nested.code)
            total += sum(part.nbytes for part in parts)
        scales = getattr(parameter, "SCB", None)
        total += scales.nbytes if scales is not None else 0
    return total


@pytest.mark.parametrize("name", ["llama-grouped-tied", "llama-biases", "qwen3", "gpt_neox"])
@pytest.mark.parametrize(
    ("quantization", "dtype"),
    [("none", "float32"), ("none", "bfloat16"), ("int8", "bfloat16"), ("nf4", "float32")],
)
def test_base_bytes_are_exact(build: Build, name: str, quantization: Any, dtype: str) -> None:
    model = build(FAMILIES[name], quantization, dtype)
    width = 4 if dtype == "float32" else 2
    assert base_bytes(shape_of(FAMILIES[name]), quantization, width) == held_by(model)


@pytest.mark.parametrize("name", ["llama", "gpt_neox"])
@pytest.mark.parametrize("all_layers", [True, False])
def test_adapters_and_optimizer_are_exact(build: Build, name: str, all_layers: bool) -> None:
    some = ("q_proj", "down_proj") if name == "llama" else ("query_key_value",)
    lora = Lora(r=8, targets="all-linear" if all_layers else some)
    model = add_adapter(build(FAMILIES[name]), "policy", lora_config(lora), seed=0)
    activate(model, "policy", train=True)
    weights = list(adapter_weights(model, "policy").values())
    optimizer = torch.optim.AdamW(weights)
    forward_of(model, Forward(1, 8, 4, "none", lora))().backward()
    optimizer.step()
    cost = trained(adapter_parameters(shape_of(FAMILIES[name]), lora))
    assert cost.weights == sum(weight.nbytes for weight in weights)
    assert cost.gradients == sum(weight.grad.nbytes for weight in weights)  # type: ignore[union-attr]
    moments = [s[key] for s in optimizer.state.values() for key in ("exp_avg", "exp_avg_sq")]
    assert cost.optimizer == sum(moment.nbytes for moment in moments)


# ------------------------------------------------------------------------- activations

SHAPES = {
    "llama": LLAMA,
    "grouped": GROUPED,
    "qwen3": FAMILIES["qwen3"],
    "gpt_neox": NEOX,
    "13M": GROUPED | {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 4},
}
KINDS: Sequence[tuple[str, str]] = [
    ("none", "float32"),
    ("nf4", "float32"),
    ("nf4", "bfloat16"),
    ("int8", "bfloat16"),
]
CASES = [
    (shape, *kind, dropout, mask)
    for shape, kind, (dropout, mask) in product(
        SHAPES, KINDS, [(0.0, "none"), (0.05, "none"), (0.0, "packed")]
    )
]


def prepared(
    build: Build, case: tuple[str, str, str, float, str]
) -> tuple[Any, ModelShape, Forward]:
    name, quantization, dtype, dropout, mask = case
    lora = Lora(r=8, dropout=dropout)
    model = add_adapter(build(SHAPES[name], quantization, dtype), "p", lora_config(lora), seed=0)
    activate(model, "p", train=True)
    model.train(dropout > 0)
    width = 4 if dtype == "float32" else 2
    run = Forward(2, 256, width, quantization, lora, dropout, mask, cuda=False)  # type: ignore[arg-type]
    return model, shape_of(SHAPES[name]), run


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_what_the_backward_needs(build: Build, case: tuple[str, str, str, float, str]) -> None:
    model, shape, run = prepared(build, case)
    forward = forward_of(model, run)
    live = LiveTensors(model)
    with live:
        loss = forward()
        alive = live.now
        loss.backward()
    kept = kept_for_backward(shape, run)
    assert kept == pytest.approx(alive, rel=0.05)
    if run.quantization != "int8":  # which keeps its inputs where no hook sees them
        assert kept == pytest.approx(saved_bytes(model, forward), rel=0.05)
    gradients = trained(adapter_parameters(shape, run.lora or Lora())).gradients
    planned = kept + passing(shape, run, backward=True)
    assert planned == pytest.approx(live.peak - gradients / 2, rel=0.15)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_with_gradient_checkpointing(build: Build, case: tuple[str, str, str, float, str]) -> None:
    model, shape, run = prepared(build, case)
    model.base_model.model.gradient_checkpointing_enable({"use_reentrant": False})
    model.train()
    live = LiveTensors(model)
    with live:
        forward_of(model, run)().backward()
    gradients = trained(adapter_parameters(shape, run.lora or Lora())).gradients
    planned = kept_for_backward(shape, run, checkpointing=True)
    planned += computed_again(shape, run) + passing(shape, run, backward=True)
    assert planned == pytest.approx(live.peak - gradients / 2, rel=0.15)
    assert planned < kept_for_backward(shape, run)


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize(("quantization", "dtype"), KINDS)
def test_a_forward_without_backward(build: Build, name: str, quantization: str, dtype: str) -> None:
    model, shape, run = prepared(build, (name, quantization, dtype, 0.0, "none"))
    with torch.no_grad(), LiveTensors(model) as live:
        forward_of(model, run)()
    assert passing(shape, run, backward=False) == pytest.approx(live.peak, rel=0.2)


def test_a_batch_of_pairs(build: Build) -> None:
    """Two blocks of a prompt and two replies each, with the mask that reward training makes."""
    model, shape, run = prepared(build, ("grouped", "nf4", "bfloat16", 0.0, "none"))
    run = replace(run, mask="pairs")
    rows = [list(range(128)), [0, *range(129, 256)]]  # nothing shared but the first token
    pair = {"chosen_ids": rows[0], "rejected_ids": [*rows[1], 1], "margin": 0.0}
    batch = PairCollator(0)([pair, pair])
    assert batch["input_ids"].shape == (run.rows, run.length)
    body = backbone(model)
    live = LiveTensors(model)
    with live:
        states = body(
            input_ids=batch["input_ids"],
            position_ids=batch["position_ids"],
            attention_mask=attention(batch["block"], batch["branch"], torch.bfloat16),
            use_cache=False,
        ).last_hidden_state
        alive = live.now
    assert states.requires_grad
    assert kept_for_backward(shape, run) == pytest.approx(alive, rel=0.05)


def test_the_scores_of_unfused_attention(build: Build) -> None:
    """What a card without a fused kernel for bfloat16 keeps: PyTorch's own way, forced here."""
    model, shape, run = prepared(build, ("llama", "none", "bfloat16", 0.0, "none"))
    run = replace(run, fused_attention=False)
    math = torch.nn.attention.SDPBackend.MATH
    with torch.nn.attention.sdpa_kernel(math):
        saved = saved_bytes(model, forward_of(model, run))
    assert kept_for_backward(shape, run) == pytest.approx(saved, rel=0.15)


# ------------------------------------------------------------------------- logits, cache


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_logits_of_ppo(build: Build, dtype: str) -> None:
    config = SMALL | LLAMA | {"vocab_size": 8000, "num_hidden_layers": 1, "hidden_size": 32}
    model = add_adapter(
        build(config, "none", dtype), "p", LoraConfig(r=2, target_modules="all-linear"), seed=0
    )
    prompts, replies = [tuple(range(4))] * 4, [tuple(range(60))] * 4
    with torch.no_grad(), LiveTensors(model) as live:
        policy_log_probs(Learner(model, None), prompts, replies, pad=0, temperature=1.0, width=60)
    planned = logits_bytes(8000, 4 * 60, 4 if dtype == "float32" else 2)
    assert planned == pytest.approx(live.peak, rel=0.03)


@pytest.mark.parametrize("words", [1000, 40_000])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_tiled_loss(build: Build, words: int, dtype: str) -> None:
    config = LLAMA | {"vocab_size": words, "num_hidden_layers": 1, "hidden_size": 64}
    model = build(config, "none", dtype)
    model = add_adapter(model, "p", LoraConfig(r=2, target_modules="all-linear"), seed=0)
    add_fused_lm_head(model.base_model.model, outputs=("log_probs", "entropy", "is_top1"))
    activate(model, "p", train=True)
    ids = torch.randint(0, 512, (2, 129))
    with LiveTensors(model) as live:
        output = model(input_ids=ids, labels=ids, fused_lm_head=True, use_cache=False)
        alive, live.peak = live.now, 0
        (-output.log_probs.sum()).backward()
    shape = shape_of(config)
    planned = tiled_loss_bytes(shape, 2 * 128, 4 if dtype == "float32" else 2, cuda=False)
    assert planned == pytest.approx(live.peak - alive, rel=0.03)


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen3", "gpt_neox"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_key_value_cache_is_exact(build: Build, name: str, dtype: str) -> None:
    model = build(FAMILIES[name], "none", dtype)
    cache = DynamicCache(config=model.config)
    with torch.no_grad():
        model(input_ids=torch.randint(0, 512, (3, 37)), past_key_values=cache, use_cache=True)
    held = sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)
    width = 4 if dtype == "float32" else 2
    assert kv_bytes(shape_of(FAMILIES[name]), 3, 37, width) == held


@pytest.mark.parametrize("shared", [0, 700])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_pair_through_layers_that_are_written_out(
    build: Build, shared: int, checkpointing: bool
) -> None:
    """Longer than what goes through the layers together else; what its replies begin with takes
    no memory twice."""
    model = build(LLAMA | {"max_position_embeddings": 2048})
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    model = add_adapter(model, "policy", config, seed=1)
    activate(model, "policy", train=True)
    net = trunk(causal_model(model), recompute=checkpointing)
    assert net is not None
    ids = torch.arange(2800).remainder_(509).view(2, 1400)
    ids[1, :shared] = ids[0, :shared]
    ends = torch.arange(2), torch.full((2,), 1399)
    tokens, shape = 2800 - shared, shape_of(LLAMA)
    together = max(TRUNK_TOKENS, tokens)
    states = net.hidden(ids, *ends, sides=2)
    states.sum().backward()  # weights are laid out once
    with LiveTensors(model) as live:
        loss = net.hidden(ids, *ends, sides=2).sum()
        alive = live.now
        loss.backward()
    if not checkpointing:
        assert trunk_kept(shape, tokens, 2) == pytest.approx(alive, rel=0.02)
    plan = trunk_kept(shape, tokens, 2, together=together, checkpointing=checkpointing)
    plan += trunk_passing(shape, together)
    assert 0.75 * plan < live.peak < plan
