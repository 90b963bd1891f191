"""RLOO's trainer as its stage makes it, with rewards that are known, and a policy to move."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.adapters import activate, adapter_weights, save_adapter
from harness.reward_models import Combined
from trainers import rloo
from trainers.lora import place_policy
from trainers.policy_epochs import Epoch
from trainers.rloo_trainer import LeaveOneOutTrainer
from trainers.rollouts import Question
from trainers.trl_epoch import borrowed


def prompts(folder: Path) -> str:
    rows = [
        {"id": f"p{i}", "prompt": "say " + "so " * i + str(i), "safety": i % 2 == 0}
        for i in range(6)
    ]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def stage(folder: Path, **settings: Any) -> dict[str, Any]:
    return {
        "kind": "rloo",
        "prompts": prompts(folder),
        "epochs": 2,
        "iterations": 2,
        "batch": 8,
        "samples": 4,
        "mini_batch": 8,
        "max_new_tokens": 6,
        "learning_rate": 1e-3,
        "lora": {"r": 4, "alpha": 8.0, "dropout": 0.5},
        **settings,
    }


class ByLength:
    """Reward models whose score is known: how many tokens there are, and who speaks."""

    def rewards(self, input_ids: Any, safety: Any) -> Combined:
        reward = torch.tensor([float(sum(ids) % 17) for ids in input_ids])
        source = tuple("safety" if safe else "helpfulness" for safe in safety)
        return Combined(reward, source, torch.full_like(reward, 0.5))


def trainer_of(ctx: Any, stack: ExitStack, folder: Path) -> LeaveOneOutTrainer:
    """The stage's trainer, made as the stage makes it, before its first step."""
    made: list[LeaveOneOutTrainer] = []

    def stop(trainer: LeaveOneOutTrainer, **_: Any) -> Any:
        made.append(trainer)
        raise KeyboardInterrupt

    model = place_policy(ctx, ctx.start, ctx.stage.lora)
    tokenizer = ctx.base().tokenizer
    questions = [
        Question(f"p{i}", tuple(tokenizer(f"<s><|user|>{'ab' * i}</s>")["input_ids"]), i % 2 == 0)
        for i in range(6)
    ]
    patch = pytest.MonkeyPatch()
    patch.setattr(rloo, "run_epoch", stop)
    # What the stage closes at the end of an epoch stays open for the test.
    patch.setattr(rloo, "borrowed", lambda *a, **k: _kept(borrowed(*a, **k), stack))
    patch.setattr(rloo, "reference_adapter", lambda *a: _kept(_original_reference(*a), stack))
    patch.setattr(rloo, "RewardScorer", lambda *a, **k: _Open(ByLength()))
    try:
        beside = rloo._demonstrations(ctx, ctx.stage)
        rloo._train_epoch(ctx, ctx.stage, model, questions, Epoch(1, None, folder, False), beside)
    except KeyboardInterrupt:
        pass
    finally:
        patch.undo()
    [trainer] = made
    activate(model, "policy", train=True)
    trainer.model.train()
    return trainer


_original_reference = rloo.reference_adapter


class _Open:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __enter__(self) -> Any:
        return self.value

    def __exit__(self, *_: Any) -> None:
        return None


def _kept(manager: Any, stack: ExitStack) -> _Open:
    return _Open(stack.enter_context(manager))


def moved(trainer: LeaveOneOutTrainer, model: Any, folder: Path, scale: float) -> Path:
    """Move the policy away from the one that sampled; where its adapter is stored then."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in adapter_weights(model, "policy").values():
            weight += scale * torch.randn(weight.shape, generator=generator)
    folder.mkdir()
    save_adapter(model, "policy", folder)
    return folder
