"""What a schedule needs, stage by stage and part by part, before anything is downloaded or loaded.

Everything is an upper bound that the schedule itself gives: every row as long as ``max_length``,
every reply as long as ``max_new_tokens``, pairs that share no prompt. What a schedule does not say
is how long the prompts are: ``prompt_tokens`` is assumed. The bytes come from ``tensor_bytes.py``;
what is in memory at once, from reading the stages: see each phase.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from math import ceil

from trainers.devices import Device
from trainers.memory_phases import Phase, PhaseMaker
from trainers.model_shapes import ModelShape, find_shape
from trainers.schedule import Schedule
from trainers.schedule_stages import (
    POLICY_KINDS,
    AnyStage,
    DpoStage,
    GhostAttentionStage,
    Lora,
    PpoStage,
    RejectionSamplingStage,
    RewardRule,
    RewardStage,
    RlooStage,
    Sampler,
    SftStage,
)
from trainers.tensor_bytes import (
    FLOAT32,
    Forward,
    adapter_parameters,
    base_bytes,
    cross_entropy_bytes,
    kv_bytes,
    logits_bytes,
    read_logits_bytes,
    tiled_loss_bytes,
)

PROMPT_TOKENS = 512  # assumed, if nothing else is said
# As the engine and PPO have them: logits of one forward that measures log-probabilities, bytes of
# dialogues kept for their next turn.
LOGITS_AT_ONCE = 2**27
DIALOGUE_BYTES = 2**30
ROWS_A_SET = 500  # of an eval set: assumed, sets are not opened


@dataclass(frozen=True, slots=True)
class StagePlan:
    """A stage's phases on one device."""

    name: str
    kind: str
    phases: tuple[Phase, ...]

    @property
    def peak(self) -> Phase:
        """The phase that needs most."""
        return max(self.phases, key=lambda phase: phase.bytes)


def plan_stages(
    schedule: Schedule,
    shape: ModelShape,
    device: Device,
    prompt_tokens: int = PROMPT_TOKENS,
    *,
    only: int | None = None,
) -> tuple[StagePlan, ...]:
    """What each stage (``only``: the one at this place) holds in memory, phase by phase.

    Raises ``InputError`` for adapters on modules that the model does not have, and for a local
    judge whose shape is not known.
    """
    return tuple(
        StagePlan(
            stage.name,
            stage.kind,
            tuple(_phases(schedule, at, PhaseMaker(schedule, shape, device, at, prompt_tokens))),
        )
        for at, stage in enumerate(schedule.stages)
        if only is None or at == only
    )


def replies_at_once(stage: AnyStage) -> int:
    """Replies that a stage generates side by side; 0 for those that sample none."""
    if isinstance(stage, PpoStage | RlooStage):
        return min(stage.sample_batch, stage.batch)
    if isinstance(stage, SftStage | RewardStage | DpoStage):
        return 0
    if isinstance(stage, GhostAttentionStage):
        return min(stage.sample_batch, stage.dialogues)
    return min(stage.sample_batch, _replies_a_prompt(stage) * stage.prompts_per_epoch)


def rows_a_forward(stage: AnyStage, length: int) -> int:
    """Sequences (of a reward stage: pairs) of ``length`` tokens in one forward pass."""
    if isinstance(stage, PpoStage):
        return stage.micro_batch or stage.mini_batch
    if stage.micro_batch is not None:
        return stage.micro_batch
    from trainers.trl_epoch import micro_batch  # transformers: only where it decides

    whole = stage.mini_batch if isinstance(stage, RlooStage) else stage.batch
    return micro_batch(whole, None, length, 2 if isinstance(stage, RewardStage | DpoStage) else 1)


def _replies_a_prompt(stage: AnyStage) -> int:
    """K of rejection sampling; others that train on sampled replies compare two."""
    if isinstance(stage, RejectionSamplingStage | PpoStage | RlooStage):
        return stage.samples
    return 2


