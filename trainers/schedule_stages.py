"""The stages of a schedule: what each is trained on, and how; the rest of it: ``schedule.py``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from harness.engines.config import EngineConfig
from harness.store.kinds import POLICY_KINDS, RL_KINDS
from trainers.data_instructions import InstructionRow
from trainers.schedule_ghost import GhostAttentionStage
from trainers.schedule_parts import (
    Count,
    Lora,
    Name,
    Optimizer,
    Positive,
    RewardRule,
    Share,
    Stage,
    Strict,
    check_adaptive,
)
from trainers.schedule_rl import DpoStage, RlooStage

__all__ = [
    "POLICY_KINDS",
    "RL_KINDS",
    "AnyStage",
    "ContextDistillationStage",
    "Count",
    "DpoStage",
    "EvalPairs",
    "GhostAttentionStage",
    "InstructionRow",
    "Lora",
    "Name",
    "Optimizer",
    "Positive",
    "PpoStage",
    "RejectionSamplingStage",
    "RewardRule",
    "RewardStage",
    "RlooStage",
    "SampledStage",
    "Sampler",
    "SftStage",
    "Share",
    "Stage",
    "Strict",
]


def _several(given: Any) -> Any:
    """One value where a list may stand."""
    return tuple(given) if isinstance(given, list | tuple) else (given,)


def _as_data(given: Any) -> Any:
    """A source alone where it may have settings."""
    return {"data": given} if isinstance(given, str) else given


class SftStage(Stage):
    """Supervised fine-tuning: cross-entropy on the answers' tokens (Llama 2, section 3.1)."""

    kind: Literal["sft"] = "sft"
    data: str = Field(
        description="Demonstrations or raw text: a pocket/ or hub: name, a file, a folder."
    )
    data_format: str = Field("auto", description="How to read `data`; auto goes by its columns.")
    limit: Count | None = Field(None, description="Use only this many rows (drawn by the seed).")
    epochs: Count = Field(2, description="Passes over the data; one checkpoint each.")
    learning_rate: Positive = Field(2e-5, description="Peak learning rate.")
    lr_schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Decay.")
    min_lr_ratio: Share = Field(0.1, description="Where the cosine ends, as a share of the peak.")
    warmup_ratio: Share = Field(0.03, description="Share of the steps that warm up.")
    batch: Count = Field(64, description="Sequences an optimiser step.")
    micro_batch: Count | None = Field(None, description="Sequences a forward pass; divides batch.")
    max_length: Count = Field(2048, description="Tokens; longer rows are dropped and counted.")
    packing: bool = Field(True, description="Several rows in a sequence, boundaries respected.")
    loss_on: Literal["all_answers", "last_answer"] = Field(
        "all_answers", description="Which assistant turns carry loss."
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward: less memory, about 20 % slower."
    )
    lora: Lora = Field(Lora(), description="The policy adapter; later stages continue it.")


HELD_OUT = "held_out"  # the share of a reward stage's `data`, among the sets it is measured on


class EvalPairs(Strict):
    """Preference pairs that a reward model is measured on and never trained on."""

    data: str = Field(description="A pocket/ or hub: name, a file, a folder.")
    data_format: str = Field("auto", description="How to read `data`; auto goes by its columns.")
    limit: Count | None = Field(None, description="Use only this many pairs (drawn by the seed).")


