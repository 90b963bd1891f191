"""REINFORCE with a leave-one-out baseline, by trl's ``RLOOTrainer`` (Ahmadian et al. 2024, arXiv
2402.14740, "Back to Basics"): PPO's reward and KL penalty without a value function.

A prompt's K replies are each other's baseline, and a whole reply is one action: with R = reward −
β·(log π(y|x) − log π_ref(y|x)), the advantage of a reply is its R less the mean R of the other
K − 1, and its ratio π/π_old is clipped once, not at every token.

The algorithm is trl's. Ours are the ends of it, so that both trainers see the same:

- Replies come from the harness's engine: a function of (seed, iteration, place, prompt), whatever
  the batch.
- Rewards come from the run's reward models under the schedule's rule, whitened as in PPO.
- The reference is the policy that the stage started from, at every epoch, beside the policy on the
  one base (see ``policy_net.py``).
- Which prompts an iteration asks is a function of (seed, iteration): trl's own sampler knows no
  epoch, and gives the first one's order again after a resume.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trl import RLOOConfig

from harness.adapters import activate, using
from harness.engines.local import LocalEngine
from harness.models import context_length
from harness.reward_models import RewardScorer, Rule
from trainers.data import load_prompts
from trainers.lora import save_policy
from trainers.policy_epochs import Epoch, Train, policy_epochs
from trainers.policy_net import PolicyNet, ReferenceNet, reference_adapter
from trainers.ppo_losses import KlController
from trainers.rloo_trainer import LeaveOneOutTrainer, Rollouts
from trainers.rollouts import Question, with_room
from trainers.schedule_stages import RlooStage
from trainers.sft_rows import encode
from trainers.sft_term import SftTerm, sft_term
from trainers.stage import POLICY, Checkpoint, StageContext
from trainers.trl_epoch import Plan, borrowed, micro_batch, run_epoch, save_state
from trainers.trunk_forward import through_trunk

if TYPE_CHECKING:
    from peft import PeftModel

_ROLLOUTS = "rollouts.jsonl"
_CONTROLLER = "controller.json"  # beside trl's state
# What trl logs of the update, under the names that PPO has for it.
_UPDATE = {
    "loss": "policy_loss",
    "clip_ratio/region_mean": "clip_share",
    "entropy": "entropy",
    "grad_norm": "policy_grad_norm",
    "frac_reward_zero_std": "alike",  # share of prompts whose replies all have the same reward
    "sft_loss": "sft_loss",
}


# --------------------------------------------------------------------------- the stage


def checkpoints(ctx: StageContext) -> Iterator[Checkpoint]:
    """The policy after each epoch, the committed ones first; epoch 0 is the stage's start."""
    stage = ctx.stage
    assert isinstance(stage, RlooStage)

    def prepare() -> Train:
        prompts = load_prompts(
            stage.prompts, base_folder=Path(ctx.base_folder), seed=ctx.seed("prompts")
        )
        asked = encode(ctx.base().tokenizer, [p.messages for p in prompts.rows], reply_next=True)
        questions = [
            Question(prompt.id, tuple(ids), prompt.safety)
            for prompt, ids in zip(prompts.rows, asked, strict=True)
        ]
        fit = with_room(questions, context_length(ctx.base().model), stage.prompts)
        skipped = len(questions) - len(fit)
        demonstrations = _demonstrations(ctx, stage)

        def train(model: PeftModel, epoch: Epoch) -> dict[str, float]:
            scalars = _train_epoch(ctx, stage, model, fit, epoch, demonstrations)
            return {**scalars, "skipped_prompts": skipped} if skipped else scalars

        return train

    return policy_epochs(ctx, stage, prepare)


