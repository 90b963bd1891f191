"""A LoRA adapter through one matrix product a layer instead of three, with gradients or without.

peft computes W·x + s·B·(A·x): two thin products, a scaling and a sum beside the wide product, and
as many again in the backward pass, all bound by memory. Here a layer multiplies by W + s·B·A, made
for the moment: in the forward pass, and once more in the backward pass rather than kept. With n
tokens of width d and rank r, that costs r·d² more arithmetic and saves 4·r·d·n of the slow kind.

The gradients are the same, to rounding: with y = (W + s·B·A)·x and g = ∂L/∂y,
∂L/∂x = (W + s·B·A)ᵀ·g, ∂L/∂B = s·g·(A·x)ᵀ, ∂L/∂A = s·(Bᵀ·g)·xᵀ.

Unlike ``folding.py`` it keeps no matrix, so models of any size can use it where many tokens share
the cost. For float32 layers only: in bfloat16 W + s·B·A would round small updates away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional

from harness.engines.folding import effective_weight, is_matrix


@contextmanager
def merged_linears(model: nn.Module) -> Iterator[int]:
    """Inside, the layers that are adapted by the adapter active on entering compute so; yields how
    many. Layers that it cannot compute exactly (another type, dropout in training mode, DoRA,
    biases) stay as they are. The adapter's weights may change meanwhile, the adapter may not."""
    shadowed = []
    for module in model.modules():
        if isinstance(module, LoraLayer) and (name := _adapter(module)) is not None:
            module.__dict__["forward"] = _forward(module, name)  # shadows the class's method
            shadowed.append(module)
    try:
        yield len(shadowed)
    finally:
        for module in shadowed:
            del module.__dict__["forward"]


def _adapter(layer: Any) -> str | None:
    """The one adapter that this layer computes with, where it can be merged."""
    if layer.disable_adapters or not is_matrix(layer):
        return None
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if len(names) != 1:
        return None
    dropout = layer.lora_dropout[names[0]]
    drops = not isinstance(dropout, nn.Identity) and dropout.p > 0 and layer.training
    weights = (layer.lora_A[names[0]].weight, layer.lora_B[names[0]].weight)
    return None if drops or any(w.dtype != torch.float32 for w in weights) else names[0]


def _forward(layer: Any, name: str) -> Callable[[Tensor], Tensor]:
    down, up, scale = layer.lora_A[name].weight, layer.lora_B[name].weight, layer.scaling[name]

    def forward(x: Tensor) -> Tensor:
        found: Tensor = _Merged.apply(x, down, up, scale, layer)
        return found

    return forward


class _Merged(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, down: Tensor, up: Tensor, scale: float, layer: Any) -> Tensor:
        ctx.save_for_backward(x, down, up)
        ctx.scale, ctx.layer = scale, layer
        weight = effective_weight(layer)
        assert weight is not None
        return functional.linear(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, down, up = ctx.saved_tensors
        (gradient,) = gradients
        to_x = to_down = to_up = None
        if ctx.needs_input_grad[0]:
            weight = effective_weight(ctx.layer)
            assert weight is not None
            to_x = gradient @ weight
        flat, inputs = gradient.flatten(0, -2), x.flatten(0, -2)
        if ctx.needs_input_grad[1]:
            to_down = ((flat @ up).T @ inputs).mul_(ctx.scale)
        if ctx.needs_input_grad[2]:
            to_up = (flat.T @ (inputs @ down.T)).mul_(ctx.scale)
        return to_x, to_down, to_up, None, None
