"""trl's forward through the layers that are written out gives what trl's own gives."""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from adapted_model import adapted
from counted_tokens import counted_tokens
from torch import Tensor
from transformers import LlamaModel
from trl.trainer.utils import add_fused_lm_head

from harness.adapters import activate, adapter_weights
from harness.models import causal_model
from trainers import dpo, learner, reward, rloo, separation, sft, trunk_forward
from trainers.packing import IGNORED, PackedCollator
from trainers.trunk_forward import Learners, through_trunk

FIELDS = ("log_probs", "entropy", "mean_logits", "is_top1")


@pytest.fixture(params=["none", "nf4"])
def model(tiny_llama: Path, request: Any) -> Any:
    return adapted(tiny_llama, request.param)


def tokens(*shape: int) -> Tensor:
    return torch.randint(3, 100, shape, generator=torch.Generator().manual_seed(1))


def padded(side: str) -> dict[str, Tensor]:
    mask = torch.ones(4, 9, dtype=torch.int64)
    for row, empty in enumerate((0, 3, 6, 1)):
        if side in ("right", "both"):
            mask[row, 9 - empty :] = 0
        if side in ("left", "both"):
            mask[row, : empty // 2 if side == "both" else empty] = 0
    ids = tokens(4, 9)
    labels = ids.masked_fill(mask == 0, IGNORED)
    labels[0, :4] = labels[2, :] = IGNORED  # a row without any
    labels[torch.arange(4), mask.argmax(1)] = IGNORED  # nothing predicts a row's first token
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def packed() -> dict[str, Tensor]:
    rows = []
    for number, lengths in enumerate([(4, 3, 2), (5,), (1, 6)]):
        ids = tokens(3, 9)[number, : sum(lengths)].tolist()
        labels = [IGNORED if place % 4 == 1 else token for place, token in enumerate(ids)]
        rows.append({"input_ids": ids, "labels": labels, "seq_lengths": lengths})
    return PackedCollator(0)(rows)


def pairs() -> dict[str, Tensor]:
    """Chosen replies, then rejected ones to the same prompts: one beside one that goes on, one
    beside the same, one beside another, one without a prompt."""
    ids = tokens(8, 9)
    mask, asked = torch.zeros(8, 9, dtype=torch.int64), torch.zeros(8, 9, dtype=torch.bool)
    for row, (prompt, end) in enumerate(
        [(4, 7), (3, 5), (6, 8), (1, 4), (4, 9), (3, 5), (6, 9), (1, 6)]
    ):
        mask[row, :end] = 1
        asked[row, prompt:end] = True
    for row, alike in enumerate((7, 5, 6, 0)):
        ids[4 + row, :alike] = ids[row, :alike]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(~asked, IGNORED),
    }


BATCHES = {side: padded(side) for side in ("right", "left", "both")}
BATCHES |= {"packed": packed(), "pairs": pairs()}


def both(
    model: Any, batch: dict[str, Tensor], *, temperature: float = 1.0, sides: int = 1
) -> tuple[list[Any], list[list[Tensor]]]:
    """trl's output and ours, with the gradients of a loss of the log-probabilities."""
    inner = causal_model(model)
    add_fused_lm_head(inner, temperature=temperature, outputs=FIELDS)
    found, gradients = [], []
    weight = torch.randn(batch["labels"].shape, generator=torch.Generator().manual_seed(2))[:, 1:]
    for ours in (False, True):
        with ExitStack() as stack:
            if ours:
                settings: dict[str, Any] = {"temperature": temperature, "sides": sides}
                stack.enter_context(through_trunk(inner, model, **settings))
            output = model(**batch, use_cache=False, fused_lm_head=True)
            loss = (output.log_probs * weight).sum()
            gradients.append(list(torch.autograd.grad(loss, trained(model))))
        found.append(output)
    return found, gradients


def trained(model: Any) -> list[Tensor]:
    return [*adapter_weights(model, "policy").values()]


@pytest.mark.parametrize(("kind", "sides"), [*((kind, 1) for kind in BATCHES), ("pairs", 2)])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_everything_that_trl_reads(
    model: Any, monkeypatch: pytest.MonkeyPatch, kind: str, sides: int, temperature: float
) -> None:
    computed = counted_tokens(monkeypatch)
    (theirs, ours), gradients = both(model, BATCHES[kind], temperature=temperature, sides=sides)
    if kind == "pairs":  # up to the token before the last label, of what both begin with once
        assert computed == [45 if sides == 1 else 45 - (6 + 4 + 6)]
    assert ours.log_probs.grad_fn is not None
    for name in ("loss", *FIELDS, "label_mask"):
        one, other = getattr(ours, name), getattr(theirs, name)
        assert one.dtype == other.dtype
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert not ours.entropy.requires_grad
    for one, other in zip(*gradients, strict=True):
        assert float((one - other).norm()) <= 1e-4 * float(other.norm())


