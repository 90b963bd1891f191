"""A Llama layer in two compiled functions, with attention between them, and their backwards.

A few tokens at a time go through all of a half's matrices while they are in the cache of one core
(``c/layers.c``), so that nothing wide is written to memory but what a backward needs. That pays
while a layer's matrices fit into the cache beside them: up to ``FITS`` bytes.

float32 on the CPU; widths are multiples of 16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from harness.engines.compiled import Compiled, addresses, compiled, in_vectors

# Of a layer's matrices in float32.
FITS = 4 * 2**20
_SIDE = 6  # tokens that are multiplied side by side
_TASK = 72  # that go through a half together, at most
MULTIPLIED = 16  # products summed in the time of one number read
_WAYS = ("forward", "backward")


class _Packing(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "inputs", "outputs", "across", "gated")),
        *((name, ctypes.c_void_p) for name in ("weight", "gain", "packed")),
    ]


class _FirstHalf(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "tokens", "task", "inputs", "outputs")),
        *((name, ctypes.c_void_p) for name in ("x", "packed", "normed", "scale", "out", "scratch")),
        ("room", ctypes.c_int64),
        ("thread", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    ]


class _SecondHalf(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "tokens", "task")),
        *((name, ctypes.c_int64) for name in ("heads", "hidden", "inner")),
        *((name, ctypes.c_void_p) for name in ("read", "x", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("normed", "scale", "gates", "products", "y")),
        ("scratch", ctypes.c_void_p),
        ("room", ctypes.c_int64),
        ("thread", ctypes.c_void_p),
        ("eps", ctypes.c_float),
    ]


class _FirstHalfBack(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "tokens", "task", "inputs", "outputs")),
        *((name, ctypes.c_void_p) for name in ("g", "packed", "normed", "scale", "plus", "out")),
        ("scratch", ctypes.c_void_p),
        ("room", ctypes.c_int64),
        ("thread", ctypes.c_void_p),
    ]


class _SecondHalfBack(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "tokens", "task")),
        *((name, ctypes.c_int64) for name in ("heads", "hidden", "inner")),
        *((name, ctypes.c_void_p) for name in ("g", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("normed", "scale", "gates")),
        *((name, ctypes.c_void_p) for name in ("to_gates", "to_middle", "to_read", "scratch")),
        ("room", ctypes.c_int64),
        ("thread", ctypes.c_void_p),
    ]


@dataclass(frozen=True, slots=True)
class Panels:
    """A matrix from ``inputs`` to ``outputs``, laid out for this processor."""

    numbers: Tensor
    inputs: int
    outputs: int


@dataclass(slots=True)
class Between:
    """What the backward of a second half needs; n tokens."""

    normed: Tensor  # (n, hidden): what goes into the gates, before the gain
    scale: Tensor  # (n, 1): by which the norm multiplied
    gates: Tensor  # (n, 2 · inner): gate and up side by side
    products: Tensor  # (n, inner): silu(gate) · up


class Layers:
    def __init__(self, functions: Compiled) -> None:
        self._functions = functions
        self._library = functions.library
        halves = [f"{half}_half_{way}" for half in ("first", "second") for way in _WAYS]
        for name in (*halves, "packed"):
            getattr(self._library, f"{name}_room").restype = ctypes.c_int64

    def pack(self, weight: Tensor, gain: Tensor | None = None, *, gated: bool = False) -> Panels:
        """x·Wᵀ of ``weight`` W (outputs, inputs), its inputs multiplied by ``gain`` (inputs,).

        ``gated``: the outputs are gates and, as many, what passes them.
        """
        outputs, inputs = weight.shape
        return self._pack(weight, gain, inputs, outputs, gated=gated)

    def pack_across(self, weight: Tensor, gain: Tensor | None = None) -> Panels:
        """g·W of ``weight`` W (outputs, inputs), multiplied by ``gain`` (inputs,): the way back."""
        outputs, inputs = weight.shape
        return self._pack(weight, gain, outputs, inputs, across=True)

    def first_half(
        self, x: Tensor, panels: Panels, eps: float, *, keep: bool = False
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """The product of x̂ = x·r with r = 1/√(mean x² + ε), of (n, inputs): (n, outputs); and, to
        ``keep``, x̂ and r (n, 1)."""
        tensors = {"x": x, "packed": panels.numbers, "out": x.new_empty(len(x), panels.outputs)}
        if keep:
            tensors |= {"normed": torch.empty_like(x), "scale": x.new_empty(len(x), 1)}
        sizes = {"inputs": panels.inputs, "outputs": panels.outputs}
        self._by_tokens(
            "first_half_forward",
            _FirstHalf,
            tensors,
            sizes,
            ("inputs",),
            panels.inputs * panels.outputs,
            eps=eps,
        )
        return tensors["out"], tensors.get("normed"), tensors.get("scale")

    def second_half(
        self,
        read: Tensor,
        x: Tensor,
        out: Panels,
        gate_up: Panels,
        down: Panels,
        eps: float,
        *,
        keep: bool = False,
    ) -> tuple[Tensor, Between | None]:
        """The layer's output (n, hidden) from what its heads read (n, heads) and its input ``x``
        (n, hidden): h = x + out·read, h + down·(silu(gate·ĥ)·(up·ĥ))."""
        hidden, inner = out.outputs, down.inputs
        tensors = {"read": read, "x": x, "y": torch.empty_like(x), "out": out.numbers}
        tensors |= {"gate_up": gate_up.numbers, "down": down.numbers}
        between = None
        if keep:
            between = Between(
                torch.empty_like(x),
                x.new_empty(len(x), 1),
                x.new_empty(len(x), 2 * inner),
                x.new_empty(len(x), inner),
            )
            tensors |= {"normed": between.normed, "scale": between.scale}
            tensors |= {"gates": between.gates, "products": between.products}
        sizes = {"heads": out.inputs, "hidden": hidden, "inner": inner}
        self._by_tokens(
            "second_half_forward",
            _SecondHalf,
            tensors,
            sizes,
            ("hidden", "inner"),
            hidden * (out.inputs + 3 * inner),
            eps=eps,
        )
        return tensors["y"], between

    def first_half_backward(
        self, g: Tensor, across: Panels, normed: Tensor, scale: Tensor, plus: Tensor
    ) -> Tensor:
        """∂L/∂x (n, inputs) of ``first_half`` from g = ∂L/∂out, with ``plus`` added."""
        tensors = {"g": g, "packed": across.numbers, "normed": normed, "scale": scale}
        tensors |= {"plus": plus, "out": torch.empty_like(plus)}
        sizes = {"inputs": across.outputs, "outputs": across.inputs}
        self._by_tokens(
            "first_half_backward",
            _FirstHalfBack,
            tensors,
            sizes,
            ("inputs",),
            across.inputs * across.outputs,
        )
        return tensors["out"]

    def second_half_backward(
        self, g: Tensor, between: Between, out: Panels, gate_up: Panels, down: Panels
    ) -> tuple[Tensor, Tensor, Tensor]:
        """∂L/∂(gate and up) (n, 2 · inner), ∂L/∂h (n, hidden) and ∂L/∂read (n, heads) from
        g = ∂L/∂(the layer's output). ``out``, ``gate_up`` and ``down`` lead back."""
        hidden, inner, heads = gate_up.outputs, down.outputs, out.outputs
        tensors = {"g": g, "normed": between.normed, "scale": between.scale}
        tensors |= {"gates": between.gates, "out": out.numbers}
        tensors |= {"gate_up": gate_up.numbers, "down": down.numbers}
        to_gates = tensors["to_gates"] = torch.empty_like(between.gates)
        to_middle = tensors["to_middle"] = torch.empty_like(g)
        to_read = tensors["to_read"] = g.new_empty(len(g), heads)
        sizes = {"heads": heads, "hidden": hidden, "inner": inner}
        self._by_tokens(
            "second_half_backward",
            _SecondHalfBack,
            tensors,
            sizes,
            ("hidden",),
            hidden * (heads + 3 * inner),
        )
        return to_gates, to_middle, to_read

    def _pack(
        self,
        weight: Tensor,
        gain: Tensor | None,
        inputs: int,
        outputs: int,
        *,
        across: bool = False,
        gated: bool = False,
    ) -> Panels:
        room = self._library.packed_room(
            ctypes.c_int64(inputs), ctypes.c_int64(outputs), ctypes.c_int64(gated)
        )
        tensors = {"weight": weight, "packed": weight.new_empty(room)}
        if gain is not None:
            tensors["gain"] = gain
        job = _Packing(
            inputs=inputs, outputs=outputs, across=across, gated=gated, **addresses(tensors)
        )
        self._functions.run(self._library.pack, job, work=room)
        return Panels(tensors["packed"], inputs, outputs)

    def _by_tokens(
        self,
        name: str,
        kind: type[ctypes.Structure],
        tensors: dict[str, Tensor],
        sizes: dict[str, int],
        room_of: tuple[str, ...],
        products: int,
        **numbers: float,
    ) -> None:
        """``products``: that are summed for a token. The first of the ``tensors`` has a row for
        each token."""
        first = next(iter(tensors.values()))
        tokens, task = len(first), together(len(first))
        room = getattr(self._library, f"{name}_room")(
            ctypes.c_int64(task), *(ctypes.c_int64(sizes[size]) for size in room_of)
        )
        tensors["scratch"] = first.new_empty(torch.get_num_threads(), room)
        job = kind(
            tokens=tokens,
            task=task,
            room=room,
            thread=self._functions.thread,
            **sizes,
            **numbers,
            **addresses(tensors),
        )
        function = getattr(self._library, name)
        self._functions.run(function, job, work=tokens * products // MULTIPLIED)


def together(tokens: int) -> int:
    """How many tokens go through a layer at a time, so that all threads have as many."""
    threads = torch.get_num_threads()
    rounds = max(1, -(-tokens // (threads * _TASK)))
    each = -(-tokens // (threads * rounds))
    return -(-each // _SIDE) * _SIDE


def layers_for(layers: Sequence[Any]) -> Layers | None:
    """The functions, where they can be had and suit these of a model's linear modules."""
    size = sum(4 * one.in_features * one.out_features for one in layers)
    widths = [width for one in layers for width in (one.in_features, one.out_features)]
    functions = compiled()
    if functions is None or size > FITS or not all(map(in_vectors, widths)):
        return None
    return _layers(functions)


_layers = cache(Layers)
