"""A key-value cache that leaves room for the tokens to come.

transformers' ``DynamicLayer`` joins old and new keys into a new tensor at every token, so that the
whole cache is copied once a token; on a small model that is a quarter of the time of decoding. Here
there is room for some tokens more, and a token is written into its slot. Not for all that may come:
the rows' slots in use would lie far apart, and a processor reads a cache with gaps several times
slower than one without. And never for more than can come (``most``), where that is known. A reader
that masks the unused slots may read them too (``whole``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

# Slots of room: at least so many, and this share of those in use, so that copying stays cheap.
_LEAST_ROOM = 16
_ROOM_SHARE = 1 / 8


class RoomyLayer(DynamicLayer):
    """Keys and values (rows, heads, slots, width); no room beyond ``most`` slots."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self._most = most
        # Keys and values with the room that is left; zero there.
        self.whole: list[Tensor] = []

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new slots behind the old ones; views of all that are in use."""
        used = self.get_seq_length()
        end = used + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.whole = [self._roomy(new, len(new), end) for new in (key_states, value_states)]
        self.make_room(end)
        for whole, new in zip(self.whole, (key_states, value_states), strict=True):
            whole[:, :, used:end] = new
        self._use(end)
        return self.whole[0][:, :, :end], self.whole[1][:, :, :end]

    def next_slot(self) -> None:
        """Take one more slot into use, which the caller fills in ``whole``."""
        used = self.get_seq_length()
        self.make_room(used + 1)
        self._use(used + 1)

    def make_room(self, end: int) -> int:
        """Slots for at least so many tokens, once there are some; how many slots there are."""
        used, slots = self.get_seq_length(), self.whole[0].shape[-2]
        if end > slots:
            before, self.whole = self.whole, [self._roomy(x, len(x), end) for x in self.whole]
            for whole, old in zip(self.whole, before, strict=True):
                whole[:, :, :used] = old[:, :, :used]
        return int(self.whole[0].shape[-2])

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep these rows."""
        used = self.get_seq_length()
        kept = []
        for states in (self.keys, self.values) if used else ():
            assert states is not None
            roomy = self._roomy(states, len(indices), used)
            torch.index_select(states, 0, indices, out=roomy[:, :, :used])
            kept.append(roomy)
        if kept:
            self.whole = kept
            self._use(used)

    def gather(self, layers: Sequence[RoomyLayer], end: int) -> None:
        """Take over the rows of these layers, of which this is one, their last slots at ``end``."""
        self.whole = [
            self._stacked([x.whole[which][:, :, : x.get_seq_length()] for x in layers], end)
            for which in (0, 1)
        ]
        for layer in layers:
            layer.keys = layer.values = None
            layer.whole = self.whole if layer is self else []
        self._use(end)

    def _use(self, end: int) -> None:
        self.keys, self.values = (whole[:, :, :end] for whole in self.whole)

    def _roomy(self, like: Tensor, rows: int, used: int) -> Tensor:
        """A tensor for so many slots in use and room behind them. The room must hold numbers: what
        a softmax gives no weight is still multiplied by it."""
        _, heads, _, width = like.shape
        slots = used + max(_LEAST_ROOM, int(used * _ROOM_SHARE))
        if self._most is not None:
            slots = max(used, min(slots, self._most))
        found = like.new_empty(rows, heads, slots, width)
        found[:, :, used:] = 0.0
        return found

    def _stacked(self, parts: Sequence[Tensor], end: int) -> Tensor:
        found = self._roomy(parts[0], sum(map(len, parts)), end)
        row = 0
        for part in parts:
            rows, empty = slice(row, row + len(part)), end - part.shape[2]
            found[rows, :, :empty] = 0.0
            found[rows, :, empty:end] = part
            row += len(part)
        return found


def roomy_cache(config: PretrainedConfig, *, most: int | None = None) -> DynamicCache:
    """The model's cache with room to come, for at most ``most`` tokens in all; as transformers
    makes it where layers are special."""
    cache = DynamicCache(config=config)
    if is_plain(cache):
        cache.layers = [RoomyLayer(most) for _ in cache.layers]
    return cache


def joined(caches: Sequence[DynamicCache]) -> DynamicCache:
    """The rows of plain caches, in order, in one of them; shorter ones get empty slots in front."""
    if len(caches) > 1:
        end = max(cache.get_seq_length() for cache in caches)
        for parts in zip(*(roomy_layers(cache) for cache in caches), strict=True):
            parts[0].gather(parts, end)
    return caches[0]


def roomy_layers(cache: DynamicCache) -> list[RoomyLayer]:
    """The layers of a plain cache; TypeError for any other."""
    found = [layer for layer in cache.layers if isinstance(layer, RoomyLayer)]
    if len(found) != len(cache.layers):
        raise TypeError("not a cache made by roomy_cache")
    return found


def is_plain(cache: DynamicCache) -> bool:
    """Whether every layer keeps all keys, in slots that count the tokens."""
    return bool(cache.layers) and all(
        type(layer) in (DynamicLayer, RoomyLayer) for layer in cache.layers
    )
