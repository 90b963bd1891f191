"""PPO with ``value_adapter: false``: a head alone on the reference's hidden states."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from harness.adapters import adapter_hash, hash_file
from trainers import ppo
from trainers.actor import HEAD_FILE, REFERENCE, Actor
from trainers.ppo import Batch, update
from trainers.schedule_stages import PpoStage
from trainers.stage import Checkpoint, StageContext

RATE = 1e-2
SETTINGS: dict[str, Any] = {
    "kind": "ppo",
    "epochs": 2,
    "iterations": 1,
    "batch": 8,
    "mini_batch": 8,
    "max_new_tokens": 6,
    "learning_rate": 1e-3,
    "value_adapter": False,
    "value_learning_rate": RATE,
}
Make = Callable[..., StageContext]


@pytest.fixture
def make(tmp_path: Path, context: Any, models: Any) -> Make:
    """``make(name, **settings)``: a PPO stage that starts from an SFT policy."""
    start, reward_models = models
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"say {i}", "safety": i % 3 == 0} for i in range(8)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def made(name: str, **settings: Any) -> StageContext:
        stages = [
            {"kind": "sft", "data": "unused"},
            {**SETTINGS, "prompts": str(prompts), **settings},
        ]
        return context(
            tmp_path / name,
            stages,
            1,
            start=start,
            reward_models=reward_models,
            quantization="none",
        )

    return made


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Actor, Batch, PpoStage]]:
    """What each update was given."""
    found: list[tuple[Actor, Batch, PpoStage]] = []

    def watched(actor: Actor, batch: Batch, stage: PpoStage, **more: Any) -> dict[str, float]:
        found.append((actor, batch, stage))
        return update(actor, batch, stage, **more)

    monkeypatch.setattr(ppo, "update", watched)
    return found


def states(base: Path, adapter: Path, batch: Batch) -> list[Tensor]:
    """Hidden states (tokens, hidden) before each token of each reply, by transformers and peft."""
    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, str(adapter)).eval()
    found = []
    for prompt, reply in zip(batch.sampled.prompts, batch.sampled.replies, strict=True):
        with torch.no_grad():
            out = model(torch.tensor([[*prompt, *reply]]), output_hidden_states=True)
        found.append(out.hidden_states[-1][0, len(prompt) - 1 : -1].float())
    return found


def test_a_step_is_adamws_on_the_head_over_the_references_hidden_states(
    make: Make, models: Any, tiny_llama: Path, seen: list[tuple[Actor, Batch, PpoStage]]
) -> None:
    """Both epochs by hand, the second after the policy has moved away from the reference."""
    _, first, second = ppo.checkpoints(make("run"))
    start = models[0]
    assert hash_file(first.folder) != hash_file(start)  # the policy is trained
    head = nn.Linear(64, 1)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=RATE, betas=(0.9, 0.95), eps=1e-5, weight_decay=0.1
    )
    for (_, batch, stage), checkpoint in zip(seen, (first, second), strict=True):
        hidden = states(tiny_llama, start, batch)
        values = [head(part).squeeze(-1) for part in hidden]
        for row, part in enumerate(values):
            torch.testing.assert_close(
                batch.values[row, : len(part)], part.detach(), rtol=0, atol=1e-4
            )
        errors = []
        for row, part in enumerate(values):  # the old value is this one, so that nothing clips
            errors.append(0.5 * (part - batch.returns[row, : len(part)]) ** 2)
        loss = torch.cat(errors).mean()
        assert checkpoint.training["value_loss"] == pytest.approx(float(loss.detach()), rel=1e-4)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(head.parameters(), stage.optimizer.max_grad_norm)
        optimizer.step()
        stored = load_file(checkpoint.folder / "trainer" / HEAD_FILE)
        torch.testing.assert_close(stored["weight"], head.weight.detach(), rtol=0, atol=2e-4)
        torch.testing.assert_close(stored["bias"], head.bias.detach(), rtol=0, atol=2e-4)
        assert stored["weight"].abs().max() > 0.5 * RATE


def test_nothing_else_is_trained_or_kept(
    make: Make, models: Any, seen: list[tuple[Actor, Batch, PpoStage]]
) -> None:
    *_, last = ppo.checkpoints(make("run"))
    actor = seen[-1][0]
    trained = [p for group in actor.value_optimizer.param_groups for p in group["params"]]
    assert [p.shape for p in trained] == [(1, 64), (1,)]
    assert {*actor.model.peft_config} == {"policy", REFERENCE}
    assert adapter_hash(actor.model, REFERENCE) == hash_file(models[0])
    assert sorted(path.name for path in (last.folder / "trainer").iterdir()) == [
        "controller.json",
        "policy_optimizer.pt",
        HEAD_FILE,
        "value_optimizer.pt",
    ]


def test_the_value_loss_of_a_batch_falls(
    make: Make, seen: list[tuple[Actor, Batch, PpoStage]]
) -> None:
    _ = list(ppo.checkpoints(make("run", epochs=1, value_clip=None)))
    [(actor, batch, stage)] = seen
    losses = [
        update(
            actor,
            batch,
            stage,
            iteration=at,
            seed=1,
            accelerator=Accelerator(cpu=True),
            train_policy=False,
        )["value_loss"]
        for at in range(60)
    ]
    assert losses[-1] < 0.5 * losses[0]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("after", [1, 2])
def test_resuming_gives_the_same_bytes(make: Make, digest: Any, after: int) -> None:
    def told(found: list[Checkpoint]) -> list[dict[str, str]]:
        return [digest(checkpoint.folder) for checkpoint in found]

    straight = told([*ppo.checkpoints(make("straight"))])
    iterator = ppo.checkpoints(make("stopped"))
    for _ in range(after):
        next(iterator)
    iterator.close()  # type: ignore[attr-defined]
    assert told([*ppo.checkpoints(make("stopped"))]) == straight
