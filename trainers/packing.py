"""Several rows in one sequence, without any of them seeing another."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # the label of a token without loss


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Rows grouped into sequences of at most ``room`` tokens: longest first, each into the
    sequence that it fills best (best fit, decreasing). No row is cut."""
    groups: list[list[int]] = []
    spaces: list[tuple[int, int]] = []  # (tokens left, group), sorted
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        place = bisect.bisect_left(spaces, (lengths[row], -1))
        if place == len(spaces):
            space, group = room, len(groups)
            groups.append([])
        else:
            space, group = spaces.pop(place)
        groups[group].append(row)
        bisect.insort(spaces, (space - lengths[row], group))
    return groups


@dataclass(frozen=True)
class PackedCollator:
    """Packed sequences → a batch whose boundaries the model respects.

    Position ids restart at each boundary and there is no attention mask: from that, with the cache
    off (trl switches it off), transformers derives a block-diagonal causal mask for sdpa and eager
    attention. trl's own collator flattens a batch into one sequence, whose mask would grow with
    the square of the *batch's* tokens wherever attention is not a varlen kernel. Shapes (rows,
    longest), int64; padding is a block of its own.

    ``mask``: of models that make no mask of positions, the type of one that is written out, as
    ``attention_mask`` (rows, 1, longest, longest).
    """

    pad_token_id: int
    mask: torch.dtype | None = None

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        longest = max(len(row["input_ids"]) for row in rows)
        ids = torch.full((len(rows), longest), self.pad_token_id, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED)
        positions = torch.zeros_like(ids)
        for number, row in enumerate(rows):
            length = len(row["input_ids"])
            ids[number, :length] = torch.tensor(row["input_ids"])
            labels[number, :length] = torch.tensor(row["labels"])
            parts = [*row["seq_lengths"], longest - length]
            positions[number] = torch.cat([torch.arange(part) for part in parts])
        labels[positions == 0] = IGNORED  # nothing predicts the first token of a block
        batch = {"input_ids": ids, "labels": labels, "position_ids": positions}
        if self.mask is not None:
            blocks = (positions == 0).cumsum(dim=1)
            batch["attention_mask"] = additive_mask(same_block(blocks), self.mask)
        return batch


def same_block(block: Tensor) -> Tensor:
    """Which tokens each one sees, (rows, longest, longest): the earlier ones of its block, and
    itself. ``block``: the number of each token's, (rows, longest)."""
    size = block.shape[1]
    sees = block[:, :, None] == block[:, None, :]
    return sees & torch.ones(size, size, dtype=torch.bool, device=block.device).tril()


def additive_mask(sees: Tensor, dtype: torch.dtype) -> Tensor:
    """(rows, longest, longest), true for yes, as sdpa and eager attention take it: (rows, 1,
    longest, longest), what is added to the scores."""
    mask = torch.zeros(sees.shape, dtype=dtype, device=sees.device)
    return mask.masked_fill_(~sees, torch.finfo(dtype).min)[:, None]