class RewardStage(Stage):
    """A reward model: an ensemble of members on one base (Llama 2, section 3.2.2)."""

    kind: Literal["reward"] = "reward"
    data: str = Field(description="Preference pairs: a pocket/ or hub: name, a file, a folder.")
    data_format: str = Field("auto", description="How to read `data`; auto goes by its columns.")
    mix: dict[str, Share] = Field(
        {}, description="Other pairs to mix in: source -> share of the whole training set."
    )
    limit: Count | None = Field(None, description="Use only this many pairs (drawn by the seed).")
    held_out: Share = Field(0.1, description="Share of `data` kept for measuring accuracy.")
    eval_data: dict[Name, Annotated[EvalPairs, BeforeValidator(_as_data)]] = Field(
        {},
        description="More pairs to measure accuracy on: name (not `held_out`) -> source, or its "
        "`data` and more. Pairs with a prompt that is trained on are left out and counted.",
    )
    members: Count = Field(3, description="Members, differing in seed (and data if `bootstrap`).")
    bootstrap: bool = Field(False, description="Each member resamples the pairs with replacement.")
    margin: Literal["none", "small", "large"] = Field(
        "small", description="Margin by rating: Llama 2's Table 27 (small 1, 2/3, 1/3, 0)."
    )
    epochs: Count = Field(1, description="Passes; more than one over-fits (Llama 2).")
    learning_rate: Positive = Field(1e-5, description="Peak learning rate.")
    min_lr_ratio: Share = Field(0.1, description="Where the cosine ends, as a share of the peak.")
    warmup_ratio: Share = Field(0.03, description="Share of warm-up; at least 5 steps.")
    batch: Count = Field(512, description="Pairs an optimiser step.")
    micro_batch: Count | None = Field(None, description="Pairs a forward pass; divides batch.")
    max_length: Count = Field(2048, description="Tokens; longer pairs are dropped and counted.")
    center_coefficient: float = Field(
        0.0, ge=0.0, description="Weight of (r_c + r_r)², which keeps scores centred."
    )
    safety_weight: float = Field(
        0.0,
        ge=0.0,
        description="Weight of the cross-entropy between σ(score) and the replies' labels "
        "`chosen_safe`, `rejected_safe`; 0: off. For the safety model (Llama 2, Table 28).",
    )
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward: less memory, about 20 % slower."
    )
    lora: Lora | None = Field(
        None, description="Of the members' adapters; null: as the policy's, which they start from."
    )


class Sampler(EngineConfig):
    """Another model that replies in the policy's place: distillation (Llama 2: its 70B model)."""

    adapter: str | None = Field(
        None, description="On a local model: folder of a checkpoint, such as another run's."
    )

    @model_validator(mode="after")
    def _adapter_of_a_folder(self) -> Self:
        if self.adapter is not None and self.base_url is not None:
            raise ValueError("adapter is for a local model; a server has its own")
        return self


class SampledStage(Stage):
    """What stages have in common that fine-tune on sampled replies."""

    prompts: str = Field("pocket/prompts", description="Prompts, each with `safety` true|false.")
    prompts_per_epoch: Count = Field(256, description="Prompts sampled an epoch.")
    epochs: Count = Field(1, description="Rounds of sampling and training; a checkpoint each.")
    max_new_tokens: Count = Field(64, description="Longest reply.")
    sample_batch: Count = Field(256, description="Replies sampled, and scored, side by side.")
    learning_rate: Positive = Field(2e-5, description="Constant.")
    batch: Count = Field(64, description="Sequences an optimiser step.")
    micro_batch: Count | None = Field(None, description="Sequences a forward pass.")
    passes: Count = Field(1, description="Passes over the chosen replies.")
    lora: Lora = Field(Lora(), description="Of the policy, if no earlier stage made one.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward: less memory, about 20 % slower."
    )


