"""Loading models: what is refused, what identifies them, and 4-bit weights on CPUs."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import bitsandbytes as bnb
import pytest
import torch
from bitsandbytes.functional import dequantize_4bit, has_avx512bf16
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoTokenizer, LlamaForCausalLM

from harness.adapters import activate, active, adapter_weights, add_adapter, save_adapter
from harness.engines.folding import fold
from harness.errors import InputError, IntegrityError
from harness.models import (
    ModelSpec,
    backbone,
    causal_model,
    eval_mode,
    last_hidden,
    length_sorted_batches,
    load,
    load_tokenizer,
    pad_left,
)

IDS = torch.tensor([[1, 20, 30, 40, 50, 60], [1, 70, 80, 90, 100, 110]])
LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


@pytest.fixture
def folder(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy that may be damaged."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "model"))


def with_policy(folder: Path, **changes: object) -> PeftModel:
    model = add_adapter(load(ModelSpec(str(folder), **changes)).model, "policy", LORA, seed=1)
    generator = torch.Generator().manual_seed(7)
    for weight in adapter_weights(model, "policy").values():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    activate(model, "policy")
    return model


def test_a_loaded_model_is_frozen_and_in_eval_mode(tiny_llama: Path) -> None:
    loaded = load(ModelSpec(str(tiny_llama)))
    assert isinstance(loaded.model, LlamaForCausalLM)
    assert loaded.model.dtype == torch.float32
    assert not loaded.model.training
    assert not any(weight.requires_grad for weight in loaded.model.parameters())
    assert loaded.tokenizer.padding_side == "left"


def test_the_adapter_of_the_spec_is_active(tiny_llama: Path, tmp_path: Path) -> None:
    model = with_policy(tiny_llama)
    save_adapter(model, "policy", tmp_path)
    loaded = load(ModelSpec(str(tiny_llama), adapter=tmp_path))
    assert isinstance(loaded.model, PeftModel)
    assert active(loaded.model).name == "policy"
    with torch.no_grad():
        assert torch.equal(loaded.model(IDS).logits, model(IDS).logits)


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (lambda f: shutil.rmtree(f), InputError, "no such model folder"),
        (lambda f: (f / "config.json").unlink(), InputError, r"config\.json is missing"),
        (lambda f: (f / "model.safetensors").unlink(), InputError, "no weights"),
        (lambda f: (f / "config.json").write_text("{}"), InputError, "cannot load"),
        (lambda f: (f / "tokenizer.json").unlink(), InputError, "cannot load the tokenizer"),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"\x10" + bytes(100)),
            IntegrityError,
            "damaged weights",
        ),
    ],
)
def test_what_cannot_be_loaded(folder: Path, damage, error, message) -> None:
    damage(folder)
    with pytest.raises(error, match=message):
        load(ModelSpec(str(folder)))


def test_the_nearest_folder_is_named(folder: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'model'"):
        load(ModelSpec(str(folder.parent / "modle")))
    (folder / "config.json").rename(folder / "adapter_config.json")
    with pytest.raises(InputError, match="give its base too"):
        load(ModelSpec(str(folder)))


def test_a_hub_id_that_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="neither a local folder nor reachable on the hub"):
        load(ModelSpec("no-such-organisation/no-such-model"))


def test_gaps_in_the_weights_are_not_filled_with_noise(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=r"layers\.1\.mlp\.up_proj"):
        load(ModelSpec(str(folder)))


def test_a_missing_pad_token_is_not_the_end_token_where_there_is_another(folder: Path) -> None:
    config = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load(ModelSpec(str(folder))).tokenizer.pad_token == "<unk>"
    del config["unk_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert load(ModelSpec(str(folder))).tokenizer.pad_token == "</s>"


def test_a_tokenizer_that_is_larger_than_the_model(
    family_base: Callable[..., Path], folder: Path
) -> None:
    """Ordinary text would be an index out of range, at some row or other."""
    with pytest.raises(InputError, match=r"a token 262 \(.*\), but the model knows 200 tokens"):
        load(ModelSpec(str(family_base("gpt_neox", vocab_size=200))))
    assert load(ModelSpec(str(family_base("gpt_neox", vocab_size=300)))).model
    # One that nothing makes does no harm; one that the template makes does.
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<image>"], special_tokens=True)
    tokenizer.save_pretrained(folder)
    assert load(ModelSpec(str(folder))).model
    spec = ModelSpec(str(folder), chat_template="<image>{{ messages[0]['content'] }}")
    with pytest.raises(InputError, match=r"a token 263 \(<image>\), but the model knows 263"):
        load(spec)


def test_a_chat_template_may_be_given(tiny_llama: Path) -> None:
    spec = ModelSpec(str(tiny_llama), chat_template="{{ messages[0]['content'] }}")
    assert load_tokenizer(tiny_llama, spec).chat_template == spec.chat_template


def test_the_fingerprint_is_of_the_content(tiny_llama: Path, folder: Path) -> None:
    original = load(ModelSpec(str(tiny_llama))).base_fingerprint
    assert len(original) == 64
    assert load(ModelSpec(str(folder))).base_fingerprint == original  # another place
    spec = ModelSpec(str(folder))
    for other in (
        dataclasses.replace(spec, quantization="nf4"),
        dataclasses.replace(spec, dtype="bfloat16"),
        dataclasses.replace(spec, chat_template="{{ messages }}"),
    ):
        assert load(other).base_fingerprint != original
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][0] += 1e-6
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    assert load(spec).base_fingerprint != original


def quantised(model: torch.nn.Module) -> list[bnb.nn.Linear4bit]:
    return [module for module in model.modules() if isinstance(module, bnb.nn.Linear4bit)]


def dequantised(model: torch.nn.Module) -> list[Tensor]:
    return [
        dequantize_4bit(module.weight.data, module.weight.quant_state)
        for module in quantised(model)
    ]


def test_nf4_quantises_all_but_the_head(tiny_llama: Path) -> None:
    model = load(ModelSpec(str(tiny_llama), quantization="nf4")).model
    plain = load(ModelSpec(str(tiny_llama))).model
    assert len(quantised(model)) == 14
    assert {module.compute_dtype for module in quantised(model)} == {torch.float32}
    assert torch.equal(model.lm_head.weight, plain.lm_head.weight)
    original = plain.model.layers[0].mlp.up_proj.weight
    error = (dequantised(model.model.layers[0].mlp)[1] - original).norm() / original.norm()
    assert 0.01 < error < 0.15


def test_nf4_computes_the_same_in_eval_and_train_mode(tiny_llama: Path) -> None:
    model = load(ModelSpec(str(tiny_llama), quantization="nf4")).model
    before = dequantised(model)
    with torch.no_grad():
        evaluated = model(IDS).logits
        model.train()
        trained = model(IDS).logits
    assert torch.equal(evaluated, trained)
    assert all(map(torch.equal, dequantised(model), before))


def test_nf4_gradients_after_an_evaluation_are_those_before(tiny_llama: Path) -> None:
    def gradients(model: PeftModel) -> list[Tensor]:
        model.zero_grad()
        activate(model, "policy", train=True)
        model(IDS).logits.logsumexp(-1).sum().backward()
        weights = adapter_weights(model, "policy").values()
        return [weight.grad.clone() for weight in weights if weight.grad is not None]

    model = with_policy(tiny_llama, quantization="nf4")
    model.train()
    before = gradients(model)
    with eval_mode(model), torch.no_grad():
        model(IDS)
    after = gradients(model)
    assert len(before) == 28
    assert all(map(torch.equal, before, after))


@pytest.mark.skipif(not has_avx512bf16(), reason="bitsandbytes repacks on AVX512-BF16 CPUs only")
def test_trap_repacked_weights_dequantise_to_garbage(tiny_llama: Path) -> None:
    """What ``keep_nf4_layout`` is for."""
    model = load(ModelSpec(str(tiny_llama), quantization="nf4")).model
    before = dequantised(model)
    with torch.no_grad():
        exact = model(IDS).logits
        for module in quantised(model):
            module.support_avx512bf16_for_cpu = True
        repacked = model(IDS).logits
    assert (repacked - exact).abs().max() > 1e-3  # bfloat16 from here on
    broken = [
        (after.float() - weight).norm() / weight.norm()
        for after, weight in zip(dequantised(model), before, strict=True)
        if after.shape == weight.shape
    ]
    assert max(broken) > 0.5


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("name", ["policy", None])
def test_folded_layers_compute_what_the_adapter_computes(
    tiny_llama: Path, quantization: str, name: str | None
) -> None:
    model = with_policy(tiny_llama, quantization=quantization)
    activate(model, name)
    with torch.no_grad():
        exact = model(IDS).logits
        folded = fold(model)
        activate(model, None)  # folding took what was active then
        with folded:
            close = model(IDS).logits
        activate(model, name)
        assert torch.equal(model(IDS).logits, exact)  # the model is as it was
    assert (close - exact).norm() < 1e-5 * exact.norm()
    if name is not None:
        assert not torch.equal(close, exact)  # so the folded layers were in force


def test_only_small_float32_models_are_folded(tiny_llama: Path) -> None:
    model = with_policy(tiny_llama, quantization="nf4")
    assert len(fold(model)) == 14
    assert len(fold(model, max_bytes=1000)) == 0
    assert len(fold(with_policy(tiny_llama, dtype="bfloat16"))) == 0
    assert len(fold(with_policy(tiny_llama, dtype="bfloat16", quantization="nf4"))) == 0
    assert len(fold(load(ModelSpec(str(tiny_llama), quantization="nf4")).model)) == 14
    assert len(fold(load(ModelSpec(str(tiny_llama))).model)) == 0
    dora = add_adapter(
        load(ModelSpec(str(tiny_llama))).model, "dora", LoraConfig(use_dora=True), seed=1
    )
    activate(dora, "dora")
    assert len(fold(dora)) == 0


def test_padding_on_the_left() -> None:
    batch = pad_left([[5, 6, 7], [8], []], pad_id=0)
    assert batch.input_ids.tolist() == [[5, 6, 7], [0, 0, 8], [0, 0, 0]]
    assert batch.attention_mask.tolist() == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]
    assert batch.position_ids.tolist() == [[0, 1, 2], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_hidden_states_do_not_see_the_padding(tiny_llama: Path, quantization: str) -> None:
    model = with_policy(tiny_llama, quantization=quantization)
    sequences = [[1, 20, 30, 40, 50, 60, 70], [1, 99], [1, 80, 81, 82]]
    with torch.no_grad():
        together = last_hidden(model, pad_left(sequences, pad_id=0))
        for row, sequence in enumerate(sequences):
            alone = backbone(model)(torch.tensor([sequence])).last_hidden_state[0]
            torch.testing.assert_close(together[row, -len(sequence) :], alone)


def test_the_parts_of_a_model(tiny_llama: Path) -> None:
    model = with_policy(tiny_llama)
    assert isinstance(causal_model(model), LlamaForCausalLM)
    assert backbone(model) is causal_model(model).model
    plain = load(ModelSpec(str(tiny_llama))).model
    assert causal_model(plain) is plain


def test_batches_of_similar_length_cover_all() -> None:
    lengths = [3, 9, 1, 9, 4]
    batches = list(length_sorted_batches(lengths, 2))
    assert batches == [[1, 3], [4, 0], [2]]
    assert list(length_sorted_batches([], 2)) == []


def test_batches_of_at_most_so_many_tokens() -> None:
    """Padding counts, and a row that is too long for any batch has one to itself."""
    lengths = [3, 9, 1, 4, 4, 20]
    assert list(length_sorted_batches(lengths, tokens=12)) == [[5], [1], [3, 4, 0], [2]]
    assert list(length_sorted_batches(lengths, 2, tokens=12)) == [[5], [1], [3, 4], [0, 2]]
    assert list(length_sorted_batches(lengths)) == [[5, 1, 3, 4, 0, 2]]
    assert list(length_sorted_batches([0, 0], tokens=1)) == [[0], [1]]


def test_eval_mode_puts_the_mode_back(tiny_llama: Path) -> None:
    model = load(ModelSpec(str(tiny_llama))).model
    model.train()
    with eval_mode(model):
        assert not model.training
    assert model.training
    with pytest.raises(ZeroDivisionError), eval_mode(model):
        _ = 1 / 0
    assert model.training
