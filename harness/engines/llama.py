"""Small Llama models decode faster by a forward of our own.

In a step of a small model the arithmetic is not the whole cost: there is a call for each of seven
matrices a layer, and the norms' and the rotation's many small operations. Here query, key and value
are one product; weights are laid out once, and what follows a product is done in the same pass
(``products.py``); the norms' weights and the query's scale are folded into the matrices; the
rotation is one complex product; a token's attention is one compiled function, where there is a
compiler (``compiled.py``); and of the last layer only the last position is computed, since only its
logits are wanted. The adapter is folded in as in ``folding.py``, with the same exactness:
float32 additions in another order, so that replies differ only where tokens are tied to that
precision. Measured on the pocket base (``benchmarks/eval_throughput.py``).

For float32 ``LlamaForCausalLM`` on the CPU, up to the size that ``folding.py`` folds. Nothing here
has gradients. What it keeps in a cache is for itself: its keys' widths are in another order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache, LlamaForCausalLM

from harness.engines.compiled import Compiled, Heads, compiled
from harness.engines.folding import MAX_BYTES, effective_weight
from harness.engines.operators import rms_norm
from harness.engines.products import Product
from harness.engines.room import roomy_layers

# New positions up to which attention is computed by two products, its scores in memory.
_SHORT = 64
# Kinds of rotation whose frequencies do not change with the length of the text.
_STATIC_ROPE = ("default", "linear", "llama3")


@dataclass(frozen=True, slots=True)
class _Layer:
    qkv: Product  # (heads + 2 · key-value heads) · width, hidden
    out: Product
    gate: Product
    up: Product
    down: Product


class FusedLlama:
    """The model's weights with the adapter active at construction, and its forward."""

    def __init__(self, model: LlamaForCausalLM, layers: list[_Layer], head: Product) -> None:
        config: Any = model.config
        self._layers = layers
        self._head = head
        self._embedding = model.model.embed_tokens.weight.detach()
        self._width = int(model.model.layers[0].self_attn.head_dim)
        self._heads = int(config.num_attention_heads)
        self._kv_heads = int(config.num_key_value_heads)
        self._shape = Heads(self._heads, self._kv_heads, self._width, 1.0)
        self._compiled = compiled() if self._shape.suit else None
        self._eps = float(config.rms_norm_eps)
        rope: Any = model.model.rotary_emb
        angles = torch.outer(
            torch.arange(int(config.max_position_embeddings), dtype=torch.float32),
            rope.inv_freq.float(),
        )
        self._rotation = torch.polar(torch.full_like(angles, float(rope.attention_scaling)), angles)

    def __call__(
        self, input_ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache
    ) -> Tensor:
        """Logits (rows, vocabulary) of the last position; new keys and values go into the cache.

        ``input_ids`` and ``positions``: (rows, new); ``mask``: (rows, old + new), 0 for padding.
        """
        x = functional.embedding(input_ids, self._embedding)
        # A row that ended at the context's limit may linger beside longer ones: nobody reads it.
        known = positions.clamp(max=len(self._rotation) - 1)
        rotation = self._rotation[known].unsqueeze(1)  # over the heads
        allowed = self._allowed(mask, input_ids.shape[1])
        if input_ids.shape[1] <= _SHORT:
            allowed = self._penalty(allowed, cache)
        if self._compiled is not None and mask.shape[1] > input_ids.shape[1] == 1:
            return self._one_more(self._compiled, x.squeeze(1), known, allowed, cache)
        for number, layer in enumerate(self._layers):
            queries, keys, values = self._turned(x, layer, rotation)
            keys, values = cache.update(keys, values, number)
            if allowed.shape[-1] > keys.shape[-2]:
                keys, values = roomy_layers(cache)[number].whole
            if number == len(self._layers) - 1:
                queries, allowed = queries[:, :, -1:], allowed[:, :, -1:]
                x = x[:, -1:].contiguous()
            x = self._mlp(layer.out.plus(self._read(queries, keys, values, allowed), x), layer)
        return self._head(self._norm(x[:, -1].contiguous()))

    def _one_more(
        self,
        functions: Compiled,
        x: Tensor,
        positions: Tensor,
        penalty: Tensor,
        cache: DynamicCache,
    ) -> Tensor:
        """As ``__call__``, of one new token a row: ``x`` (rows, hidden)."""
        turns = torch.view_as_real(self._rotation).flatten(1)
        penalty, positions = penalty.flatten(1), positions.flatten()
        for layer, room in zip(self._layers, roomy_layers(cache), strict=True):
            qkv, used = layer.qkv(self._norm(x)), room.next_slot()
            whole = room.whole[0], room.whole[1]
            read = functions.decode(qkv, turns, positions, penalty, whole, used, self._shape)
            x = self._mlp(layer.out.plus(read, x), layer)
        return self._head(self._norm(x))

    def _turned(self, x: Tensor, layer: _Layer, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (rows, heads, new, width), rotated."""
        rows, new, _ = x.shape
        both = self._heads + self._kv_heads
        states = layer.qkv(self._norm(x)).view(rows, new, -1, self._width).transpose(1, 2)
        turned = states[:, :both]
        torch.view_as_complex(turned.unflatten(-1, (-1, 2))).mul_(rotation)
        return turned[:, : self._heads], turned[:, self._heads :], states[:, both:]

    def _mlp(self, x: Tensor, layer: _Layer) -> Tensor:
        normed = self._norm(x)
        return layer.down.plus(layer.up.times(normed, layer.gate.silu(normed)), x)

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

    def _norm(self, x: Tensor) -> Tensor:
        """x / √(mean x² + ε) over the last dimension."""
        return rms_norm(x.flatten(0, -2), self._eps)[0].view_as(x)

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
    layers = []
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
        matrices = (qkv, out, gate * after, up * after, down)
        layers.append(_Layer(*(Product(matrix) for matrix in matrices)))
    head = effective_weight(model.lm_head)
    if head is None:
        return None
    return FusedLlama(model, layers, Product(head * model.model.norm.weight.detach()))


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
