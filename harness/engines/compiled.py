"""The functions of the C files in ``c/``, built for this processor when they are first wanted.

Where there is no C compiler (``building.py``), or no OpenMP among torch's libraries, ``compiled()``
is None and torch's operators do the same, slower and equal up to the order of float32 additions.
``ALDENTE_COMPILED=0`` in the environment does without as well.

They run on torch's own threads: torch's OpenMP is asked for ``torch.get_num_threads()`` of them.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.engines.building import built

SWITCH = "ALDENTE_COMPILED"
_SOURCE = Path(__file__).parent / "c"
_LANES = 16  # that widths must be multiples of
_WIDEST = 256  # of a head, and of all adapters' ranks together
_GRAIN = 2**15  # of work for each thread, as torch has it


@dataclass(frozen=True, slots=True)
class Spans:
    """Packed rows and their queries; int64 all, on the CPU.

    Row r's tokens are starts[r] to starts[r + 1], its queries asked[r] to asked[r + 1]. A query is
    the token at positions[i] of its row, and number places[i] of what is read.

    ``shared`` (rows / sides,): rows come as so many ``sides`` of equally many. Row i of each begins
    with the first shared[i] tokens of row i of the first side, which are packed, and asked, there.
    """

    starts: Tensor  # (rows + 1,)
    asked: Tensor  # (rows + 1,)
    positions: Tensor  # (queries,)
    places: Tensor  # (queries,)
    longest: int  # row
    sides: int = 1
    shared: Tensor | None = None


@dataclass(frozen=True, slots=True)
class PackedAdapters:
    """LoRA adapters of layers that read the same input, the outputs of which lie side by side.

    ``down``: (inputs, ranks), every s·A transposed, side by side, the input's ``gain`` (inputs,)
    included. ``up``: every s·B (outputs, rank), one behind the other. ``columns`` and ``ranked``:
    of each adapter the first of its outputs and of its ranks, and how many.
    """

    down: Tensor
    up: Tensor
    columns: tuple[tuple[int, int], ...]
    ranked: tuple[tuple[int, int], ...]
    gain: Tensor | None = None

    @property
    def suit(self) -> bool:
        ranks = self.down.shape[1]
        sizes = [len(self.down), *(n for pair in (*self.columns, *self.ranked) for n in pair)]
        return ranks <= _WIDEST and all(map(in_vectors, sizes))


@dataclass(frozen=True, slots=True)
class Heads:
    """What attention is computed with; query head h reads with key-value head
    h · pairs // queries."""

    queries: int
    pairs: int  # key-value heads
    width: int  # of a head
    scale: float

    @property
    def suit(self) -> bool:
        return in_vectors(self.width) and self.width <= _WIDEST


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "rows", "sides")),
        *((name, ctypes.c_int64) for name in ("heads", "pairs", "width")),
        *((name, ctypes.c_void_p) for name in ("qkv", "cos", "sin", "starts", "asked", "shared")),
        *((name, ctypes.c_void_p) for name in ("positions", "places", "read", "to_qkv")),
        ("scratch", ctypes.c_void_p),
        ("room", ctypes.c_int64),
        ("thread", ctypes.c_void_p),
        ("scale", ctypes.c_float),
    ]


class _Adapters(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "tokens", "inputs", "outputs", "ranks")),
        ("adapters", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("columns", "ranked", "g", "x", "down", "up")),
        *((name, ctypes.c_void_p) for name in ("gain", "parts", "to_down", "to_up")),
        ("ups", ctypes.c_int64),
    ]


class _Norm(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "tokens", "width")),
        *((name, ctypes.c_void_p) for name in ("x", "normed", "scale", "g", "plus", "out")),
        ("eps", ctypes.c_float),
    ]


class _Gated(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "tokens", "width")),
        *((name, ctypes.c_void_p) for name in ("gate_up", "product", "to_gate_up")),
    ]


class _Words(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "tokens", "width")),
        *((name, ctypes.c_void_p) for name in ("logits", "targets", "chosen", "entropy")),
        ("likeliest", ctypes.c_void_p),
        ("divisor", ctypes.c_float),
    ]


