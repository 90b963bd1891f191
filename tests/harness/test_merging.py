"""Merging an adapter: what is written computes as base and adapter did, and says what it lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.adapters import adapter_weights, add_adapter, save_adapter
from harness.errors import InputError
from harness.merging import merge
from harness.models import ModelSpec, load

IDS = torch.tensor([[5, 9, 11, 30, 2, 77]])


@pytest.fixture
def adapter(tiny_llama: Path, tmp_path: Path) -> Path:
    return make_adapter(tiny_llama, tmp_path / "adapter", size=0.1)


def make_adapter(base: Path, folder: Path, *, size: float, **changes: object) -> Path:
    loaded = load(ModelSpec(str(base)))
    config = LoraConfig(
        r=4,
        lora_alpha=12,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
        **changes,  # type: ignore[arg-type]
    )
    model = add_adapter(loaded.model, "made", config, seed=1)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in adapter_weights(model, "made").items():
            if "lora_B" in name:
                weight.copy_(size * torch.randn(weight.shape, generator=generator))
    folder.mkdir()
    save_adapter(model, "made", folder)
    return folder


def with_adapter(base: Path, adapter: Path) -> torch.Tensor:
    """Logits by plain transformers and peft."""
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter)
    with torch.no_grad():
        logits: torch.Tensor = model(IDS).logits
    return logits


def test_float32_computes_as_base_and_adapter(
    tiny_llama: Path, adapter: Path, tmp_path: Path
) -> None:
    # As a run on a quantised base has it: the merge goes into the published weights all the same.
    spec = ModelSpec(str(tiny_llama), quantization="nf4", adapter=adapter)
    told: list[tuple[int, int]] = []
    result = merge(spec, tmp_path / "out", dtype="float32", progress=lambda *p: told.append(p))
    assert told == [(n, 14) for n in range(1, 15)]
    assert (result.layers, result.dtype) == (14, "float32")
    assert result.cosine == pytest.approx(1.0, abs=1e-6)
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        found = merged(IDS).logits
    torch.testing.assert_close(found, with_adapter(tiny_llama, adapter), rtol=1e-4, atol=1e-4)
    plain = AutoModelForCausalLM.from_pretrained(tiny_llama)
    with torch.no_grad():
        assert not torch.allclose(found, plain(IDS).logits, atol=1e-2)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.chat_template == AutoTokenizer.from_pretrained(tiny_llama).chat_template
    stored = json.loads((tmp_path / "out" / "merged.json").read_text())
    assert (stored["schema"], stored["layers"], stored["cosine"]) == (1, 14, result.cosine)
    assert not list(tmp_path.glob(".out*"))


@pytest.mark.parametrize(("size", "least", "most"), [(0.1, 0.99, 1.0), (2e-5, 0.0, 0.5)])
def test_what_sixteen_bits_lose_is_measured(
    tiny_llama: Path, tmp_path: Path, size: float, least: float, most: float
) -> None:
    adapter = make_adapter(tiny_llama, tmp_path / "adapter", size=size)
    result = merge(ModelSpec(str(tiny_llama), adapter=adapter), tmp_path / "out")
    assert least <= result.worst <= result.cosine <= most
    # By another way: from the written files and peft's own update.
    base = AutoModelForCausalLM.from_pretrained(tiny_llama, dtype=torch.bfloat16).state_dict()
    written = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto").state_dict()
    peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_llama), adapter)
    asked, kept = [], []
    for name, module in peft.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            asked.append(module.get_delta_weight("default").detach().flatten())
            key = f"{name}.weight"
            assert written[key].dtype == torch.bfloat16
            kept.append((written[key].float() - base[key].float()).flatten())
    cosine = torch.nn.functional.cosine_similarity(torch.cat(asked), torch.cat(kept), dim=0)
    assert result.cosine == pytest.approx(float(cosine), abs=1e-3)


def test_an_update_of_a_tied_head_is_the_heads_alone(tiny_llama: Path, tmp_path: Path) -> None:
    config = LoraConfig(r=4, lora_alpha=12, target_modules=["lm_head"], task_type="CAUSAL_LM")
    model = add_adapter(load(ModelSpec(str(tiny_llama))).model, "made", config, seed=1)
    with torch.no_grad():
        for name, weight in adapter_weights(model, "made").items():
            if "lora_B" in name:
                weight.normal_(std=0.1, generator=torch.Generator().manual_seed(5))
    (tmp_path / "adapter").mkdir()
    save_adapter(model, "made", tmp_path / "adapter")
    spec = ModelSpec(str(tiny_llama), adapter=tmp_path / "adapter")
    merge(spec, tmp_path / "out", dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        found = merged(IDS).logits
    expected = with_adapter(tiny_llama, tmp_path / "adapter")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_bad_input_leaves_nothing(tiny_llama: Path, adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match="no adapter"):
        merge(ModelSpec(str(tiny_llama)), out)
    dora = make_adapter(tiny_llama, tmp_path / "dora", size=0.1, use_dora=True)
    with pytest.raises(InputError, match="low-rank"):
        merge(ModelSpec(str(tiny_llama), adapter=dora), out)
    assert not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(InputError, match="exists already"):
        merge(ModelSpec(str(tiny_llama), adapter=adapter), out)
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
