"""The pairs that a stage trains on, its own and those mixed in, and those that it is measured on.

Nothing is measured on a prompt that was trained on: the pairs of a prompt stay together when a
share is held out, and measured pairs whose prompt stands in the training pairs, whichever source
these come from, are left out and counted. Training never depends on what is measured.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from harness.chat import Conversation
from harness.errors import InputError
from trainers.data import Loaded, load_pairs
from trainers.data_rows import Pair
from trainers.schedule_parts import FULL

if TYPE_CHECKING:
    from trainers.schedule_stages import DpoStage, RewardStage
    from trainers.stage import StageContext

_AT_ONCE = 256  # pairs of a mix, rendered until its share is full


class Rendered(Protocol):
    """A pair as token ids. ``prompt``: which it answers, by content; ``longest``: tokens of its
    longer side."""

    @property
    def prompt(self) -> Hashable: ...

    @property
    def rating(self) -> str | None: ...

    @property
    def longest(self) -> int: ...


R = TypeVar("R", bound=Rendered)
Fitting = Callable[[Sequence[Pair]], tuple[list[R], int]]  # those not too long; how many are


@dataclass(frozen=True)
class Measured(Generic[R]):
    """Pairs to measure on, and how many of the set are not among them."""

    rows: list[R]
    dropped: int  # too long
    seen: int  # have a prompt that is trained on


@dataclass(frozen=True)
class Mixture(Generic[R]):
    """Pairs to train on, the held-out share, the counts that checkpoint.json reports; ``apart``
    makes further pairs fit to be measured on."""

    train: list[R]
    held_out: Measured[R]
    counts: dict[str, Any]
    apart: Callable[[Sequence[Pair]], Measured[R]]


def read(ctx: StageContext, source: str, data_format: str, limit: int | None) -> Loaded[Pair]:
    """A source's pairs, as every stage of the run reads them."""
    return load_pairs(
        source,
        data_format,
        base_folder=Path(ctx.base_folder),
        seed=ctx.seed("data", source),
        limit=limit,
    )


def mix(
    ctx: StageContext,
    stage: RewardStage | DpoStage,
    render: Callable[[Sequence[Pair]], list[R]],
) -> Mixture[R]:
    """The stage's ``data`` and ``mix``, without what is longer than ``max_length``.

    Raises ``InputError`` where nothing is left to train on.
    """

    def fitting(pairs: Sequence[Pair]) -> tuple[list[R], int]:
        rows = render(pairs)
        kept = [row for row in rows if row.longest <= stage.max_length]
        return kept, len(rows) - len(kept)

    own = read(ctx, stage.data, stage.data_format, stage.limit)
    pairs, held_out = split(own.rows, stage.held_out, seed=ctx.seed("held out"))
    train, dropped = fitting(pairs)
    if not train:
        lost = {
            **{f"were dropped: {reason}": n for reason, n in own.report.dropped.items()},
            f"are held out (held_out: {stage.held_out:g})": len(held_out),
            f"are longer than max_length {stage.max_length}": dropped,
        }
        told = ", ".join(f"{count} {reason}" for reason, count in lost.items() if count)
        raise InputError(f"no pair is left to train on: {told}", path=stage.data)
    mixed: dict[str, int] = {}
    missing: dict[str, int] = {}
    for source, wanted in mixed_counts(len(train), stage.mix).items():
        others = read(ctx, source, "auto", None).rows
        drawn, too_long = _draw(others, wanted, fitting, seed=ctx.seed("data", source))
        train += drawn
        dropped += too_long
        mixed[source] = len(drawn)
        if len(drawn) < wanted:
            missing[source] = wanted - len(drawn)

    trained = {row.prompt for row in train}

    def apart(pairs: Sequence[Pair]) -> Measured[R]:
        rows, too_long = fitting(pairs)
        kept = [row for row in rows if row.prompt not in trained]
        return Measured(kept, too_long, len(rows) - len(kept))

    held = apart(held_out)
    counts = {
        "pairs": len(train),
        "ratings": dict(sorted(Counter(row.rating or "unrated" for row in train).items())),
        "mixed": mixed,
        "mix_missing": missing,
        "held_out": len(held.rows),
        "dropped": dropped + held.dropped,
        "dropped_held_out": held.dropped,
        "seen_held_out": held.seen,
        "unusable": own.report.dropped,
        "oddities": own.report.notes,
    }
    return Mixture(train, held, counts, apart)


def split(pairs: Sequence[Pair], share: float, *, seed: int) -> tuple[list[Pair], list[Pair]]:
    """Training pairs and about ``share`` held-out ones. The pairs of one prompt stay together:
    otherwise what is measured would be about prompts seen in training."""
    groups: dict[Conversation, list[int]] = {}
    for number, pair in enumerate(pairs):
        groups.setdefault(pair.prompt, []).append(number)
    order = list(groups.values())
    random.Random(seed).shuffle(order)
    wanted, held = round(share * len(pairs)), set[int]()
    for group in order:
        if len(held) + len(group) <= wanted:
            held.update(group)
    train = [pair for number, pair in enumerate(pairs) if number not in held]
    return train, [pairs[number] for number in sorted(held)]


def mixed_counts(own: int, shares: dict[str, float]) -> dict[str, int]:
    """How many pairs of each other source make up its share of the *whole* training set."""
    rest = 1.0 - sum(shares.values())
    if sum(shares.values()) >= FULL:
        raise InputError("the shares add up to 1 or more", field="mix", expected="less than 1")
    return {source: round(own / rest * share) for source, share in shares.items()}


def _draw(
    pairs: Sequence[Pair],
    wanted: int,
    fitting: Fitting[R],
    *,
    seed: int,
) -> tuple[list[R], int]:
    """``wanted`` pairs, drawn uniformly among those that are not too long; how many were.

    As many as are wanted are drawn first and kept in their order; others then step in for those
    that are too long.
    """
    generator = random.Random(seed)
    first = sorted(generator.sample(range(len(pairs)), min(wanted, len(pairs))))
    drawn, dropped = fitting([pairs[number] for number in first])
    rest = sorted(set(range(len(pairs))) - set(first))
    generator.shuffle(rest)
    for start in range(0, len(rest), _AT_ONCE):
        if len(drawn) >= wanted:
            break
        kept, too_long = fitting([pairs[number] for number in rest[start : start + _AT_ONCE]])
        drawn += kept
        dropped += too_long
    return drawn[:wanted], dropped
