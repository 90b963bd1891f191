"""Linear layers of one input, each with or without a LoRA adapter: their product, its gradients.

With y = (W + s·B·A)·x and g = ∂L/∂y: ∂L/∂B = s·g·(A·x)ᵀ, ∂L/∂A = s·(Bᵀ·g)·xᵀ and
∂L/∂x = (W + s·B·A)ᵀ·g (Hu et al. 2021, arXiv 2106.09685, equation 3). Query, key and value (or gate
and up) read the same input, so they are multiplied together.

Two ways to the same numbers, up to the order of float32 additions. ``Merged`` holds W + s·B·A of
all its layers in one matrix, made when it is constructed: least work where many tokens share a
small matrix. ``Beside`` adds the thin products to the wide one; up to ``KEPT_BYTES`` a model it
multiplies by a copy of the base that is laid out for that once and shared by all adapters, above
that by the base's own matrices. ``InPanels`` is merged too, and multiplied by whole halves of a
layer (``compiled_layers.py``).

All take inputs (n, inputs) before the norm's gain, give (n, outputs), and want float32.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from harness.engines.compiled import PackedAdapters, compiled
from harness.engines.compiled_layers import Layers, Panels
from harness.engines.folding import base_weight, effective_weight
from harness.engines.products import Product

# A float32 base whose layers are larger than this is not held twice.
KEPT_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class _Adapter:
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


def _adapter_of(layer: nn.Module) -> _Adapter | None:
    """The adapter of a layer of which ``effective_weight`` is known, if one is active there."""
    if not isinstance(layer, LoraLayer) or layer.disable_adapters:
        return None
    wrapped: Any = layer
    for name in wrapped.active_adapters:
        if name in wrapped.lora_A:
            down, up = wrapped.lora_A[name].weight, wrapped.lora_B[name].weight
            return _Adapter(down, up, float(wrapped.scaling[name]))
    return None


class _Layers:
    """What the ways share: the thin products of the adapters."""

    def __init__(self, layers: Sequence[nn.Module], gain: Tensor | None = None) -> None:
        """``gain`` (inputs,): by which the input is multiplied first."""
        self._gain = gain
        self._layers = tuple(layers)
        self._adapters = [_adapter_of(layer) for layer in layers]
        widths = [_outputs(layer) for layer in layers]
        ends = list(itertools.accumulate(widths))
        self._columns = [slice(end - width, end) for end, width in zip(ends, widths, strict=True)]
        self.outputs = ends[-1]
        ranks = [0 if a is None else a.down.shape[0] for a in self._adapters]
        ends = list(itertools.accumulate(ranks))
        self._thin = [slice(end - rank, end) for end, rank in zip(ends, ranks, strict=True)]
        downs = [a.down.detach() * a.scale for a in self._adapters if a is not None]
        # Of all the adapters, one below the other, scale and gain included: (ranks, inputs).
        self._down = torch.cat(downs) if downs else None
        if self._down is not None and gain is not None:
            self._down.mul_(gain)
        self._functions = compiled()

    def parameters(self) -> list[nn.Parameter]:
        return [p for a in self._adapters if a is not None for p in (a.down, a.up)]

    def gradients(self, g: Tensor, x: Tensor) -> Gradients:
        """The parameters', from g = ∂L/∂y."""
        if self._down is None:
            return []
        if self._functions is not None and self._packed is not None:
            to_downs, to_ups = self._functions.adapters_gradients(g, x, self._packed)
            return [one for pair in zip(to_downs, to_ups, strict=True) for one in pair]
        return self._gradients(g, x, self._thin_backward(g))

    @cached_property
    def _packed(self) -> PackedAdapters | None:
        """The adapters as the compiled functions take them, if they do."""
        assert self._down is not None
        known = [
            (a, (columns.start, columns.stop - columns.start), (ranks.start, a.down.shape[0]))
            for a, columns, ranks in zip(self._adapters, self._columns, self._thin, strict=True)
            if a is not None
        ]
        adapters, columns, ranked = zip(*known, strict=True)
        up = torch.cat([a.up.detach().flatten() * a.scale for a in adapters])
        down = self._down.T.contiguous()
        packed = PackedAdapters(down, up, columns, ranked, self._gain)
        return packed if packed.suit else None

    def _merged(self) -> Tensor:
        """W + s·B·A of all layers, one below the other."""
        weights = [_known(effective_weight(layer)) for layer in self._layers]
        return weights[0] if len(weights) == 1 else torch.cat(weights)

    def _thin_backward(self, g: Tensor) -> Tensor:
        """Bᵀ·g of every adapter, without its scale, side by side: (n, ranks)."""
        parts = [
            g[:, columns] @ a.up.detach()
            for a, columns in zip(self._adapters, self._columns, strict=True)
            if a is not None
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    def _gradients(self, g: Tensor, x: Tensor, thin: Tensor) -> Gradients:
        """Of A and B, in turn."""
        assert self._down is not None
        read = x @ self._down.T
        to_down = thin.T @ x
        if self._gain is not None:
            to_down.mul_(self._gain)
        found = []
        for a, columns, place in zip(self._adapters, self._columns, self._thin, strict=True):
            if a is not None:
                # The transpose of a thin product is a third faster than the product transposed.
                to_up = (read[:, place].T @ g[:, columns]).T.contiguous()
                found += [to_down[place].mul_(a.scale), to_up]
        return found


class Merged(_Layers):
    """One matrix for all, made at construction."""

    def __init__(
        self, layers: Sequence[nn.Module], gain: Tensor | None = None, *, backward: bool = True
    ) -> None:
        """``backward``: whether there will be one."""
        super().__init__(layers, gain)
        weight = self._merged()
        if gain is not None:
            weight = weight * gain
        self._product = Product(weight)
        self._transposed = Product(weight.T) if backward else None

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        return self._product(x) if plus is None else self._product.plus(x, plus)

    def backward(self, g: Tensor, x: Tensor, *, to_input: bool) -> tuple[Tensor | None, Gradients]:
        before = None
        if to_input:
            assert self._transposed is not None
            before = self._transposed(g)
        return before, self.gradients(g, x)


class InPanels(_Layers):
    """One matrix for all, as halves of a layer are compiled for it."""

    def __init__(
        self,
        compiled: Layers,
        layers: Sequence[nn.Module],
        gain: Tensor | None = None,
        *,
        gated: bool = False,
        backward: bool = True,
    ) -> None:
        """``backward``: whether there will be one."""
        super().__init__(layers, gain)
        weight = self._merged()
        self.forth = compiled.pack(weight, gain, gated=gated)
        self._back = compiled.pack_across(weight, gain) if backward else None

    @property
    def back(self) -> Panels:
        assert self._back is not None
        return self._back


class Beside(_Layers):
    """The base's matrices, and the adapters' thin products beside them."""

    def __init__(
        self, layers: Sequence[nn.Module], gain: Tensor | None = None, *, keep: bool
    ) -> None:
        super().__init__(layers, gain)
        self._product = _laid_out(layers, gain) if keep else None

    def __call__(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        y = self._wide(x, plus)
        if self._down is not None:
            read = x @ self._down.T
            for a, columns, place in zip(self._adapters, self._columns, self._thin, strict=True):
                if a is not None:
                    y[:, columns].addmm_(read[:, place], a.up.detach().T)
        return y

    def _wide(self, x: Tensor, plus: Tensor | None) -> Tensor:
        if self._product is not None:
            return self._product(x) if plus is None else self._product.plus(x, plus)
        if self._gain is not None:
            x = x * self._gain
        y = x.new_empty(len(x), self.outputs)
        for layer, columns in zip(self._layers, self._columns, strict=True):
            torch.mm(x, _known(base_weight(layer)).T, out=y[:, columns])
        return y if plus is None else y.add_(plus)

    def backward(self, g: Tensor, x: Tensor, *, to_input: bool) -> tuple[Tensor | None, Gradients]:
        before = None
        if to_input:
            for layer, columns in zip(self._layers, self._columns, strict=True):
                weight, part = _known(base_weight(layer)), g[:, columns]
                before = part @ weight if before is None else before.addmm_(part, weight)
            assert before is not None
            if self._gain is not None:
                before.mul_(self._gain)
        if self._down is None:
            return before, []
        thin = self._thin_backward(g)
        if before is not None:
            before.addmm_(thin, self._down)
        return before, self._gradients(g, x, thin)


# Of the base's layers; a model's go with it. What is laid out is of these weights and gains.
_kept: WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], Product]] = WeakKeyDictionary()


def _laid_out(layers: Sequence[nn.Module], gain: Tensor | None) -> Product:
    """The layers' product without adapters, made once as long as their weights do not change."""
    bases: list[Any] = [
        layer.get_base_layer() if isinstance(layer, LoraLayer) else layer for layer in layers
    ]
    tensors = [*(base.weight for base in bases), *([] if gain is None else [gain])]
    state = tuple(number for t in tensors for number in (t.data_ptr(), t._version))
    known = _kept.get(bases[0])
    if known is None or known[0] != state:
        weight = torch.cat([_known(base_weight(layer)) for layer in layers])
        known = _kept[bases[0]] = state, Product(weight if gain is None else weight.mul_(gain))
    return known[1]


def _outputs(layer: Any) -> int:
    return int(layer.out_features)


def _known(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor
