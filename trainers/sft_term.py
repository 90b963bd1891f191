"""Demonstrations beside a reward: InstructGPT's "PPO-ptx" (Ouyang et al. 2022, equation 2).

At every optimiser step of the policy, γ · (mean cross-entropy of some demonstrations' answer
tokens) joins the clipped surrogate's loss, so that the policy goes on being good at what it was
shown while it learns to please the reward model. InstructGPT takes pretraining text, γ = 27.8 and
eight rows for every reply; Llama 2 does not say whether it has the term.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor

from harness.engines.local import eos_ids
from harness.errors import InputError
from harness.models import causal_model
from trainers.data import Demonstration, Document, load_demonstrations
from trainers.draws import draw
from trainers.learner import Learner
from trainers.packing import IGNORED
from trainers.schedule_stages import PpoStage, RlooStage
from trainers.sft_rows import Example, document_examples, examples
from trainers.stage import StageContext


@dataclass(frozen=True)
class SftTerm:
    """The demonstrations, γ, and how many of them an optimiser step takes."""

    rows: tuple[Example, ...]
    weight: float
    batch: int
    micro: int
    pad: int

    def backward(self, net: Learner, step: int, *, seed: int, accelerator: Accelerator) -> float:
        """Add the gradient of γ · loss at the ``step``-th optimiser step to the learner's adapter;
        this process's share of the loss, whose sum over processes is the mean over the
        step's answer tokens."""
        chosen = [self.rows[i] for i in draw(len(self.rows), self.batch, step, seed)]
        tokens = sum(label != IGNORED for row in chosen for label in row.labels[1:])
        mine = chosen[accelerator.process_index :: accelerator.num_processes]
        total = 0.0
        for start in range(0, len(mine), self.micro):
            loss = cross_entropy(net, mine[start : start + self.micro], pad=self.pad) / tokens
            (self.weight * loss).backward()
            total += float(loss.detach())
            del loss  # and its graph with it, before the next one is made
        return total


def cross_entropy(net: Learner, rows: Sequence[Example], *, pad: int) -> Tensor:
    """The *sum* of −log π over the rows' labelled tokens; rows are right-padded for it."""
    longest = max(len(row.input_ids) for row in rows)
    ids = torch.full((len(rows), longest), pad, dtype=torch.int64)
    labels = torch.full_like(ids, IGNORED)
    for place, row in enumerate(rows):
        ids[place, : len(row.input_ids)] = torch.tensor(row.input_ids)
        labels[place, : len(row.labels)] = torch.tensor(row.labels)
    # Nothing predicts the first token.
    at, columns = (labels[:, 1:] != IGNORED).nonzero(as_tuple=True)
    targets = labels[at, columns + 1]
    ids, at, columns, targets = (tensor.to(net.device) for tensor in (ids, at, columns, targets))
    log_probs, _ = net.log_probs(ids, at, columns, targets)
    return -log_probs.sum()


def sft_term(ctx: StageContext, stage: PpoStage | RlooStage) -> SftTerm | None:
    """The stage's demonstrations as token ids; None without ``sft_data``."""
    if stage.sft_data is None:
        return None
    base = ctx.base()
    loaded = load_demonstrations(
        stage.sft_data,
        stage.sft_format,
        base_folder=Path(ctx.base_folder),
        seed=ctx.seed("sft data"),
        limit=None,
    )
    eos = eos_ids(causal_model(base.model), base.tokenizer)
    documents = [row.text for row in loaded.rows if isinstance(row, Document)]
    rows = document_examples(base.tokenizer, documents, max_length=stage.sft_max_length, eos=eos)
    rows += examples(
        base.tokenizer,
        [row.messages for row in loaded.rows if isinstance(row, Demonstration)],
        loss_on="all_answers",
        eos=eos,
    )
    kept = [
        row
        for row in rows
        if len(row.input_ids) <= stage.sft_max_length
        and any(label != IGNORED for label in row.labels[1:])
    ]
    if not kept:
        longer = sum(len(row.input_ids) > stage.sft_max_length for row in rows)
        raise InputError(
            f"no row is left to train on: of {len(rows)}, {longer} are longer than sft_max_length "
            f"{stage.sft_max_length}, the others have no token that carries loss",
            path=stage.sft_data,
            field=f"stages.{stage.name}.sft_data",
        )
    return SftTerm(
        rows=tuple(kept),
        weight=stage.sft_weight,
        batch=stage.sft_batch or stage.mini_batch,
        micro=stage.micro_batch or stage.mini_batch,
        pad=int(base.tokenizer.pad_token_id),
    )
