"""A Llama's forward over whole sequences, and its backward into a LoRA adapter, written out.

In training a small model on a CPU, autograd's bookkeeping and the library's many small operations
(norms and rotations of five operators each, seven products a layer each with two thin ones beside,
copies for masks and heads) take as long as the arithmetic. Here a layer is one block with a known
derivative (``blocks.py``):

- only what is asked for is computed: of each row the tokens up to the last place that is read,
  without padding, and of the last layer those places alone;
- what several replies to a prompt begin with is computed once (``sides``);
- query, key and value are one product, and so are gate and up, adapters included (``adapted.py``);
- where there is a C compiler, a small layer's matrices, norms and gates are two functions
  (``compiled_layers.py``), and a larger one's norms, gates and attention one pass over memory each
  (``compiled.py``);
- the backward writes where autograd would allocate, and stops at the first layer's adapters, for
  embeddings are not trained.

The numbers are transformers' up to the order of float32 additions; tested against autograd.

For ``LlamaForCausalLM`` in float32 on the CPU. Nothing here drops out or knows of a cache.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM

from harness.engines.adapted import KEPT_BYTES, Gradients
from harness.engines.attention import Attention, Padding, asked_lengths, beginnings
from harness.engines.blocks import Kept, Settings, block_of
from harness.engines.folding import MAX_BYTES, computing, is_matrix
from harness.engines.llama import linears, suits
from harness.engines.operators import rms_norm, rms_norm_backward

# Tokens that go through all layers together: more leave the processor's cache.
_TOKENS = 2048


class Trunk:
    """The model's layers with the adapter active at construction, whose weights must not change
    while this is used.

    ``recompute``: keep only the layers' inputs for the backward (gradient checkpointing).
    ``reading``: there will be no backward.
    """

    bytes: int | None  # of the weights that it holds for itself; None where it reads the model's

    def __init__(
        self,
        model: LlamaForCausalLM,
        *,
        recompute: bool = False,
        reading: bool = False,
        merged_bytes: int = MAX_BYTES,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        config: Any = model.config
        blocks: Any = model.model.layers
        layers: list[Any] = [m for block in blocks for m in linears(block)]
        size = sum(4 * m.in_features * m.out_features for m in layers)
        merged = size <= merged_bytes
        self.bytes = size if merged else None
        settings = Settings(
            attention=Attention(model),
            eps=float(config.rms_norm_eps),
            merged=merged,
            keep=size <= kept_bytes,
            backward=not reading,
        )
        self._blocks = [block_of(layer, settings) for layer in blocks]
        self._embedding = model.model.embed_tokens.weight.detach()
        self._gain = model.model.norm.weight.detach()
        self._hidden = int(config.hidden_size)
        self._eps = float(config.rms_norm_eps)
        self._recompute = recompute
        self._parameters = [p for one in self._blocks for p in one.parameters()]

    def hidden(self, input_ids: Tensor, rows: Tensor, columns: Tensor, *, sides: int = 1) -> Tensor:
        """The last hidden states (n, hidden), normed, at n places: (rows[i], columns[i]) each, with
        gradients into the adapter.

        ``input_ids`` (rows, length) are whole sequences, padded on the right, which no earlier
        token can see. They may be several ``sides`` of the same prompts, all rows of one, then all
        rows of the next: what row i of every side begins with alike is computed once. ValueError
        for rows that are not as many on every side.
        """
        if len(input_ids) % sides:
            raise ValueError(f"{len(input_ids)} rows are not as many on each of {sides} sides")
        if not (torch.is_grad_enabled() and any(p.requires_grad for p in self._parameters)):
            return self.forward(input_ids, rows, columns, keep=False, sides=sides)[0]
        found: Tensor = _Pass.apply(self, input_ids, rows, columns, sides, *self._parameters)
        return found

    def forward(
        self, input_ids: Tensor, rows: Tensor, columns: Tensor, *, keep: bool, sides: int = 1
    ) -> tuple[Tensor, Callable[[Tensor], Gradients] | None]:
        """``hidden`` without gradients; and, to ``keep`` what it takes, its backward."""
        found = torch.empty(len(rows), self._hidden)
        backwards = []
        for ids, padding, places in _parts(input_ids, rows, columns, sides):
            states, backward = self._part(ids, padding, keep)
            found[places] = states
            backwards.append((places, backward))

        def whole(g: Tensor) -> Gradients:
            total: Gradients = []
            while backwards:  # and let go of what each has kept
                places, backward = backwards.pop()
                part = backward(g[places])
                total = [a.add_(b) for a, b in zip(total, part, strict=True)] if total else part
            return total

        return found, whole if keep else None

    def _part(
        self, input_ids: Tensor, padding: Padding, keep: bool
    ) -> tuple[Tensor, Callable[[Tensor], Gradients]]:
        x = functional.embedding(padding.tokens(input_ids), self._embedding)
        kept: list[Kept | Tensor] = []
        last = len(self._blocks) - 1
        whole = keep and not self._recompute
        for number, one in enumerate(self._blocks):
            before = x
            x, state = one.forward(x, padding, last=number == last, keep=whole)
            if keep:
                kept.append(before if state is None else state)
            del state
        normed, scale = rms_norm(x, self._eps)

        def backward(g: Tensor) -> Gradients:
            found: list[Gradients] = []
            g = rms_norm_backward(g * self._gain, normed, scale, None)
            for number in range(last, -1, -1):
                one, state = self._blocks[number], kept.pop()
                place = {"last": number == last}
                if isinstance(state, Tensor):
                    state = _known(one.forward(state, padding, keep=True, **place)[1])
                g, grads = one.backward(state, g, padding, first=number == 0, **place)
                found.append(grads)
            return [weight for grads in reversed(found) for weight in grads]

        return normed * self._gain, backward


class _Pass(torch.autograd.Function):
    """``Trunk.forward`` as autograd sees it."""

    @staticmethod
    def forward(
        ctx: Any,
        trunk: Trunk,
        ids: Tensor,
        rows: Tensor,
        columns: Tensor,
        sides: int,
        *weights: Tensor,
    ) -> Tensor:
        found, ctx.whole = trunk.forward(ids, rows, columns, keep=True, sides=sides)
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        whole, ctx.whole = ctx.whole, None
        if whole is None:
            raise RuntimeError("a second backward: what the first needed is gone")
        return None, None, None, None, None, *whole(gradients[0])


def is_written_out(model: nn.Module, *, reading: bool = False) -> bool:
    """Whether this file computes the model with the adapter active now: not another model, device
    or precision, nor an adapter of another kind or elsewhere; and, but for ``reading`` without
    gradients and dropout, no base that is trained itself, and no dropout."""
    if type(model) is not LlamaForCausalLM or not suits(model):
        return False
    layers = [layer for block in model.model.layers for layer in linears(block)]
    return all(_is_matrix(x) and (reading or _trains_adapters_only(x)) for x in layers)


def trunk(
    model: nn.Module,
    *,
    recompute: bool = False,
    reading: bool = False,
    merged_bytes: int = MAX_BYTES,
    kept_bytes: int = KEPT_BYTES,
) -> Trunk | None:
    """The model's layers with the adapter active now, or None where they are not written out."""
    if type(model) is not LlamaForCausalLM or not is_written_out(model, reading=reading):
        return None
    return Trunk(
        model,
        recompute=recompute,
        reading=reading,
        merged_bytes=merged_bytes,
        kept_bytes=kept_bytes,
    )


