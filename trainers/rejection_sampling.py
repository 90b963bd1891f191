"""Rejection sampling: the best of K samples by reward becomes the target of SFT loss.

Llama 2, section 3.2.3. An epoch is a round (``sampled_stage.py``): sample K replies to each prompt
drawn, score them by the schedule's reward rule, keep the best, and fine-tune on these and, if
``keep_earlier``, on those of all rounds before, this stage's and earlier ones' (Llama 2 found that
training on the last round alone loses skills). Stages V1 … Vn of a schedule are the paper's
iterations, with new reward models in between where it has them.

What the paper does not say and is ours: K; how the best temperature is found; that of all samples
of a prompt, whichever the round, the best is the target, samples of earlier stages being scored
anew by the reward models of now.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from harness.chat import Conversation, render
from harness.errors import InputError
from harness.reward_models import Combined, Rule
from trainers.best_of_k import curves, tuned
from trainers.data_rows import Prompt
from trainers.lora import place_policy
from trainers.sampled_replies import (
    Ask,
    Replies,
    Sampled,
    asking,
    failures,
    nothing_sampled,
    score,
    tokenised,
)
from trainers.sampled_stage import (
    Round,
    draw,
    fine_tune,
    held_out_of,
    prompts_of,
    reserved,
    rounds,
    target,
    without,
)
from trainers.samples_file import (
    SAMPLES_FILE,
    Best,
    content_hash,
    read_samples,
    read_source,
    write_lines,
)
from trainers.schedule_stages import RejectionSamplingStage
from trainers.stage import Checkpoint, StageContext, intact


@dataclass(frozen=True, slots=True)
class Candidates:
    """What there is to choose from for one prompt, with a reward each."""

    prompt: Prompt
    prompt_ids: tuple[int, ...]
    samples: tuple[Sampled, ...]
    rewards: tuple[float, ...] = ()
    sources: tuple[str, ...] = ()  # the reward model that spoke


def checkpoints(ctx: StageContext) -> Iterator[Checkpoint]:
    """The policy after each round; see ``sampled_stage.rounds``."""
    stage = ctx.stage
    assert isinstance(stage, RejectionSamplingStage)
    return rounds(ctx, stage, _Stage(ctx, stage).run)


# --------------------------------------------------------------------------- what is chosen


def best_samples(found: Candidates, keep: int, *, stage: str, epoch: int) -> list[Best]:
    """The ``keep`` best different replies, the best first; of equals the one sampled first."""
    chosen: list[Best] = []
    order = sorted(range(len(found.samples)), key=lambda n: -found.rewards[n])
    for number in order:
        sample = found.samples[number]
        if any(list(sample.reply_ids) == known.reply_ids for known in chosen):
            continue
        chosen.append(
            Best(
                stage=stage,
                round=epoch,
                id=found.prompt.id,
                messages=found.prompt.messages,
                safety=found.prompt.safety,
                prompt_ids=list(found.prompt_ids),
                reply_ids=list(sample.reply_ids),
                text=sample.text,
                ended=sample.ended,
                reward=found.rewards[number],
                mean_reward=sum(found.rewards) / len(found.rewards),
                source=found.sources[number],
            )
        )
        if len(chosen) == keep:
            break
    return chosen


def targets(chosen: Sequence[Best], earlier: Sequence[Best], keep: int = 1) -> list[Best]:
    """What is trained on: of each prompt the ``keep`` best different replies of any round, the
    later one if equal. A prompt is the same where its tokens are; ids are the files' own."""
    by_prompt: dict[tuple[int, ...], list[Best]] = {}
    for sample in [*earlier, *chosen]:
        by_prompt.setdefault(tuple(sample.prompt_ids), []).append(sample)
    found: list[Best] = []
    for samples in by_prompt.values():
        kept: dict[tuple[int, ...], Best] = {}
        for _, sample in sorted(enumerate(samples), key=lambda s: (-s[1].reward, -s[0])):
            if len(kept) < keep:
                kept.setdefault(tuple(sample.reply_ids), sample)
        found += kept.values()
    return found


def _mean(values: Any) -> float:
    listed = list(values)
    return sum(listed) / len(listed) if listed else 0.0


# --------------------------------------------------------------------------- the stage