class Compiled:
    """float32 on the CPU, contiguous all. No gradients: the backward is a function of its own."""

    def __init__(self, library: ctypes.CDLL, openmp: ctypes.CDLL) -> None:
        self.library = library
        self._addresses: dict[str, ctypes.c_void_p] = {}  # of functions
        for room in ("attention_room", "adapters_room"):
            getattr(self.library, room).restype = ctypes.c_int64
        self._parallel = openmp.GOMP_parallel
        self._parallel.argtypes = (
            ctypes.c_void_p,
            ctypes.c_void_p,
            ctypes.c_uint,
            ctypes.c_uint,
        )
        self._parallel.restype = None
        self.thread = ctypes.cast(openmp.omp_get_thread_num, ctypes.c_void_p).value

    def attention(
        self, qkv: Tensor, turns: tuple[Tensor, Tensor], spans: Spans, heads: Heads
    ) -> Tensor:
        """What the heads read under causal attention, (queries, heads · width), of queries, keys
        and values side by side in ``qkv`` (tokens, (heads + 2 · pairs) · width).

        ``turns``: cosines and sines (positions, width / 2) of the rotation's angles.
        """
        read = qkv.new_empty(len(spans.positions), heads.queries * heads.width)
        self._attention(self.library.attention_forward, qkv, turns, spans, heads, read, None)
        return read

    def attention_backward(
        self, g: Tensor, qkv: Tensor, turns: tuple[Tensor, Tensor], spans: Spans, heads: Heads
    ) -> Tensor:
        """∂L/∂qkv from g = ∂L/∂read."""
        found = torch.empty_like(qkv)
        self._attention(self.library.attention_backward, qkv, turns, spans, heads, g, found)
        return found

    def adapters_gradients(
        self, g: Tensor, x: Tensor, packed: PackedAdapters
    ) -> tuple[list[Tensor], list[Tensor]]:
        """∂L/∂A (rank, inputs) and ∂L/∂B (outputs, rank) of each adapter, from g = ∂L/∂y (tokens,
        outputs of the layers) and ``x`` (tokens, inputs), the input before the gain."""
        inputs, ranks, ups = *packed.down.shape, packed.up.numel()
        room = self.library.adapters_room(
            ctypes.c_int64(inputs), ctypes.c_int64(ranks), ctypes.c_int64(ups)
        )
        tensors = {"g": g, "x": x, "down": packed.down, "up": packed.up}
        tensors["parts"] = x.new_empty(room)
        to_down = tensors["to_down"] = x.new_empty(ranks, inputs)
        to_up = tensors["to_up"] = x.new_empty(ups)
        if packed.gain is not None:
            tensors["gain"] = packed.gain
        pairs = ctypes.c_int64 * (2 * len(packed.columns))
        columns = pairs(*(number for pair in packed.columns for number in pair))
        ranked = pairs(*(number for pair in packed.ranked for number in pair))
        job = _Adapters(
            tokens=len(x),
            inputs=inputs,
            outputs=g.shape[1],
            ranks=ranks,
            adapters=len(packed.columns),
            ups=ups,
            columns=ctypes.addressof(columns),
            ranked=ctypes.addressof(ranked),
            **addresses(tensors),
        )
        self.run(self.library.adapters_sums, job, work=x.numel() * ranks)
        job.next = 0
        self.run(self.library.adapters_total, job, work=room)
        numbers = [rank for _, rank in packed.ranked]
        parts = to_up.split(
            [rank * width for rank, (_, width) in zip(numbers, packed.columns, strict=True)]
        )
        to_ups = [part.view(-1, rank) for part, rank in zip(parts, numbers, strict=True)]
        return list(to_down.split(numbers)), to_ups

    def rms_norm(self, x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
        """x·r with r = 1/√(mean x² + ε), of (n, width), and r, (n, 1)."""
        tensors = {"x": x, "normed": torch.empty_like(x), "scale": x.new_empty(len(x), 1)}
        tokens, width = x.shape
        job = _Norm(tokens=tokens, width=width, eps=eps, **addresses(tensors))
        self.run(self.library.norm_forward, job, work=x.numel())
        return tensors["normed"], tensors["scale"]

    def rms_norm_backward(
        self, g: Tensor, normed: Tensor, scale: Tensor, plus: Tensor | None
    ) -> Tensor:
        """∂L/∂x from g = ∂L/∂normed, with ``plus`` added."""
        tensors = {"g": g, "normed": normed, "scale": scale, "out": torch.empty_like(g)}
        if plus is not None:
            tensors["plus"] = plus
        tokens, width = g.shape
        job = _Norm(tokens=tokens, width=width, **addresses(tensors))
        self.run(self.library.norm_backward, job, work=g.numel())
        return tensors["out"]

    def swiglu(self, gate_up: Tensor) -> Tensor:
        """silu(gate) · up: (n, width) of the two side by side, (n, 2 · width)."""
        found = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        self._gated(self.library.gated_forward, gate_up, found, None)
        return found

    def swiglu_backward(self, g: Tensor, gate_up: Tensor) -> Tensor:
        """∂L/∂gate_up from g = ∂L/∂swiglu."""
        found = torch.empty_like(gate_up)
        self._gated(self.library.gated_backward, gate_up, g, found)
        return found

    def log_softmax(
        self, logits: Tensor, targets: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probabilities of the targets under softmax(logits / temperature), the entropy, and
        whether no word is likelier (bool), (n,) each; puts the probabilities in place of ``logits``
        (n, words)."""
        found = {"chosen": logits.new_empty(len(logits)), "entropy": logits.new_empty(len(logits))}
        found["likeliest"] = torch.empty(len(logits), dtype=torch.bool)
        tokens, width = logits.shape
        targets = targets.contiguous()
        tensors = {"logits": logits, "targets": targets, **found}
        job = _Words(tokens=tokens, width=width, divisor=temperature, **addresses(tensors))
        self.run(self.library.words_forward, job, work=logits.numel())
        return found["chosen"], found["entropy"], found["likeliest"]

    def _attention(
        self,
        function: Any,
        qkv: Tensor,
        turns: tuple[Tensor, Tensor],
        spans: Spans,
        heads: Heads,
        read: Tensor,
        to_qkv: Tensor | None,
    ) -> None:
        tensors = {"qkv": qkv, "read": read, "cos": turns[0], "sin": turns[1]}
        room = self.library.attention_room(
            ctypes.c_int64(spans.longest), ctypes.c_int64(heads.width)
        )
        tensors["scratch"] = qkv.new_empty(torch.get_num_threads(), room)
        if to_qkv is not None:
            tensors["to_qkv"] = to_qkv
        for name in ("starts", "asked", "positions", "places"):
            tensors[name] = getattr(spans, name)
        if spans.shared is not None:
            tensors["shared"] = spans.shared
        self.run(
            function,
            _Attention(
                rows=(len(spans.starts) - 1) // spans.sides,
                sides=spans.sides,
                heads=heads.queries,
                pairs=heads.pairs,
                width=heads.width,
                room=room,
                thread=self.thread,
                scale=heads.scale,
                **addresses(tensors),
            ),
            work=read.numel() * spans.longest,
        )

    def _gated(
        self, function: Any, gate_up: Tensor, product: Tensor, to_gate_up: Tensor | None
    ) -> None:
        tensors = {"gate_up": gate_up, "product": product}
        if to_gate_up is not None:
            tensors["to_gate_up"] = to_gate_up
        tokens, width = product.shape
        job = _Gated(tokens=tokens, width=width, **addresses(tensors))
        self.run(function, job, work=product.numel())

    def run(self, function: Any, job: ctypes.Structure, work: int) -> None:
        """By as many threads as the ``work``, numbers read or products summed, is worth: waking one
        costs microseconds, and on a machine that is busy with other things much more."""
        threads = min(torch.get_num_threads(), 1 + work // _GRAIN)
        if threads == 1:
            function(ctypes.byref(job))
            return
        if (address := self._addresses.get(function.__name__)) is None:
            address = ctypes.cast(function, ctypes.c_void_p)
            self._addresses[function.__name__] = address
        self._parallel(address, ctypes.byref(job), threads, 0)


def in_vectors(width: int) -> bool:
    """Whether numbers of this width are whole vectors: all but log-probabilities must be."""
    return width % _LANES == 0


@cache
def compiled() -> Compiled | None:
    """The functions, or None where they cannot be had."""
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        # Symbols are looked up in a library and in what it depends on: the OpenMP that torch uses.
        openmp = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        library = built(_SOURCE)
        return None if library is None else Compiled(library, openmp)
    except (OSError, AttributeError, RuntimeError):  # the last: no home folder
        return None


def addresses(tensors: dict[str, Tensor]) -> dict[str, int]:
    """Where they lie: the caller keeps them until the function has run."""
    for name, tensor in tensors.items():
        assert tensor.is_contiguous(), name
    return {name: tensor.data_ptr() for name, tensor in tensors.items()}
