"""DPO: which tokens carry loss, every loss against float64, the reference, the pairs."""

from __future__ import annotations

import json
import math
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from exact import exact_model, log_probs
from torch import Tensor

from harness.adapters import activate, adapter_weights, save_adapter
from harness.chat import assistant, render, user
from harness.errors import InputError
from trainers import dpo
from trainers.data_rows import Pair
from trainers.dpo_data import Preference, load, preferences
from trainers.lora import place_policy
from trainers.policy_net import PolicyNet
from trainers.trl_epoch import borrowed
from trainers.trunk_forward import through_trunk

PAIRS = [
    Pair((user("one?"),), "1", "no idea"),
    Pair((user("two?"), assistant("2"), user("sure?")), "yes, sure", "no", "better"),
    Pair((user("a long question about three"),), "3", "4444"),
]
# Drops what earlier assistant turns said, as templates of reasoning models do.
FORGETFUL = (
    "{% for m in messages %}<|{{ m['role'] }}|>"
    "{{ '' if m['role'] == 'assistant' and not loop.last else m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


# --------------------------------------------------------------------------- tokens


def test_a_pair_is_its_prompt_as_asked_and_two_replies_with_end_tokens(tokenizer: Any) -> None:
    rows = preferences(tokenizer, PAIRS, eos=[2])
    for row, pair in zip(rows, PAIRS, strict=True):
        assert list(row.prompt) == render(tokenizer, pair.prompt, reply_next=True)
        assert tokenizer.decode(row.chosen) == f"{pair.chosen}</s>"
        assert tokenizer.decode(row.rejected) == f"{pair.rejected}</s>"
    assert [row.rating for row in rows] == [None, "better", None]
    assert rows[0].longest == len(rows[0].prompt) + len("no idea") + 1


def test_a_template_that_rewrites_earlier_turns_leaves_the_reply_alone(tokenizer: Any) -> None:
    tokenizer.chat_template = FORGETFUL
    row = preferences(tokenizer, PAIRS, eos=[2])[1]
    assert tokenizer.decode(row.chosen) == "yes, sure</s>"
    assert list(row.prompt) == render(tokenizer, PAIRS[1].prompt, reply_next=True)


# --------------------------------------------------------------------------- the loss


def stage(folder: Path, rows: list[dict[str, Any]] | None = None, **settings: Any) -> Any:
    path = folder / "pairs.jsonl"
    if rows is None:
        rows = [
            {
                "prompt": f"say {i}",
                "chosen": f"{i} it is" + "!" * i,
                "rejected": "no" + "?" * (i % 5),
            }
            for i in range(8)
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "kind": "dpo",
        "data": str(path),
        "epochs": 2,
        "batch": 4,
        "max_length": 96,
        "learning_rate": 1e-3,
        "held_out": 0.0,
        "lora": {"r": 4, "alpha": 32.0, "dropout": 0.5},
        **settings,
    }


def moved(model: Any, folder: Path, scale: float) -> Path:
    """Move the policy; where its adapter is stored then."""
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in adapter_weights(model, "policy").values():
            weight += scale * torch.randn(weight.shape, generator=generator)
    folder.mkdir()
    save_adapter(model, "policy", folder)
    return folder


def exact_loss(
    kind: str,
    beta: float,
    epsilon: float,
    ratios: list[tuple[Tensor, Tensor]],
    rows: list[Preference],
) -> Tensor:
    """The papers' equations on log-ratios (chosen, rejected) of whole replies, in float64."""
    losses = []
    for (chosen, rejected), row in zip(ratios, rows, strict=True):
        delta = beta * (chosen - rejected)
        if kind == "sigmoid":  # Rafailov et al. 2023, eq. 7; Mitchell 2023, eq. 3
            losses.append(
                -(1 - epsilon) * torch.log(torch.sigmoid(delta))
                - epsilon * torch.log(torch.sigmoid(-delta))
            )
        elif kind == "robust":  # Chowdhury et al. 2024, eq. 12
            right, wrong = torch.log(torch.sigmoid(delta)), torch.log(torch.sigmoid(-delta))
            losses.append(-((1 - epsilon) * right - epsilon * wrong) / (1 - 2 * epsilon))
        elif kind == "ipo":  # Azar et al. 2023, eq. 17, log-ratios a token
            gap = chosen / len(row.chosen) - rejected / len(row.rejected)
            losses.append((gap - 1 / (2 * beta)) ** 2)
        else:  # Zhao et al. 2023, with the log-ratio in place of the log-probability
            losses.append(torch.clamp(1 - delta, min=0))
    return torch.stack(losses).mean()


@pytest.mark.parametrize(
    ("kind", "epsilon"),
    [("sigmoid", 0.0), ("sigmoid", 0.2), ("robust", 0.2), ("ipo", 0.0), ("hinge", 0.0)],
)
@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("by", ["trl", "trunk"])
def test_loss_gradient_and_implicit_rewards_are_the_papers(
    tmp_path: Path,
    context: Any,
    models: Any,
    tiny_llama: Path,
    kind: str,
    epsilon: float,
    beta: float,
    by: str,
) -> None:
    start, _ = models
    settings = stage(tmp_path, loss=kind, label_smoothing=epsilon, beta=beta, batch=8)
    ctx = context(
        tmp_path / "run",
        [{"kind": "sft", "data": "x"}, settings],
        1,
        start=start,
        quantization="none",
    )
    model = place_policy(ctx, start, ctx.stage.lora)
    data = load(ctx, ctx.stage)
    known, _ = dpo._reference(ctx, model, data)
    plan = dpo._plan(ctx, ctx.stage, data.train)
    policy_folder = moved(model, tmp_path / "policy", 0.03)
    with borrowed(model, gradient_checkpointing=False):
        trainer = dpo.PreferenceTrainer(
            PolicyNet(model),
            args=dpo.DPOConfig(
                **plan.arguments(tmp_path / "out", on_cpu=True),
                **dpo.loss_settings(ctx.stage),
                disable_dropout=False,
                pad_to_multiple_of=None,
            ),
            train_dataset=dpo.dataset(data.train, known),
            processing_class=ctx.base().tokenizer,
        )
        activate(model, "policy", train=True)
        trainer.model.train()
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(8)])
        with ExitStack() as stack:
            if by == "trunk":
                stack.enter_context(through_trunk(trainer.model, model, sides=2))
            loss = trainer.compute_loss(trainer.model, batch)
            loss.backward()
        gradients = {k: w.grad.double() for k, w in adapter_weights(model, "policy").items()}

    policy, reference = exact_model(tiny_llama, policy_folder), exact_model(tiny_llama, start)
    ratios = [
        (
            log_probs(policy, row.prompt, row.chosen).sum()
            - log_probs(reference, row.prompt, row.chosen).sum().detach(),
            log_probs(policy, row.prompt, row.rejected).sum()
            - log_probs(reference, row.prompt, row.rejected).sum().detach(),
        )
        for row in data.train
    ]
    exact = exact_loss(kind, beta, epsilon, ratios, data.train)
    torch.testing.assert_close(loss.double(), exact, atol=1e-5, rtol=1e-4)
    exact.backward()
    theirs = dict(policy.named_parameters())
    largest = max(
        float(theirs[k.replace(".weight", ".default.weight")].grad.abs().max()) for k in gradients
    )
    assert largest > 1e-2
    for key, gradient in gradients.items():
        owner = theirs[key.replace(".weight", ".default.weight")]
        torch.testing.assert_close(gradient, owner.grad, atol=1e-4 * largest, rtol=1e-3)
    chosen = beta * torch.stack([one.detach() for one, _ in ratios])
    rejected = beta * torch.stack([other.detach() for _, other in ratios])
    logged = {key: values[-1] for key, values in trainer._metrics["train"].items()}
    for name, expected in {
        "rewards/chosen": chosen.mean(),
        "rewards/rejected": rejected.mean(),
        "rewards/margins": (chosen - rejected).mean(),
        "rewards/accuracies": (chosen > rejected).double().mean(),
    }.items():
        assert logged[name] == pytest.approx(float(expected), abs=1e-4)
    assert chosen.abs().min() > 1e-3


