"""Linear layers of one input, each with or without a LoRA adapter: their product, its gradients.

With y = (W + s·B·A)·x and g = ∂L/∂y: ∂L/∂B = s·g·(A·x)ᵀ, ∂L/∂A = s·(Bᵀ·g)·xᵀ and
∂L/∂x = (W + s·B·A)ᵀ·g (Hu et al. 2021, arXiv 2106.09685, equation 3). Query, key and value (or gate
and up) read the same input, so they are multiplied together.

Two ways to the same numbers, up to the order of float32 additions. ``Merged`` holds W + s·B·A of
all its layers in one matrix, made when it is constructed: least work where many tokens share a
small matrix. ``Beside`` holds nothing and adds the thin products to the wide one: no copy of a
matrix that is too large to be held twice.

Both take inputs (n, inputs) before the norm's gain, give (n, outputs), and want float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from harness.engines.folding import base_weight, effective_weight
from harness.engines.products import Product


@dataclass(frozen=True, slots=True)
class Adapter:
    """The adapter that a layer computes with."""

    down: nn.Parameter  # A: (rank, inputs)
    up: nn.Parameter  # B: (outputs, rank)
    scale: float


class Group(Protocol):
    """Layers of one input."""

    def parameters(self) -> list[nn.Parameter]:
        """A and B of each adapted layer, in the order of ``backward``'s gradients."""
        ...

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """(n, inputs) to (n, outputs), the layers' outputs side by side; ``plus`` is added."""
        ...

    def backward(self, g: Tensor, x: Tensor, *, to_input: bool) -> tuple[Tensor | None, Gradients]:
        """∂L/∂x, if wanted, and the parameters' gradients, from g = ∂L/∂y (n, outputs)."""
        ...


Gradients = list[Tensor]


def adapter_of(layer: nn.Module) -> Adapter | None:
    """The adapter of a layer of which ``effective_weight`` is known, if one is active there."""
    if not isinstance(layer, LoraLayer) or layer.disable_adapters:
        return None
    wrapped: Any = layer
    for name in wrapped.active_adapters:
        if name in wrapped.lora_A:
            down, up = wrapped.lora_A[name].weight, wrapped.lora_B[name].weight
            return Adapter(down, up, float(wrapped.scaling[name]))
    return None


class _Layers:
    """What the two ways share: the thin products of the adapters."""

    def __init__(self, layers: Sequence[nn.Module], gain: Tensor | None = None) -> None:
        """``gain`` (inputs,): by which the input is multiplied first."""
        self._gain = gain
        self._layers = tuple(layers)
        self._adapters = [adapter_of(layer) for layer in layers]
        widths = [_outputs(layer) for layer in layers]
        ends = list(itertools.accumulate(widths))
        self._columns = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        self.outputs = ends[-1]
        ranks = [0 if a is None else a.down.shape[0] for a in self._adapters]
        ends = list(itertools.accumulate(ranks))
        self._thin = [slice(end - rank, end) for end, rank in zip(ends, ranks, strict=True)]
        downs = [a.down.detach() * a.scale for a in self._adapters if a is not None]
        # Of all the adapters, one below the other, with their scales: (ranks, inputs).
        self._down = torch.cat(downs) if downs else None

    def parameters(self) -> list[nn.Parameter]:
        return [p for a in self._adapters if a is not None for p in (a.down, a.up)]

    def _thin_backward(self, g: Tensor) -> Tensor:
        """s-less Bᵀ·g of every adapter, side by side: (n, ranks)."""
        parts = [
            g[:, columns] @ a.up.detach()
            for a, columns in zip(self._adapters, self._columns, strict=True)
            if a is not None
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _gradients(self, g: Tensor, x: Tensor, thin: Tensor) -> Gradients:
        """Of A and B, in turn; ``x`` as the adapters see it."""
        assert self._down is not None
        read = x @ self._down.T
        to_down = thin.T @ x
        found = []
        for a, columns, place in zip(self._adapters, self._columns, self._thin, strict=True):
            if a is not None:
                found += [to_down[place] * a.scale, g[:, columns].T @ read[:, place]]
        return found


class Merged(_Layers):
    """One matrix for all, made at construction."""

    def __init__(self, layers: Sequence[nn.Module], gain: Tensor | None = None) -> None:
        super().__init__(layers, gain)
        weight = torch.cat([_known(effective_weight(layer)) for layer in layers])
        if gain is not None:
            weight = weight * gain
        self._product, self._transposed = Product(weight), Product(weight.T)
        if gain is not None and self._down is not None:
            self._down = self._down * gain

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        return self._product(x) if plus is None else self._product.plus(x, plus)

    def backward(self, g: Tensor, x: Tensor, *, to_input: bool) -> tuple[Tensor | None, Gradients]:
        before = self._transposed(g) if to_input else None
        if self._down is None:
            return before, []
        found = self._gradients(g, x, self._thin_backward(g))
        if self._gain is not None:
            for to_down in found[::2]:
                to_down.mul_(self._gain)
        return before, found


class Beside(_Layers):
    """The base's own matrices, and the adapters' thin products beside them."""

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        if self._gain is not None:
            x = x * self._gain
        y = x.new_empty(len(x), self.outputs)
        read = None if self._down is None else x @ self._down.T
        each = zip(self._layers, self._adapters, self._columns, self._thin, strict=True)
        for layer, a, columns, place in each:
            torch.mm(x, _known(base_weight(layer)).T, out=y[:, columns])
            if a is not None and read is not None:
                y[:, columns].addmm_(read[:, place], a.up.detach().T)
        return y if plus is None else y.add_(plus)

    def backward(self, g: Tensor, x: Tensor, *, to_input: bool) -> tuple[Tensor | None, Gradients]:
        if self._gain is not None:
            x = x * self._gain
        thin = None if self._down is None else self._thin_backward(g)
        before = None
        if to_input:
            before = x.new_zeros(x.shape) if thin is None else thin @ _known(self._down)
            for layer, columns in zip(self._layers, self._columns, strict=True):
                before.addmm_(g[:, columns], _known(base_weight(layer)))
            if self._gain is not None:
                before.mul_(self._gain)
        return before, [] if thin is None else self._gradients(g, x, thin)


def _outputs(layer: Any) -> int:
    return int(layer.out_features)


def _known(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
