"""Small Llama models decode faster by a forward of our own.

In a step of a small model the arithmetic is not the whole cost: there is a call for each of seven
matrices a layer, and the norms' and the rotation's many small operations. Here query, key and value
are one product; weights are laid out once, and what follows a product is done in the same pass
(``products.py``), or a half of a layer is one function (``compiled_layers.py``); the norms' weights
and the query's scale are folded into the matrices; the rotation is one complex product; a token's
attention is one compiled function, where there is a compiler (``compiled.py``); and of the last
layer only the last position is computed, since only its logits are wanted. The adapter is folded in
as in ``folding.py``, with the same exactness: float32 additions in another order, so that replies
differ only where tokens are tied to that precision. Measured on the pocket base
(``benchmarks/eval_throughput.py``).

For float32 ``LlamaForCausalLM`` on the CPU, up to the size that ``folding.py`` folds. Nothing here
has gradients. What it keeps in a cache is for itself: its keys' widths are in another order.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, LlamaForCausalLM

from harness.engines.compiled import Heads
from harness.engines.compiled_decoding import Decoding, Rows, Small, decoding
from harness.engines.compiled_layers import Layers, layers_for
from harness.engines.folding import MAX_BYTES, effective_weight
from harness.engines.operators import rms_norm
from harness.engines.products import Product
from harness.engines.room import roomy_layers

# New positions up to which attention is computed by two products, its scores in memory.
_SHORT = 64
# Kinds of rotation whose frequencies do not change with the length of the text.
_STATIC_ROPE = ("default", "linear", "llama3")


class _Layer(Protocol):
    """A layer's matrices; of (n, hidden) all."""

    def qkv(self, x: Tensor) -> Tensor:
        """Queries, keys and values side by side, (n, (heads + 2 · key-value heads) · width)."""
        ...

    def rest(self, read: Tensor, x: Tensor) -> Tensor:
        """The layer's output from what its heads read, (n, heads · width), and its input."""
        ...


@dataclass(frozen=True, slots=True)
class _Plain:
    eps: float
    _qkv: Product
    _out: Product
    _gate: Product
    _up: Product
    _down: Product

    def qkv(self, x: Tensor) -> Tensor:
        return self._qkv(rms_norm(x, self.eps)[0])

    def rest(self, read: Tensor, x: Tensor) -> Tensor:
        x = self._out.plus(read, x)
        normed = rms_norm(x, self.eps)[0]
        return self._down.plus(self._up.times(normed, self._gate.silu(normed)), x)


@dataclass(frozen=True, slots=True)
class _Compiled:
    layers: Layers
    eps: float
    panels: Small

    def qkv(self, x: Tensor) -> Tensor:
        return self.layers.first_half(x, self.panels.qkv, self.eps)[0]

    def rest(self, read: Tensor, x: Tensor) -> Tensor:
        weights = (self.panels.out, self.panels.gate_up, self.panels.down)
        return self.layers.second_half(read, x, *weights, self.eps)[0]


