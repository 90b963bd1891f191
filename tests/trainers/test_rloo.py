"""trl's RLOO with our ends: the loss against float64, its mask, rewards, KL, the prompts' order."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exact import exact_model, log_probs
from rloo_parts import ByLength, moved, stage, trainer_of
from torch import Tensor

from harness.adapters import adapter_weights
from harness.reward_models import RewardScorer
from trainers import rloo
from trainers.draws import draw
from trainers.rloo_trainer import LeaveOneOutTrainer, PromptOrder, asked_in, score
from trainers.rollouts import Question
from trainers.schedule_stages import RlooStage

EOS = 2


# --------------------------------------------------------------------------- the loss


def rows_of(batch: dict[str, Any]) -> list[tuple[list[int], list[int]]]:
    """Prompt and reply of each row, by the masks."""
    return [
        (ids[m.bool()].tolist(), reply[r.bool()].tolist())
        for ids, m, reply, r in zip(
            batch["prompt_ids"],
            batch["prompt_mask"],
            batch["completion_ids"],
            batch["completion_mask"],
            strict=True,
        )
    ]


@pytest.mark.parametrize("kl", [0.0, 0.3])
@pytest.mark.parametrize("whiten_advantages", [False, True])
def test_loss_and_gradient_are_the_papers(
    tmp_path: Path,
    context: Any,
    models: Any,
    tiny_llama: Path,
    stack: ExitStack,
    kl: float,
    whiten_advantages: bool,
) -> None:
    """After a step the policy is another than the one that sampled: ratio, clip, and baseline."""
    settings = stage(
        tmp_path,
        kl=kl,
        temperature=0.7,
        whiten="none",
        no_eos_penalty=None,
        whiten_advantages=whiten_advantages,
    )
    start, rewards = models
    # Not the first stage: the policy begins as a copy of the start, and moves before it samples.
    ctx = context(
        tmp_path / "run",
        [{"kind": "sft", "data": "x"}, settings],
        1,
        start=start,
        reward_models=rewards,
        quantization="none",
    )
    trainer = trainer_of(ctx, stack, tmp_path / "out")
    model = ctx.base().model
    sampler_folder = moved(trainer, model, tmp_path / "sampler", 0.02)
    numbers = [{"prompt": str(n)} for n in (5, 5, 5, 5, 1, 1, 1, 1)]
    batch = trainer._generate_and_score_completions(numbers)
    policy_folder = moved(trainer, model, tmp_path / "policy", 0.01)
    loss = trainer.compute_loss(trainer.model, batch)
    loss.backward()

    policy, old, reference = (
        exact_model(tiny_llama, folder) for folder in (policy_folder, sampler_folder, start)
    )
    rows = rows_of(batch)
    rewards64 = ByLength().rewards([[*p, *r] for p, r in rows], [False] * 8).reward.double()
    kls = torch.tensor(
        [
            float((log_probs(old, *row, 0.7) - log_probs(reference, *row, 0.7)).sum().detach())
            for row in rows
        ],
        dtype=torch.float64,
    )
    value = rewards64 - kl * kls
    advantages = torch.stack(
        [
            value[i] - torch.cat([value[s : s + 4][: i - s], value[s : s + 4][i - s + 1 :]]).mean()
            for s in (0, 4)
            for i in range(s, s + 4)
        ]
    )
    if whiten_advantages:
        advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-4)
    torch.testing.assert_close(batch["advantages"].double(), advantages, atol=2e-4, rtol=1e-4)
    exact = torch.zeros((), dtype=torch.float64)
    clipped = 0
    for row, advantage in zip(rows, advantages, strict=True):
        before = log_probs(old, *row, 0.7).sum().detach()
        ratio = torch.exp(log_probs(policy, *row, 0.7).sum() - before)
        exact = exact - torch.minimum(ratio * advantage, ratio.clamp(0.8, 1.2) * advantage) / 8
        clipped += int(not 0.8 < float(ratio.detach()) < 1.2)
    assert 0 < clipped < 8  # both branches are seen
    torch.testing.assert_close(loss.double(), exact, atol=1e-3, rtol=1e-4)
    exact.backward()
    theirs = dict(policy.named_parameters())
    for key, weight in adapter_weights(model, "policy").items():
        owner = theirs[key.replace(".weight", ".default.weight")]
        torch.testing.assert_close(weight.grad.double(), owner.grad, atol=5e-4, rtol=2e-3)
    assert not any(p.requires_grad for n, p in model.named_parameters() if "policy" not in n)


def test_loss_is_on_the_replys_tokens_with_its_end_token_alone(
    tmp_path: Path, context: Any, models: Any, stack: ExitStack
) -> None:
    start, rewards = models
    ctx = context(tmp_path / "run", [stage(tmp_path)], start=start, reward_models=rewards)
    trainer = trainer_of(ctx, stack, tmp_path / "out")
    replies = [[10, 11, EOS], [12, 13, 14, 15, 16, 17], [EOS], [18, EOS]] * 2
    questions = trainer._from.questions
    chosen = [0, 0, 0, 0, 5, 5, 5, 5]

    def given(_: Any) -> Any:
        asked = [list(questions[n].tokens) for n in chosen]
        return asked, replies, [""] * 8

    trainer._generate = given  # type: ignore[method-assign]
    batch = trainer._generate_and_score_completions([{"prompt": str(n)} for n in chosen])
    assert rows_of(batch) == [
        (list(questions[n].tokens), reply) for n, reply in zip(chosen, replies, strict=True)
    ]
    seen: dict[str, Tensor] = {}
    measured = trainer._get_per_token_logps_and_entropies

    def watched(*args: Any, **settings: Any) -> Any:
        found = measured(*args, **settings)
        found[0].retain_grad()
        seen["log_probs"] = found[0]
        return found

    trainer._get_per_token_logps_and_entropies = watched  # type: ignore[method-assign]
    trainer.compute_loss(trainer.model, batch).backward()
    gradient = seen["log_probs"].grad
    assert gradient is not None
    mask = batch["completion_mask"].bool()
    assert torch.all(gradient[~mask] == 0)
    # A reply is one action: its tokens have one weight, −A/B where the ratio is 1.
    expected = (-batch["advantages"] / 8)[:, None].expand_as(gradient)
    torch.testing.assert_close(gradient[mask], expected[mask], atol=1e-6, rtol=1e-4)
    assert batch["advantages"].abs().max() > 0.1


# --------------------------------------------------------------------------- rewards, KL


def whitened(scores: np.ndarray, group: list[str]) -> np.ndarray:
    """By numpy: zero mean and unit spread in each group."""
    found = np.zeros_like(scores)
    for name in set(group):
        at = np.array([g == name for g in group])
        found[at] = (scores[at] - scores[at].mean()) / scores[at].std(ddof=1)
    return found


@pytest.mark.parametrize("whiten", ["none", "joint", "per_reward_model", "per_prompt"])
@pytest.mark.parametrize("penalty", [None, 2.5])
def test_rewards_are_whitened_as_they_say_and_unended_replies_pay(
    whiten: Any, penalty: float | None
) -> None:
    questions = [
        Question(name, (1, number), number == 3)
        for name, number in [("a", 3)] * 3 + [("b", 4)] * 3 + [("c", 3)] * 3
    ]
    replies = [(10 + i, 20) if i % 2 else (10 + i, EOS) for i in range(9)]
    made = RlooStage(name="x", whiten=whiten, no_eos_penalty=penalty)
    scorer: Any = ByLength()
    found = score(scorer, made, questions, replies, [""] * 9, [EOS])
    raw = np.array(
        [float((sum(q.tokens) + sum(r)) % 17) for q, r in zip(questions, replies, strict=True)]
    )
    group = {
        "joint": ["all"] * 9,
        "per_reward_model": ["safety" if q.safety else "helpfulness" for q in questions],
        "per_prompt": [q.id for q in questions],
    }
    expected = raw if whiten == "none" else whitened(raw, group[whiten])
    expected = expected - (penalty or 0.0) * np.array([i % 2 for i in range(9)])
    np.testing.assert_allclose(found.scores.numpy(), expected, atol=1e-5)
    np.testing.assert_array_equal(found.combined.reward.numpy(), raw)
    assert list(found.ended) == [i % 2 == 0 for i in range(9)]


def test_kl_is_zero_at_the_start_and_against_the_start_ever_after(
    tmp_path: Path, context: Any, models: Any, tiny_llama: Path, stack: ExitStack
) -> None:
    """Against the frozen start: not the base, from which the start is far, and not the policy that
    an epoch begins with, from which there is no distance at all."""
    start, rewards = models
    ctx = context(
        tmp_path / "run",
        [{"kind": "sft", "data": "x"}, stage(tmp_path, epochs=1)],
        1,
        start=start,
        reward_models=rewards,
        quantization="none",
    )
    trainer = trainer_of(ctx, stack, tmp_path / "out")
    numbers = [{"prompt": str(n)} for n in (5, 5, 5, 5, 1, 1, 1, 1)]
    batch = trainer._generate_and_score_completions(numbers)
    assert trainer.history[-1]["kl"] == trainer.history[-1]["kl_token_k3"] == 0.0
    exact, base = exact_model(tiny_llama, start), exact_model(tiny_llama, None)
    apart = [
        float((log_probs(exact, *row) - log_probs(base, *row)).sum()) for row in rows_of(batch)
    ]
    assert abs(np.mean(apart)) > 0.5

    # An epoch later: the policy has moved, and is placed from its checkpoint.
    policy = exact_model(tiny_llama, moved(trainer, ctx.base().model, tmp_path / "later", 0.02))
    batch = trainer._generate_and_score_completions(numbers)
    rows = rows_of(batch)
    ours = [log_probs(policy, *row) for row in rows]
    theirs = [log_probs(exact, *row) for row in rows]
    gaps = [(a - b) for a, b in zip(ours, theirs, strict=True)]
    seen = trainer.history[-1]
    assert seen["kl"] == pytest.approx(float(np.mean([float(g.sum()) for g in gaps])), abs=1e-4)
    every = torch.cat(gaps)
    assert seen["kl_token"] == pytest.approx(float(every.mean()), abs=1e-5)
    k3 = torch.expm1(-every) + every
    assert seen["kl_token_k3"] == pytest.approx(float(k3.mean()), abs=1e-5)
    assert abs(seen["kl"]) > 0.01
    assert [row.kl for row in trainer.rollouts] == pytest.approx(
        [float(gap.sum()) for gap in gaps], abs=1e-4
    )


def test_the_rewards_are_the_runs_reward_models(tmp_path: Path, context: Any, models: Any) -> None:
    """What a rollout says of its reward is what the scorer says of its tokens, in a fresh base."""
    from harness.models import ModelSpec, load
    from harness.reward_models import Rule

    start, rewards = models
    ctx = context(tmp_path / "run", [stage(tmp_path, epochs=1)], start=start, reward_models=rewards)
    kept: list[tuple[Any, Any]] = []
    record = LeaveOneOutTrainer._record

    def watched(self: LeaveOneOutTrainer, *args: Any) -> None:
        record(self, *args)
        kept.append((self._scored, list(self.rollouts)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LeaveOneOutTrainer, "_record", watched)
        list(rloo.checkpoints(ctx))
    fresh = load(ModelSpec(ctx.base_folder, quantization="nf4"))
    with RewardScorer(fresh.model, fresh.tokenizer, rewards, Rule()) as scorer:
        for scored, rollouts in kept:
            tokens = [
                (*q.tokens, *r) for q, r in zip(scored.questions, scored.replies, strict=True)
            ]
            found = scorer.rewards(tokens, [q.safety for q in scored.questions])
            assert [row.reward for row in rollouts] == pytest.approx(
                found.reward.tolist(), abs=1e-4
            )
            assert tuple(row.source for row in rollouts) == found.source


# --------------------------------------------------------------------------- the prompts


def test_the_order_of_the_prompts_is_a_function_of_seed_and_epoch() -> None:
    made = RlooStage(name="x", batch=8, samples=4, mini_batch=4, iterations=3)

    def epoch(number: int, seed: int = 5) -> list[int]:
        order = PromptOrder(7, made, seed=seed, repeats=2)
        order.set_epoch(number)
        assert len(order) == 3 * 8 * 2
        return list(order)

    assert epoch(1) == epoch(1)
    assert epoch(1) != epoch(0)
    assert epoch(1) != epoch(1, seed=6)
    for number in (0, 1):
        for iteration in range(3):
            batch = epoch(number)[iteration * 16 : (iteration + 1) * 16]
            assert batch[:8] == batch[8:]  # once more for each forward made of it
            drawn = draw(7, 2, 3 * number + iteration, 5)  # what PPO draws
            assert batch[:8] == [row for row in drawn for _ in range(4)]
            assert batch[:8] == asked_in(3 * number + iteration, 7, made, seed=5)
