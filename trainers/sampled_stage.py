"""What the stages share that fine-tune on sampled replies: rounds, prompts, and the fine-tuning.

An epoch is a round: prompts are drawn, replies sampled from the policy as the round before left it,
some chosen, and the policy fine-tuned on these. Each round has a fresh optimiser and a constant
learning rate, so all that a resumed stage needs is what its checkpoints hold.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.chat import Conversation
from harness.errors import InputError
from trainers.data import load_prompts
from trainers.data_rows import Prompt
from trainers.lora import place_policy, save_policy
from trainers.packing import IGNORED
from trainers.schedule_stages import (
    AnyStage,
    GhostAttentionStage,
    RejectionSamplingStage,
    SampledStage,
)
from trainers.seeds import stage_seed
from trainers.sft import Training, dataset, train_epoch
from trainers.sft_rows import Example
from trainers.stage import Checkpoint, StageContext, intact
from trainers.trl_epoch import Plan, micro_batch


@dataclass(frozen=True)
class Round:
    """One round: its number from 1, and the checkpoint that its policy starts from."""

    epoch: int
    start: Path | None


def rounds(
    ctx: StageContext,
    stage: SampledStage | GhostAttentionStage,
    run: Callable[[Round, Path], dict[str, Any]],
) -> Iterator[Checkpoint]:
    """The policy after each round, the committed ones first; the run's first policy stage begins
    with its untrained policy as epoch 0. ``run`` writes a round into a folder, and returns its
    scalars."""
    previous: Checkpoint | None = None
    for previous in ctx.committed():
        yield previous
    if previous is None and ctx.first_policy_stage:

        def untrained(folder: Path) -> dict[str, Any]:
            save_policy(ctx, place_policy(ctx, ctx.start, stage.lora), folder)
            return {}

        previous = ctx.commit(0, untrained)
        yield previous
    for epoch in range(previous.epoch + 1 if previous else 1, stage.epochs + 1):
        this = Round(epoch, intact(previous.folder) if previous else ctx.start)

        def write(folder: Path, this: Round = this) -> dict[str, Any]:
            return run(this, folder)

        previous = ctx.commit(epoch, write)
        yield previous


def fine_tune(
    ctx: StageContext, stage: SampledStage, this: Round, rows: Sequence[Example], folder: Path
) -> dict[str, Any]:
    """Train the round's policy on the rows and save it into ``folder``; the scalars.

    Without rows the policy stays as it is, and there are none.
    """
    model = place_policy(ctx, this.start, stage.lora)  # scoring may have wrapped or switched it
    scalars: dict[str, Any] = {}
    if rows:
        longest = max(len(row.input_ids) for row in rows)
        plan = Plan(
            seed=ctx.seed("training", this.epoch),
            epochs=1,  # of trl's: all passes of a round are one checkpoint
            sequences=len(rows),
            batch=stage.batch,
            micro_batch=micro_batch(stage.batch, stage.micro_batch, longest),
            learning_rate=stage.learning_rate,
            lr_schedule="constant",
            min_lr_ratio=1.0,
            warmup_ratio=0.0,
            min_warmup_steps=0,
            optimizer=stage.optimizer,
            passes=stage.passes,
        )
        scalars = train_epoch(
            ctx,
            model,
            dataset(rows, packing=False, max_length=0, seed=0),
            Training(plan, packing=False, gradient_checkpointing=stage.gradient_checkpointing),
            staging=folder,
            resume=None,
            keep_state=False,
        )
    save_policy(ctx, model, folder)
    return scalars


def target(prompt_ids: Sequence[int], reply_ids: Sequence[int]) -> Example:
    """Loss on the reply alone, its end token included."""
    return Example([*prompt_ids, *reply_ids], [IGNORED] * len(prompt_ids) + list(reply_ids))


# --------------------------------------------------------------------------- prompts


def prompts_of(ctx: StageContext, stage: SampledStage) -> tuple[Prompt, ...]:
    """The stage's prompts, as every stage of the schedule reads them that has the same."""
    return load_prompts(
        stage.prompts,
        base_folder=Path(ctx.base_folder),
        seed=_stage_seed(ctx, stage, "data"),
    ).rows


def draw(prompts: Sequence[Prompt], count: int, *, seed: int) -> list[Prompt]:
    """``count`` prompts without repetition (all of them, if there are fewer)."""
    return random.Random(seed).sample(list(prompts), min(count, len(prompts)))


def held_out(prompts: Sequence[Prompt], count: int, *, seed: int) -> list[Prompt]:
    """``count`` prompts that differ in content, chosen by content: whichever stage asks, and
    whatever the order and the other prompts, one is chosen before another or after it."""
    distinct = {prompt.messages: prompt for prompt in reversed(prompts)}  # of equals, the first
    if count >= len(distinct):
        raise InputError(
            f"{count} held-out prompts of {len(distinct)} leave none to train on",
            field="held_out_prompts",
        )
    return sorted(distinct.values(), key=lambda prompt: _lot(prompt.messages, seed))[:count]


def reserved(ctx: StageContext) -> frozenset[Conversation]:
    """All that any rejection-sampling stage of the schedule holds out: what a temperature is
    chosen on at V3 must not have been trained on at V1."""
    return frozenset(
        prompt.messages
        for stage in ctx.schedule.stages
        if isinstance(stage, RejectionSamplingStage) and stage.held_out_prompts is not None
        for prompt in held_out_of(ctx, stage)
    )


def held_out_of(ctx: StageContext, stage: RejectionSamplingStage) -> list[Prompt]:
    """The stage's held-out prompts; none where it has none."""
    if stage.held_out_prompts is None:
        return []
    try:
        return held_out(prompts_of(ctx, stage), stage.held_out_prompts, seed=ctx.schedule.seed)
    except InputError as error:
        error.path = stage.prompts
        raise


def without(prompts: Iterable[Prompt], kept_back: frozenset[Conversation]) -> list[Prompt]:
    """The prompts that are not kept back, by content."""
    return [prompt for prompt in prompts if prompt.messages not in kept_back]


def _stage_seed(ctx: StageContext, stage: AnyStage | SampledStage, purpose: str) -> int:
    return stage_seed(ctx.schedule.seed + stage.seed_offset, stage.name, purpose)


def _lot(messages: Conversation, seed: int) -> bytes:
    content = json.dumps([seed, [message.to_dict() for message in messages]], sort_keys=True)
    return hashlib.blake2b(content.encode(), digest_size=16).digest()