class _Stage:
    """The stage's rounds, with what they share: read when the first one needs it."""

    def __init__(self, ctx: StageContext, stage: RejectionSamplingStage) -> None:
        self._ctx = ctx
        self._stage = stage
        self._rule = Rule(**stage.reward.model_dump()) if stage.reward is not None else None

    def run(self, this: Round, folder: Path) -> dict[str, Any]:
        """One round, written into ``folder``."""
        ctx, stage = self._ctx, self._stage
        if stage.samples_from is None:
            drawn, scalars = self._sample(this)
        else:
            drawn, scalars = self._take(this, Path(stage.samples_from))
        chosen = [
            best
            for found in drawn
            for best in best_samples(found, stage.keep, stage=stage.name, epoch=this.epoch)
        ]
        write_lines(chosen, folder / SAMPLES_FILE)
        trained = targets(chosen, self._earlier(this), stage.keep)
        rows = [target(best.prompt_ids, best.reply_ids) for best in trained]
        return {
            **fine_tune(ctx, stage, this, rows, folder),
            **scalars,
            "prompts": len(drawn),
            "samples": sum(len(found.samples) for found in drawn),
            "targets": len(trained),
            "targets_of_earlier": len({*map(id, trained)} - {*map(id, chosen)}),
            "reward_best": _mean(max(found.rewards) for found in drawn),
            "reward_mean": _mean(_mean(found.rewards) for found in drawn),
            "safety_share": _mean(float(found.prompt.safety) for found in drawn),
        }

    @cached_property
    def _reserved(self) -> frozenset[Conversation]:
        return reserved(self._ctx)

    @cached_property
    def _prompts(self) -> list[Prompt]:
        return without(prompts_of(self._ctx, self._stage), self._reserved)

    @cached_property
    def _held_out(self) -> list[Prompt]:
        return held_out_of(self._ctx, self._stage)

    # ----------------------------------------------------------------- sampling

    def _sample(self, this: Round) -> tuple[list[Candidates], dict[str, Any]]:
        """K samples to each prompt drawn, scored; prompts without any are skipped and counted."""
        ctx, stage = self._ctx, self._stage
        temperature, tuning = self._temperature(this)
        drawn = draw(self._prompts, stage.prompts_per_epoch, seed=ctx.seed("prompts", this.epoch))
        with self._asking(this) as ask:
            replies = self._asked(ask, drawn, temperature, ctx.seed("sampling", this.epoch))
        found = self._scored(_candidates(drawn, replies))
        if not found:
            raise nothing_sampled(replies, stage.prompts)
        whole = [entry.rewards for entry in found if len(entry.rewards) == stage.samples]
        return found, {
            **tuning,
            **curves(whole),
            "temperature": temperature,
            "skipped_prompts": len(drawn) - len(found),
            "failed_samples": failures(replies),
        }

    def _temperature(self, this: Round) -> tuple[float, dict[str, Any]]:
        """The round's temperature, and how it was found: Llama 2's was re-tuned at each iteration,
        since what RLHF does to the distribution changes which one is best."""
        ctx, stage = self._ctx, self._stage
        if not stage.tune_temperature:
            given = stage.temperature
            return given[this.epoch - 1] if len(given) > 1 else given[0], {}
        # The same random numbers at every temperature: what differs is the temperature.
        seed = ctx.seed("tuning", this.epoch)
        held = self._held_out
        with self._asking(this) as ask:
            sampled = {
                temperature: self._asked(ask, held, temperature, seed)
                for temperature in stage.tune_temperature
            }
        whole = [
            index
            for index in range(len(held))
            if all(len(replies[index].samples) == stage.samples for replies in sampled.values())
        ]
        if not whole:
            raise InputError(
                "no held-out prompt has all its samples, so no temperature can be chosen",
                path=stage.prompts,
                field=f"stages.{stage.name}.held_out_prompts",
            )
        scored = self._scored(
            [
                Candidates(held[i], replies[i].prompt_ids, replies[i].samples)
                for replies in sampled.values()
                for i in whole
            ]
        )
        rewards = {
            temperature: [entry.rewards for entry in scored[n * len(whole) : (n + 1) * len(whole)]]
            for n, temperature in enumerate(sampled)
        }
        temperature, table = tuned(rewards)
        return temperature, {"tuning": table, "tuning_prompts": len(whole)}

    def _asking(self, this: Round) -> AbstractContextManager[Ask]:
        """Who is asked in this round; scoring may have left another adapter active."""
        place_policy(self._ctx, this.start, self._stage.lora)
        return asking(self._ctx, self._stage, self._stage.sampler)

    def _asked(
        self, ask: Ask, prompts: Sequence[Prompt], temperature: float, seed: int
    ) -> list[Replies]:
        return ask(
            [prompt.messages for prompt in prompts],
            [prompt.id for prompt in prompts],
            samples=self._stage.samples,
            temperature=temperature,
            seed=seed,
        )

    def _scored(self, found: Sequence[Candidates]) -> list[Candidates]:
        """With the rewards of the schedule's rule, all at once."""
        combined = self._combined(
            [(*entry.prompt_ids, *s.reply_ids) for entry in found for s in entry.samples],
            [entry.prompt.safety for entry in found for _ in entry.samples],
        )
        rewards = combined.reward.tolist() if combined else []
        scored: list[Candidates] = []
        start = 0
        for entry in found:
            stop = start + len(entry.samples)
            assert combined is not None
            scored.append(
                replace(
                    entry,
                    rewards=tuple(rewards[start:stop]),
                    sources=combined.source[start:stop],
                )
            )
            start = stop
        return scored

    def _combined(
        self, sequences: Sequence[Sequence[int]], safety: Sequence[bool]
    ) -> Combined | None:
        """None for nothing to score."""
        if not sequences:
            return None
        assert self._rule is not None
        ctx, stage = self._ctx, self._stage
        return score(ctx, stage, self._rule, ctx.reward_models, sequences, safety)

    # ----------------------------------------------------------------- samples of others

    def _take(self, this: Round, source: Path) -> tuple[list[Candidates], dict[str, Any]]:
        """Samples that were chosen elsewhere, in this run's tokens; scored anew, if by a rule."""
        ctx, stage = self._ctx, self._stage
        by_prompt: dict[Conversation, list[Best]] = {}
        for _, best in read_source(source):
            by_prompt.setdefault(best.messages, []).append(best)
        prompts = [
            Prompt(samples[0].id, messages, samples[0].safety)
            for messages, samples in by_prompt.items()
        ]
        drawn = draw(
            without(prompts, self._reserved),
            stage.prompts_per_epoch,
            seed=ctx.seed("prompts", this.epoch),
        )
        place_policy(ctx, this.start, stage.lora)
        found: list[Candidates] = []
        failed: Counter[str] = Counter()
        tokenizer = ctx.base().tokenizer
        for prompt in drawn:
            given = by_prompt[prompt.messages]
            made = tokenised(ctx, [(prompt.messages, best.text, best.ended) for best in given])
            failed.update(reply for reply in made if isinstance(reply, str))
            fitting = [(s, b) for s, b in zip(made, given, strict=True) if isinstance(s, Sampled)]
            if fitting:
                found.append(
                    Candidates(
                        prompt,
                        tuple(render(tokenizer, prompt.messages, reply_next=True)),
                        tuple(sample for sample, _ in fitting),
                        tuple(best.reward for _, best in fitting),
                        tuple(best.source for _, best in fitting),
                    )
                )
        if not found:
            raise InputError("no sample has room in the model's context", path=source)
        return self._scored(found) if self._rule is not None else found, {
            "samples_from": content_hash(source),
            "skipped_prompts": len(drawn) - len(found),
            "failed_samples": dict(sorted(failed.items())),
        }

    def _earlier(self, this: Round) -> list[Best]:
        """The chosen samples of all rounds before, in their order, on one scale of rewards."""
        ctx, stage = self._ctx, self._stage
        if not stage.keep_earlier:
            return []
        place = [known.name for known in ctx.schedule.stages].index(stage.name)
        names = [
            known.name
            for known in ctx.schedule.stages[:place]
            if isinstance(known, RejectionSamplingStage)
        ]
        others = [
            best
            for name in names
            for info in sorted(ctx.run.checkpoints(), key=lambda info: info.epoch)
            if info.stage == name
            for best in read_samples(intact(info.folder))
        ]
        own = [
            best
            for checkpoint in ctx.committed()
            if checkpoint.epoch < this.epoch
            for best in read_samples(intact(checkpoint.folder))
        ]
        # Other reward models, or another rule, may have scored those of earlier stages.
        combined = self._combined(
            [[*best.prompt_ids, *best.reply_ids] for best in others],
            [best.safety for best in others],
        )
        if combined is not None:
            rescored = zip(others, combined.reward.tolist(), combined.source, strict=True)
            others = [replace(b, reward=reward, source=source) for b, reward, source in rescored]
        return [*others, *own]


def _candidates(prompts: Sequence[Prompt], replies: Sequence[Replies]) -> list[Candidates]:
    """Those prompts that have a reply."""
    return [
        Candidates(prompt, found.prompt_ids, found.samples)
        for prompt, found in zip(prompts, replies, strict=True)
        if found.samples
    ]
