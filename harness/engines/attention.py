"""Causal attention of a Llama over whole sequences, with its backward written out.

Linear layers work on tokens packed without padding, (n, width), and so does attention where it is
compiled (``compiled.py``); torch's operators want rows of one length. ``Padding`` knows the way
from one to the other, ``Attention`` what happens in between.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import LlamaForCausalLM

from harness.engines.compiled import Compiled, Heads, Spans, compiled

# Length up to which two batched products with the scores in memory take half of the time of
# scaled_dot_product_attention, which is made for long sequences, or less.
SHORT = 64
# Length up to which the compiled functions take less time than torch's: half up to 1,024, if every
# thread has a row's key-value head to work on; torch's share a head.
_COMPILED = 2048


class Padding:
    """Which tokens of padded rows are needed, if the places (rows[i], columns[i]) are to be known:
    under causal attention those up to each row's last place. They are packed row by row."""

    def __init__(self, rows: Tensor, columns: Tensor, count: int) -> None:
        self._lengths = torch.zeros(count, dtype=torch.int64)
        self._lengths.scatter_reduce_(0, rows, columns + 1, "amax")
        self._rows, self._columns = rows, columns
        self.rows, self.length = count, int(self._lengths.max())
        self._starts = functional.pad(self._lengths.cumsum(0), (1, 0))  # (count + 1,)
        self.full = int(self._starts[-1]) == count * self.length
        self._real = torch.arange(self.length) < self._lengths[:, None]
        self._kept = self._real.flatten().nonzero().squeeze(1)
        self.places = self._starts[rows] + columns  # among the packed tokens

    @cached_property
    def every(self) -> Spans:
        """The packed rows, with every token for a query."""
        tokens = torch.arange(int(self._starts[-1]))
        positions = tokens - self._starts[:-1].repeat_interleave(self._lengths)
        return Spans(self._starts, self._starts, positions, tokens, self.length)

    @cached_property
    def chosen(self) -> Spans:
        """The packed rows, with the places that are to be known for queries."""
        order = self._rows.argsort(stable=True)
        asked = self._rows.bincount(minlength=self.rows).cumsum(0)
        positions = self._columns[order].contiguous()
        return Spans(self._starts, functional.pad(asked, (1, 0)), positions, order, self.length)

    @cached_property
    def _packed(self) -> Tensor:
        # Padding reads some real token instead; nobody reads padding.
        return self._real.flatten().cumsum(0).sub_(1).clamp_(min=0)

    @cached_property
    def _chosen(self) -> Tensor:
        return self._rows * self.length + self._columns

    def tokens(self, input_ids: Tensor) -> Tensor:
        """The packed token ids (n,) of ``input_ids`` (rows, longest)."""
        return input_ids[:, : self.length].flatten()[self._kept]

    def spread(self, packed: Tensor) -> Tensor:
        """(n, width) to (rows, length, width)."""
        whole = packed if self.full else packed.index_select(0, self._packed)
        return whole.view(self.rows, self.length, -1)

    def pack(self, whole: Tensor, *, chosen: bool) -> Tensor:
        """(rows · length, width) to (n, width), or to the ``chosen`` places only."""
        if chosen:
            return whole.index_select(0, self._chosen)
        return whole if self.full else whole.index_select(0, self._kept)

    def pack_backward(self, g: Tensor, *, chosen: bool) -> Tensor:
        """The gradient of ``pack``'s argument."""
        if self.full and not chosen:
            return g
        whole = g.new_zeros(self.rows * self.length, g.shape[1])
        return whole.index_add_(0, self._chosen if chosen else self._kept, g)