def _phases(schedule: Schedule, at: int, make: PhaseMaker) -> Iterator[Phase]:
    stage, before = schedule.stages[at], schedule.stages[:at]
    starts = any(earlier.kind in POLICY_KINDS for earlier in before)
    members = sum(earlier.members for earlier in before if isinstance(earlier, RewardStage))
    if isinstance(stage, SftStage):
        yield _fine_tuning(make, stage, stage.max_length, stage.gradient_checkpointing)
    elif isinstance(stage, RewardStage):
        yield from _reward(make, stage, starts)
    elif isinstance(stage, PpoStage):
        yield from _ppo(make, stage, starts, members)
    elif isinstance(stage, RlooStage):
        yield from _rloo(make, stage, starts, members)
    elif isinstance(stage, DpoStage):
        yield from _dpo(make, stage, starts)
    elif isinstance(stage, GhostAttentionStage):
        yield from _ghost_attention(make, stage)
    elif isinstance(stage, RejectionSamplingStage):
        yield from _rejection_sampling(make, stage, members)
    else:
        # Two replies to a prompt, asked in two ways; the safety members alone judge them.
        judges = [s for s in before if isinstance(s, RewardStage) and s.name == stage.safety]
        rows, length = replies_at_once(stage), make.length(stage.max_new_tokens)
        yield make.generation("sampling", rows, length, adapters=1, distinct=rows)
        judging = sum(judge.members for judge in judges)
        yield make.scoring("scoring", rows, length, adapters=1, members=judging)
        yield _fine_tuning(make, stage, length, stage.gradient_checkpointing)
    if stage.kind in POLICY_KINDS and schedule.evaluate.sets:
        yield from _evaluation(make, stage, starts, members if _can_speak(schedule, at) else 0)


# ------------------------------------------------------------------------- the stages


def _fine_tuning(make: PhaseMaker, stage: AnyStage, length: int, checkpointing: bool) -> Phase:
    # Rows of several lengths are padded, which takes a mask as packing does.
    rows = rows_a_forward(stage, length)
    run = make.forward(rows, length, mask="packed", dropout=make.lora.dropout)
    return make.phase(
        "training",
        adapters=1,
        updated=1,
        run=run,
        backward=True,
        checkpointing=checkpointing,
        beside=make.learning(dropout=run.dropout),
        logits=_tiled_loss(make, run),
    )


def _tiled_loss(make: PhaseMaker, run: Forward, labels: int | None = None) -> int:
    """Logits of a forward of trl's trainers, with so many labels; None: at all tokens."""
    tiled = tiled_loss_bytes(make.shape, run.tokens, make.width, cuda=make.device.cuda)
    return make.loss(run.tokens if labels is None else labels, tiled, dropout=run.dropout)


def _rejection_sampling(
    make: PhaseMaker, stage: RejectionSamplingStage, members: int
) -> Iterator[Phase]:
    """A file's samples, and a server's, are generated elsewhere."""
    rows, length = replies_at_once(stage), make.length(stage.max_new_tokens)
    if stage.sampler is not None:
        if stage.sampler.base_url is None:
            yield _other_model(make, stage.sampler, stage.max_new_tokens)
    elif stage.samples_from is None:
        distinct = ceil(rows / stage.samples) + 1
        yield make.generation("sampling", rows, length, adapters=1, distinct=distinct)
    if stage.reward is not None:
        yield make.scoring("scoring", rows, length, adapters=1, members=members)
    yield _fine_tuning(make, stage, length, stage.gradient_checkpointing)


def _other_model(make: PhaseMaker, sampler: Sampler, new_tokens: int) -> Phase:
    """Another model generates beside the base and the policy; its adapter is taken to have the
    policy's rank."""
    shape = find_shape(sampler.model)
    lora = None if sampler.adapter is None else Lora(r=make.lora.r)
    beside = make.other(
        "sampling", shape, sampler, prompt=make.prompt, new_tokens=new_tokens, adapters=1, lora=lora
    )
    held = base_bytes(shape, sampler.quantization, 2 if make.device.cuda else FLOAT32)
    if lora is not None:
        held += FLOAT32 * adapter_parameters(shape, lora)
    return Phase(beside.name, {**beside.parts, "base": beside.parts["base"] + held})


