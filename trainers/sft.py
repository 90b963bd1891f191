"""Supervised fine-tuning of a LoRA policy by trl's ``SFTTrainer`` (Llama 2, section 3.1; QLoRA).

Which tokens carry loss is decided in ``sft_rows.py`` and handed to trl as labels.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from harness.adapters import activate
from harness.engines.local import eos_ids
from harness.errors import InputError
from harness.models import causal_model
from trainers.blank_rows import ReadsBlanksLast, filled
from trainers.data import Demonstration, Document, load_demonstrations
from trainers.lora import save_policy
from trainers.packing import IGNORED, pack
from trainers.policy_epochs import Epoch, Train, policy_epochs
from trainers.schedule_stages import SftStage
from trainers.separation import packed_collator
from trainers.sft_rows import Example, document_examples, examples
from trainers.stage import POLICY, Checkpoint, StageContext
from trainers.trl_epoch import Plan, WeightsInPlace, borrowed, micro_batch, run_epoch, save_state
from trainers.trunk_forward import through_trunk

if TYPE_CHECKING:
    from peft import PeftModel

# A row of a token without loss.
BLANK = {"input_ids": [0], "labels": [IGNORED], "seq_lengths": [1]}


# --------------------------------------------------------------------------- batches


def dataset(rows: Sequence[Example], *, packing: bool, max_length: int, seed: int) -> Dataset:
    """The rows as trl takes them: one a sequence, or packed into up to ``max_length`` tokens
    (``seq_lengths`` then has the rows' lengths). ``seed`` decides which rows of a length meet."""
    if not packing:
        groups = [[number] for number in range(len(rows))]
    else:
        rows = random.Random(seed).sample(list(rows), len(rows))
        groups = pack([len(row.input_ids) for row in rows], max_length)
    columns: dict[str, list[list[int]]] = {
        "input_ids": [[i for number in group for i in rows[number].input_ids] for group in groups],
        "labels": [[i for number in group for i in rows[number].labels] for group in groups],
    }
    if packing:
        columns["seq_lengths"] = [[len(rows[number].input_ids) for number in g] for g in groups]
    return Dataset.from_dict(columns)


# --------------------------------------------------------------------------- the stage


class PolicyTrainer(ReadsBlanksLast, WeightsInPlace, SFTTrainer):
    """trl's trainer of the policy adapter."""


@dataclass(frozen=True)
class Training:
    """How ``train_epoch`` trains: what SFT and rejection sampling have in common."""

    plan: Plan
    packing: bool
    gradient_checkpointing: bool


def train_epoch(
    ctx: StageContext,
    model: PeftModel,
    data: Dataset,
    training: Training,
    *,
    staging: Path,
    resume: Path | None,
    keep_state: bool,
) -> dict[str, Any]:
    """One epoch of SFT on the policy, in place; its scalars. ``resume``: the folder of the state
    that the epoch before left, ``keep_state``: leave one in ``staging/trainer``."""
    tokenizer = ctx.base().tokenizer
    collator = packed_collator(model, int(tokenizer.pad_token_id)) if training.packing else None
    plan = training.plan.among(ctx.team.size)
    together = plan.micro_batch * plan.processes
    rows = filled(data, together, BLANK) if plan.processes > 1 else data
    activate(model, POLICY)
    with borrowed(model, gradient_checkpointing=training.gradient_checkpointing):
        trainer = PolicyTrainer(
            model=model,
            args=SFTConfig(
                **plan.arguments(staging, on_cpu=model.device.type == "cpu"),
                dataset_kwargs={"skip_prepare_dataset": True},
                pad_to_multiple_of=None,
            ),
            train_dataset=rows,
            processing_class=tokenizer,
            data_collator=collator,
        )
        trainer.real = len(data)
        recompute = training.gradient_checkpointing
        with through_trunk(causal_model(model), model, recompute=recompute):
            scalars = run_epoch(
                trainer,
                passes=plan.passes,
                start_training=lambda: activate(model, POLICY, train=True),
                resume=resume,
                log=ctx.log,
            )
        if keep_state:
            save_state(trainer, staging / "trainer")
    activate(model, POLICY)
    return scalars


def checkpoints(ctx: StageContext) -> Iterator[Checkpoint]:
    """The stage's checkpoints, one an epoch, the committed ones first; the run's first policy
    stage begins with its untrained policy as epoch 0."""
    stage = ctx.stage
    assert isinstance(stage, SftStage)

    def prepare() -> Train:
        data, counts = _data(ctx, stage)
        training = Training(_plan(ctx, stage, data), stage.packing, stage.gradient_checkpointing)

        def train(model: PeftModel, epoch: Epoch) -> dict[str, Any]:
            scalars = train_epoch(
                ctx,
                model,
                data,
                training,
                staging=epoch.folder,
                resume=epoch.resume,
                keep_state=epoch.keep_state,
            )
            save_policy(ctx, model, epoch.folder)
            return {**scalars, **counts}

        return train

    return policy_epochs(ctx, stage, prepare, untrained=ctx.first_policy_stage)


def _data(ctx: StageContext, stage: SftStage) -> tuple[Dataset, dict[str, Any]]:
    """The training sequences, and the counts that checkpoint.json reports."""
    base = ctx.base()
    loaded = load_demonstrations(
        stage.data,
        stage.data_format,
        base_folder=Path(ctx.base_folder),
        seed=ctx.seed("data"),
        limit=stage.limit,
    )
    eos = eos_ids(causal_model(base.model), base.tokenizer)
    documents = [row.text for row in loaded.rows if isinstance(row, Document)]
    rows = document_examples(base.tokenizer, documents, max_length=stage.max_length, eos=eos)
    rows += examples(
        base.tokenizer,
        [row.messages for row in loaded.rows if isinstance(row, Demonstration)],
        loss_on=stage.loss_on,
        eos=eos,
    )
    kept = [row for row in rows if len(row.input_ids) <= stage.max_length]
    if not kept:
        if documents:
            message = f"no token of {len(documents)} documents is predicted by one before it"
            message += f" within max_length {stage.max_length}"
        else:
            message = f"all {len(rows)} rows are longer than max_length {stage.max_length}"
        raise InputError(message, path=stage.data)
    data = dataset(
        kept, packing=stage.packing, max_length=stage.max_length, seed=ctx.seed("packing")
    )
    counts = {
        "rows": len(kept),
        "sequences": len(data),
        "tokens": sum(len(row.input_ids) for row in kept),
        "loss_tokens": sum(label != IGNORED for row in kept for label in row.labels),
        "dropped": {**loaded.report.dropped, "too long": len(rows) - len(kept)},
    }
    return data, counts


def _plan(ctx: StageContext, stage: SftStage, data: Dataset) -> Plan:
    longest = max(len(ids) for ids in data["input_ids"])
    return Plan(
        seed=ctx.seed("training"),
        epochs=stage.epochs,
        sequences=len(data),
        batch=stage.batch,
        micro_batch=micro_batch(stage.batch, stage.micro_batch, longest),
        learning_rate=stage.learning_rate,
        lr_schedule=stage.lr_schedule,
        min_lr_ratio=stage.min_lr_ratio,
        warmup_ratio=stage.warmup_ratio,
        min_warmup_steps=0,
        optimizer=stage.optimizer,
    )
