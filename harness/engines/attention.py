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


def asked_lengths(rows: Tensor, columns: Tensor, count: int) -> Tensor:
    """Up to where (count,) each row is needed for the places (rows[i], columns[i]) to be known."""
    lengths = torch.zeros(count, dtype=torch.int64)
    return lengths.scatter_reduce_(0, rows, columns + 1, "amax")


def beginnings(input_ids: Tensor, lengths: Tensor, sides: int) -> Tensor:
    """How many tokens row i of every side has in common from the beginning, (rows / sides,), within
    ``lengths`` (rows,) of ``input_ids`` (rows, longest): all rows of a side, then those of the
    next."""
    whole = input_ids.unflatten(0, (sides, -1))
    same = (whole == whole[0]).all(0)
    same &= torch.arange(input_ids.shape[1]) < lengths.view(sides, -1).amin(0)[:, None]
    return same.cumprod(1).sum(1)


class Padding:
    """Which tokens of padded rows are needed, if the places (rows[i], columns[i]) are to be known:
    under causal attention those up to each row's last place. They are packed row by row.

    ``shared`` (count / sides,): what ``beginnings`` found, or less. Such tokens are packed once, in
    the first side's row; elsewhere they stand for its tokens.
    """

    def __init__(
        self,
        rows: Tensor,
        columns: Tensor,
        count: int,
        *,
        sides: int = 1,
        shared: Tensor | None = None,
    ) -> None:
        self._lengths = asked_lengths(rows, columns, count)
        self.rows, self.sides, self.length = count, sides, int(self._lengths.max())
        self._shared = shared
        # Of each row: how many of its first tokens are packed elsewhere.
        self._elsewhere = torch.zeros_like(self._lengths)
        if shared is not None:
            self._elsewhere.view(sides, -1)[1:] = shared
        self._own = self._lengths - self._elsewhere
        self._starts = functional.pad(self._own.cumsum(0), (1, 0))  # (count + 1,)
        self.full = int(self._starts[-1]) == count * self.length
        places = torch.arange(self.length)
        self._real = places < self._lengths[:, None]
        if shared is not None:
            self._real &= places >= self._elsewhere[:, None]
        self._kept = self._real.flatten().nonzero().squeeze(1)
        self._rows, self._columns = self._owner(rows, columns), columns
        self.places = self._number(self._rows, columns)  # among the packed tokens

    def _owner(self, rows: Tensor, columns: Tensor) -> Tensor:
        """The rows in which the tokens at (rows[i], columns[i]) are packed."""
        if self._shared is None:
            return rows
        elsewhere = columns < self._elsewhere[rows]
        return torch.where(elsewhere, rows % len(self._shared), rows)

    def _number(self, owner: Tensor, columns: Tensor) -> Tensor:
        """Among the packed tokens, of tokens at (owner[i], columns[i])."""
        return self._starts[owner] + columns - self._elsewhere[owner]

    @cached_property
    def every(self) -> Spans:
        """The packed rows, with every token for a query."""
        tokens = torch.arange(int(self._starts[-1]))
        begins = self._starts[:-1] - self._elsewhere
        return self._spans(self._starts, tokens - begins.repeat_interleave(self._own), tokens)

    @cached_property
    def chosen(self) -> Spans:
        """The packed rows, with the places that are to be known for queries."""
        order = self._rows.argsort(stable=True)
        asked = self._rows.bincount(minlength=self.rows).cumsum(0)
        return self._spans(functional.pad(asked, (1, 0)), self._columns[order].contiguous(), order)

    def _spans(self, asked: Tensor, positions: Tensor, places: Tensor) -> Spans:
        return Spans(self._starts, asked, positions, places, self.length, self.sides, self._shared)

    @cached_property
    def _packed(self) -> Tensor:
        # Padding reads some real token instead; nobody reads padding.
        own = self._real.flatten().cumsum(0).sub_(1).clamp_(min=0)
        if self._shared is not None:
            own[self._repeated[0]] = self._repeated[1]
        return own

    @cached_property
    def _repeated(self) -> tuple[Tensor, Tensor]:
        """The tokens that stand for another's: where in whole rows, and of which packed token."""
        places = torch.arange(self.length) < self._elsewhere[:, None]
        rows, columns = places.nonzero().unbind(1)
        number = self._number(self._owner(rows, columns), columns)
        return rows * self.length + columns, number

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

    def spread_backward(self, g: Tensor) -> Tensor:
        """The gradient (n, width) of ``spread``'s argument from that of the real tokens among
        (rows · length, width)."""
        packed = self.pack(g, chosen=False)
        if self._shared is not None:
            whole, numbers = self._repeated
            packed.index_add_(0, numbers, g.index_select(0, whole))
        return packed

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
        tasks = padding.rows // padding.sides * self._heads.pairs
        shared = tasks < torch.get_num_threads()
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
            return padding.spread_backward(total.view(rows * length, -1))

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