def test_it_is_ours_that_answered(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same with the model's own layers out of order."""
    inner = causal_model(model)
    add_fused_lm_head(inner, outputs=FIELDS)
    expected = model(**BATCHES["packed"], use_cache=False, fused_lm_head=True)

    def broken(*_: Any, **__: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(type(inner.model), "forward", broken)
    with through_trunk(inner, model):
        found = model(**BATCHES["packed"], use_cache=False, fused_lm_head=True)
        with pytest.raises(AssertionError):
            model(input_ids=BATCHES["packed"]["input_ids"])  # logits are theirs
    torch.testing.assert_close(found.log_probs, expected.log_probs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("why", ["gap", "no label", "both", "positions", "dropout", "head"])
def test_other_batches_and_models_are_left_to_trl(tiny_llama: Path, why: str) -> None:
    settings = {
        "dropout": {"lora_dropout": 0.5},
        "head": {"target_modules": ["q_proj", "lm_head"]},
    }
    model = adapted(tiny_llama, **settings.get(why, {}))
    batch = {name: tensor.clone() for name, tensor in BATCHES["right"].items()}
    if why == "gap":
        batch["attention_mask"][0, 2] = 0
    elif why == "no label":
        batch["labels"][:] = IGNORED
    elif why == "both":
        batch["position_ids"] = torch.arange(9).expand(4, 9) + 2
    elif why == "positions":
        batch.pop("attention_mask")
        batch["position_ids"] = torch.arange(9).expand(4, 9) + 2
    model.train()
    inner = causal_model(model)
    add_fused_lm_head(inner, outputs=FIELDS)
    found = []
    for ours in (False, True):
        with ExitStack() as stack:
            if ours:
                stack.enter_context(through_trunk(inner, model))
            torch.manual_seed(5)
            found.append(model(**batch, use_cache=False, fused_lm_head=True).log_probs)
    assert torch.equal(*found)


def test_a_model_elsewhere_is_not_looked_at_closer(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU a look at the batch would wait for it, and it is not read here."""
    inner = causal_model(model)
    add_fused_lm_head(inner, outputs=FIELDS)
    expected = model(**BATCHES["right"], use_cache=False, fused_lm_head=True).log_probs
    monkeypatch.setattr(trunk_forward, "trunk", lambda *_, **__: None)  # as of a model on a GPU
    monkeypatch.setattr(trunk_forward, "_places", None)
    with through_trunk(inner, model):
        found = model(**BATCHES["right"], use_cache=False, fused_lm_head=True).log_probs
    assert torch.equal(found, expected)


def test_logits_of_many_places_are_computed_part_by_part(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    (_, whole), (_, expected) = both(model, BATCHES["right"])
    monkeypatch.setattr(learner, "_LOGITS_AT_ONCE", 5 * len(causal_model(model).lm_head.weight))
    (_, parts), (_, found) = both(model, BATCHES["right"])
    torch.testing.assert_close(parts.log_probs, whole.log_probs)
    torch.testing.assert_close(parts.entropy, whole.entropy)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_learner_is_made_again_when_weights_change(model: Any) -> None:
    learners = Learners(model)
    assert learners.suit()
    first = learners.current()
    assert first is not None
    assert learners.current() is first
    optimizer = torch.optim.AdamW(trained(model), lr=0.1)
    for weight in trained(model):
        weight.grad = torch.ones_like(weight)
    optimizer.step()
    second = learners.current()
    assert second is not first
    activate(model, None)
    base = learners.current()
    activate(model, "policy", train=True)
    assert learners.current() is second
    activate(model, None)
    assert learners.current() is base


def test_trl_gets_its_forward_back(model: Any) -> None:
    inner = causal_model(model)
    add_fused_lm_head(inner)
    before = vars(inner)["forward"]
    with pytest.raises(KeyError), through_trunk(inner, model):
        raise KeyError
    assert vars(inner)["forward"] is before


@pytest.mark.parametrize("kind", ["sft", "reward", "dpo", "rloo"])
def test_stages_train_small_llamas_without_transformers_layers(
    tmp_path: Path, context: Any, models: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """An epoch with the library's layers out of order, once they have been asked about packing."""

    def broken(*_: Any, **__: Any) -> Any:
        raise AssertionError

    rows = {
        "sft": [{"prompt": f"say {i}", "completion": f"{i} it is"} for i in range(9)],
        "rloo": [{"id": str(i), "prompt": f"say {i}", "safety": False} for i in range(9)],
    }
    pairs = [{"prompt": f"say {i}", "chosen": "yes" * i, "rejected": "no"} for i in range(1, 10)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows.get(kind, pairs)))
    settings: dict[str, Any] = {"batch": 4, "learning_rate": 1e-3, "lora": {"r": 4, "alpha": 32.0}}
    if kind == "rloo":
        settings |= {"prompts": str(path), "iterations": 1, "samples": 2, "mini_batch": 4}
        settings |= {"max_new_tokens": 4}
    else:
        settings |= {"data": str(path), "max_length": 96}
    stages = {"sft": sft, "reward": reward, "dpo": dpo, "rloo": rloo}
    ctx = context(
        tmp_path / "run",
        [{"kind": "sft", "data": "x"}, {"kind": kind, "name": "tried", "epochs": 1, **settings}],
        1,
        start=models[0],
        reward_models=models[1] if kind == "rloo" else (),
    )
    monkeypatch.setattr(separation, "keeps_apart", lambda *_: True)
    monkeypatch.setattr(LlamaModel, "forward", broken)
    *_, last = stages[kind].checkpoints(ctx)
    assert last.training["step" if kind != "reward" else "pairs"] > 0
