"""A model with a policy adapter that does something, active and to be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig

from harness.adapters import activate, adapter_weights, add_adapter
from harness.models import ModelSpec, Quantization, load


def adapted(base: Path, quantization: Quantization = "none", **settings: Any) -> Any:
    loaded = load(ModelSpec(base=str(base), quantization=quantization, dtype="float32"))
    settings = {"target_modules": "all-linear", **settings}
    config = LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings)
    model = add_adapter(loaded.model, "policy", config, seed=1)
    torch.manual_seed(4)
    for name, weight in adapter_weights(model, "policy").items():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, 0.0, 0.2)
    activate(model, "policy", train=True)
    return model
