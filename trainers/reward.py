"""Reward models: ensembles of LoRA members on one base (Llama 2, section 3.2.2).

The loss is trl's ``RewardTrainer``'s, −log σ(r_chosen − r_rejected − m), with Llama 2's margin m
by rating, and for safety models an auxiliary one (``reward_net.safety_loss``). A member starts from
a copy of the policy's adapter and a random score head, reads the score at the last real token, and
is stored as the adapter (plain peft), the head apart.

Members share the base: they are trained one after another, each taking the adapter ``member``.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from datasets import Dataset
from torch import Tensor
from trl import RewardConfig
from trl.trainer.reward_trainer import DataCollatorForPreference

from harness.adapters import activate, add_adapter, load_adapter, read_config, remove_adapter
from harness.errors import InputError
from harness.models import causal_model
from harness.normalisation import Normalisation, measure, write_normalisation
from harness.reward_models import read_head, save_member
from trainers.lora import lora_config
from trainers.pair_batches import PairCollator, WithLabels, suits
from trainers.reward_accuracy import Scored, accuracy, report
from trainers.reward_data import HELD_OUT, Example, RewardData, load
from trainers.reward_net import PairTrainer, RewardNet, new_head
from trainers.schedule_stages import Lora, RewardStage
from trainers.stage import Checkpoint, StageContext, intact
from trainers.trl_epoch import Plan, borrowed, micro_batch, run_epoch, save_state

if TYPE_CHECKING:
    from peft import PeftModel

MEMBER = "member"  # the adapter in training
_WARMUP_STEPS = 5  # at least (Llama 2)
_NORMALISED_ON = 32  # held-out pairs at least; with fewer, training pairs instead, at most so many:
_TRAINING_PAIRS = 256

_Scores = dict[str, Scored]  # by set, of one member


# --------------------------------------------------------------------------- the stage


def checkpoints(ctx: StageContext) -> Iterator[Checkpoint]:
    """The reward model after each epoch, the committed ones first."""
    stage = ctx.stage
    assert isinstance(stage, RewardStage)
    previous: Checkpoint | None = None
    for previous in ctx.committed():
        yield previous
    if previous is not None and previous.epoch >= stage.epochs:
        return
    _check_lora(ctx, stage)
    data = load(ctx, stage)
    for epoch in range(previous.epoch + 1 if previous else 1, stage.epochs + 1):

        def train(folder: Path, before: Checkpoint | None = previous, epoch: int = epoch) -> Any:
            if before:
                intact(before.folder)
            results = []
            for number in range(stage.members):
                target = folder / "members" / str(number)
                target.mkdir(parents=True)
                start = before.folder / "members" / str(number) if before else None
                results.append(_train_member(ctx, stage, data, number, target, start, epoch))
            ensemble = {
                name: report(Scored.stacked([scores[name] for _, scores in results]))
                for name in data.measured
            }
            return {
                **ensemble.pop(HELD_OUT),
                "eval_data": {
                    name: {
                        **found,
                        "dropped": data.measured[name].dropped,
                        "seen": data.measured[name].seen,
                    }
                    for name, found in ensemble.items()
                },
                **data.counts,
                "members": [scalars for scalars, _ in results],
            }

        previous = ctx.commit(epoch, train)
        yield previous


def member_folders(checkpoint: Path) -> tuple[Path, ...]:
    """The members' folders of a reward checkpoint, by number."""
    return tuple(sorted((checkpoint / "members").iterdir(), key=lambda path: int(path.name)))


def _train_member(
    ctx: StageContext,
    stage: RewardStage,
    data: RewardData,
    number: int,
    target: Path,
    start: Path | None,
    epoch: int,
) -> tuple[dict[str, Any], _Scores]:
    """Train a member for one epoch and write it; its scalars and its scores of each set."""
    tokenizer = ctx.base().tokenizer
    model, head = _place_member(ctx, stage, number, start)
    net = RewardNet(model, head, recompute=stage.gradient_checkpointing)
    pad = int(tokenizer.pad_token_id)
    net.score.requires_grad_(False)
    rows = data.train
    if stage.bootstrap:
        rows = random.Random(ctx.seed("bootstrap", number)).choices(rows, k=len(rows))
    plan = _plan(ctx, stage, rows, number)
    # trl's own makes two right-padded sequences a pair. Layers that are written out read them
    # without the padding, and what both begin with once; others are given pairs as blocks.
    shares = suits(causal_model(model)) and not net.learners.suit()
    collator: Any = (PairCollator if shares else DataCollatorForPreference)(pad)

    def start_training() -> None:
        activate(model, MEMBER, train=True)
        net.score.requires_grad_(True)

    with borrowed(model, gradient_checkpointing=stage.gradient_checkpointing):
        trainer = PairTrainer(
            model=net,  # type: ignore[arg-type]  # it needs a config and a forward
            args=RewardConfig(
                **plan.among(ctx.team.size).arguments(target, on_cpu=model.device.type == "cpu"),
                center_rewards_coefficient=stage.center_coefficient or None,
                disable_dropout=False,
            ),
            train_dataset=_dataset(rows, labels=stage.safety_weight > 0),
            processing_class=tokenizer,
            data_collator=WithLabels(collator) if stage.safety_weight > 0 else collator,
        )
        trainer.safety_weight = stage.safety_weight
        trainer.share(plan.micro_batch)
        scalars: dict[str, Any] = run_epoch(
            trainer,
            passes=plan.passes,
            start_training=start_training,
            resume=None if start is None else start / "trainer",
            log=lambda values: ctx.log({"member": number, **values}),
        )
        if epoch < stage.epochs:
            save_state(trainer, target / "trainer")
    save_member(model, MEMBER, net.score.weight, target)
    net.eval()
    scores = {name: _score(net, found.rows, pad) for name, found in data.measured.items()}
    normalisation = _normalisation(net, data, scores[HELD_OUT], pad)
    if normalisation is not None:
        write_normalisation(target, normalisation)
    remove_adapter(model, MEMBER)
    if stage.bootstrap:
        scalars["distinct_pairs"] = len({id(row) for row in rows})
    measured = {name: accuracy(found) for name, found in scores.items()}
    return {**scalars, **measured.pop(HELD_OUT), "eval_data": measured}, scores


