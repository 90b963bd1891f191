"""Compiled functions of one more token a row (``c/decoding.c``): attention to a cache, all layers
of a small model at once, and the choice of the token.

float32 on the CPU; widths are multiples of 16.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from harness.engines.compiled import Compiled, Heads, addresses, compiled
from harness.engines.compiled_layers import MULTIPLIED, Panels, together


class _Attention(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "rows", "heads", "pairs", "width")),
        *((name, ctypes.c_int64) for name in ("slots", "used")),
        *((name, ctypes.c_void_p) for name in ("qkv", "turns", "positions", "mask")),
        *((name, ctypes.c_void_p) for name in ("keys", "values", "read", "scratch")),
        ("room", ctypes.c_int64),
        ("thread", ctypes.c_void_p),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("qkv", "out", "gate_up", "down")),
        *((name, ctypes.c_void_p) for name in ("keys", "values")),
    ]


class _Step(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "task", "layers", "hidden", "inner")),
        *((name, ctypes.c_void_p) for name in ("layer", "tokens", "embedding")),
        *((name, ctypes.c_void_p) for name in ("normed", "scale", "products", "out")),
        ("attention", _Attention),
        ("eps", ctypes.c_float),
    ]


class _Choosing(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("next", "rows", "words")),
        *((name, ctypes.c_void_p) for name in ("logits", "temperatures", "numbers")),
        *((name, ctypes.c_void_p) for name in ("token", "share", "scratch")),
        ("room", ctypes.c_int64),
        ("thread", ctypes.c_void_p),
    ]


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of which one more token is read.

    The rotation turns a head's neighbours together.
    """

    turns: Tensor  # (positions, width): cosine and sine of each angle side by side
    positions: Tensor  # (rows,) int64: of the tokens
    mask: Tensor  # (rows, tokens so far and this one) int64: 0 for slots that are not read


# Keys and values (rows, pairs, slots, width), into which the token's are written.
Cache = tuple[Tensor, Tensor]


@dataclass(frozen=True, slots=True)
class Small:
    """A layer's matrices: queries, scale included, keys and values side by side; gate and up."""

    qkv: Panels
    out: Panels
    gate_up: Panels
    down: Panels


class Decoding:
    def __init__(self, functions: Compiled) -> None:
        self._functions, self._library = functions, functions.library
        for room in ("decoding_room", "choosing_room"):
            getattr(self._library, room).restype = ctypes.c_int64

    def attention(self, qkv: Tensor, rows: Rows, cache: Cache, heads: Heads) -> Tensor:
        """What the heads read, (rows, heads · width), of queries, keys and values side by side in
        ``qkv`` (rows, (heads + 2 · pairs) · width), the scale included."""
        tensors = self._tensors(qkv, rows, heads)
        tensors |= {"keys": cache[0], "values": cache[1]}
        job = self._attention(tensors, rows, cache, heads)
        work = tensors["read"].numel() * rows.mask.shape[1]
        self._functions.run(self._library.decoding_forward, job, work=work)
        return tensors["read"]

    def layers(
        self,
        tokens: Tensor,
        embedding: Tensor,
        layers: Sequence[Small],
        rows: Rows,
        caches: Sequence[Cache],
        heads: Heads,
        eps: float,
    ) -> Tensor:
        """The last layer's output (rows, hidden) of ``tokens`` (rows,) int64, which are less than
        the ``embedding``'s words."""
        hidden, inner = embedding.shape[1], layers[0].down.inputs
        count, line = len(tokens), layers[0].qkv.outputs
        found = embedding.new_empty(count, hidden)
        attention = self._tensors(embedding.new_empty(count, line), rows, heads)
        tensors = {"tokens": tokens, "embedding": embedding, "out": found}
        tensors |= {"normed": torch.empty_like(found), "scale": embedding.new_empty(count)}
        tensors["products"] = embedding.new_empty(count, inner)
        known = [
            {
                "qkv": one.qkv.numbers,
                "out": one.out.numbers,
                "gate_up": one.gate_up.numbers,
                "down": one.down.numbers,
                "keys": keys,
                "values": values,
            }
            for one, (keys, values) in zip(layers, caches, strict=True)
        ]
        structures = (_Layer * len(layers))(*(_Layer(**addresses(one)) for one in known))
        job = _Step(
            task=together(count),
            layers=len(layers),
            hidden=hidden,
            inner=inner,
            layer=ctypes.addressof(structures),
            attention=self._attention(attention, rows, caches[0], heads),
            eps=eps,
            **addresses(tensors),
        )
        products = len(layers) * hidden * (line + heads.queries * heads.width + 3 * inner)
        work = count * products // MULTIPLIED
        self._functions.run(self._library.decoding_layers, job, work=work)
        return found

    def choose(
        self, logits: Tensor, temperatures: Tensor, numbers: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As ``sampling.choose``."""
        rows, words = logits.shape
        room = self._library.choosing_room(ctypes.c_int64(words))
        token = torch.empty(rows, dtype=torch.int64)
        tensors = {"logits": logits, "temperatures": temperatures, "numbers": numbers}
        tensors |= {"token": token, "share": torch.empty(rows)}
        tensors["scratch"] = logits.new_empty(torch.get_num_threads(), room)
        job = _Choosing(
            rows=rows,
            words=words,
            room=room,
            thread=self._functions.thread,
            **addresses(tensors),
        )
        self._functions.run(self._library.choosing_forward, job, work=logits.numel())
        return token, tensors["share"]

    def _tensors(self, qkv: Tensor, rows: Rows, heads: Heads) -> dict[str, Tensor]:
        """Of attention, without the cache."""
        read = qkv.new_empty(len(qkv), heads.queries * heads.width)
        room = self._library.decoding_room(ctypes.c_int64(rows.mask.shape[1]))
        scratch = qkv.new_empty(torch.get_num_threads(), room)
        tensors = {"qkv": qkv, "turns": rows.turns, "positions": rows.positions}
        return tensors | {"mask": rows.mask, "read": read, "scratch": scratch}

    def _attention(
        self, tensors: dict[str, Tensor], rows: Rows, cache: Cache, heads: Heads
    ) -> _Attention:
        return _Attention(
            rows=len(rows.mask),
            heads=heads.queries,
            pairs=heads.pairs,
            width=heads.width,
            slots=cache[0].shape[2],
            used=rows.mask.shape[1] - 1,
            room=tensors["scratch"].shape[1],
            thread=self._functions.thread,
            **addresses(tensors),
        )


def decoding() -> Decoding | None:
    """The functions, or None where they cannot be had."""
    functions = compiled()
    return None if functions is None else _decoding(functions)


_decoding = cache(Decoding)
