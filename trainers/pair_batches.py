"""Batches of preference pairs that compute each pair's prompt once.

A pair is laid out as one block, ``prompt · chosen reply · rejected reply``: the replies share the
prompt's computation and cannot see each other, and the rejected one's position ids continue from
the prompt. Blocks are packed into rows. On the pocket pairs that is a third of the tokens of two
padded sequences a pair, for the same scores (tested against them).

It takes a mask of our own, which sdpa and eager attention accept; ``suits`` says whether a model
does. Others get trl's padded batches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from harness.positions import goes_by_position_ids
from trainers.packing import additive_mask, pack, same_block

_ROOM = 64  # tokens a row at least: wide rows waste attention, narrow ones padding
_CHOSEN, _REJECTED = 1, 2  # branches of a block; 0 is what they share


def suits(model: PreTrainedModel) -> bool:
    """Whether the model computes with a mask and position ids that are given to it: sdpa or eager
    attention, and the same causal attention in every layer."""
    if not goes_by_position_ids(model):
        return False
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None)
    plain = kinds == {"full_attention"} and (window is None or hasattr(config, "layer_types"))
    return plain and getattr(config, "_attn_implementation", None) in ("sdpa", "eager")


@dataclass(frozen=True)
class PairCollator:
    """Rows ``{chosen_ids, rejected_ids, margin}`` → tensors of shape (rows, longest), int64.

    ``block`` numbers the blocks of a row (padding: −1), ``branch`` the parts of a block,
    ``ends`` (2·pairs,) are the places of the last tokens in the flattened batch, chosen first.
    """

    pad_token_id: int

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        blocks = [_Block.of(pair["chosen_ids"], pair["rejected_ids"]) for pair in pairs]
        lengths = [len(block.ids) for block in blocks]
        groups = pack(lengths, max(_ROOM, *lengths))
        longest = max(sum(lengths[number] for number in group) for group in groups)
        ids = torch.full((len(groups), longest), self.pad_token_id, dtype=torch.int64)
        positions, branch = torch.zeros_like(ids), torch.zeros_like(ids)
        block_of = torch.full_like(ids, -1)
        ends = torch.empty(2, len(pairs), dtype=torch.int64)
        for row, group in enumerate(groups):
            start = 0
            for number in group:
                block, stop = blocks[number], start + lengths[number]
                ids[row, start:stop] = torch.tensor(block.ids)
                positions[row, start:stop] = torch.tensor(block.positions)
                branch[row, start:stop] = torch.tensor(block.branches)
                block_of[row, start:stop] = number
                ends[0, number] = row * longest + start + block.chosen_end
                ends[1, number] = row * longest + stop - 1
                start = stop
        return {
            "input_ids": ids,
            "position_ids": positions,
            "attention_mask": (block_of >= 0).long(),
            "block": block_of,
            "branch": branch,
            "ends": ends.flatten(),
            "margin": torch.tensor([pair["margin"] for pair in pairs], dtype=torch.float32),
        }


@dataclass(frozen=True)
class WithLabels:
    """A collator's batches, and ``safe`` (2·pairs,) int64 from the rows' ``safe``, which is the
    chosen and the rejected reply's label."""

    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        labels = torch.tensor([pair["safe"] for pair in pairs], dtype=torch.int64)
        return {**self.collate(pairs), "safe": labels.T.flatten()}


@dataclass(frozen=True, slots=True)
class _Block:
    ids: list[int]
    positions: list[int]
    branches: list[int]
    chosen_end: int

    @classmethod
    def of(cls, chosen: Sequence[int], rejected: Sequence[int]) -> _Block:
        shortest = min(len(chosen), len(rejected)) - 1  # each keeps a token of its own to score
        shared = next((i for i in range(shortest) if chosen[i] != rejected[i]), shortest)
        return cls(
            [*chosen, *rejected[shared:]],
            [*range(len(chosen)), *range(shared, len(rejected))],
            [0] * shared
            + [_CHOSEN] * (len(chosen) - shared)
            + [_REJECTED] * (len(rejected) - shared),
            len(chosen) - 1,
        )


def tokens_a_reply(batch: Mapping[str, Tensor]) -> Tensor:
    """(2·pairs,) int64, chosen first: how many tokens a ``PairCollator``'s batch, or a padded one,
    has of each reply. A prompt that stands there once counts to the chosen one."""
    if "block" not in batch:
        return batch["attention_mask"].sum(dim=1)
    block, pairs = batch["block"], len(batch["ends"]) // 2
    reply = block + pairs * (batch["branch"] == _REJECTED)
    return torch.bincount(reply[block >= 0], minlength=2 * pairs)


def attention(block: Tensor, branch: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive mask (rows, 1, longest, longest): a token sees the earlier ones of its block,
    the rejected reply not the chosen one."""
    sees = same_block(block)
    sees &= ~((branch[:, :, None] == _REJECTED) & (branch[:, None, :] == _CHOSEN))
    return additive_mask(sees, dtype)
