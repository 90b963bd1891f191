"""Direct preference optimisation by trl's ``DPOTrainer`` (Rafailov et al. 2023, arXiv 2305.18290):
the policy itself is the reward model, so there is none, nor are replies sampled.

With r(x, y) = β·(log π(y|x) − log π_ref(y|x)), the implicit reward, a pair's loss is
−log σ(r(chosen) − r(rejected)); others by ``loss``. π_ref is the policy that the stage started
from, at every epoch. It never changes, so its log-probabilities are computed before training, and
only then is it on the base beside the policy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from datasets import Dataset
from torch import Tensor
from trl import DPOConfig, DPOTrainer

from harness.adapters import activate, using
from harness.engines.merged import merged_linears
from trainers.dpo_data import DpoData, Preference, load
from trainers.lora import save_policy
from trainers.packing import IGNORED
from trainers.policy_epochs import Epoch, Train, policy_epochs
from trainers.policy_net import PolicyNet, reference_adapter
from trainers.rollouts import Replies, measured_log_probs
from trainers.schedule_stages import DpoStage
from trainers.shared_pairs import SharedPairs
from trainers.stage import POLICY, Checkpoint, StageContext
from trainers.trl_epoch import (
    Plan,
    RowsWeighed,
    WeightsInPlace,
    borrowed,
    micro_batch,
    run_epoch,
    save_state,
)
from trainers.trunk_forward import through_trunk

if TYPE_CHECKING:
    from peft import PeftModel

_AT_ONCE = 1024  # pairs whose log-probabilities are held token by token
# What trl logs, under names that say whose rewards they are.
_NAMES = {
    "loss": "loss",
    "rewards/chosen": "implicit_reward_chosen",
    "rewards/rejected": "implicit_reward_rejected",
    "rewards/margins": "implicit_margin",
    "rewards/accuracies": "implicit_accuracy",
    "logps/chosen": "log_prob_chosen",
    "logps/rejected": "log_prob_rejected",
    "entropy": "entropy",
    "mean_token_accuracy": "token_accuracy",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "epoch": "epoch",
    "step": "step",
}


# --------------------------------------------------------------------------- log-probabilities


@dataclass(frozen=True)
class LogProbs:
    """Log-probabilities (n,) of whole replies, float32."""

    chosen: Tensor
    rejected: Tensor


def measure(
    model: PeftModel, adapter: str | None, rows: Sequence[Preference], *, pad: int
) -> LogProbs:
    """Of the pairs under an adapter (None: the base)."""
    sums: list[Tensor] = []
    with using(model, adapter):
        for start in range(0, len(rows), _AT_ONCE):
            part = rows[start : start + _AT_ONCE]
            prompts = tuple(row.prompt for row in part) * 2
            replies = tuple([row.chosen for row in part] + [row.rejected for row in part])
            batch = Replies(prompts, replies, (True,) * len(replies))
            found = measured_log_probs(model, batch, pad=pad, temperature=1.0)
            sums.append(found.sum(1).view(2, len(part)))
    both = torch.cat(sums, dim=1) if sums else torch.empty(2, 0)
    return LogProbs(both[0], both[1])


def held_out_scalars(policy: LogProbs, reference: LogProbs, beta: float) -> dict[str, float]:
    """Implicit rewards of pairs that are not trained on; nothing where there are none."""
    if not len(policy.chosen):
        return {}
    chosen = beta * (policy.chosen - reference.chosen)
    rejected = beta * (policy.rejected - reference.rejected)
    return {
        "held_out_accuracy": float((chosen > rejected).float().mean()),
        "held_out_margin": float((chosen - rejected).mean()),
        "held_out_reward_chosen": float(chosen.mean()),
        "held_out_reward_rejected": float(rejected.mean()),
    }


# --------------------------------------------------------------------------- the trainer


def loss_settings(stage: DpoStage) -> dict[str, Any]:
    """trl's settings for a stage's loss.

    trl's sigmoid loss takes no notice of label smoothing. The conservative loss is
    (1 − ε)·ℓ(Δ) + ε·ℓ(−Δ), with ℓ the sigmoid's; trl's robust loss is
    ((1 − ε)·ℓ(Δ) − ε·ℓ(−Δ)) / (1 − 2ε). So it is 2(1 − ε) times the one less (1 − 2ε) times the
    other.
    """
    settings: dict[str, Any] = {"loss_type": [stage.loss], "beta": stage.beta}
    epsilon = stage.label_smoothing
    if epsilon:
        settings["label_smoothing"] = epsilon
        if stage.loss == "sigmoid":
            settings["loss_type"] = ["sigmoid", "robust"]
            settings["loss_weights"] = [2 * (1 - epsilon), -(1 - 2 * epsilon)]
    return settings


def dataset(rows: Sequence[Preference], reference: LogProbs) -> Dataset:
    """The pairs as trl's collator takes them."""
    return Dataset.from_dict(
        {
            "prompt_ids": [list(row.prompt) for row in rows],
            "chosen_ids": [list(row.chosen) for row in rows],
            "rejected_ids": [list(row.rejected) for row in rows],
            "ref_chosen_logps": reference.chosen.tolist(),
            "ref_rejected_logps": reference.rejected.tolist(),
        }
    )