class RejectionSamplingStage(SampledStage):
    """Best of K samples by reward become targets of SFT loss (Llama 2, section 3.2.3)."""

    kind: Literal["rejection_sampling"] = "rejection_sampling"
    samples: Count = Field(8, description="K, samples a prompt.")
    keep: Count = Field(1, description="Best samples of a prompt that are trained on.")
    temperature: Annotated[tuple[Positive, ...], BeforeValidator(_several)] = Field(
        (1.2,), description="Of the sampling (Llama 2: 1.2-1.3): a number, or a list, one an epoch."
    )
    tune_temperature: tuple[Positive, ...] = Field(
        (),
        description="Choose each epoch's temperature among these, by the mean over held-out "
        "prompts of the best reward of K; instead of `temperature`.",
    )
    held_out_prompts: Count | None = Field(
        None,
        description="Prompts for that choice, taken out of `prompts`; no stage that samples "
        "replies trains on them.",
    )
    keep_earlier: bool = Field(
        True,
        description="Train on the best of all earlier epochs and rejection-sampling stages too; "
        "false: of this epoch's samples alone (Llama 2 until V3).",
    )
    sampler: Sampler | None = Field(
        None, description="Another model that is sampled from; null: the policy itself."
    )
    samples_from: str | None = Field(
        None,
        description="Draw no samples and read `prompts` no more: take those that rejection "
        "sampling chose elsewhere. A samples.jsonl, a checkpoint's folder or a run's.",
    )
    reward: RewardRule | None = Field(
        RewardRule(),
        description="What ranks the samples; null, with `samples_from`: their own rewards.",
    )

    @model_validator(mode="after")
    def _fits(self) -> Self:
        for problem in self._problems():
            raise ValueError(problem)
        return self

    def _problems(self) -> Iterator[str]:
        if len(self.temperature) not in (1, self.epochs):
            count = len(self.temperature)
            yield f"temperature has {count} values for {self.epochs} epochs; give one, or one each"
        if len(self.tune_temperature) == 1 or len({*self.tune_temperature}) < len(
            self.tune_temperature
        ):
            yield "tune_temperature needs several temperatures, all different"
        if self.tune_temperature and self.held_out_prompts is None:
            yield "tune_temperature needs held_out_prompts: how many prompts to measure it on"
        if self.held_out_prompts is not None and not self.tune_temperature:
            yield "held_out_prompts are for tune_temperature, which is not given"
        if self.samples_from is not None:
            for name in ("sampler", "tune_temperature"):
                if getattr(self, name):
                    yield f"samples_from and {name} exclude each other: nothing is sampled"
        elif self.keep > self.samples:
            yield f"keep {self.keep} is more than samples {self.samples}"
        if self.reward is None and self.samples_from is None:
            yield "reward: null is for samples_from, whose samples have rewards already"
        if self.tune_temperature and self.sampler and "temperature" in self.sampler.omit:
            yield "tune_temperature does nothing with a sampler that is told no temperature"


class ContextDistillationStage(SampledStage):
    """Replies given under a safety pre-prompt become targets without it, where the safety reward
    model prefers them (Llama 2, section 4.2.4)."""

    kind: Literal["context_distillation"] = "context_distillation"
    only_safety: bool = Field(
        True,
        description="Only prompts with `safety: true`: on others, Llama 2 found, it teaches false "
        "refusals.",
    )
    preprompts: tuple[Annotated[str, Field(min_length=1)], ...] = Field(
        (
            "You are a safe and responsible assistant.",
            "You are a respectful assistant who does no harm.",
            "You are a wise and considerate assistant who thinks of those who may be hurt.",
        ),
        description="Safety pre-prompts; each prompt gets one of them by lot.",
    )
    preprompts_file: str | None = Field(
        None, description="A text file with one pre-prompt a line, instead of `preprompts`."
    )
    category_preprompts: dict[str, tuple[Annotated[str, Field(min_length=1)], ...]] = Field(
        {},
        description="Pre-prompts of a risk category (the prompts' `category`), such as how its "
        "answers should be built: category -> list, instead of the general ones.",
    )
    preprompt_as: Literal["system", "user"] = Field(
        "system", description="A system message, or before the first question."
    )
    temperature: Positive = Field(1.0, description="Sampling temperature of both replies.")
    safety: Name = Field("safety", description="Name of the safety reward stage, the judge.")
    members: Literal["mean", "worst_case", "uncertainty"] = Field(
        "mean", description="How the members of that reward model become one score."
    )
    uncertainty_weight: float = Field(0.5, ge=0.0, description="λ of `uncertainty`.")

    @model_validator(mode="after")
    def _some(self) -> Self:
        if not self.preprompts and self.preprompts_file is None:
            raise ValueError("there is no pre-prompt: give preprompts or preprompts_file")
        for category, texts in self.category_preprompts.items():
            if not texts:
                raise ValueError(f"category_preprompts has no pre-prompt for {category!r}")
        return self


