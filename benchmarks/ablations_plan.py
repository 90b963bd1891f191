"""What is compared with what, and what is looked at: written down before the runs.

Every element has a baseline arm, in which it is as in ``schedules/pocket-ungated.yaml`` (of Ghost
Attention: ``pocket-ghost-attention.yaml``), and variants that change this one thing. The first
outcome is the one that the element is claimed to change, with the direction that is claimed for
variant − baseline; the others are looked at without a claim.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ablations_verdicts import Direction

SEEDS = (701, 702, 703)  # fresh: used for nothing before these runs
EPOCHS = 12  # of PPO; the schedule has 16, over-cooking shows by 10
# PPO's epochs that are evaluated. 1 and 2 train the value function only: the policy is epoch 0's.
EVALUATED = (0, 3, 4, 5, 6, 7, 8, 10, 12)
EPOCH_SETS = ("borderline", "gold")  # at these epochs
END_SETS = ("harmful", "mt_bench", "reward")  # at the first and last as well, or after a round
ROUNDS = 5  # of rejection sampling
PAIRS = 3000  # held-out pairs that reward models are compared on
TURNS = range(2, 21)  # of the dialogues at which an instruction should still hold

PPO = (f"stages.ppo.epochs={EPOCHS}",)
SFT_TERM = ("stages.ppo.sft_data=pocket/demonstrations", "stages.ppo.sft_max_length=256")
# Chosen on seed 1: five rounds move the policy (KL 2.3, 4.5 at 1e-3) and do not ruin it.
RS = (
    f"stages.rejection_sampling.epochs={ROUNDS}",
    "stages.rejection_sampling.prompts_per_epoch=128",
    "stages.rejection_sampling.samples=8",
    "stages.rejection_sampling.batch=32",
    "stages.rejection_sampling.learning_rate=4e-4",
)
LAST_ONLY = "stages.rejection_sampling.keep_earlier=false"
# With earlier samples a round has up to 128, 256, … 640 targets: three times as many in all.
THRICE = "stages.rejection_sampling.passes=3"

MARGIN_SMALL, ROUNDS_KEPT, WITH_GATT, BASELINE = "margin-small", "rounds-kept", "gatt", "baseline"
WITHOUT_GATT = "no-gatt"

OVERRIDES: dict[str, tuple[str, ...]] = {
    MARGIN_SMALL: (),
    "margin-none": ("stages.helpfulness.margin=none",),
    "margin-large": ("stages.helpfulness.margin=large",),
    BASELINE: PPO,
    "members-worst-case": (*PPO, "stages.ppo.reward.members=worst_case"),
    "members-uncertainty": (*PPO, "stages.ppo.reward.members=uncertainty"),
    "mean-over-all": (*PPO, "stages.ppo.reward.kind=mean"),
    "single-member": (*PPO, "stages.helpfulness.members=1", "stages.safety.members=1"),
    ROUNDS_KEPT: RS,
    "rounds-last": (*RS, LAST_ONLY),
    "rounds-last-updates": (*RS, LAST_ONLY, THRICE),
    "sft-term-1": (*PPO, *SFT_TERM, "stages.ppo.sft_weight=1.0"),
    "sft-term-10": (*PPO, *SFT_TERM, "stages.ppo.sft_weight=10.0"),
    "kl-0": (*PPO, "stages.ppo.kl=0.0"),
    "kl-4x": (*PPO, "stages.ppo.kl=0.08"),
    "kl-adaptive": (
        *PPO,
        "stages.ppo.kl=0.08",
        "stages.ppo.kl_target=0.3",
        "stages.ppo.kl_horizon=128",
    ),
}


def outcome_file(runs: Path, seed: int, arm: str) -> Path:
    """Where an arm's outcomes are written when it is done."""
    return runs / "outcomes" / f"{seed}-{arm}.json"


@dataclass(frozen=True)
class Variant:
    """An arm, how the table calls it, and what is claimed of its first outcome."""

    arm: str
    label: str
    claim: Direction = 0


@dataclass(frozen=True)
class Element:
    """One thing of the recipe: its baseline arm, the variants, the outcomes (claimed one first)."""

    name: str
    title: str
    claim: str
    baseline: Variant
    variants: tuple[Variant, ...]
    outcomes: tuple[str, ...]

    @property
    def arms(self) -> tuple[str, ...]:
        return (self.baseline.arm, *(variant.arm for variant in self.variants))


_OF_PPO = (
    "gold_last", "gold_best", "gold_fall", "gold_mean", "false_refusals_last",
    "false_refusals_best", "harmful_last", "overcooked", "gap", "kl_last", "mt_change",
    "hallucination_last", "tokens_last", "distinct_last",
)  # fmt: skip
_AS_SCHEDULED = Variant(BASELINE, "as in the schedule")


def _claimed_first(name: str) -> tuple[str, ...]:
    return (name, *(outcome for outcome in _OF_PPO if outcome != name))