def _train_epoch(
    ctx: StageContext,
    stage: RlooStage,
    model: PeftModel,
    questions: Sequence[Question],
    epoch: Epoch,
    demonstrations: SftTerm | None = None,
) -> dict[str, float]:
    """An epoch on the policy, written into its folder; its scalars."""
    tokenizer = ctx.base().tokenizer
    controller = _controller(stage, epoch.resume)
    plan = _plan(ctx, stage, questions).among(ctx.team.size)
    arguments = plan.arguments(epoch.folder, on_cpu=model.device.type == "cpu")
    del arguments["max_length"]  # of data, which these are not
    with (
        borrowed(model, gradient_checkpointing=stage.gradient_checkpointing),
        reference_adapter(ctx, model) as reference,
        RewardScorer(
            model,
            tokenizer,
            ctx.reward_models,
            Rule(**stage.reward.model_dump()),
        ) as scorer,
    ):
        activate(model, POLICY)
        engine = LocalEngine(
            model, tokenizer, batch_size=stage.sample_batch, max_new_tokens=stage.max_new_tokens
        )
        policy, start = PolicyNet(model), ReferenceNet(model, reference)
        trainer = LeaveOneOutTrainer(
            policy,
            start,
            Rollouts(stage, questions, engine, scorer, ctx.seed("rloo"), demonstrations),
            controller,
            RLOOConfig(
                **{**arguments, "logging_steps": 1},
                num_generations=stage.samples,
                generation_batch_size=stage.batch,
                num_iterations=stage.inner_epochs,
                epsilon=stage.clip,
                beta=0.0,
                temperature=stage.temperature,
                max_completion_length=stage.max_new_tokens,
                normalize_advantages=stage.whiten_advantages,
                mask_truncated_completions=stage.mask_no_eos,
                disable_dropout=False,
                pad_to_multiple_of=None,
            ),
            processing_class=tokenizer,
        )
        steps = stage.inner_epochs * (stage.batch // stage.mini_batch)
        through = partial(
            through_trunk,
            model=model,
            temperature=stage.temperature,
            recompute=stage.gradient_checkpointing,
        )
        with through(policy), through(start, within=lambda: using(model, reference)):
            scalars = run_epoch(
                trainer,
                passes=1,
                start_training=lambda: activate(model, POLICY, train=True),
                resume=epoch.resume,
                log=_Log(ctx.log, trainer, epoch.number, steps),
            )
        if epoch.keep_state:
            save_state(trainer, epoch.state)
            state = json.dumps({"beta": controller.beta}) + "\n"
            (epoch.state / _CONTROLLER).write_text(state, encoding="utf-8")
    activate(model, POLICY)
    save_policy(ctx, model, epoch.folder)
    lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in trainer.rollouts]
    (epoch.folder / _ROLLOUTS).write_text("".join(lines), encoding="utf-8")
    return {**_means(trainer.history), **_of_update(scalars), "step": scalars["step"]}


def _controller(stage: RlooStage, resume: Path | None) -> KlController:
    """β as the epoch before left it. A state without one is an earlier version's, where it was
    fixed."""
    controller = KlController(stage.kl, stage.kl_target, stage.kl_horizon)
    if resume is not None and (resume / _CONTROLLER).is_file():
        state = json.loads((resume / _CONTROLLER).read_text(encoding="utf-8"))
        controller.beta = float(state["beta"])
    return controller


def _demonstrations(ctx: StageContext, stage: RlooStage) -> SftTerm | None:
    term = sft_term(ctx, stage)
    if term is None or stage.micro_batch is not None:
        return term
    longest = max(len(row.input_ids) for row in term.rows)
    return replace(term, micro=micro_batch(term.batch, None, longest))


class _Log:
    """An entry an iteration out of trl's entries a step."""

    def __init__(
        self,
        log: Callable[[dict[str, Any]], None],
        trainer: LeaveOneOutTrainer,
        epoch: int,
        steps: int,
    ) -> None:
        self._log = log
        self._trainer = trainer
        self._epoch = epoch
        self._steps = steps
        self._seen: list[dict[str, float]] = []

    def __call__(self, values: dict[str, Any]) -> None:
        self._seen.append(_of_update(values))
        if values["step"] % self._steps == 0:
            iteration = values["step"] // self._steps - 1
            where = {"epoch": self._epoch, "iteration": iteration}
            self._log({**where, **self._trainer.history[-1], **_means(self._seen)})
            self._seen = []


def _of_update(values: dict[str, Any]) -> dict[str, float]:
    return {ours: values[theirs] for theirs, ours in _UPDATE.items() if theirs in values}


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each name over the rows that have it."""
    found = {name: [row[name] for row in rows if name in row] for row in rows for name in row}
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


def _plan(ctx: StageContext, stage: RlooStage, questions: Sequence[Question]) -> Plan:
    longest = max(len(question.tokens) for question in questions) + stage.max_new_tokens
    return Plan(
        seed=ctx.seed("training"),
        epochs=stage.epochs,
        sequences=stage.iterations * stage.batch * stage.inner_epochs,
        batch=stage.mini_batch,
        micro_batch=micro_batch(stage.mini_batch, stage.micro_batch, longest),
        learning_rate=stage.learning_rate,
        lr_schedule="constant",
        min_lr_ratio=1.0,
        warmup_ratio=0.0,
        min_warmup_steps=0,
        optimizer=stage.optimizer,
    )