class Attention:
    """Rotation, scores and reading of all of a layer's heads; the same in every layer."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        config: Any = model.config
        rope: Any = model.model.rotary_emb
        attention: Any = model.model.layers[0].self_attn
        self._heads = Heads(
            queries=int(config.num_attention_heads),
            pairs=int(config.num_key_value_heads),
            width=int(attention.head_dim),
            scale=float(attention.scaling),
        )
        self._compiled = compiled() if self._heads.suit else None
        self._frequencies: Tensor = rope.inv_freq.float()
        self._rope_scale = float(rope.attention_scaling)
        self._turns: tuple[Tensor, Tensor] | None = None  # of the longest rows so far

    def read(
        self, qkv: Tensor, padding: Padding, *, chosen: bool
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """What the heads read, (n, heads · width), from queries, keys and values side by side in
        ``qkv`` (n, (heads + 2 · key-value heads) · width), and the backward of that.

        ``chosen``: at the padding's chosen places only.
        """
        shared = padding.rows * self._heads.pairs < torch.get_num_threads()
        longest = SHORT if shared else _COMPILED
        if self._compiled is not None and padding.length <= longest:
            return self._read_compiled(self._compiled, qkv, padding, chosen=chosen)
        return self._read_plain(qkv, padding, chosen=chosen)

    def _read_compiled(
        self, functions: Compiled, qkv: Tensor, padding: Padding, *, chosen: bool
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        turns, heads = self._rotation(padding.length), self._heads
        spans = padding.chosen if chosen else padding.every

        def backward(g: Tensor) -> Tensor:
            return functions.attention_backward(g, qkv, turns, spans, heads)

        return functions.attention(qkv, turns, spans, heads), backward

    def _read_plain(
        self, qkv: Tensor, padding: Padding, *, chosen: bool
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        rows, length, width = padding.rows, padding.length, self._heads.width
        queried, both = self._heads.queries, self._heads.queries + self._heads.pairs
        states = padding.spread(qkv).view(rows, length, -1, width)
        cos, sin = self._rotation(length)
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)  # over the heads
        turned = qkv.new_empty(rows, both, length, width)
        _turn(states[:, :, :both], cos, sin, turned.transpose(1, 2))
        queries, keys = turned[:, :queried], turned[:, queried:]
        values = states[:, :, both:].transpose(1, 2).contiguous()
        attend = _attend_short if length <= SHORT else _attend_long
        found, back = attend(queries.mul_(self._heads.scale), keys, values)
        read = found.transpose(1, 2).reshape(rows * length, -1)

        def backward(g: Tensor) -> Tensor:
            whole = padding.pack_backward(g, chosen=chosen).view(rows, length, -1, width)
            to_queries, to_keys, to_values = back(whole.transpose(1, 2))
            total = g.new_empty(rows, length, both + self._heads.pairs, width)
            to_queries = to_queries.mul_(self._heads.scale).transpose(1, 2)
            _turn(to_queries, cos, -sin, total[:, :, :queried])
            _turn(to_keys.transpose(1, 2), cos, -sin, total[:, :, queried:both])
            total[:, :, both:] = to_values.transpose(1, 2)
            return padding.pack(total.view(rows * length, -1), chosen=False)

        return padding.pack(read, chosen=chosen), backward

    def _rotation(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines (length, width / 2) of the positions' angles."""
        if self._turns is None or len(self._turns[0]) < length:
            positions = torch.arange(length, dtype=torch.float32)
            angles = torch.outer(positions, self._frequencies)
            self._turns = angles.cos() * self._rope_scale, angles.sin() * self._rope_scale
        cos, sin = self._turns
        return cos[:length], sin[:length]


def _turn(x: Tensor, cos: Tensor, sin: Tensor, out: Tensor) -> None:
    """Rotate (Su et al. 2021, arXiv 2104.09864) the two halves of the last dimension together."""
    one, two = x.chunk(2, dim=-1)
    first, second = out.chunk(2, dim=-1)
    torch.mul(one, cos, out=first).addcmul_(two, sin, value=-1)
    torch.mul(two, cos, out=second).addcmul_(one, sin)


_Backward = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]


def _attend_short(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, _Backward]:
    """softmax(q·kᵀ)·v under the causal mask; (rows, heads, length, width) all. Heads that share
    keys are one product."""
    rows, heads, length, width = queries.shape
    groups = rows * keys.shape[1]
    q = queries.reshape(groups, -1, width)
    k, v = keys.reshape(groups, length, width), values.view(groups, length, width)
    scores = torch.bmm(q, k.transpose(1, 2)).view(rows, heads, length, length)
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    penalty = torch.zeros(length, length).masked_fill_(~causal, -torch.inf)
    weights = scores.add_(penalty).softmax(dim=-1).view(groups, -1, length)
    found = torch.bmm(weights, v).view(rows, heads, length, width)

    def backward(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        g = g.reshape(groups, -1, width)
        to_values = torch.bmm(weights.transpose(1, 2), g)
        to_weights = torch.bmm(g, v.transpose(1, 2))
        to_scores = torch._softmax_backward_data(to_weights, weights, -1, torch.float32)
        to_queries = torch.bmm(to_scores, k)
        to_keys = torch.bmm(to_scores.transpose(1, 2), q)
        return (
            to_queries.view(rows, heads, length, width),
            to_keys.view(rows, -1, length, width),
            to_values.view(rows, -1, length, width),
        )

    return found, backward


def _attend_long(queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, _Backward]:
    """The same by the library's kernel, which holds no scores, and its derivative."""
    with torch.enable_grad():
        q, k, v = (tensor.detach().requires_grad_() for tensor in (queries, keys, values))
        found = functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, scale=1.0, enable_gqa=keys.shape[1] != queries.shape[1]
        )

    def backward(g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        to_queries, to_keys, to_values = torch.autograd.grad(found, (q, k, v), g)
        return to_queries, to_keys, to_values

    return found.detach(), backward
