"""Bases of many families in training: what is computed together is what each would be alone."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from peft import PeftModel
from torch import Tensor

from harness.adapters import activate, adapter_weights, add_adapter
from harness.errors import InputError
from harness.models import ModelSpec, backbone, causal_model, load
from harness.positions import goes_by_position_ids
from trainers.learner import learner
from trainers.lora import lora_config
from trainers.packing import PackedCollator
from trainers.pair_batches import PairCollator, attention, suits
from trainers.policy_net import PolicyNet
from trainers.rollouts import policy_log_probs
from trainers.schedule_stages import Lora
from trainers.separation import keeps_apart, packed_collator

# Of those that make no mask of positions: how they are packed, None for not at all.
_PACKED = {"opt": "mask", "falcon": "mask"} | dict.fromkeys(
    ("bloom", "mpt", "falcon_alibi", "gpt_oss"), None
)
_COUNT_SLOTS = {"bloom", "mpt", "falcon_alibi", "gpt_neo"}


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def policy(request: Any, family_base: Callable[..., Path]) -> tuple[str, PeftModel]:
    """The family, and a model of it with a random adapter that computes."""
    loaded = load(ModelSpec(str(family_base(request.param))))
    model = add_adapter(loaded.model, "policy", lora_config(Lora(r=4)), seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in adapter_weights(model, "policy").items():
            if "lora_B" in name:
                weight.normal_(std=0.2, generator=generator)
    activate(model, "policy")
    return request.param, model


def tokens(*lengths: int) -> list[tuple[int, ...]]:
    numbers = random.Random(sum(lengths))
    return [tuple(numbers.randrange(7, 250) for _ in range(length)) for length in lengths]


@torch.no_grad()
def hidden(model: PeftModel, ids: tuple[int, ...]) -> Tensor:
    """The last hidden states of one sequence without padding, (tokens, hidden)."""
    states: Tensor = backbone(model)(input_ids=torch.tensor([ids]), use_cache=False)[0][0]
    return states


def test_packed_rows_are_computed_as_alone(policy: tuple[str, PeftModel]) -> None:
    name, model = policy
    if _PACKED.get(name, "positions") is None:
        with pytest.raises(InputError, match="packing: packed rows would see each other"):
            packed_collator(model, 0)
        return
    collator = packed_collator(model, 0)
    assert ("positions" if collator.mask is None else "mask") == _PACKED.get(name, "positions")
    rows = tokens(21, 13, 30)
    ids = [token for row in rows for token in row]
    feature = {"input_ids": ids, "labels": ids, "seq_lengths": [len(row) for row in rows]}
    batch = collator([feature, {**feature, "input_ids": ids[::-1]}])
    del batch["labels"]
    with torch.no_grad():
        states = backbone(model)(**batch, use_cache=False).last_hidden_state[0]
    for row, own in zip(rows, states.split([len(row) for row in rows]), strict=True):
        torch.testing.assert_close(own, hidden(model, row), rtol=1e-4, atol=1e-4)


def test_a_row_that_sees_another_is_noticed(policy: tuple[str, PeftModel]) -> None:
    """Whatever the family: where the positions do not start again, all see all."""
    _, model = policy

    class Joined(PackedCollator):
        def __call__(self, rows: Any) -> dict[str, Tensor]:
            whole = [{**row, "seq_lengths": [sum(row["seq_lengths"])]} for row in rows]
            return super().__call__(whole)

    assert not keeps_apart(model, Joined(0))


def test_pairs_share_prompts_only_where_scores_stay_the_same(
    policy: tuple[str, PeftModel],
) -> None:
    name, model = policy
    inner = causal_model(model)
    assert goes_by_position_ids(model) == (name not in _COUNT_SLOTS)
    if not suits(inner):
        assert name in _COUNT_SLOTS | {"mistral", "gemma2", "gemma3", "gpt_oss"}
        return
    prompts, replies = tokens(20, 7), tokens(12, 5)
    pairs = [
        {"chosen_ids": [*p, *r], "rejected_ids": [*p, *r[1:], 9, 8], "margin": 0.0}
        for p, r in zip(prompts, replies, strict=True)
    ]
    batch = PairCollator(0)(pairs)
    mask = attention(batch["block"], batch["branch"], inner.dtype)
    inputs = {"position_ids": batch["position_ids"], "attention_mask": mask}
    with torch.no_grad():
        states = backbone(model)(input_ids=batch["input_ids"], **inputs, use_cache=False)
    found = states.last_hidden_state.flatten(0, 1)[batch["ends"]]
    both = [pair[side] for side in ("chosen_ids", "rejected_ids") for pair in pairs]
    for ids, own in zip(both, found, strict=True):
        torch.testing.assert_close(own, hidden(model, tuple(ids))[-1], rtol=1e-4, atol=1e-4)


def test_log_probs_and_gradients_are_those_of_single_sequences(
    policy: tuple[str, PeftModel],
) -> None:
    _, model = policy
    prompts, replies = tokens(5, 40, 17), tokens(30, 4, 9)
    weights = [*adapter_weights(model, "policy").values()]
    activate(model, "policy", train=True)
    with learner(model) as net:
        found, _ = policy_log_probs(net, prompts, replies, pad=0, temperature=1.0, width=30)
        own = torch.autograd.grad(found.sum(), weights)
    expected = []
    for prompt, reply in zip(prompts, replies, strict=True):
        logits = causal_model(model)(input_ids=torch.tensor([[*prompt, *reply]]), use_cache=False)
        rows = logits.logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        expected.append(rows.gather(1, torch.tensor(reply)[:, None])[:, 0])
    plain = torch.autograd.grad(torch.cat(expected).sum(), weights)
    activate(model, "policy")
    for row, reply, wanted in zip(found, replies, expected, strict=True):
        torch.testing.assert_close(row[: len(reply)], wanted, rtol=1e-4, atol=1e-4)
    for one, other in zip(own, plain, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * float(other.abs().max()))


def test_trls_forward_of_the_policy_gives_the_same(policy: tuple[str, PeftModel]) -> None:
    from trl.trainer.utils import add_fused_lm_head

    _, model = policy
    net = PolicyNet(model)
    add_fused_lm_head(net, outputs=("log_probs",))
    rows = tokens(25, 12)
    ids, mask = torch.zeros(2, 25, dtype=torch.int64), torch.zeros(2, 25, dtype=torch.int64)
    ids[0], mask[0] = torch.tensor(rows[0]), 1
    ids[1, 13:], mask[1, 13:] = torch.tensor(rows[1]), 1  # padded on the left
    labels = ids.masked_fill(mask == 0, -100)
    labels[1, 13] = -100
    with torch.no_grad():
        found = net(input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True)
        for row, own in zip(rows, found.log_probs, strict=True):
            logits = causal_model(model)(input_ids=torch.tensor([row]), use_cache=False).logits[0]
            words = torch.tensor(row[1:])[:, None]
            expected = logits[:-1].float().log_softmax(-1).gather(1, words)[:, 0]
            torch.testing.assert_close(own[-len(expected) :], expected, rtol=1e-4, atol=1e-4)