def test_loss_is_on_the_replies_tokens_alone(tmp_path: Path, context: Any, models: Any) -> None:
    """Of all tokens' log-probabilities, exactly those of the replies are summed."""
    ctx = context(tmp_path / "run", [stage(tmp_path)], start=models[0])
    model = place_policy(ctx, models[0], ctx.stage.lora)
    rows = preferences(ctx.base().tokenizer, PAIRS, eos=[2])
    known = dpo.LogProbs(torch.zeros(3), torch.zeros(3))
    plan = dpo._plan(ctx, ctx.stage, rows)
    with borrowed(model, gradient_checkpointing=False):
        trainer = dpo.PreferenceTrainer(
            PolicyNet(model),
            args=dpo.DPOConfig(**plan.arguments(tmp_path / "out", on_cpu=True), beta=0.001),
            train_dataset=dpo.dataset(rows, known),
            processing_class=ctx.base().tokenizer,
        )
        batch = trainer.data_collator([trainer.train_dataset[n] for n in range(3)])
        mask = batch["completion_mask"].bool()
        found = [ids[m].tolist() for ids, m in zip(batch["input_ids"], mask, strict=True)]
        assert found == [list(row.chosen) for row in rows] + [list(row.rejected) for row in rows]
        activate(model, "policy", train=True)
        seen: list[Tensor] = []
        forward = trainer.model.forward

        def watched(*args: Any, **settings: Any) -> Any:
            outputs = forward(*args, **settings)
            seen.append(outputs.log_probs.detach())
            return outputs

        trainer.model.forward = watched
        trainer.compute_loss(trainer.model, batch).backward()
        del trainer.model.forward
    [values] = seen
    shifted = mask[:, 1:]
    assert torch.all(values[~shifted] == 0)  # the loss is made of their sums
    assert torch.all(values[shifted] < 0)