def _is_matrix(layer: Any) -> bool:
    """Whether a layer is a matrix with one adapter or none."""
    if not is_matrix(layer):
        return False
    return not isinstance(layer, LoraLayer) or len(computing(layer)) <= 1


def _trains_adapters_only(layer: Any) -> bool:
    """Whether a layer's matrix has no gradient, and nothing is dropped at random."""
    if not isinstance(layer, LoraLayer):
        return not layer.weight.requires_grad
    wrapped: Any = layer
    drops = (wrapped.lora_dropout[name] for name in computing(layer))
    return not wrapped.get_base_layer().weight.requires_grad and not any(
        getattr(drop, "p", 0) > 0 and drop.training for drop in drops
    )


def _known(kept: Kept | None) -> Kept:
    assert kept is not None
    return kept


def _parts(
    input_ids: Tensor, rows: Tensor, columns: Tensor, sides: int
) -> Iterator[tuple[Tensor, Padding, Tensor]]:
    """Cut rows, of all sides together, into parts of about ``_TOKENS``: token ids, where they are
    padded, and which places are there."""
    count = len(input_ids) // sides
    lengths = asked_lengths(rows, columns, len(input_ids))
    tokens, shared = lengths.view(sides, -1).sum(0), None
    if sides > 1:
        shared = beginnings(input_ids, lengths, sides)
        tokens = tokens - (sides - 1) * shared
    whole, side, number = input_ids.unflatten(0, (sides, -1)), rows // count, rows % count
    first, together = 0, 0
    for row, length in enumerate([*tokens.tolist(), _TOKENS]):
        if row > first and (together + length > _TOKENS or row == count):
            places = ((number >= first) & (number < row)).nonzero().squeeze(1)
            if len(places):
                ids = whole[:, first:row].flatten(0, 1)
                at = side[places] * (row - first) + number[places] - first
                common = None if shared is None else shared[first:row].contiguous()
                padding = Padding(at, columns[places], len(ids), sides=sides, shared=common)
                yield ids, padding, places
            first, together = row, 0
        together += length
