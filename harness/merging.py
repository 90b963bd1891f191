"""An adapter merged into its base, as a model folder that serves anywhere.

Merging goes into the weights as they were published, never into quantised ones: an update of 3 %
of ‖W‖ merged and quantised to NF4 again points in another direction (cosine .08). Even 16 bits
round: bfloat16 keeps 8 bits of a weight, so a small update is partly lost. How much of it survives
is measured, layer by layer, and told.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from peft.tuners.lora import LoraLayer
from peft.tuners.lora.layer import ParamWrapper
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from harness.adapters import hash_file, load_adapter
from harness.errors import InputError
from harness.models import ModelSpec, causal_model, load
from harness.store.atomic import make_folder

Precision = Literal["bfloat16", "float16", "float32"]
DTYPES: dict[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
_NAME = "merged"


@dataclass(frozen=True, slots=True)
class Merge:
    """What was merged. ``cosine``: between the update asked for and the one that the rounded
    weights hold, over all layers together; ``worst``: of the layer that lost most."""

    base: str
    adapter: str  # its hash
    dtype: Precision
    layers: int
    cosine: float
    worst: float
    worst_layer: str


def merge(
    spec: ModelSpec,
    out: Path,
    *,
    dtype: Precision = "bfloat16",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Merge:
    """Write ``spec``'s base with its adapter merged to the new folder ``out``.

    The base is read in float32 and unquantised, whatever ``spec`` says, and each weight rounded
    once. The folder has the tokenizer and the chat template, and ``merged.json`` with what this
    returns. It appears whole or not at all.

    Raises ``InputError`` without an adapter, where ``out`` exists, and for adapters that are more
    than low-rank sums (DoRA, biases).
    """
    if spec.adapter is None:
        raise InputError("there is no adapter to merge", path=spec.base)
    if out.exists():
        raise InputError("exists already", path=out, expected="a folder that is not there yet")
    bare = replace(spec, adapter=None, quantization="none", dtype="float32", device="cpu")
    loaded = load(bare)
    model = load_adapter(loaded.model, _NAME, Path(spec.adapter))
    inner = causal_model(model)
    adapted = [(n, m) for n, m in model.named_modules() if isinstance(m, LoraLayer)]
    updates: dict[str, tuple[float, float, float]] = {}  # ⟨asked, kept⟩, |asked|², |kept|²
    for number, (name, module) in enumerate(adapted):
        updates[name] = _merge_layer(inner, name, module, DTYPES[dtype])
        progress(number + 1, len(adapted))
    merged: Any = model.unload().to(DTYPES[dtype])
    cosines = {name: _cosine(*parts) for name, parts in updates.items()}
    worst = min(cosines, key=lambda name: cosines[name])
    result = Merge(
        base=spec.base,
        adapter=hash_file(Path(spec.adapter)),
        dtype=dtype,
        layers=len(updates),
        cosine=_cosine(*map(sum, zip(*updates.values(), strict=True))),
        worst=cosines[worst],
        worst_layer=worst.removeprefix("base_model.model."),
    )
    temporary = out.with_name(f".{out.name}.writing")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary)
    try:
        merged.save_pretrained(temporary)
        loaded.tokenizer.save_pretrained(temporary)
        text = json.dumps({"schema": 1, **asdict(result)}, indent=1)
        (temporary / "merged.json").write_text(text + "\n", encoding="utf-8")
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return result


def _merge_layer(
    model: Any, name: str, layer: Any, dtype: torch.dtype
) -> tuple[float, float, float]:
    """Merge in place; ⟨asked, kept⟩, |asked|² and |kept|² of the update."""
    if _NAME in layer.lora_variant or layer.lora_bias.get(_NAME, False):
        raise InputError(f"{name} has an adapter that is more than a low-rank sum (DoRA, bias)")
    weight = _adapted_weight(model, name, layer)
    with torch.no_grad():
        asked: Tensor = layer.get_delta_weight(_NAME).float()
        before = weight.detach().float()
        rounded = (before + asked).to(dtype).float()
        # What rounding does to the base alone is no part of the update.
        kept = rounded - before.to(dtype).float()
        weight.copy_(rounded)
        return float((asked * kept).sum()), float(asked.square().sum()), float(kept.square().sum())


def _adapted_weight(model: Any, name: str, layer: Any) -> Tensor:
    """The weight that the adapter's update is added to: a matrix (of GPT-2's Conv1D transposed), or
    a mixture's matrices, an expert each."""
    base = layer.get_base_layer()
    if isinstance(layer, ParamWrapper):
        found: Tensor = layer.get_param()
        return found
    if not isinstance(base, nn.Linear | Conv1D):
        raise InputError(f"{name} is no linear layer, but {type(base).__name__}")
    if base.weight is model.get_input_embeddings().weight:
        # A tied head: the update is the head's alone, so that the two are tied no longer.
        base.weight = nn.Parameter(base.weight.detach().clone(), requires_grad=False)
        model.config.tie_word_embeddings = False
    return base.weight


def _cosine(product: float, asked: float, kept: float) -> float:
    """1 for an update of nothing that stayed nothing; 0 for one of which nothing is left."""
    if asked == 0.0:
        return 1.0
    return product / (asked * kept) ** 0.5 if kept > 0.0 else 0.0