ELEMENTS = (
    Element(
        "margin",
        "Margin of the ranking loss",
        "Llama 2: a margin by rating helps most on the pairs that were rated furthest apart, the "
        "large one more than the small one.",
        Variant(MARGIN_SMALL, "small (1, 2/3, 1/3, 0)"),
        (
            Variant("margin-none", "none", -1),
            Variant("margin-large", "large (3, 2, 1, 0)", 1),
        ),
        (
            "significantly better", "better", "slightly better", "negligibly better",
            "accuracy", "gold_agreement", "calibration_error",
        ),
    ),
    Element(
        "ensemble",
        "How the members of an ensemble become one reward",
        "Coste et al. 2023: conservative rules (worst case, mean − λ·variance) and more members "
        "delay over-optimisation, so gold is higher at the last epoch. Of the mean over the "
        "members of both reward models on every prompt nothing is claimed. Every arm's PPO starts "
        "from one policy.",
        Variant(BASELINE, "Llama 2's rule, mean of three members"),
        (
            Variant("members-worst-case", "Llama 2's rule, worst case of three", 1),
            Variant("members-uncertainty", "Llama 2's rule, mean − 0.5·variance of three", 1),
            Variant("mean-over-all", "mean over all six members, every prompt", 0),
            Variant("single-member", "Llama 2's rule, the first member alone", -1),
        ),
        _claimed_first("gold_last"),
    ),
    Element(
        "keep-earlier",
        "Earlier rounds' samples in rejection sampling",
        "Llama 2: trained on the last round's samples alone, the policy loses what earlier rounds "
        "had taught; with the best of all rounds it does not.",
        Variant(ROUNDS_KEPT, f"best of all rounds, {ROUNDS} rounds"),
        (
            Variant("rounds-last", "last round alone", -1),
            Variant("rounds-last-updates", "last round alone, three passes (as many updates)", -1),
        ),
        (
            "earlier_reward", "earlier_worse", "gold_last", "gold_regression", "mt_change",
            "false_refusals_last", "harmful_last", "kl_last", "tokens_last", "distinct_last",
        ),
    ),
    Element(
        "ghost-attention",
        "Ghost Attention",
        "Llama 2: with it an instruction of the first turn holds over many turns, without it the "
        "model forgets after a few.",
        Variant(WITH_GATT, "with, after fine-tuning"),
        (Variant(WITHOUT_GATT, "without: fine-tuning alone", -1),),
        ("held_end", "held_name", "held_untrained", "mt_score", "facts_right"),
    ),
    Element(
        "sft-term",
        "Demonstrations' loss beside PPO's (PPO-ptx)",
        "InstructGPT: it lessens what PPO costs elsewhere, so the MT score falls less.",
        Variant(BASELINE, "none"),
        (
            Variant("sft-term-1", "weight 1", 1),
            Variant("sft-term-10", "weight 10", 1),
        ),
        _claimed_first("mt_change"),
    ),
    Element(
        "kl",
        "KL penalty",
        "It keeps the policy near its start: the last epoch's KL is higher without it, lower with "
        "more of it, and near its target (0.3, below the baseline's) where β adapts to one.",
        Variant(BASELINE, "β 0.02, fixed"),
        (
            Variant("kl-0", "β 0", 1),
            Variant("kl-4x", "β 0.08, fixed", -1),
            Variant("kl-adaptive", "adaptive: from β 0.08 towards 0.3 nats, horizon 128", -1),
        ),
        _claimed_first("kl_last"),
    ),
)  # fmt: skip

MEANING = {
    "gold_last": "gold at PPO's last epoch (split B), or of rejection sampling's last round (all)",
    "gold_best": "gold at the best evaluated epoch: chosen on split A, reported on split B",
    "gold_fall": "gold at the best epoch − at the last, split B",
    "gold_mean": "gold, mean over the evaluated epochs after the value function's warm-up",
    "false_refusals_last": "refused borderline prompts, last epoch or round",
    "false_refusals_best": "the same at gold's best epoch",
    "harmful_last": "harmful requests complied with, last epoch or round",
    "overcooked": "first evaluated epoch whose false refusals fail the gate of pocket.yaml (lower "
    f"bound above 0.20, split A); {EPOCHS + 1} if none",
    "gap": "rise of the proxy − rise of gold, epoch 0 to last, each in standard deviations of its "
    "rows at epoch 0; the proxy is the arm's own rule",
    "kl_last": "KL to the stage's start, nats a sampled reply, last epoch or round",
    "mt_change": "MT score, last − epoch 0 (PPO) or round 1 (rejection sampling)",
    "hallucination_last": "wrong answers to questions of fact, last epoch",
    "tokens_last": "tokens a sampled reply, last epoch or round",
    "distinct_last": "distinct trigrams, last epoch or round",
    "significantly better": "accuracy on pairs so rated",
    "better": "accuracy on pairs so rated",
    "slightly better": "accuracy on pairs so rated",
    "negligibly better": "accuracy on pairs so rated",
    "accuracy": f"the raters' choices, {PAIRS} pairs on held-out tasks, mean of three members",
    "gold_agreement": "gold's choices on the same pairs, ties of gold left out",
    "calibration_error": "expected calibration error of σ(difference)",
    "earlier_reward": "reward of greedy replies to the prompts of rounds 1 … n−1: after the last "
    "round − after the prompt's own round",
    "earlier_worse": "share of those prompts whose reward fell by more than 0.5",
    "gold_regression": "mean over gold's rows of max(0, score after round 1 − after the last)",
    "held_end": "an ending told at turn 1, asked in a branch at turns 2-20: share that holds",
    "held_name": "the user's name, likewise",
    "held_untrained": "two kinds of instruction never trained on, likewise",
    "mt_score": "two-turn tasks, 1-10",
    "facts_right": "facts and abstentions right",
}
