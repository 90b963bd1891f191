"""Small models generate faster with base and adapter folded into one matrix a layer.

A decode step of a small model is mostly overhead: dequantising a 4-bit weight, two more matrix
products for the adapter and the Python around them cost more than the product itself. So while one
batch of replies is decoded, each layer computes with ``W + scale · B·A`` in float32, made once from
the dequantised base and the adapter; the model itself is not changed, and everything that is
trained on (log-probabilities, rewards, gradients) goes through the unfolded layers.

Exactness: folding only reorders float32 additions (relative difference about 1e-6, tested), so a
reply differs from the unfolded one only where two tokens are tied to that precision. It is
therefore done in float32 only; in bfloat16, where the reordering would show, layers stay as they
are. Memory: one float32 matrix a layer, refused above ``MAX_BYTES`` in all.
"""

from __future__ import annotations

from types import TracebackType

import bitsandbytes as bnb
import torch
from bitsandbytes.functional import dequantize_4bit
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

MAX_BYTES = 128 * 2**20


class Folded:
    """Folded weights of the adapter active at construction; in force only inside ``with``.

    Inside, layers compute with the folded weights; outside, the model is as it was. So a consumer
    of a generator may use other adapters between two replies.
    """

    def __init__(self, weights: dict[nn.Module, tuple[Tensor, Tensor | None]]) -> None:
        self._forwards = {
            module: _linear(weight, bias) for module, (weight, bias) in weights.items()
        }

    def __enter__(self) -> None:
        for module, forward in self._forwards.items():
            module.__dict__["forward"] = forward  # shadows the class's method

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for module in self._forwards:
            del module.__dict__["forward"]


def fold(model: nn.Module, *, max_bytes: int = MAX_BYTES) -> Folded:
    """Fold every 4-bit or adapted linear layer of a float32 model that is small enough.

    Layers that cannot be folded exactly (another type, DoRA, biases of the adapter, a merged
    adapter) stay as they are; a model with none to fold, or too large, gives an empty ``Folded``.
    """
    targets: dict[nn.Module, tuple[nn.Linear, LoraLayer | None]] = {}
    inner: set[nn.Module] = set()
    for module in model.modules():
        if isinstance(module, LoraLayer):
            base = module.get_base_layer()
            inner.add(base)
            if _foldable(base) and _plain(module):
                targets[module] = (base, module)
        elif isinstance(module, bnb.nn.Linear4bit) and module not in inner and _foldable(module):
            targets[module] = (module, None)
    total = sum(4 * base.in_features * base.out_features for base, _ in targets.values())
    if total > max_bytes:
        return Folded({})
    with torch.no_grad():
        return Folded(
            {
                module: (_weight(base, layer), base.bias)
                for module, (base, layer) in targets.items()
            }
        )


def _linear(weight: Tensor, bias: Tensor | None):  # noqa: ANN202
    def forward(x: Tensor) -> Tensor:
        return functional.linear(x, weight, bias)

    return forward


def _foldable(base: nn.Module) -> bool:
    if isinstance(base, bnb.nn.Linear4bit):
        state = base.weight.quant_state
        return (
            base.compute_dtype == torch.float32
            and state is not None
            and not getattr(state, "packing_format_for_cpu", False)
        )
    return type(base) is nn.Linear and base.weight.dtype == torch.float32


def _plain(layer: LoraLayer) -> bool:
    """Whether the layer's output is base + scale · B·A·x for its active adapter (or base alone)."""
    if layer.merged:
        return False
    names = [] if layer.disable_adapters else [n for n in layer.active_adapters if n in layer.lora_A]
    return all(
        name not in layer.lora_variant and not layer.lora_bias.get(name, False) for name in names
    )


def _weight(base: nn.Linear, layer: LoraLayer | None) -> Tensor:
    if isinstance(base, bnb.nn.Linear4bit):
        weight = dequantize_4bit(base.weight.data, base.weight.quant_state).float()
    else:
        weight = base.weight.detach()
    if layer is not None and not layer.disable_adapters:
        for name in layer.active_adapters:
            if name in layer.lora_A:
                up, down = layer.lora_B[name].weight, layer.lora_A[name].weight
                weight = weight + (up.float() @ down.float()) * layer.scaling[name]
    return weight.detach()