class PpoStage(Stage):
    """Proximal policy optimisation (Schulman et al. 2017; Llama 2, section 3.2.3)."""

    kind: Literal["ppo"] = "ppo"
    prompts: str = Field("pocket/prompts", description="Prompts, each with `safety` true|false.")
    epochs: Count = Field(12, description="Checkpoints; each is evaluated and gated.")
    iterations: Count = Field(5, description="Rollout-and-update rounds an epoch.")
    batch: Count = Field(512, description="Prompts an iteration.")
    mini_batch: Count = Field(64, description="Prompts an optimiser step; divides batch.")
    micro_batch: Count | None = Field(
        None,
        description="Prompts a forward pass with gradients; divides mini. Other passes are cut by "
        "tokens.",
    )
    sample_batch: Count = Field(128, description="Replies sampled side by side.")
    gradient_checkpointing: bool = Field(
        False,
        description="Recompute activations in the backward: less memory, about 30 % slower.",
    )
    inner_epochs: Count = Field(1, description="Passes over each batch of rollouts.")
    learning_rate: Positive = Field(1e-6, description="Constant.")
    value_learning_rate: Positive | None = Field(None, description="Default: learning_rate.")
    value_adapter: bool = Field(
        True, description="The value function has an adapter of its own, not only a head."
    )
    value_warmup: int = Field(
        0, ge=0, description="Iterations at the start that only train the value function."
    )
    kl: float = Field(0.01, ge=0.0, description="β: weight of the per-token KL penalty.")
    kl_target: Positive | None = Field(
        None, description="Adapt β towards this KL a sequence (Ziegler et al. 2019); null: fixed."
    )
    kl_horizon: Positive = Field(10_000.0, description="Prompts over which β adapts.")
    clip: Positive = Field(0.2, description="ε of the clipped surrogate.")
    value_clip: Positive | None = Field(0.2, description="Clip of the value loss; null: none.")
    entropy_weight: float = Field(0.0, ge=0.0, description="Weight of the entropy bonus.")
    gamma: Share = Field(1.0, description="Discount.")
    lam: Share = Field(0.95, description="λ of generalised advantage estimation.")
    samples: Count = Field(1, description="Replies a prompt; divides batch, which counts replies.")
    whiten: Literal["per_reward_model", "joint", "per_prompt", "none"] = Field(
        "per_reward_model",
        description="Whitening of the rewards in a batch. Llama 2 whitens the combined score "
        "(joint); per_reward_model whitens the prompts scored by each model on their own; "
        "per_prompt each prompt's `samples` replies among themselves.",
    )
    whiten_advantages: bool = Field(True, description="Over the batch's valid tokens.")
    no_eos_penalty: float | None = Field(
        1.0, description="Subtracted from the whitened reward of a reply without eos; null: none."
    )
    mask_no_eos: bool = Field(
        False, description="Replies without eos carry no loss, instead of or beside the penalty."
    )
    target_kl: Positive | None = Field(
        None, description="Stop an iteration's updates when k3 a token exceeds this."
    )
    sft_data: str | None = Field(
        None,
        description="Demonstrations whose loss joins every step of the policy (InstructGPT's "
        "PPO-ptx): a pocket/ or hub: name, a file, a folder; null: none.",
    )
    sft_format: str = Field("auto", description="How to read `sft_data`.")
    sft_weight: Positive = Field(1.0, description="γ of that loss; InstructGPT: 27.8.")
    sft_batch: Count | None = Field(
        None, description="Demonstrations an optimiser step; default: mini_batch."
    )
    sft_max_length: Count = Field(2048, description="Tokens; longer demonstrations are left out.")
    temperature: Positive = Field(1.0, description="Sampling temperature of the rollouts.")
    max_new_tokens: Count = Field(256, description="Longest reply.")
    reward: RewardRule = Field(RewardRule(), description="What is maximised.")
    lora: Lora = Field(Lora(), description="Of the policy, if no earlier stage made one.")

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.batch % self.mini_batch:
            raise ValueError(f"mini_batch {self.mini_batch} does not divide batch {self.batch}")
        if self.micro_batch and self.mini_batch % self.micro_batch:
            raise ValueError(
                f"micro_batch {self.micro_batch} does not divide mini_batch {self.mini_batch}"
            )
        if self.batch % self.samples:
            raise ValueError(f"samples {self.samples} does not divide batch {self.batch}")
        if self.whiten == "per_prompt" and self.samples < 2:
            raise ValueError("whiten: per_prompt needs samples of at least 2")
        check_adaptive(self.kl, self.kl_target, self.kl_horizon, self.batch)
        if self.value_warmup >= self.epochs * self.iterations:
            raise ValueError(
                f"value_warmup {self.value_warmup} leaves the policy none of the "
                f"{self.epochs * self.iterations} iterations"
            )
        return self


AnyStage = Annotated[
    SftStage
    | RewardStage
    | RejectionSamplingStage
    | ContextDistillationStage
    | GhostAttentionStage
    | PpoStage
    | RlooStage
    | DpoStage,
    Field(discriminator="kind"),
]
