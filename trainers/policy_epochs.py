"""The epochs of a stage that trains the policy adapter: what is committed first, then the rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainers.lora import place_policy, save_policy
from trainers.stage import Checkpoint, StageContext, intact

if TYPE_CHECKING:
    from peft import PeftModel

    from trainers.schedule_stages import DpoStage, RlooStage, SftStage


@dataclass(frozen=True)
class Epoch:
    """One that is to be trained: from which state (None: afresh), into which folder, and whether
    the next one needs a state of it."""

    number: int
    resume: Path | None
    folder: Path
    keep_state: bool

    @property
    def state(self) -> Path:
        """Where its own state goes."""
        return self.folder / "trainer"


Train = Callable[["PeftModel", Epoch], dict[str, Any]]  # trains and saves the policy; the scalars


def policy_epochs(
    ctx: StageContext,
    stage: SftStage | RlooStage | DpoStage,
    prepare: Callable[[], Train],
    *,
    untrained: bool = True,
) -> Iterator[Checkpoint]:
    """The policy after each epoch; with ``untrained``, epoch 0 is what the stage starts from.

    ``prepare`` reads the data. It is called only where there is something left to train.
    """
    previous: Checkpoint | None = None
    for previous in ctx.committed():
        yield previous
    if previous is None and untrained:

        def start(folder: Path) -> dict[str, Any]:
            save_policy(ctx, place_policy(ctx, ctx.start, stage.lora), folder)
            return {}

        previous = ctx.commit(0, start)
        yield previous
    if previous is not None and previous.epoch >= stage.epochs:
        return
    train = prepare()
    for number in range(previous.epoch + 1 if previous else 1, stage.epochs + 1):

        def write(
            folder: Path, before: Checkpoint | None = previous, number: int = number
        ) -> dict[str, Any]:
            model = place_policy(ctx, intact(before.folder) if before else ctx.start, stage.lora)
            resume = before.folder / "trainer" if before and before.epoch else None
            return train(model, Epoch(number, resume, folder, number < stage.epochs))

        previous = ctx.commit(number, write)
        yield previous
