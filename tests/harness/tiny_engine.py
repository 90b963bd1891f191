"""The tiny model with an adapter that does something, and an engine of it."""

from __future__ import annotations

from pathlib import Path

import torch
from peft import LoraConfig

from harness.adapters import activate, adapter_weights, add_adapter
from harness.engines.local import LocalEngine
from harness.models import LoadedModel, ModelSpec, Quantization, load

NEW = 24


def loaded(
    folder: Path, quantization: Quantization = "none", lora_dropout: float = 0.0
) -> LoadedModel:
    """The tiny model with an adapter ``policy`` that does something, active."""
    found = load(ModelSpec(str(folder), quantization=quantization))
    lora = LoraConfig(
        r=4,
        lora_alpha=8,
        target_modules="all-linear",
        lora_dropout=lora_dropout,
        task_type="CAUSAL_LM",
    )
    model = add_adapter(found.model, "policy", lora, seed=1)
    generator = torch.Generator().manual_seed(3)
    for weight in adapter_weights(model, "policy").values():
        weight.data = 0.1 * torch.randn(weight.shape, generator=generator)
    activate(model, "policy")
    found.model = model
    return found


def engine(found: LoadedModel, *, batch_size: int = 8, max_new_tokens: int = NEW) -> LocalEngine:
    return LocalEngine(
        found.model, found.tokenizer, batch_size=batch_size, max_new_tokens=max_new_tokens
    )
