"""A key-value cache that grows by blocks instead of being copied at every token."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedConfig
from transformers.cache_utils import DynamicLayer

_BLOCK = 64  # tokens; what a row may hold unused


class GrowingLayer(DynamicLayer):
    """transformers' dynamic layer, writing into a buffer that has room for the next tokens.

    ``keys`` and ``values`` are views of the filled part of buffers (rows, heads, room, size), so
    all that reads them is inherited. Selecting rows gives new tensors without room; the next
    update makes a new buffer.
    """

    _key_buffer: Tensor | None = None
    _value_buffer: Tensor | None = None

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        filled = self.get_seq_length()
        total = filled + key_states.shape[-2]
        self._key_buffer = _with_room(self._key_buffer, self.keys, key_states, filled, total)
        self._value_buffer = _with_room(self._value_buffer, self.values, value_states, filled, total)
        self._key_buffer[:, :, filled:total] = key_states
        self._value_buffer[:, :, filled:total] = value_states
        self.keys = self._key_buffer[:, :, :total]
        self.values = self._value_buffer[:, :, :total]
        return self.keys, self.values

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)
        self._key_buffer = self._value_buffer = None


def growing_cache(config: PreTrainedConfig) -> DynamicCache:
    """A dynamic cache for this model, its full-attention layers growing by blocks."""
    cache = DynamicCache(config=config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def _with_room(
    buffer: Tensor | None, held: Tensor | None, new: Tensor, filled: int, total: int
) -> Tensor:
    """The buffer if ``total`` tokens fit, else a larger one holding the filled part."""
    if buffer is not None and buffer.shape[-2] >= total:
        return buffer
    rows, heads, _, size = new.shape
    room = (total // _BLOCK + 1) * _BLOCK
    larger = torch.empty(rows, heads, room, size, dtype=new.dtype, device=new.device)
    if filled and held is not None:
        larger[:, :, :filled] = held
    return larger