def _reward(make: PhaseMaker, stage: RewardStage, starts: bool) -> Iterator[Phase]:
    """A member at a time is on the base, beside the policy that it started from."""
    adapters = 1 + starts
    # A pair is one block of at most twice the length, with a mask of our own; or two rows. How much
    # its replies have in common is not known before.
    rows, length = rows_a_forward(stage, stage.max_length), 2 * stage.max_length
    yield make.phase(
        "training",
        adapters=adapters,
        updated=1,
        heads=1,
        run=make.forward(rows, length, mask="pairs", dropout=make.lora.dropout),
        backward=True,
        checkpointing=stage.gradient_checkpointing,
        asked=2 * rows,
        beside=make.learning(dropout=make.lora.dropout),
    )
    # Without held-out pairs, those of training are scored, for the member's normalisation.
    run = make.read(stage.max_length, mask="packed")
    yield make.phase("scoring held-out pairs", adapters=adapters, updated=1, heads=1, run=run)


def _ghost_attention(make: PhaseMaker, stage: GhostAttentionStage) -> Iterator[Phase]:
    """Dialogues are read anew at every turn where they cannot be kept."""
    rows, length = replies_at_once(stage), min(stage.max_length, make.shape.positions)
    kept = min(DIALOGUE_BYTES, kv_bytes(make.shape, rows, length, make.width))
    yield make.generation(
        "sampling", rows, length, adapters=1, distinct=rows, dialogues=kept, read=length
    )
    yield _fine_tuning(make, stage, length, stage.gradient_checkpointing)


