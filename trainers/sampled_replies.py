"""Replies sampled from the policy, or from another model in its place, and their scores.

Where several processes train one run, each samples and scores a share, and all get everything.
Whoever sampled, a reply comes back as tokens of the run's own tokenizer, so that what is scored is
what is trained on.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from harness.chat import Conversation, assistant
from harness.engines.cached import CachedEngine, CompletionCache
from harness.engines.config import make_engine
from harness.engines.local import Generated, LocalEngine, eos_ids
from harness.engines.protocol import Engine, Request
from harness.errors import InputError
from harness.models import causal_model
from harness.reward_models import Combined, RewardModel, RewardScorer, Rule
from trainers.packing import IGNORED
from trainers.schedule_stages import SampledStage, Sampler
from trainers.sft_rows import encode, examples
from trainers.stage import StageContext
from trainers.validation import base_of

CACHE_FILE = "sampler-replies.sqlite"  # a server's replies, in the run's folder
_NO_ROOM = "no room in the context"
_EMPTY = "empty"
_TOO_MANY_FAILURES = 0.5  # of all samples


@dataclass(frozen=True, slots=True)
class Sampled:
    """A reply in the run's own tokens, the end token included if it ended by itself."""

    reply_ids: tuple[int, ...]
    text: str
    ended: bool


@dataclass(frozen=True, slots=True)
class Replies:
    """A prompt's replies, of which there may be none; why others are missing, a reason each."""

    prompt_ids: tuple[int, ...]
    samples: tuple[Sampled, ...]
    failed: tuple[str, ...] = ()


def failures(replies: Iterable[Replies]) -> dict[str, int]:
    """Samples that are missing, by the kind of reason: what stands before its first colon."""
    kinds = Counter(reason.partition(":")[0] for entry in replies for reason in entry.failed)
    return dict(sorted(kinds.items()))


def nothing_sampled(replies: Sequence[Replies], source: str) -> InputError:
    """Why there is nothing to choose from."""
    reasons = failures(replies)
    if reasons.keys() <= {_NO_ROOM}:
        return InputError("no prompt leaves room for a reply", path=source)
    told = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
    return InputError(f"no prompt got a reply to choose from: {told}", path=source)


class Ask(Protocol):
    """Sample ``samples`` replies to each prompt, in the prompts' order; ``keys`` name the prompts
    for the sampling."""

    def __call__(
        self,
        prompts: Sequence[Conversation],
        keys: Sequence[str],
        *,
        samples: int,
        temperature: float,
        seed: int,
    ) -> list[Replies]: ...


def ask_policy(
    ctx: StageContext,
    stage: SampledStage,
    prompts: Sequence[Conversation],
    keys: Sequence[str],
    *,
    samples: int,
    temperature: float,
    seed: int,
) -> list[Replies]:
    """``Ask`` of the adapter that is active on the base. A prompt that leaves no room has none."""
    base = ctx.base()
    engine = LocalEngine(
        base.model,
        base.tokenizer,
        batch_size=stage.sample_batch,
        max_new_tokens=stage.max_new_tokens,
    )
    requests = _requests(engine, prompts, keys, samples, temperature)
    made = dict(engine.sample(requests, seed=seed))

    def read(reply: Generated | str) -> Sampled | str:
        if isinstance(reply, str):
            return _NO_ROOM
        text = base.tokenizer.decode(list(reply.token_ids), skip_special_tokens=True)
        return Sampled(reply.token_ids, str(text), reply.stopped)

    return [
        _replies(requests[first].prompt_ids, [read(made[n]) for n in range(first, first + samples)])
        for first in range(0, len(requests), samples)
    ]


def _replies(prompt_ids: Sequence[int], read: Sequence[Sampled | str]) -> Replies:
    return Replies(
        tuple(prompt_ids),
        tuple(reply for reply in read if isinstance(reply, Sampled)),
        tuple(reply for reply in read if isinstance(reply, str)),
    )


@contextmanager
def asking(ctx: StageContext, stage: SampledStage, sampler: Sampler | None = None) -> Iterator[Ask]:
    """Who is asked: the policy, or the sampler, whose model is in memory inside only.

    A server's replies are kept in the run until they are asked for again, so that a stage that is
    killed has not paid for them twice.
    """
    if sampler is None:
        yield partial(_shared, ctx, partial(ask_policy, ctx, stage))
        return
    engine, identity = make_engine(
        sampler.model_copy(update={"model": _model_of(sampler)}),
        max_new_tokens=stage.max_new_tokens,
        adapter=Path(sampler.adapter) if sampler.adapter else None,
    )
    if sampler.base_url is None:
        yield partial(_shared, ctx, partial(_ask_engine, ctx, engine))
        del engine
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return
    cache = CompletionCache(ctx.run.path / CACHE_FILE)
    kept = CachedEngine(engine, cache, {"model": identity})
    yield partial(_shared, ctx, partial(_ask_engine, ctx, kept))


