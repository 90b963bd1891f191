"""The networks that PPO trains, all on one quantised base: building, saving, restoring.

The policy, the frozen reference it started from and the value function are LoRA adapters; the value
function has a linear head besides. The base never changes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from harness.adapters import (
    activate,
    adapter_weights,
    add_adapter,
    copy_adapter,
    load_adapter,
    remove_adapter,
    save_adapter,
)
from harness.engines.reading import Reader
from trainers.learner import Learner
from trainers.lora import lora_config
from trainers.rollouts import (
    Replies,
    Tokens,
    device_of,
    measured_log_probs,
    measured_values,
    policy_log_probs,
    reply_values,
)
from trainers.schedule_stages import Optimizer, PpoStage
from trainers.stage import POLICY, StageContext

REFERENCE, VALUE = "reference", "value"  # adapters beside the policy's
HEAD_FILE = "value_head.safetensors"


@dataclass
class Actor:
    """The networks that PPO updates, all on one base, and their optimisers."""

    model: PeftModel  # with the adapters named below
    head: nn.Linear  # hidden -> 1, float32
    pad: int
    policy_optimizer: torch.optim.Optimizer
    value_optimizer: torch.optim.Optimizer
    reference: str | None  # None: the base without an adapter
    value: str | None  # None: the head alone is trained, on the reference's hidden states
    _reference_reader: Reader | None = None

    def log_probs(
        self,
        net: Learner,
        prompts: Sequence[Tokens],
        replies: Sequence[Tokens],
        width: int,
        stage: PpoStage,
    ) -> tuple[Tensor, Tensor]:
        return policy_log_probs(
            net,
            prompts,
            replies,
            pad=self.pad,
            temperature=stage.temperature,
            width=width,
            entropy_grad=stage.entropy_weight > 0,
        )

    def values(
        self, net: Learner, prompts: Sequence[Tokens], replies: Sequence[Tokens], width: int
    ) -> Tensor:
        return reply_values(net, self.head, prompts, replies, pad=self.pad, width=width)

    def measured_log_probs(self, batch: Replies, stage: PpoStage) -> Tensor:
        """(B, T) under the active adapter, without gradients."""
        return measured_log_probs(self.model, batch, pad=self.pad, temperature=stage.temperature)

    def reference_log_probs(self, batch: Replies, stage: PpoStage) -> Tensor:
        """(B, T) under the reference, which never changes: a small one's weights are laid out
        once."""
        activate(self.model, self.reference)
        reader = self._reference_reader or Reader(self.model)
        if reader.bytes is not None:
            self._reference_reader = reader
        return measured_log_probs(
            self.model, batch, pad=self.pad, temperature=stage.temperature, reader=reader
        )

    def measured_values(self, batch: Replies, stage: PpoStage) -> Tensor:
        """(B, T) under the value function, without gradients."""
        self.activate_value(train=False)
        return measured_values(self.model, self.head, batch, pad=self.pad)

    def activate_value(self, *, train: bool) -> None:
        if self.value is None:
            activate(self.model, self.reference)
        else:
            activate(self.model, self.value, train=train)
        self.head.requires_grad_(train)

    def save(self, folder: Path) -> None:
        """Write the policy as a plain peft adapter, and under ``trainer/`` the rest."""
        save_adapter(self.model, POLICY, folder)
        state = folder / "trainer"
        state.mkdir()
        if self.value is not None:
            (state / VALUE).mkdir()
            save_adapter(self.model, self.value, state / VALUE)
        save_file(dict(self.head.state_dict()), state / HEAD_FILE)
        for name, optimizer in self._optimizers():
            torch.save(optimizer.state_dict(), state / f"{name}_optimizer.pt")

    def restore(self, state: Path) -> None:
        """Put back what ``save`` wrote beside the adapters."""
        self.head.load_state_dict(load_file(state / HEAD_FILE))
        for name, optimizer in self._optimizers():
            stored = torch.load(state / f"{name}_optimizer.pt", weights_only=True)
            optimizer.load_state_dict(stored)

    def _optimizers(self) -> tuple[tuple[str, torch.optim.Optimizer], ...]:
        return ("policy", self.policy_optimizer), ("value", self.value_optimizer)


def parameters(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def build(ctx: StageContext, stage: PpoStage, resume: Path | None) -> Actor:
    """Put the policy, its frozen reference and the value function on the base.

    ``resume``: the committed checkpoint of this stage to go on from.
    """
    loaded = ctx.base()
    model = loaded.model
    for leftover in (POLICY, REFERENCE, VALUE):
        if isinstance(model, PeftModel) and leftover in model.peft_config:
            remove_adapter(model, leftover)
    start = resume or ctx.start
    if start is None:
        model = add_adapter(model, POLICY, lora_config(stage.lora), seed=ctx.seed("lora"))
    else:
        model = load_adapter(model, POLICY, start)
    if ctx.start is not None:
        load_adapter(model, REFERENCE, ctx.start)
    if stage.value_adapter and resume is not None:
        load_adapter(model, VALUE, resume / "trainer" / VALUE)
    elif stage.value_adapter:
        copy_adapter(model, POLICY, VALUE)
    loaded.model = model
    model.eval()  # no dropout: the ratio of a fresh policy to itself must be one

    head = nn.Linear(model.config.get_text_config().hidden_size, 1, device=device_of(model))
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    values = [*head.parameters()]
    if stage.value_adapter:
        values += adapter_weights(model, VALUE).values()
    actor = Actor(
        model=model,
        head=head,
        pad=int(loaded.tokenizer.pad_token_id),
        policy_optimizer=_adamw(
            [*adapter_weights(model, POLICY).values()], stage.learning_rate, stage.optimizer
        ),
        value_optimizer=_adamw(
            values, stage.value_learning_rate or stage.learning_rate, stage.optimizer
        ),
        reference=None if ctx.start is None else REFERENCE,
        value=VALUE if stage.value_adapter else None,
    )
    if resume is not None:
        actor.restore(resume / "trainer")
    return actor


def _adamw(trained: list[nn.Parameter], rate: float, settings: Optimizer) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        trained,
        lr=rate,
        betas=settings.betas,
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )
