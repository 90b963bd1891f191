"""What steers RLOO beside its reward: an adaptive β, and demonstrations in every step."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import exact_model, log_probs
from rloo_parts import moved, stage, trainer_of

from harness.adapters import adapter_weights
from trainers.draws import draw

# --------------------------------------------------------------------------- β


NUMBERS = [{"prompt": str(n)} for n in (5, 5, 5, 5, 1, 1, 1, 1)]


def test_beta_is_steered_by_the_kl_that_was_measured_and_used_an_iteration_later(
    tmp_path: Path, context: Any, models: Any, stack: ExitStack
) -> None:
    """By hand: 8 replies over a horizon of 40 let β move by a fifth of the error, the error by no
    more than ±0.2. The first iteration's KL is 0: β loses 0.2·8/40 = 4 %."""
    start, rewards = models
    settings = stage(tmp_path, kl=0.3, kl_target=1e-3, kl_horizon=40.0, whiten="none")
    ctx = context(tmp_path / "run", [settings], start=start, reward_models=rewards)
    trainer = trainer_of(ctx, stack, tmp_path / "out")
    trainer._generate_and_score_completions(NUMBERS)
    moved(trainer, ctx.base().model, tmp_path / "far", 0.05)
    batch = trainer._generate_and_score_completions(NUMBERS)
    seen = trainer.history
    assert (seen[0]["kl"], seen[0]["beta"]) == (0.0, 0.3)
    assert seen[1]["beta"] == pytest.approx(0.3 * 0.96, rel=1e-12)
    error = min(max(seen[1]["kl"] / 1e-3 - 1.0, -0.2), 0.2)
    assert abs(error) == 0.2  # far beyond the target, or far below
    assert trainer._controller.beta == pytest.approx(0.288 * (1.0 + error / 5), rel=1e-12)
    value = trainer._scored.scores - 0.288 * torch.tensor([row.kl for row in trainer.rollouts])
    advantages = value - (value.view(2, 4).sum(1).repeat_interleave(4) - value) / 3
    torch.testing.assert_close(batch["advantages"], advantages, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("target", "kept"), [(None, True), (5.0, False)])
def test_beta_stays_without_a_target(
    tmp_path: Path, context: Any, models: Any, stack: ExitStack, target: float | None, kept: bool
) -> None:
    start, rewards = models
    settings = stage(tmp_path, kl=0.3, kl_target=target)
    ctx = context(tmp_path / "run", [settings], start=start, reward_models=rewards)
    trainer = trainer_of(ctx, stack, tmp_path / "out")
    for _ in range(2):
        trainer._generate_and_score_completions(NUMBERS)
    assert (trainer.history[1]["beta"] == 0.3) is kept


def test_beta_is_not_steered_by_replies_that_carry_no_loss(
    tmp_path: Path, context: Any, models: Any, stack: ExitStack
) -> None:
    """Without one reply that counts, no KL was measured, which is not a KL of 0."""
    start, rewards = models
    settings = stage(tmp_path, kl=0.3, kl_target=5.0, mask_no_eos=True, max_new_tokens=1)
    ctx = context(tmp_path / "run", [settings], start=start, reward_models=rewards)
    trainer = trainer_of(ctx, stack, tmp_path / "out")
    trainer._generate_and_score_completions(NUMBERS)
    assert trainer.history[-1]["no_eos"] == 1.0
    assert trainer._controller.beta == 0.3


# --------------------------------------------------------------------------- demonstrations


def test_a_steps_gradient_has_the_demonstrations_once(
    tmp_path: Path, context: Any, models: Any, tiny_llama: Path, stack: ExitStack
) -> None:
    """Two forwards a step: γ times the gradient of the demonstrations' mean loss an answer token
    joins at the first, in float64 by plain code; the second has nothing of it."""
    path = tmp_path / "shown.jsonl"
    shown = [{"prompt": f"say {n}", "completion": "yes " * (n + 1)} for n in range(5)]
    path.write_text("".join(json.dumps(row) + "\n" for row in shown))
    start, rewards = models
    settings = stage(tmp_path, sft_data=str(path), sft_weight=2.5, sft_batch=3, micro_batch=2)
    ctx = context(
        tmp_path / "run",
        [{"kind": "sft", "data": "x"}, settings],
        1,
        start=start,
        reward_models=rewards,
        quantization="none",
    )
    trainer = trainer_of(ctx, stack, tmp_path / "out")
    batch = trainer._generate_and_score_completions(NUMBERS)
    inputs = {name: value[:2] for name, value in batch.items()}
    trainer.current_gradient_accumulation_steps = 4
    trainer.state.global_step = 6
    model = ctx.base().model
    for trainer._step in (24, 25):
        trainer.compute_loss(trainer.model, inputs)  # no backward of RLOO's own loss
    terms = trainer._from.demonstrations
    assert terms is not None
    chosen = [terms.rows[i] for i in draw(5, 3, 6, trainer._from.seed)]
    exact, theirs = torch.zeros((), dtype=torch.float64), exact_model(tiny_llama, start)
    tokens = 0
    for row in chosen:
        prompt = sum(label == -100 for label in row.labels)
        exact = exact - log_probs(theirs, row.input_ids[:prompt], row.input_ids[prompt:]).sum()
        tokens += len(row.input_ids) - prompt
    (2.5 * exact / tokens).backward()
    assert trainer._metrics["train"]["sft_loss"] == [
        pytest.approx(float(exact.detach()) / tokens, rel=1e-5)
    ]
    owners = dict(theirs.named_parameters())
    for key, weight in adapter_weights(model, "policy").items():
        owner = owners[key.replace(".weight", ".default.weight")]
        torch.testing.assert_close(weight.grad.double(), owner.grad, atol=1e-5, rtol=1e-3)
