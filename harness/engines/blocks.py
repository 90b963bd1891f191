"""A layer of a Llama over packed tokens, (n, hidden) to (n, hidden), with its backward.

Two ways to the same numbers, up to the order of float32 additions: ``Compiled`` for layers that fit
into a core's cache, where there is a C compiler (``compiled_layers.py``), ``Plain`` by an operator
a step for all others.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from harness.engines.adapted import Beside, Gradients, Group, InPanels, Merged
from harness.engines.attention import Attention, Padding
from harness.engines.compiled_layers import Between, Layers, layers_for
from harness.engines.llama import linears
from harness.engines.operators import (
    rms_norm,
    rms_norm_backward,
    swiglu,
    swiglu_backward,
)


@dataclass(slots=True)
class Kept:
    """What a layer's backward needs, of all its tokens; ``between`` and ``read`` of the n that pass
    its second half."""

    normed: Tensor  # the input of query, key and value, before the gain: (tokens, hidden)
    scale: Tensor  # by which the norm multiplied, (tokens, 1)
    attention: Callable[[Tensor], Tensor]
    read: Tensor  # what the heads read, (n, heads · width)
    between: Between


class Block(Protocol):
    """A layer with the adapter that was active when it was made."""

    def parameters(self) -> list[nn.Parameter]:
        """In the order of ``backward``'s gradients."""
        ...

    def forward(
        self, x: Tensor, padding: Padding, *, last: bool, keep: bool
    ) -> tuple[Tensor, Kept | None]:
        """The output (n, hidden) from the input (tokens, hidden), and what is to be kept; n <
        tokens in the ``last`` layer, of which only the padding's places are computed."""
        ...

    def backward(
        self, kept: Kept, g: Tensor, padding: Padding, *, last: bool, first: bool
    ) -> tuple[Tensor, Gradients]:
        """∂L/∂x from g = ∂L/∂output, nothing of use in the ``first`` layer, and the parameters'."""
        ...


@dataclass(frozen=True, slots=True)
class Settings:
    """What the layers of a model have in common."""

    attention: Attention
    eps: float  # of the norms
    merged: bool  # adapters added to the matrices; else their products to the base's
    keep: bool  # where they are not merged: lay the base's matrices out
    backward: bool  # whether there will be one


def block_of(layer: Any, settings: Settings) -> Block:
    layers = layers_for(linears(layer)) if settings.merged else None
    return Plain(layer, settings) if layers is None else Compiled(layers, layer, settings)


class Plain:
    def __init__(self, layer: Any, settings: Settings) -> None:
        self._attention, self._eps = settings.attention, settings.eps

        def how(layers: Sequence[nn.Module], gain: Tensor | None = None) -> Group:
            if settings.merged:
                return Merged(layers, gain, backward=settings.backward)
            return Beside(layers, gain, keep=settings.keep)

        qkv, out, gate_up, down = _grouped(layer)
        self._qkv = how(qkv, layer.input_layernorm.weight.detach())
        self._out = how(out)
        self._gate_up = how(gate_up, layer.post_attention_layernorm.weight.detach())
        self._down = how(down)

    def parameters(self) -> list[nn.Parameter]:
        groups = (self._qkv, self._out, self._gate_up, self._down)
        return [p for group in groups for p in group.parameters()]

    def forward(
        self, x: Tensor, padding: Padding, *, last: bool, keep: bool
    ) -> tuple[Tensor, Kept | None]:
        normed, scale = rms_norm(x, self._eps)
        read, attention = self._attention.read(self._qkv(normed), padding, chosen=last)
        if last:
            x = x[padding.places]
        x = self._out(read, plus=x)
        normed_2, scale_2 = rms_norm(x, self._eps)
        gates = self._gate_up(normed_2)
        products = swiglu(gates)
        x = self._down(products, plus=x)
        if not keep:
            return x, None
        return x, Kept(normed, scale, attention, read, Between(normed_2, scale_2, gates, products))

    def backward(
        self, kept: Kept, g: Tensor, padding: Padding, *, last: bool, first: bool
    ) -> tuple[Tensor, Gradients]:
        between = kept.between
        to_products, down = self._down.backward(g, between.products, to_input=True)
        assert to_products is not None
        to_gates = swiglu_backward(to_products, between.gates)
        to_normed, gate_up = self._gate_up.backward(to_gates, between.normed, to_input=True)
        assert to_normed is not None
        g = rms_norm_backward(to_normed, between.normed, between.scale, g)
        to_read, out = self._out.backward(g, kept.read, to_input=True)
        assert to_read is not None
        if last and not first:
            g = _spread(g, kept, padding)
        to_qkv = kept.attention(to_read)
        to_normed, qkv = self._qkv.backward(to_qkv, kept.normed, to_input=not first)
        if to_normed is not None:
            g = rms_norm_backward(to_normed, kept.normed, kept.scale, g)
        return g, [*qkv, *out, *gate_up, *down]


class Compiled:
    def __init__(self, layers: Layers, layer: Any, settings: Settings) -> None:
        self._layers, self._attention, self._eps = layers, settings.attention, settings.eps
        qkv, out, gate_up, down = _grouped(layer)
        before = layer.input_layernorm.weight.detach()
        after = layer.post_attention_layernorm.weight.detach()
        back = settings.backward
        self._qkv = InPanels(layers, qkv, before, backward=back)
        self._out = InPanels(layers, out, backward=back)
        self._gate_up = InPanels(layers, gate_up, after, gated=True, backward=back)
        self._down = InPanels(layers, down, backward=back)

    def parameters(self) -> list[nn.Parameter]:
        groups = (self._qkv, self._out, self._gate_up, self._down)
        return [p for group in groups for p in group.parameters()]

    def forward(
        self, x: Tensor, padding: Padding, *, last: bool, keep: bool
    ) -> tuple[Tensor, Kept | None]:
        qkv, normed, scale = self._layers.first_half(x, self._qkv.forth, self._eps, keep=keep)
        read, attention = self._attention.read(qkv, padding, chosen=last)
        if last:
            x = x[padding.places]
        weights = (self._out.forth, self._gate_up.forth, self._down.forth)
        x, between = self._layers.second_half(read, x, *weights, self._eps, keep=keep)
        if between is None or normed is None or scale is None:
            return x, None
        return x, Kept(normed, scale, attention, read, between)

    def backward(
        self, kept: Kept, g: Tensor, padding: Padding, *, last: bool, first: bool
    ) -> tuple[Tensor, Gradients]:
        between = kept.between
        down = self._down.gradients(g, between.products)
        weights = (self._out.back, self._gate_up.back, self._down.back)
        to_gates, g, to_read = self._layers.second_half_backward(g, between, *weights)
        gate_up = self._gate_up.gradients(to_gates, between.normed)
        out = self._out.gradients(g, kept.read)
        to_qkv = kept.attention(to_read)
        qkv = self._qkv.gradients(to_qkv, kept.normed)
        if not first:
            if last:
                g = _spread(g, kept, padding)
            g = self._layers.first_half_backward(to_qkv, self._qkv.back, kept.normed, kept.scale, g)
        return g, [*qkv, *out, *gate_up, *down]


def _grouped(layer: Any) -> tuple[list[nn.Module], ...]:
    """A layer's matrices, those of one input together."""
    query, key, value, out, gate, up, down = linears(layer)
    return [query, key, value], [out], [gate, up], [down]


def _spread(g: Tensor, kept: Kept, padding: Padding) -> Tensor:
    """The gradient at the padding's places, with zeros elsewhere: (tokens, hidden)."""
    return torch.zeros_like(kept.normed).index_add_(0, padding.places, g)