def _ppo(make: PhaseMaker, stage: PpoStage, starts: bool, members: int) -> Iterator[Phase]:
    """Policy, reference, value function and all members stay on the base throughout."""
    length = make.length(stage.max_new_tokens)
    own, updated = 1 + starts + stage.value_adapter, 1 + stage.value_adapter
    held, rows = own + members, replies_at_once(stage)
    distinct = min(stage.batch // stage.samples, ceil(rows / stage.samples) + 1)
    reference = make.laid_out(others=1)
    kept = reference + make.laid_out(members=members)
    yield make.generation(
        "rollout",
        rows,
        length,
        adapters=held,
        updated=updated,
        distinct=distinct,
        beside=kept,
    )
    yield make.scoring(
        "scoring",
        stage.batch,
        length,
        adapters=own,
        members=members,
        updated=updated,
        beside=reference,
    )
    words, heads = make.shape.vocabulary, members + 1
    reply = min(stage.max_new_tokens, length)
    run = make.read(length, min(stage.batch, max(1, LOGITS_AT_ONCE // (words * reply))))
    logits = read_logits_bytes(words, run.rows * reply)
    measuring = partial(make.phase, adapters=held, updated=updated, heads=heads)
    yield measuring("measuring", run=run, logits=logits, beside=kept)
    run = make.read(length, stage.batch)
    yield measuring("measuring values", run=run, beside=kept + make.laid_out(others=1))
    run = make.forward(rows_a_forward(stage, length), length)
    learning = kept + make.learning()
    yield make.phase(
        "update",
        adapters=held,
        updated=updated,
        heads=heads,
        run=run,
        backward=True,
        checkpointing=stage.gradient_checkpointing,
        beside=learning,
        asked=run.rows * reply,
        logits=make.loss(run.rows * reply, logits_bytes(words, run.rows * reply, make.width)),
    )
    if stage.sft_data is not None:
        yield _demonstrations(make, stage, held, updated, heads, run.rows, beside=learning)


def _demonstrations(
    make: PhaseMaker,
    stage: PpoStage | RlooStage,
    held: int,
    updated: int,
    heads: int,
    rows: int,
    *,
    beside: int = 0,
) -> Phase:
    """The SFT term beside the objective, ``rows`` demonstrations a forward."""
    run = make.forward(rows, stage.sft_max_length)
    return make.phase(
        "update, demonstrations",
        adapters=held,
        updated=updated,
        heads=heads,
        run=run,
        backward=True,
        checkpointing=stage.gradient_checkpointing,
        logits=make.loss(run.tokens, cross_entropy_bytes(make.shape.vocabulary, run.tokens)),
        beside=beside,
    )


def _rloo(make: PhaseMaker, stage: RlooStage, starts: bool, members: int) -> Iterator[Phase]:
    """Policy, reference and all members are on the base throughout an epoch."""
    length, rows = make.length(stage.max_new_tokens), replies_at_once(stage)
    own = 1 + starts
    held = own + members
    distinct = min(stage.batch // stage.samples, ceil(rows / stage.samples) + 1)
    yield make.generation("rollout", rows, length, adapters=held, updated=1, distinct=distinct)
    yield make.scoring("scoring", stage.batch, length, adapters=own, members=members, updated=1)
    # Prompts are padded on the left, which takes a mask. What is measured before the update is
    # measured in forwards of the same size, without gradients.
    run = make.forward(rows_a_forward(stage, length), length, mask="packed")
    asked = run.rows * min(stage.max_new_tokens, length)
    yield make.phase(
        "update",
        adapters=held,
        updated=1,
        heads=members,
        run=run,
        backward=True,
        checkpointing=stage.gradient_checkpointing,
        asked=asked,
        beside=make.learning(2),  # the policy and its start
        logits=_tiled_loss(make, run, asked),
    )
    if stage.sft_data is not None:
        from trainers.trl_epoch import micro_batch

        whole = stage.sft_batch or stage.mini_batch
        rows = stage.micro_batch or micro_batch(whole, None, stage.sft_max_length)
        yield _demonstrations(make, stage, held, 1, members, rows)


def _dpo(make: PhaseMaker, stage: DpoStage, starts: bool) -> Iterator[Phase]:
    """The reference is on the base only while it is measured, before training."""
    words = make.shape.vocabulary
    run = make.read(stage.max_length, max(1, LOGITS_AT_ONCE // (words * stage.max_length)))
    logits = read_logits_bytes(words, run.tokens)
    yield make.phase("measuring", adapters=1 + starts, run=run, logits=logits)
    rows = 2 * rows_a_forward(stage, stage.max_length)  # of a pair, either side
    run = make.forward(rows, stage.max_length, mask="packed")
    yield make.phase(
        "training",
        adapters=1,
        updated=1,
        run=run,
        backward=True,
        checkpointing=stage.gradient_checkpointing,
        uncut=2 * stage.max_length,
        beside=make.learning(dropout=run.dropout),
        logits=_tiled_loss(make, run),
    )


def _evaluation(make: PhaseMaker, stage: AnyStage, starts: bool, members: int) -> Iterator[Phase]:
    """The checkpoint, its start and the reward models beside what the stage keeps."""
    evaluate = make.schedule.evaluate
    rows, length = evaluate.batch, make.length(evaluate.max_new_tokens)
    kept, updated = 1, 0
    if isinstance(stage, PpoStage):
        kept += starts + stage.value_adapter
        updated = 1 + stage.value_adapter
    seated = kept + 1 + starts
    held = seated + members
    yield make.generation(
        "evaluation",
        rows,
        length,
        adapters=held,
        updated=updated,
        distinct=rows,
        dialogues=min(DIALOGUE_BYTES, kv_bytes(make.shape, ROWS_A_SET, length, make.width)),
    )
    if members:
        yield make.scoring(
            "evaluation, scoring", rows, length, adapters=seated, members=members, updated=updated
        )
    if starts:
        words, replies = make.shape.vocabulary, min(evaluate.max_new_tokens, length) + 1
        at_once = max(1, min(rows, LOGITS_AT_ONCE // (words * replies)))
        run = make.read(length, at_once)
        yield make.phase(
            "evaluation, log-probabilities",
            adapters=held,
            updated=updated,
            heads=members,
            run=run,
            logits=read_logits_bytes(words, run.rows * replies),
        )
    if make.judge is not None:
        yield make.judging("evaluation, judging", length, adapters=held, updated=updated)


def _can_speak(schedule: Schedule, at: int) -> bool:
    """Whether the reward models that an evaluation's rule names are trained by the stage at ``at``:
    the rule of this RL stage or the next, else of the last one before."""
    earlier = {s.name for s in schedule.stages[:at] if isinstance(s, RewardStage)}
    rules = [
        (place, stage.reward)
        for place, stage in enumerate(schedule.stages)
        if isinstance(stage, PpoStage | RlooStage | RejectionSamplingStage)
        and stage.reward is not None
    ]
    following = [rule for place, rule in rules if place >= at]
    before = rules[-1][1] if rules else RewardRule(kind="mean")
    rule = following[0] if following else before
    return rule.reward_models() <= earlier
