"""PPO's pure functions against hand-worked numbers and a plain float64 implementation."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from trainers.draws import draw
from trainers.ppo_losses import (
    KlController,
    clipped_value_loss,
    generalised_advantages,
    kl_k1,
    kl_k3,
    masked_mean,
    surrogate,
    token_rewards,
    whiten,
    whiten_rewards,
)
from trainers.schedule_stages import PpoStage


def test_masked_mean_ignores_padding() -> None:
    values = torch.tensor([[1.0, 2.0, 100.0], [3.0, 100.0, 100.0]])
    mask = torch.tensor([[True, True, False], [True, False, False]])
    assert masked_mean(values, mask).item() == pytest.approx(2.0)


def test_whiten_over_valid_entries_only() -> None:
    values = torch.tensor([[1.0, 3.0, 99.0]])
    mask = torch.tensor([[1.0, 1.0, 0.0]])
    # mean 2, Bessel-corrected variance 2
    expected = torch.tensor([[-1 / math.sqrt(2), 1 / math.sqrt(2), 0.0]])
    torch.testing.assert_close(whiten(values, mask), expected)


@pytest.mark.parametrize("values", [[5.0], [2.0, 2.0, 2.0]])
def test_whitening_what_has_no_scale_is_zero_and_never_nan(values: list[float]) -> None:
    scores = torch.tensor(values)
    torch.testing.assert_close(whiten(scores, torch.ones_like(scores)), torch.zeros_like(scores))


def test_whiten_rewards_per_model_and_joint() -> None:
    scores = torch.tensor([0.0, 2.0, 100.0, 300.0, 7.0])
    group = torch.tensor([0, 0, 1, 1, 2])
    separate = whiten_rewards(scores, group, "per_reward_model")
    half = 1 / math.sqrt(2)
    torch.testing.assert_close(separate, torch.tensor([-half, half, -half, half, 0.0]))
    joint = whiten_rewards(scores, group, "joint")
    assert joint.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert joint.std().item() == pytest.approx(1.0)
    assert torch.equal(whiten_rewards(scores, group, "none"), scores)


def test_token_rewards_put_the_score_on_the_last_real_token() -> None:
    rewards = token_rewards(
        scores=torch.tensor([5.0, 7.0]),
        log_probs=torch.tensor([[-1.0, -2.0, 0.0], [-1.0, -1.0, -1.0]]),
        reference=torch.tensor([[-1.5, -1.0, 0.0], [-1.0, -2.0, -1.0]]),
        mask=torch.tensor([[True, True, False], [True, True, True]]),
        beta=0.1,
    )
    expected = torch.tensor([[-0.05, 0.1 + 5.0, 0.0], [0.0, -0.1, 7.0]])
    torch.testing.assert_close(rewards, expected)


def test_advantages_by_hand() -> None:
    # γ = .9, λ = .5, rewards 0, 0, 1; values .5, .4, .3
    # δ2 = 1 − .3 = .7; δ1 = .9·.3 − .4 = −.13; δ0 = .9·.4 − .5 = −.14
    # A2 = .7; A1 = −.13 + .45·.7 = .185; A0 = −.14 + .45·.185 = −.05675
    rewards = torch.tensor([[0.0, 0.0, 1.0]])
    values = torch.tensor([[0.5, 0.4, 0.3]])
    mask = torch.ones(1, 3, dtype=torch.bool)
    advantages, returns = generalised_advantages(rewards, values, mask, 0.9, 0.5)
    torch.testing.assert_close(advantages, torch.tensor([[-0.05675, 0.185, 0.7]]))
    torch.testing.assert_close(returns, torch.tensor([[0.44325, 0.585, 1.0]]))


def test_advantages_never_bootstrap_from_padding() -> None:
    """A short row in a wide batch has the advantages it has alone, whatever the padding holds."""
    generator = torch.Generator().manual_seed(0)
    rewards, values = torch.randn(2, 1, 6, generator=generator)
    mask = torch.tensor([[True, True, True, True, False, False]])
    wide, _ = generalised_advantages(rewards, values, mask, 1.0, 0.95)
    alone, _ = generalised_advantages(rewards[:, :4], values[:, :4], mask[:, :4], 1.0, 0.95)
    torch.testing.assert_close(wide[:, :4], alone)
    assert torch.equal(wide[:, 4:], torch.zeros(1, 2))


def test_advantages_against_the_definition_in_float64() -> None:
    """GAE as the explicit double sum Σ (γλ)^k δ_{t+k}, row by row."""
    generator = torch.Generator().manual_seed(3)
    rewards, values = torch.randn(2, 5, 7, generator=generator, dtype=torch.float64)
    lengths = [7, 3, 1, 5, 2]
    mask = torch.arange(7)[None, :] < torch.tensor(lengths)[:, None]
    gamma, lam = 0.97, 0.9
    advantages, returns = generalised_advantages(rewards, values, mask, gamma, lam)
    for row, length in enumerate(lengths):
        r, v = rewards[row, :length].tolist(), [*values[row, :length].tolist(), 0.0]
        delta = [r[t] + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** (k - t) * delta[k] for k in range(t, length))
            assert advantages[row, t].item() == pytest.approx(expected, abs=1e-12)
            assert returns[row, t].item() == pytest.approx(expected + v[t], abs=1e-12)


def test_surrogate_by_hand() -> None:
    # ratio 1.5: a good action is clipped at 1.2, a bad one is not; ratio .5 the other way round
    log_ratio = torch.tensor([1.5, 1.5, 0.5, 0.5, 1.1]).log()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0, 2.0])
    losses, clipped = surrogate(log_ratio, torch.zeros(5), advantages, 0.2)
    torch.testing.assert_close(losses, torch.tensor([-1.2, 1.5, -0.5, 0.8, -2.2]))
    assert clipped.tolist() == [True, False, False, True, False]


def test_surrogate_gradient_is_the_policy_gradient_inside_and_zero_where_clipped() -> None:
    log_probs = torch.tensor([0.0, math.log(1.5), math.log(0.5)], requires_grad=True)
    losses, _ = surrogate(log_probs, torch.zeros(3), torch.tensor([2.0, 1.0, -1.0]), 0.2)
    losses.sum().backward()
    assert log_probs.grad is not None
    torch.testing.assert_close(log_probs.grad, torch.tensor([-2.0, 0.0, 0.0]))


def test_value_loss_by_hand() -> None:
    values = torch.tensor([1.0, 0.1, 2.0])
    old = torch.zeros(3)
    returns = torch.tensor([1.0, 0.3, 1.0])
    # row 0: right, but moved 1.0 where .2 is allowed: (.2 − 1)²; row 1: inside; row 2: (2 − 1)²
    expected = 0.5 * torch.tensor([0.64, 0.04, 1.0])
    torch.testing.assert_close(clipped_value_loss(values, old, returns, 0.2), expected)
    plain = 0.5 * torch.tensor([0.0, 0.04, 1.0])
    torch.testing.assert_close(clipped_value_loss(values, old, returns, None), plain)


def test_kl_estimates_average_to_the_exact_divergence() -> None:
    p = torch.tensor([0.7, 0.2, 0.1])
    q = torch.tensor([0.5, 0.3, 0.2])
    exact = float((p * (p / q).log()).sum())
    assert float((p * kl_k1(p.log(), q.log())).sum()) == pytest.approx(exact, rel=1e-5)
    assert float((p * kl_k3(p.log(), q.log())).sum()) == pytest.approx(exact, rel=1e-5)
    assert (kl_k3(p.log(), q.log()) >= 0).all()
    assert (kl_k1(p.log(), q.log()) < 0).any()


def test_kl_controller_moves_beta_towards_the_target() -> None:
    fixed = KlController(0.1)
    fixed.update(100.0, 64)
    assert fixed.beta == 0.1
    steered = KlController(0.1, target=6.0, horizon=1000.0)
    steered.update(6.6, 100)  # error .1: β · (1 + .1 · .1)
    assert steered.beta == pytest.approx(0.101)
    steered.update(600.0, 100)  # error clipped at .2
    assert steered.beta == pytest.approx(0.101 * 1.02)
    steered.update(0.0, 100)  # and at −.2
    assert steered.beta == pytest.approx(0.101 * 1.02 * 0.98)


def test_draw_is_a_stream_of_whole_passes() -> None:
    seen = [index for iteration in range(5) for index in draw(10, 4, iteration, seed=7)]
    assert sorted(seen[:10]) == list(range(10))
    assert sorted(seen[10:]) == list(range(10))
    assert seen[:10] != seen[10:]
    assert draw(10, 4, 2, seed=7) == seen[8:12]
    assert draw(10, 4, 2, seed=8) != seen[8:12]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"kl": 0.0, "kl_target": 6.0}, "kl_target needs kl above 0"),
        ({"kl_target": 6.0, "kl_horizon": 100.0, "batch": 512}, "must be above 102.4"),
        ({"epochs": 2, "iterations": 3, "value_warmup": 6}, "leaves the policy none of the 6"),
    ],
)
def test_settings_that_would_not_do_what_they_say(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        PpoStage(name="ppo", **settings)


def test_the_shortest_horizon_keeps_the_weight_positive() -> None:
    controller = KlController(0.1, target=6.0, horizon=103.0)
    controller.update(0.0, 512)
    assert 0 < controller.beta < 0.1