class FusedLlama:
    """The model's weights with the adapter active at construction, and its forward."""

    def __init__(
        self, model: LlamaForCausalLM, layers: list[_Layer], head: Callable[[Tensor], Tensor]
    ) -> None:
        """``head``: logits (n, words) of (n, hidden)."""
        config: Any = model.config
        self._layers = layers
        self._head = head
        self._embedding = model.model.embed_tokens.weight.detach()
        self._width = int(model.model.layers[0].self_attn.head_dim)
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._shape = Heads(self._heads, self._kv_heads, self._width, 1.0)
        self._decoding = decoding() if self._shape.suit else None
        self._eps = float(config.rms_norm_eps)
        small = [layer.panels for layer in layers if isinstance(layer, _Compiled)]
        self._small = small if len(small) == len(layers) else None
        rope: Any = model.model.rotary_emb
        angles = torch.outer(
            torch.arange(int(config.max_position_embeddings), dtype=torch.float32),
            rope.inv_freq.float(),
        )
        self._rotation = torch.polar(torch.full_like(angles, float(rope.attention_scaling)), angles)
        self._turns = torch.view_as_real(self._rotation).flatten(1)

    def __call__(
        self, input_ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
    ) -> Tensor:
        """Logits (rows, vocabulary) of the last position; new keys and values go into the cache.

        ``input_ids`` and ``positions``: (rows, new); ``mask``: (rows, old + new), 0 for padding.
        """
        # A row that ended at the context's limit may linger beside longer ones: nobody reads it.
        known = positions.clamp(max=len(self._rotation) - 1)
        if self._decoding is not None and mask.shape[1] > input_ids.shape[1] == 1:
            return self._one_more(self._decoding, input_ids, mask, known, cache)
        x = functional.embedding(input_ids, self._embedding)
        rotation = self._rotation[known].unsqueeze(1)  # over the heads
        allowed = self._allowed(mask, input_ids.shape[1])
        if input_ids.shape[1] <= _SHORT:
            allowed = self._penalty(allowed, cache)
        for number, layer in enumerate(self._layers):
            queries, keys, values = self._turned(x, layer, rotation)
            keys, values = cache.update(keys, values, number)
            if allowed.shape[-1] > keys.shape[-2]:
                keys, values = roomy_layers(cache)[number].whole
            if number == len(self._layers) - 1:
                queries, allowed = queries[:, :, -1:], allowed[:, :, -1:]
                x = x[:, -1:].contiguous()
            read = self._read(queries, keys, values, allowed)
            x = layer.rest(read.flatten(0, 1), x.flatten(0, 1)).view_as(x)
        return self._head(x[:, -1].contiguous())

    def _one_more(
        self,
        functions: Decoding,
        input_ids: Tensor,
        mask: Tensor,
        positions: Tensor,
        cache: DynamicCache,
    ) -> Tensor:
        """As ``__call__``, of one new token a row."""
        rows = Rows(self._turns, positions.flatten(), mask)
        tokens, rooms = input_ids.flatten(), roomy_layers(cache)
        for room in rooms:
            room.next_slot()
        caches = [(room.whole[0], room.whole[1]) for room in rooms]
        if self._small is not None:
            states = functions.layers(
                tokens, self._embedding, self._small, rows, caches, self._shape, self._eps
            )
            return self._head(states)
        x = functional.embedding(tokens, self._embedding)
        for layer, whole in zip(self._layers, caches, strict=True):
            x = layer.rest(functions.attention(layer.qkv(x), rows, whole, self._shape), x)
        return self._head(x)

    def _turned(self, x: Tensor, layer: _Layer, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (rows, heads, new, width), rotated."""
        rows, new, _ = x.shape
        both = self._heads + self._kv_heads
        states = layer.qkv(x.flatten(0, 1)).view(rows, new, -1, self._width).transpose(1, 2)
        turned = states[:, :both]
        torch.view_as_complex(turned.unflatten(-1, (-1, 2))).mul_(rotation)
        return turned[:, : self._heads], turned[:, self._heads :], states[:, both:]

    def _read(self, queries: Tensor, keys: Tensor, values: Tensor, allowed: Tensor) -> Tensor:
        """What the heads read: (rows, new, heads · width). ``allowed`` as bool, or as 0 and −∞.

        scaled_dot_product_attention is made for many new positions: for few, two batched products
        take half of its time or less.
        """
        if not allowed.is_floating_point():
            read = functional.scaled_dot_product_attention(
                queries,
                keys,
                values,
                attn_mask=allowed,
                scale=1.0,
                enable_gqa=self._kv_heads != self._heads,
            )
            return read.transpose(1, 2).flatten(-2)
        rows, heads, new, width = queries.shape
        grouped = queries.reshape(rows * self._kv_heads, -1, width)
        scores = torch.bmm(grouped, keys.flatten(0, 1).transpose(1, 2))
        weights = scores.view(rows, heads, new, -1).add_(allowed).softmax(dim=-1)
        read = torch.bmm(weights.view(scores.shape), values.flatten(0, 1))
        return read.view(rows, heads, new, width).transpose(1, 2).flatten(-2)

    @staticmethod
    def _penalty(allowed: Tensor, cache: DynamicCache) -> Tensor:
        """What is added to the scores: (rows, 1, new, slots), 0 or −∞.

        Behind a prompt for all the cache's slots, the unused ones too: memory is read several times
        faster without gaps.
        """
        rows, _, new, slots = allowed.shape
        if slots > new:
            slots = max(layer.make_room(slots) for layer in roomy_layers(cache))
        penalty = torch.full((rows, 1, new, slots), -torch.inf)
        penalty[..., : allowed.shape[-1]].masked_fill_(allowed, 0.0)
        return penalty

    @staticmethod
    def _allowed(mask: Tensor, new: int) -> Tensor:
        """Which slots each new position may read: (rows, 1, new, old + new), true for yes."""
        known = mask.bool()[:, None, None, :]
        total = mask.shape[1]
        slots = torch.arange(total, device=mask.device)
        own = torch.arange(total - new, total, device=mask.device)[:, None]
        # Padding may read itself: a softmax over nothing would be nan.
        return (known & (slots <= own)) | (slots == own)


def fuse(model: nn.Module, *, max_bytes: int = MAX_BYTES) -> FusedLlama | None:
    """The model's own forward, or None where it is not one that this file computes exactly."""
    if type(model) is not LlamaForCausalLM or not suits(model):
        return None
    size = sum(4 * m.in_features * m.out_features for m in _linears(model))
    if size > max_bytes:
        return None
    layers: list[_Layer] = []
    eps = float(model.config.rms_norm_eps)
    for block in model.model.layers:
        found = [effective_weight(module) for module in linears(block)]
        if any(weight is None for weight in found):
            return None
        query, key, value, out, gate, up, down = (w for w in found if w is not None)
        order = _pairs(int(block.self_attn.head_dim), query.device)
        scale = float(block.self_attn.scaling)
        before = block.input_layernorm.weight.detach()
        after = block.post_attention_layernorm.weight.detach()
        qkv = torch.cat([_paired(query, order) * scale, _paired(key, order), value]) * before
        known = layers_for(linears(block))
        if known is None:
            matrices = (qkv, out, gate * after, up * after, down)
            layers.append(_Plain(eps, *(Product(matrix) for matrix in matrices)))
        else:
            gates = known.pack(torch.cat([gate, up]), after, gated=True)
            panels = Small(known.pack(qkv), known.pack(out), gates, known.pack(down))
            layers.append(_Compiled(known, eps, panels))
    head = effective_weight(model.lm_head)
    if head is None:
        return None
    return FusedLlama(model, layers, _head(model, head, eps))


def _head(model: LlamaForCausalLM, weight: Tensor, eps: float) -> Callable[[Tensor], Tensor]:
    gain = model.model.norm.weight.detach()
    functions = layers_for([model.lm_head])
    if functions is None:
        product = Product(weight * gain)
        return lambda x: product(rms_norm(x, eps)[0])
    panels = functions.pack(weight, gain)
    return lambda x: functions.first_half(x, panels, eps)[0]


def suits(model: LlamaForCausalLM) -> bool:
    """Whether it is a Llama of which this file and ``trunk.py`` compute the numbers."""
    config = model.config
    rope = dict(getattr(config, "rope_parameters", None) or {})
    return (
        model.device.type == "cpu"
        and config.hidden_act == "silu"
        and not config.attention_bias
        and not config.mlp_bias
        and rope.get("rope_type", "default") in _STATIC_ROPE
        and type(model.model.embed_tokens) is nn.Embedding
        and all(
            weight.dtype == torch.float32
            for weight in (
                model.model.embed_tokens.weight,
                model.model.norm.weight,
                *(block.input_layernorm.weight for block in model.model.layers),
                *(block.post_attention_layernorm.weight for block in model.model.layers),
            )
        )
    )


def linears(block: Any) -> tuple[nn.Module, ...]:
    """Query, key, value, out, gate, up and down of one of the model's layers."""
    attention, mlp = block.self_attn, block.mlp
    return (
        attention.q_proj,
        attention.k_proj,
        attention.v_proj,
        attention.o_proj,
        mlp.gate_proj,
        mlp.up_proj,
        mlp.down_proj,
    )


def _linears(model: LlamaForCausalLM) -> list[Any]:
    return [module for block in model.model.layers for module in linears(block)]


def _pairs(width: int, device: torch.device) -> Tensor:
    """Puts beside each other the two halves' numbers that the rotation turns together."""
    half = torch.arange(width // 2, device=device)
    return torch.stack([half, half + width // 2], dim=1).flatten()


def _paired(weight: Tensor, order: Tensor) -> Tensor:
    heads = weight.unflatten(0, (-1, len(order)))
    return heads[:, order].flatten(0, 1)