def _dataset(rows: Sequence[Example], *, labels: bool) -> Dataset:
    columns: dict[str, list[Any]] = {
        "chosen_ids": [row.chosen for row in rows],
        "rejected_ids": [row.rejected for row in rows],
        "margin": [row.margin for row in rows],
    }
    if labels:
        columns["safe"] = [list(row.safe) for row in rows]
    return Dataset.from_dict(columns)


def _score(net: RewardNet, pairs: Sequence[Example], pad: int) -> Scored:
    """The pairs as one member scores them."""
    chosen = net.scores([pair.chosen for pair in pairs], pad_id=pad)
    rejected = net.scores([pair.rejected for pair in pairs], pad_id=pad)
    return Scored(pairs, chosen[None], rejected[None])


def _normalisation(
    net: RewardNet, data: RewardData, held_out: Scored, pad: int
) -> Normalisation | None:
    """What the member's scores are like over its own replies, chosen and rejected."""
    if len(held_out.rows) >= _NORMALISED_ON:
        return measure(torch.cat([held_out.chosen[0], held_out.rejected[0]]), "held_out")
    trained = _score(net, data.train[:_TRAINING_PAIRS], pad)
    return measure(torch.cat([trained.chosen[0], trained.rejected[0]]), "training")


def _place_member(
    ctx: StageContext, stage: RewardStage, number: int, start: Path | None
) -> tuple[PeftModel, Tensor]:
    """The member's adapter on the base, and its head, at the start of an epoch."""
    base = ctx.base()
    model: Any = base.model
    if MEMBER in getattr(model, "peft_config", {}):  # an earlier attempt ended with an error
        remove_adapter(model, MEMBER)
    folder = start or ctx.start
    if folder is None:
        lora = lora_config(stage.lora or Lora())
        model = add_adapter(model, MEMBER, lora, seed=ctx.seed("lora", number))
    else:
        model = load_adapter(model, MEMBER, folder)
    base.model = model
    activate(model, MEMBER)
    hidden = int(causal_model(model).config.get_text_config().hidden_size)
    if start is not None:
        return model, read_head(start, hidden=hidden)
    return model, new_head(hidden, seed=ctx.seed("head", number))


def _check_lora(ctx: StageContext, stage: RewardStage) -> None:
    """A member copies the policy's adapter, so it cannot have another shape."""
    if ctx.start is None or stage.lora is None:
        return
    config = read_config(ctx.start)
    given = (stage.lora.r, stage.lora.alpha)
    if given != (config.r, config.lora_alpha):
        raise InputError(
            f"r and alpha are {given[0]} and {given[1]}, but the members start from the adapter "
            f"of {ctx.start.name}, which has {config.r} and {config.lora_alpha}",
            field=f"stages.{stage.name}.lora",
            expected="the policy's, or no lora of its own",
        )


def _plan(ctx: StageContext, stage: RewardStage, rows: Sequence[Example], number: int) -> Plan:
    longest = max(row.longest for row in rows)
    return Plan(
        seed=ctx.seed("training", number),
        epochs=stage.epochs,
        sequences=len(rows),
        batch=stage.batch,
        micro_batch=micro_batch(stage.batch, stage.micro_batch, longest, rows_a_sequence=2),
        learning_rate=stage.learning_rate,
        lr_schedule="cosine",
        min_lr_ratio=stage.min_lr_ratio,
        warmup_ratio=stage.warmup_ratio,
        min_warmup_steps=_WARMUP_STEPS,
        optimizer=stage.optimizer,
    )