def _model_of(sampler: Sampler) -> str:
    return sampler.model if sampler.base_url is not None else base_of(sampler.model)


def _shared(
    ctx: StageContext,
    ask: Ask,
    prompts: Sequence[Conversation],
    keys: Sequence[str],
    *,
    samples: int,
    temperature: float,
    seed: int,
) -> list[Replies]:
    """``Ask`` of all processes together. Raises ``InputError`` where most samples come to nothing
    for another reason than their length."""

    def work(mine: Sequence[tuple[Conversation, str]]) -> list[Replies]:
        return ask(
            [prompt for prompt, _ in mine],
            [key for _, key in mine],
            samples=samples,
            temperature=temperature,
            seed=seed,
        )

    found = ctx.team.share(list(zip(prompts, keys, strict=True)), work)
    reasons = [r for entry in found for r in entry.failed if r not in (_NO_ROOM, _EMPTY)]
    if len(reasons) > _TOO_MANY_FAILURES * samples * len(prompts):
        raise InputError(
            f"{len(reasons)} of {samples * len(prompts)} samples failed: {reasons[0]}",
            field=f"stages.{ctx.stage.name}.sampler",
        )
    return found


def _ask_engine(
    ctx: StageContext,
    engine: Engine,
    prompts: Sequence[Conversation],
    keys: Sequence[str],
    *,
    samples: int,
    temperature: float,
    seed: int,
) -> list[Replies]:
    """``Ask`` of another model."""
    requests = _requests(engine, prompts, keys, samples, temperature)
    made = dict(engine.generate(requests, seed=seed))
    answered = [number for number, reply in made.items() if reply.finish_reason != "error"]
    read = tokenised(
        ctx,
        [
            (prompts[number // samples], made[number].text, made[number].finish_reason == "stop")
            for number in answered
        ],
    )
    local = isinstance(engine, LocalEngine)  # which fails for one reason only
    rows: dict[int, Sampled | str] = {
        number: _NO_ROOM if local else reply.text for number, reply in made.items()
    }
    rows.update(zip(answered, read, strict=True))
    asked = encode(ctx.base().tokenizer, prompts, reply_next=True)
    return [
        _replies(ids, [rows[number] for number in range(at * samples, (at + 1) * samples)])
        for at, ids in enumerate(asked)
    ]


def tokenised(
    ctx: StageContext, answered: Sequence[tuple[Conversation, str, bool]]
) -> list[Sampled | str]:
    """Replies given as text (prompt, text, whether it ended) in the run's own tokens; the reason
    instead of one that has no tokens, or no room in the model's context."""
    base = ctx.base()
    model = causal_model(base.model)
    eos = eos_ids(model, base.tokenizer)
    config = model.config.get_text_config()
    context = int(getattr(config, "max_position_embeddings", None) or 2**31)
    rows = examples(
        base.tokenizer,
        [(*prompt, assistant(text)) for prompt, text, _ in answered],
        loss_on="last_answer",
        eos=eos,
    )
    found: list[Sampled | str] = []
    for row, (_, text, ended) in zip(rows, answered, strict=True):
        ids = [token for token in row.labels if token != IGNORED]
        if not ended and ids and ids[-1] in eos:
            ids = ids[:-1]
        if not ids:
            found.append(_EMPTY)
        elif len(row.input_ids) > context:
            found.append(_NO_ROOM)
        else:
            found.append(Sampled(tuple(ids), text, ended))
    return found


def score(
    ctx: StageContext,
    stage: SampledStage,
    rule: Rule,
    reward_models: Sequence[RewardModel],
    sequences: Sequence[Sequence[int]],
    safety: Sequence[bool],
) -> Combined:
    """What the rule makes of prompts with their replies, as tokens, from the reward models' scores;
    these are on the base only meanwhile."""
    base = ctx.base()
    with RewardScorer(
        base.model, base.tokenizer, reward_models, rule, batch_size=stage.sample_batch
    ) as scorer:
        base.model = scorer.model

        def work(mine: Sequence[tuple[Sequence[int], bool]]) -> list[tuple[float, str, float]]:
            found = scorer.rewards([ids for ids, _ in mine], [safe for _, safe in mine])
            return list(
                zip(found.reward.tolist(), found.source, found.spread.tolist(), strict=True)
            )

        rows = ctx.team.share(list(zip(sequences, safety, strict=True)), work)
    rewards, sources, spreads = zip(*rows, strict=True)
    return Combined(torch.tensor(rewards), tuple(sources), torch.tensor(spreads))


def _requests(
    engine: Engine,
    prompts: Sequence[Conversation],
    keys: Sequence[str],
    samples: int,
    temperature: float,
) -> list[Request]:
    return [
        Request(f"{key}/{number}", ids, temperature, engine.max_new_tokens, messages=prompt)
        for key, prompt in zip(keys, prompts, strict=True)
        for ids in (engine.tokenize(prompt),)
        for number in range(samples)
    ]
