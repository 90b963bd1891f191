"""What the stages of a schedule are made of: field types, adapters, optimisers, the reward rule."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticKnownError

Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$", max_length=40)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]

FULL = 1.0 - 1e-9  # shares that add up to this are all: 0.7 + 0.2 + 0.1 is less than 1


class Strict(BaseModel):
    """Unknown keys and wrong types are errors; nothing can be changed afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _word_or_names(given: Any) -> Any:
    """One error where the union's members would have one each."""
    if isinstance(given, list | tuple) and all(isinstance(name, str) for name in given):
        return tuple(given)
    if given == "all-linear":
        return given
    raise PydanticKnownError(
        "literal_error", {"expected": "'all-linear' or a list of module names"}
    )


def _some(targets: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not targets:
        raise ValueError("is empty: name at least one module, or all-linear")
    return targets


class Lora(Strict):
    """Low-rank adapters on the frozen base (Hu et al. 2021; on all linear layers as in QLoRA)."""

    r: Count = Field(16, description="Rank.")
    alpha: Positive = Field(32.0, description="Scale: the update is alpha / r · B·A.")
    dropout: Share = Field(
        0.0, description="Dropout on the adapter's input; off in PPO, RLOO, DPO."
    )
    targets: Annotated[
        Literal["all-linear"] | tuple[str, ...],
        BeforeValidator(_word_or_names),
        AfterValidator(_some),
    ] = Field("all-linear", description="Module names, or all linear layers but the output head.")


class Optimizer(Strict):
    """AdamW; Llama 2's values (arXiv 2307.09288, section 2.2)."""

    betas: tuple[Decay, Decay] = Field((0.9, 0.95), description="AdamW's β; below 1.")
    eps: Positive = Field(1e-5, description="AdamW's ε.")
    weight_decay: float = Field(0.1, ge=0.0, description="Decoupled weight decay.")
    max_grad_norm: Positive = Field(1.0, description="Gradients are clipped to this global norm.")


class Stage(Strict):
    """What every stage has."""

    kind: str
    name: Name = Field(description="Used in paths and in --set; default: the stage's kind.")
    optimizer: Optimizer = Field(Optimizer(), description="AdamW's settings.")
    seed_offset: int = Field(0, description="Added to the schedule's seed for this stage.")
    allow_leaks: bool = Field(
        False, description="Train on rows that the eval sets have too; else they are an error."
    )


class RewardRule(Strict):
    """How several reward models become the one number that the policy is trained on."""

    kind: Literal["llama2", "mean", "worst_case", "uncertainty", "weighted"] = Field(
        "llama2",
        description="llama2: the safety score on safety prompts or where it is below "
        "`safety_threshold`, else helpfulness. mean, worst_case, uncertainty (mean − λ·variance): "
        "over all members of all reward models (Coste et al. 2023). weighted: by `weights`.",
    )
    helpfulness: Name = Field("helpfulness", description="Name of the helpfulness stage.")
    safety: Name = Field("safety", description="Name of the safety stage.")
    safety_threshold: Share = Field(0.15, description="On the sigmoid of the safety score.")
    members: Literal["mean", "worst_case", "uncertainty"] = Field(
        "mean", description="How the members of one reward model become one score."
    )
    uncertainty_weight: float = Field(0.5, ge=0.0, description="λ of `uncertainty`.")
    weights: dict[str, float] = Field({}, description="Reward model -> weight, for `weighted`.")
    normalise: Literal["none", "member"] = Field(
        "none",
        description="member: each member's scores by its own mean and spread on its stage's pairs; "
        "`safety_threshold` is held against the scores as they are all the same.",
    )

    def reward_models(self) -> set[str]:
        """The reward stages that this rule names; empty for kinds that take whatever is there."""
        if self.kind == "llama2":
            return {self.helpfulness, self.safety}
        return set(self.weights) if self.kind == "weighted" else set()


def check_adaptive(kl: float, target: float | None, horizon: float, batch: int) -> None:
    """ValueError where an adaptive β could not adapt, or could become negative.

    An update multiplies it by 1 + e·batch/horizon with e between −0.2 and 0.2 (Ziegler et al. 2019,
    section 2.2).
    """
    if target is None:
        return
    if kl == 0.0:
        raise ValueError("kl_target needs kl above 0: adapting multiplies it")
    if horizon <= 0.2 * batch:
        raise ValueError(
            f"kl_horizon {horizon:g} is too short for batch {batch}: one update could make the "
            f"KL's weight negative; it must be above {0.2 * batch:g}"
        )