def test_reference_is_the_frozen_start(
    tmp_path: Path, context: Any, models: Any, tiny_llama: Path
) -> None:
    """Not the base, nor what the policy is when it is measured."""
    start, _ = models
    stages = [{"kind": "sft", "data": "x"}, stage(tmp_path)]
    ctx = context(tmp_path / "run", stages, 1, start=start, quantization="none")
    model = place_policy(ctx, start, ctx.stage.lora)
    data = load(ctx, ctx.stage)
    moved(model, tmp_path / "later", 0.05)
    known, _ = dpo._reference(ctx, model, data)
    exact = exact_model(tiny_llama, start)
    for side, found in (("chosen", known.chosen), ("rejected", known.rejected)):
        expected = [
            float(log_probs(exact, row.prompt, getattr(row, side)).sum().detach())
            for row in data.train
        ]
        assert found.tolist() == pytest.approx(expected, abs=1e-3)
    policy = dpo.measure(model, "policy", data.train, pad=0)
    assert (policy.chosen - known.chosen).abs().min() > 0.01
    base = dpo.measure(model, None, data.train, pad=0)
    assert (base.chosen - known.chosen).abs().min() > 0.01


def test_held_out_rewards_by_hand() -> None:
    policy = dpo.LogProbs(torch.tensor([-1.0, -2.0]), torch.tensor([-5.0, -1.0]))
    reference = dpo.LogProbs(torch.tensor([-2.0, -2.0]), torch.tensor([-3.0, -2.0]))
    found = dpo.held_out_scalars(policy, reference, 0.5)
    # Chosen: 0.5·(1, 0); rejected: 0.5·(−2, 1).
    assert found == {
        "held_out_accuracy": 0.5,
        "held_out_margin": 0.5 * (3 - 1) / 2,
        "held_out_reward_chosen": 0.25,
        "held_out_reward_rejected": -0.25,
    }
    empty = dpo.LogProbs(torch.empty(0), torch.empty(0))
    assert dpo.held_out_scalars(empty, empty, 0.5) == {}


# --------------------------------------------------------------------------- the pairs


def test_too_long_pairs_are_dropped_and_counted(tmp_path: Path, context: Any) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "y" * (1 + i), "rejected": "n"} for i in range(20)]
    ctx = context(tmp_path / "run", [stage(tmp_path, rows, max_length=16)])
    data = load(ctx, ctx.stage)
    assert 0 < data.counts["dropped"] < 20
    assert data.counts["pairs"] == len(data.train) == 20 - data.counts["dropped"]
    assert max(row.longest for row in data.train) == 16
    assert data.counts["loss_tokens"] == sum(len(r.chosen) + len(r.rejected) for r in data.train)
    ctx = context(tmp_path / "none", [stage(tmp_path, rows, max_length=3)])
    with pytest.raises(InputError, match="20 are longer than max_length 3"):
        load(ctx, ctx.stage)


def test_no_prompt_is_trained_on_and_held_out(tmp_path: Path, context: Any) -> None:
    rows = [
        {"prompt": f"p{i % 10}", "chosen": f"yes {i}", "rejected": "no", "rating": "better"}
        for i in range(40)
    ]
    other = tmp_path / "other.jsonl"  # mixed in: has two of the same prompts
    mixed = [{"prompt": f"p{i}", "chosen": "a", "rejected": "b"} for i in range(12)]
    other.write_text("".join(json.dumps(row) + "\n" for row in mixed))
    ctx = context(tmp_path / "run", [stage(tmp_path, rows, held_out=0.3, mix={str(other): 0.2})])
    data = load(ctx, ctx.stage)
    trained = {row.prompt for row in data.train}
    assert not trained & {row.prompt for row in data.held_out}
    assert data.counts["mixed"] == {str(other): 7}  # 28 of its own and a fifth of 35
    assert data.counts["mix_missing"] == {}
    assert data.counts["ratings"] == {"better": 28, "unrated": 7}
    assert len(data.held_out) + data.counts["seen_held_out"] == 12
    again = load(ctx, ctx.stage)
    assert again == data
    settings = stage(tmp_path, rows, held_out=0.3, mix={str(other): 0.5})
    ctx = context(tmp_path / "more", [settings])
    data = load(ctx, ctx.stage)
    assert data.counts["mixed"] == {str(other): 12}
    assert data.counts["mix_missing"] == {str(other): 16}


def test_at_the_start_the_loss_is_log_2_and_it_learns(
    tmp_path: Path, context: Any, models: Any
) -> None:
    seen: list[dict[str, Any]] = []
    stages = [{"kind": "sft", "data": "x"}, stage(tmp_path, held_out=0.25, warmup_ratio=0.0)]
    ctx = context(tmp_path / "run", stages, 1, start=models[0], log=seen.append)
    first, middle, last = dpo.checkpoints(ctx)
    assert seen[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert seen[0]["implicit_margin"] == pytest.approx(0.0, abs=1e-5)
    assert first.training == {}
    assert last.training["loss"] < middle.training["loss"] < math.log(2)
    assert last.training["implicit_accuracy"] == 1.0
    assert last.training["held_out"] == 2
    assert last.training["held_out_margin"] > middle.training["held_out_margin"] > 0
