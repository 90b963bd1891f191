"""What must hold between the parts of a schedule: names, references, watched stages.

What a single field may hold is said by its model (``schedule.py``); whether the files and metrics
that a schedule names are there is ``validation.py``'s to find out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from harness.errors import nearest
from trainers.schedule import Schedule
from trainers.schedule_parts import FULL
from trainers.schedule_stages import (
    HELD_OUT,
    POLICY_KINDS,
    RL_KINDS,
    AnyStage,
    ContextDistillationStage,
    DpoStage,
    GhostAttentionStage,
    PpoStage,
    RejectionSamplingStage,
    RewardStage,
    RlooStage,
    SampledStage,
    SftStage,
)

# These begin with a policy adapter of the shape that they say, if there is none yet.
_Maker = SftStage | GhostAttentionStage | SampledStage | PpoStage | RlooStage | DpoStage


@dataclass(frozen=True)
class Problem:
    """Something wrong at a place of the schedule, before its line is looked up."""

    loc: tuple[str | int, ...]
    message: str
    expected: str | None = None
    nearest: str | None = None


def broken_rules(schedule: Schedule) -> Iterator[Problem]:
    """The problems of a schedule by itself, without looking at any other file."""
    names: dict[str, str] = {}
    rewards: set[str] = set()
    policy: _Maker | None = None  # which made the policy's adapter
    for at, stage in enumerate(schedule.stages):
        if stage.name in names:
            yield Problem(
                ("stages", at, stage.kind, "name"),
                f"two stages are called {stage.name!r}",
                "a name of its own for each (`name: …`)",
            )
        names[stage.name] = stage.kind
        yield from _size_problems(("stages", at, stage.kind), stage)
        if policy is None and isinstance(stage, _Maker):
            policy = stage
        if isinstance(stage, RewardStage):
            rewards.add(stage.name)
            if HELD_OUT in stage.eval_data:
                yield Problem(
                    ("stages", at, "reward", "eval_data", HELD_OUT),
                    "is what the held-out share of the stage's own data is called",
                    "another name",
                )
            if policy is not None and stage.lora is not None and stage.lora != policy.lora:
                message = f"differs from {policy.name}'s, from whose adapter the members start"
                yield Problem(("stages", at, "reward", "lora"), message, "no lora of its own")
        if isinstance(stage, PpoStage | RlooStage | RejectionSamplingStage):
            yield from _reward_problems(("stages", at, stage.kind, "reward"), stage, rewards)
        if isinstance(stage, RejectionSamplingStage) and stage.reward is None:
            yield from _unscored_problems(("stages", at, stage.kind, "reward"), stage, names)
        if isinstance(stage, ContextDistillationStage):
            loc = ("stages", at, stage.kind)
            yield from _unknown_rewards(loc, {("safety",): stage.safety}, rewards)
    for at, gate in enumerate(schedule.gates):
        for position, name in enumerate(gate.during or ()):
            if names.get(name) not in POLICY_KINDS:
                policies = [known for known, kind in names.items() if kind in POLICY_KINDS]
                yield Problem(
                    ("gates", at, "during", position),
                    f"{name!r} is no stage that trains a policy",
                    f"one of {', '.join(policies) or '(there is none)'}",
                    nearest(name, policies),
                )
        if gate.during is None and not RL_KINDS & set(names.values()):
            yield Problem(
                ("gates", at),
                "watches no stage: gates watch the RL stages, and there is none",
                "`during: [a stage's name]`",
            )


def _size_problems(loc: tuple[str | int, ...], stage: AnyStage) -> Iterator[Problem]:
    """Numbers of one stage that leave it nothing to train on, or no equal parts."""
    # PPO's and RLOO's cut a mini_batch, which their models see to.
    micro = None if isinstance(stage, PpoStage | RlooStage) else stage.micro_batch
    if micro is not None and stage.batch % micro:
        message = f"{micro} does not divide batch {stage.batch}"
        yield Problem((*loc, "micro_batch"), message, f"a divisor of {stage.batch}")
    if isinstance(stage, RewardStage | DpoStage):
        if sum(stage.mix.values()) >= FULL:
            yield Problem(
                (*loc, "mix"),
                "the shares add up to 1 or more, which leaves no room for the stage's own data",
                "less than 1 in all",
            )
        if stage.held_out == 1.0:
            yield Problem(
                (*loc, "held_out"), "1 leaves no pair to train on", "a share of less than 1"
            )


def _reward_problems(
    loc: tuple[str | int, ...],
    stage: PpoStage | RlooStage | RejectionSamplingStage,
    known: set[str],
) -> Iterator[Problem]:
    rule = stage.reward
    if rule is None:
        return
    wanted: dict[tuple[str, ...], str] = {}
    if rule.kind == "llama2":
        wanted = {("helpfulness",): rule.helpfulness, ("safety",): rule.safety}
    elif rule.kind == "weighted":
        if not rule.weights:
            yield Problem((*loc, "weights"), "is missing", "reward model: weight")
        wanted = {("weights", name): name for name in rule.weights}
    elif not known:
        yield Problem(loc, "there is no reward stage before this one")
    yield from _unknown_rewards(loc, wanted, known)


def _unscored_problems(
    loc: tuple[str | int, ...], stage: RejectionSamplingStage, names: Mapping[str, str]
) -> Iterator[Problem]:
    """Samples with rewards of their own can be ranked among themselves only."""
    before = [n for n, kind in names.items() if kind == stage.kind and n != stage.name]
    if before and stage.keep_earlier:
        message = f"null: those rewards cannot be compared with the ones of {before[-1]!r}"
        yield Problem(loc, message, "a reward rule, or keep_earlier: false")


def _unknown_rewards(
    loc: tuple[str | int, ...], wanted: Mapping[tuple[str, ...], str], known: set[str]
) -> Iterator[Problem]:
    for steps, name in wanted.items():
        if name not in known:
            yield Problem(
                (*loc, *steps),
                f"no reward stage called {name!r} before this one",
                f"one of {', '.join(sorted(known))}" if known else "a reward stage earlier",
                nearest(name, known),
            )
