"""Preference pairs as token ids: what DPO trains on, and what it is measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.chat import assistant
from harness.engines.local import eos_ids
from harness.models import causal_model
from trainers.data_rows import Pair
from trainers.packing import IGNORED
from trainers.pair_mix import mix
from trainers.rollouts import Tokens
from trainers.schedule_stages import DpoStage
from trainers.sft_rows import Example, examples
from trainers.stage import StageContext

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Preference:
    """A prompt and two replies to it, each with its end token. The replies' tokens carry loss."""

    prompt: Tokens
    chosen: Tokens
    rejected: Tokens
    rating: str | None = None

    @property
    def longest(self) -> int:
        """Tokens of the longer side."""
        return len(self.prompt) + max(len(self.chosen), len(self.rejected))


@dataclass(frozen=True)
class DpoData:
    """Pairs to train on, pairs to measure on, and the counts that checkpoint.json reports."""

    train: list[Preference]
    held_out: list[Preference]
    counts: dict[str, Any]


def preferences(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], *, eos: Sequence[int]
) -> list[Preference]:
    """The pairs, rendered as a demonstration of either reply would be for fine-tuning.

    Raises ``InputError`` where a template hides which tokens are the reply's (see ``sft_rows``).
    """

    def sides(replies: list[str]) -> list[Example]:
        conversations = [
            (*pair.prompt, assistant(reply)) for pair, reply in zip(pairs, replies, strict=True)
        ]
        return examples(tokenizer, conversations, loss_on="last_answer", eos=eos)

    found = []
    chosen, rejected = sides([p.chosen for p in pairs]), sides([p.rejected for p in pairs])
    for better, worse, pair in zip(chosen, rejected, pairs, strict=True):
        prompt, one = _parts(better)
        _, other = _parts(worse)
        found.append(Preference(prompt, one, other, pair.rating))
    return found


def _parts(row: Example) -> tuple[Tokens, Tokens]:
    """Prompt and reply."""
    start = sum(label == IGNORED for label in row.labels)
    return tuple(row.input_ids[:start]), tuple(row.input_ids[start:])


def load(ctx: StageContext, stage: DpoStage) -> DpoData:
    """The stage's pairs without what is too long; a prompt is trained on or measured on."""
    base = ctx.base()
    eos = eos_ids(causal_model(base.model), base.tokenizer)
    mixture = mix(ctx, stage, lambda pairs: preferences(base.tokenizer, pairs, eos=eos))
    train = mixture.train
    counts = {
        **mixture.counts,
        "tokens": sum(2 * len(r.prompt) + len(r.chosen) + len(r.rejected) for r in train),
        "loss_tokens": sum(len(row.chosen) + len(row.rejected) for row in train),
    }
    return DpoData(train, mixture.held_out.rows, counts)
