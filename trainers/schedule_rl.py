"""The stages that train the policy on rewards or preferences by trl's trainers."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from trainers.schedule_parts import Count, Lora, Positive, RewardRule, Share, Stage, check_adaptive


class RlooStage(Stage):
    """REINFORCE with a leave-one-out baseline (Ahmadian et al. 2024, arXiv 2402.14740), by trl's
    trainer: as PPO, on the same reward, without a value function."""

    kind: Literal["rloo"] = "rloo"
    prompts: str = Field("pocket/prompts", description="Prompts, each with `safety` true|false.")
    epochs: Count = Field(12, description="Checkpoints; each is evaluated and gated.")
    iterations: Count = Field(5, description="Rollout-and-update rounds an epoch.")
    batch: Count = Field(512, description="Replies an iteration.")
    samples: Annotated[int, Field(ge=2)] = Field(
        4, description="Replies a prompt, each other's baseline; divides batch."
    )
    mini_batch: Count = Field(64, description="Replies an optimiser step; divides batch.")
    micro_batch: Count | None = Field(None, description="Replies a forward pass; divides mini.")
    sample_batch: Count = Field(128, description="Replies sampled side by side.")
    inner_epochs: Count = Field(1, description="Passes over each batch of rollouts.")
    learning_rate: Positive = Field(1e-6, description="Constant.")
    kl: float = Field(
        0.03,
        ge=0.0,
        description="β: weight of a reply's KL to the stage's start (the paper: 0.03, 0.1).",
    )
    kl_target: Positive | None = Field(
        None, description="Adapt β towards this KL a reply (Ziegler et al. 2019); null: fixed."
    )
    kl_horizon: Positive = Field(10_000.0, description="Replies over which β adapts.")
    clip: Positive = Field(0.2, description="ε of the clipped ratio, which is a reply's.")
    whiten: Literal["per_reward_model", "joint", "per_prompt", "none"] = Field(
        "per_reward_model",
        description="Whitening of the rewards in a batch, as in PPO. The baseline takes out what a "
        "prompt's replies share, so only the scale matters where one model speaks on all of them; "
        "none: the rewards are logits, as in the paper.",
    )
    whiten_advantages: bool = Field(
        False, description="Zero mean and unit spread over the batch; not in the paper."
    )
    no_eos_penalty: float | None = Field(
        1.0, description="Subtracted from the whitened reward of a reply without eos; null: none."
    )
    mask_no_eos: bool = Field(
        False, description="Replies without eos carry no loss; their rewards stay in the baseline."
    )
    sft_data: str | None = Field(
        None,
        description="Demonstrations whose loss joins every step, as PPO's: a pocket/ or hub: name, "
        "a file, a folder; null: none.",
    )
    sft_format: str = Field("auto", description="How to read `sft_data`.")
    sft_weight: Positive = Field(1.0, description="γ of that loss.")
    sft_batch: Count | None = Field(
        None, description="Demonstrations an optimiser step; default: mini_batch."
    )
    sft_max_length: Count = Field(2048, description="Tokens; longer demonstrations are left out.")
    temperature: Positive = Field(1.0, description="Sampling temperature of the rollouts.")
    max_new_tokens: Count = Field(256, description="Longest reply.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward: less memory, about 20 % slower."
    )
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
        check_adaptive(self.kl, self.kl_target, self.kl_horizon, self.batch)
        return self


class DpoStage(Stage):
    """Direct preference optimisation on pairs, without a reward model or samples (Rafailov et al.
    2023, arXiv 2305.18290), by trl's trainer."""

    kind: Literal["dpo"] = "dpo"
    data: str = Field(description="Preference pairs: a pocket/ or hub: name, a file, a folder.")
    data_format: str = Field("auto", description="How to read `data`; auto goes by its columns.")
    mix: dict[str, Share] = Field(
        {}, description="Other pairs to mix in: source -> share of the whole training set."
    )
    limit: Count | None = Field(None, description="Use only this many pairs (drawn by the seed).")
    held_out: Share = Field(
        0.1, description="Share of `data` on which the implicit rewards are measured."
    )
    loss: Literal["sigmoid", "robust", "ipo", "hinge"] = Field(
        "sigmoid",
        description="sigmoid: DPO's. robust: unbiased where a share `label_smoothing` of the pairs "
        "is the wrong way round (Chowdhury et al. 2024). ipo: Azar et al. 2023, on log-ratios a "
        "token. hinge: SLiC's (Zhao et al. 2023).",
    )
    beta: Positive = Field(
        0.1, description="β: how much staying near the stage's start weighs; IPO's τ."
    )
    label_smoothing: float = Field(
        0.0,
        ge=0.0,
        lt=0.5,
        description="Share of pairs taken to be the wrong way round: with sigmoid the conservative "
        "DPO loss (Mitchell 2023).",
    )
    epochs: Count = Field(2, description="Passes over the pairs; one checkpoint each.")
    learning_rate: Positive = Field(
        1e-5, description="Peak learning rate; the paper's 1e-6 is for full fine-tuning."
    )
    lr_schedule: Literal["cosine", "linear", "constant"] = Field("cosine", description="Decay.")
    min_lr_ratio: Share = Field(0.1, description="Where the cosine ends, as a share of the peak.")
    warmup_ratio: Share = Field(0.1, description="Share of the steps that warm up.")
    batch: Count = Field(64, description="Pairs an optimiser step.")
    micro_batch: Count | None = Field(None, description="Pairs a forward pass; divides batch.")
    max_length: Count = Field(2048, description="Tokens; longer pairs are dropped and counted.")
    gradient_checkpointing: bool = Field(
        False, description="Recompute activations in the backward: less memory, about 20 % slower."
    )
    lora: Lora = Field(Lora(), description="Of the policy, if no earlier stage made one.")

    @model_validator(mode="after")
    def _smoothed(self) -> Self:
        if self.label_smoothing and self.loss not in ("sigmoid", "robust"):
            raise ValueError(f"label_smoothing is for loss sigmoid or robust, not {self.loss}")
        if self.loss == "robust" and not self.label_smoothing:
            raise ValueError("loss robust needs label_smoothing: the share of wrong labels")
        return self
