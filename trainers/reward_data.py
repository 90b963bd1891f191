"""What a reward model is trained and measured on: pairs as token ids with margin and labels."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from harness.chat import Conversation, assistant, up_to_end
from harness.engines.local import eos_ids
from harness.errors import InputError
from harness.models import causal_model
from trainers.data_rows import Pair
from trainers.pair_mix import Measured, mix, read
from trainers.schedule_stages import HELD_OUT
from trainers.sft_rows import encode

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from trainers.schedule_stages import RewardStage
    from trainers.stage import StageContext

Size = Literal["none", "small", "large"]
UNKNOWN = -1  # a reply of which nobody said whether it is safe

# Llama 2, Table 27. A pair without a rating has no margin.
MARGINS: dict[str, dict[str | None, float]] = {
    "none": {},
    "small": {"significantly better": 1.0, "better": 2 / 3, "slightly better": 1 / 3},
    "large": {"significantly better": 3.0, "better": 2.0, "slightly better": 1.0},
}


def margin(rating: str | None, size: Size) -> float:
    """m(r): how far apart the two scores should be."""
    return MARGINS[size].get(rating, 0.0)


@dataclass(frozen=True, slots=True)
class Example:
    """A pair as token ids, each ending with the reply's end token."""

    chosen: list[int]
    rejected: list[int]
    margin: float
    rating: str | None
    prompt: str = ""  # which it answers, by content; pairs of one are not independent
    safe: tuple[int, int] = (UNKNOWN, UNKNOWN)  # chosen, rejected: 1 safe, 0 unsafe, or unknown

    @property
    def longest(self) -> int:
        return max(len(self.chosen), len(self.rejected))


def examples(
    tokenizer: PreTrainedTokenizerBase, pairs: Sequence[Pair], *, size: Size, eos: Sequence[int]
) -> list[Example]:
    """The pairs, rendered as the finished conversations that are scored later."""

    def ids(conversations: list[Conversation]) -> list[list[int]]:
        return [up_to_end(row, eos) for row in encode(tokenizer, conversations)]

    chosen = ids([(*pair.prompt, assistant(pair.chosen)) for pair in pairs])
    rejected = ids([(*pair.prompt, assistant(pair.rejected)) for pair in pairs])
    return [
        Example(
            better,
            worse,
            margin(pair.rating, size),
            pair.rating,
            _content(pair.prompt),
            (_label(pair.chosen_safe), _label(pair.rejected_safe)),
        )
        for better, worse, pair in zip(chosen, rejected, pairs, strict=True)
    ]


def _content(prompt: Conversation) -> str:
    text = json.dumps([asdict(message) for message in prompt], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=12).hexdigest()


def _label(safe: bool | None) -> int:
    return UNKNOWN if safe is None else int(safe)


@dataclass(frozen=True)
class RewardData:
    """``measured`` has the held-out share first, then the sets of ``eval_data``, by name."""

    train: list[Example]
    measured: dict[str, Measured[Example]]
    counts: dict[str, Any]  # for checkpoint.json


def load(ctx: StageContext, stage: RewardStage) -> RewardData:
    """Training pairs and those that members are measured on, without what is too long."""
    base = ctx.base()
    eos = eos_ids(causal_model(base.model), base.tokenizer)
    mixture = mix(
        ctx, stage, lambda pairs: examples(base.tokenizer, pairs, size=stage.margin, eos=eos)
    )
    measured = {HELD_OUT: mixture.held_out}
    for name, given in stage.eval_data.items():
        pairs = read(ctx, given.data, given.data_format, given.limit).rows
        measured[name] = mixture.apart(pairs)
    counts = dict(mixture.counts)
    if stage.safety_weight:
        counts["labelled"] = _labelled(stage, mixture.train)
    return RewardData(mixture.train, measured, counts)


def _labelled(stage: RewardStage, rows: Sequence[Example]) -> dict[str, int]:
    labels = Counter(label for row in rows for label in row.safe)
    if not labels[0] + labels[1]:
        raise InputError(
            "no pair to train on has chosen_safe or rejected_safe",
            path=stage.data,
            field=f"stages.{stage.name}.safety_weight",
            expected="pairs with these labels, or safety_weight: 0",
        )
    return {"safe": labels[1], "unsafe": labels[0], "unknown": labels[UNKNOWN]}