class PreferenceTrainer(SharedPairs, RowsWeighed, WeightsInPlace, DPOTrainer):
    """trl's trainer of pairs that are token ids already, with the reference's log-probabilities."""

    blank: ClassVar = {
        **{name: [0] for name in ("prompt_ids", "chosen_ids", "rejected_ids")},
        **dict.fromkeys(("ref_chosen_logps", "ref_rejected_logps"), 0.0),
    }

    def __init__(self, net: PolicyNet, **settings: Any) -> None:
        # Without a reference trl would load another base. It is given one that it never asks.
        views: list[Any] = [net, PolicyNet(net.adapters[0])]
        super().__init__(views[0], ref_model=views[1], **settings)
        self.ref_model = None
        self.precompute_ref_logps = True

    def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
        return dataset

    def outputs(
        self, model: Any, inputs: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Log-probabilities and what is logged of tokens; and the batch as it is."""
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        settings: dict[str, Any] = {"attention_mask": mask, "fused_lm_head": True}
        if self.aux_loss_enabled:
            settings["output_router_logits"] = True
        labels = ids.masked_fill(inputs["completion_mask"] == 0, IGNORED)
        found = model(input_ids=ids, labels=labels, **settings)
        names = ("log_probs", "entropy", "mean_logits", "is_top1")
        output = {name: getattr(found, name) for name in names}
        if self.aux_loss_enabled:  # of a mixture of experts: one a forward, so each pair's
            output["aux_loss"] = found.aux_loss.expand(len(inputs["ref_chosen_logps"]))
        return output, inputs


# --------------------------------------------------------------------------- the stage


def checkpoints(ctx: StageContext) -> Iterator[Checkpoint]:
    """The policy after each epoch, the committed ones first; epoch 0 is the stage's start."""
    stage = ctx.stage
    assert isinstance(stage, DpoStage)

    def prepare() -> Train:
        data = load(ctx, stage)
        plan = _plan(ctx, stage, data.train)
        known: list[LogProbs] = []  # the reference's: of the training pairs, of those held out

        def train(model: PeftModel, epoch: Epoch) -> dict[str, Any]:
            if not known:
                known.extend(_reference(ctx, model, data))
            rows = dataset(data.train, known[0])
            scalars = _train_epoch(ctx, stage, model, rows, plan, epoch)
            save_policy(ctx, model, epoch.folder)
            pad = int(ctx.base().tokenizer.pad_token_id)
            policy = measure(model, POLICY, data.held_out, pad=pad)
            return {**scalars, **held_out_scalars(policy, known[1], stage.beta), **data.counts}

        return train

    return policy_epochs(ctx, stage, prepare)


def _reference(ctx: StageContext, model: PeftModel, data: DpoData) -> list[LogProbs]:
    pad = int(ctx.base().tokenizer.pad_token_id)
    with reference_adapter(ctx, model) as name:
        return [measure(model, name, rows, pad=pad) for rows in (data.train, data.held_out)]


def _train_epoch(
    ctx: StageContext,
    stage: DpoStage,
    model: PeftModel,
    rows: Dataset,
    plan: Plan,
    epoch: Epoch,
) -> dict[str, float]:
    """One epoch on the policy, in place; its scalars."""
    activate(model, POLICY)
    model.eval()  # DPO drops nothing out, so that its layers can be merged
    with (
        borrowed(model, gradient_checkpointing=stage.gradient_checkpointing),
        merged_linears(model),  # of the policy: nothing else is asked meanwhile
    ):
        net = PolicyNet(model)
        trainer = PreferenceTrainer(
            net,
            args=DPOConfig(
                **plan.among(ctx.team.size).arguments(
                    epoch.folder, on_cpu=model.device.type == "cpu"
                ),
                **loss_settings(stage),
                disable_dropout=False,
                pad_to_multiple_of=None,
            ),
            train_dataset=rows,
            processing_class=ctx.base().tokenizer,
        )
        trainer.share(plan.micro_batch)
        with through_trunk(net, model, recompute=stage.gradient_checkpointing, sides=2):
            scalars = run_epoch(
                trainer,
                passes=plan.passes,
                start_training=lambda: activate(model, POLICY, train=True),
                resume=epoch.resume,
                log=lambda values: ctx.log(_named(values)),
            )
        if epoch.keep_state:
            save_state(trainer, epoch.state)
    activate(model, POLICY)
    return _named(scalars)


def _named(values: dict[str, float]) -> dict[str, float]:
    return {ours: values[theirs] for theirs, ours in _NAMES.items() if theirs in values}


def _plan(ctx: StageContext, stage: DpoStage, rows: Sequence[Preference]) -> Plan:
    longest = max(row.longest for row in rows)
    return Plan(
        seed=ctx.seed("training"),
        epochs=stage.epochs,
        sequences=len(rows),
        batch=stage.batch,
        micro_batch=micro_batch(stage.batch, stage.micro_batch, longest, rows_a_sequence=2),
        learning_rate=stage.learning_rate,
        lr_schedule=stage.lr_schedule,
        min_lr_ratio=stage.min_lr_ratio,
        warmup_ratio=stage.warmup_ratio,
        min_warmup_steps=0,
        optimizer=stage.optimizer,
    )
