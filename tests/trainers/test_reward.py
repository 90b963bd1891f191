"""Reward models: the loss in numbers, pairs in batches, members, accuracy, exact resume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from counted_tokens import counted_tokens
from datasets import Dataset
from peft import PeftConfig, PeftModel
from reward_stages import LORA, Given, preferences, stage
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModelForSequenceClassification
from trl import RewardConfig
from trl.trainer.reward_trainer import DataCollatorForPreference

from harness.adapters import activate, adapter_hash, add_adapter, hash_file
from harness.chat import assistant, render, user
from harness.errors import InputError
from harness.models import ModelSpec, causal_model, load
from harness.reward_models import RewardModel, RewardScorer, Rule
from harness.store.commit import verify
from trainers import reward, sft
from trainers.lora import lora_config
from trainers.pair_batches import PairCollator, suits
from trainers.reward_net import PairTrainer, RewardNet, new_head
from trainers.schedule_stages import Lora
from trainers.trl_epoch import borrowed
from trainers.trunk_forward import Learners

# --------------------------------------------------------------------------- the loss


@pytest.mark.parametrize(
    ("scores", "margins", "centre", "expected"),
    [
        # chosen first: −log σ(2 − 0.5 − 0) = ln(1 + e^−1.5)
        ((2.0, 0.5), (0.0,), None, 0.2014133),
        # −log σ(1.5 − 1/3) = ln(1 + e^−1.1667)
        ((2.0, 0.5), (1 / 3,), None, 0.2710977),
        # mean with −log σ(−1 − 1 − 1) = ln(1 + e^3) = 3.0485874
        ((2.0, -1.0, 0.5, 1.0), (1 / 3, 1.0), None, (0.2710977 + 3.0485874) / 2),
        # plus 0.01 · (2 + 0.5)² = 0.0625
        ((2.0, 0.5), (0.0,), 0.01, 0.2014133 + 0.0625),
    ],
)
def test_the_loss_equals_numbers_worked_by_hand(
    tmp_path: Path, tiny_llama: Path, scores: Any, margins: Any, centre: Any, expected: float
) -> None:
    model = load(ModelSpec(str(tiny_llama)))
    net = RewardNet(model.model, torch.zeros(1, 64))  # type: ignore[arg-type]
    row = {"chosen_ids": [[5]], "rejected_ids": [[6]], "margin": [0.0]}
    trainer = PairTrainer(
        model=net,  # type: ignore[arg-type]
        args=RewardConfig(
            str(tmp_path),
            center_rewards_coefficient=centre,
            max_length=None,
            bf16=False,
            report_to="none",
        ),
        train_dataset=Dataset.from_dict(row),
        processing_class=model.tokenizer,
    )
    batch = {"margin": torch.tensor(margins), "attention_mask": torch.ones(len(scores), 1)}
    loss = trainer.compute_loss(Given(*scores), batch)
    assert float(loss) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("by", ["trunk", "packed", "padded"])
def test_a_batchs_gradient_does_not_depend_on_the_micro_batch(
    tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """Nineteen pairs in batches of eight: the last has three, in forwards of 1+1+1, 2+1 and 3. The
    learning rate is next to nothing, so that every step is of the same member."""
    if by != "trunk":
        monkeypatch.setattr(Learners, "suit", lambda _: False)
        monkeypatch.setattr(Learners, "current", lambda _: None)
    monkeypatch.setattr(reward, "suits", lambda _: by == "packed")
    training = PairTrainer.training_step
    seen: list[Tensor] = []

    def watched(self: Any, *args: Any) -> Any:
        loss = training(self, *args)
        if self.accelerator.sync_gradients:
            weights = [*self.model.parameters()]
            seen.append(torch.cat([w.grad.flatten() for w in weights if w.grad is not None]))
        return loss

    monkeypatch.setattr(PairTrainer, "training_step", watched)
    found = []
    for micro in (8, 1, 2):
        settings = {"micro_batch": micro, "members": 1, "learning_rate": 1e-12, "limit": 19}
        plan = stage(tmp_path, **settings, held_out=0.0, safety_weight=0.5)
        list(reward.checkpoints(context(tmp_path / str(micro), [plan])))
        found.append(torch.stack(seen))
        seen.clear()
    assert found[0].shape[0] == 3
    assert float(found[0].abs().amax(dim=1).min()) > 1e-3
    for others in found[1:]:
        torch.testing.assert_close(others, found[0], atol=2e-6, rtol=1e-5)


# --------------------------------------------------------------------------- batches


def member(tiny_llama: Path) -> tuple[PeftModel, RewardNet]:
    loaded = load(ModelSpec(str(tiny_llama)))
    model = add_adapter(loaded.model, "member", lora_config(Lora(r=4)), seed=1)
    activate(model, "member", train=True)
    return model, RewardNet(model, new_head(64, seed=2))


PAIRS = [
    ([3, 10, 11, 12, 2], [3, 10, 11, 13, 14, 15, 2]),
    ([3, 20, 2], [3, 20, 2, 2]),  # one is the start of the other
    ([4, 9, 9, 9, 9, 9, 9, 9, 2], [3, 2]),  # nothing in common
    ([3, 10, 2, 30, 2], [3, 10, 2, 31, 2]),
] * 6


def test_a_prompt_computed_once_gives_the_scores_of_whole_sequences(tiny_llama: Path) -> None:
    model, net = member(tiny_llama)
    assert suits(causal_model(model))
    rows = [{"chosen_ids": c, "rejected_ids": r, "margin": 0.5} for c, r in PAIRS]
    batch = PairCollator(pad_token_id=0)(rows)
    sequences = [c for c, _ in PAIRS] + [r for _, r in PAIRS]
    assert batch["margin"].tolist() == [0.5] * len(PAIRS)
    assert int(batch["attention_mask"].sum()) < sum(map(len, sequences))  # tokens computed
    del batch["margin"]
    together = net(**batch).logits.squeeze(-1)
    alone = torch.stack(
        [
            net(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.int64),
                sides=1,
            ).logits.squeeze()
            for ids in sequences
        ]
    )
    torch.testing.assert_close(together, alone, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(net.scores(sequences, pad_id=0), alone, atol=2e-5, rtol=1e-4)
    # And the gradients.
    weights = [w for w in net.parameters() if w.requires_grad]
    weight = torch.randn(len(sequences), generator=torch.Generator().manual_seed(3))
    ours = torch.autograd.grad((together * weight).sum(), weights, retain_graph=True)
    theirs = torch.autograd.grad((alone * weight).sum(), weights)
    for found, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)


def test_scores_by_layers_that_are_written_out(
    tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, net = member(tiny_llama)
    batch = DataCollatorForPreference(0)(
        [{"chosen_ids": c, "rejected_ids": r} for c, r in PAIRS],
    )
    computed = counted_tokens(monkeypatch)
    weights = [w for w in net.parameters() if w.requires_grad]
    weight = torch.randn(2 * len(PAIRS), 1, generator=torch.Generator().manual_seed(3))
    found = []
    for ours in (True, False):
        if not ours:
            monkeypatch.setattr(Learners, "current", lambda _: None)
        scores = net(**batch).logits
        found.append([scores, *torch.autograd.grad((scores * weight).sum(), weights)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    # 5 + 7 tokens, the first three in both; 3 + 4, three; 9 + 2, none; 5 + 5, three.
    assert computed == [6 * (12 - 3 + 7 - 3 + 11 + 10 - 3)]


@pytest.mark.parametrize(("dropout", "collator"), [(0.0, "plain"), (0.1, "packed")])
def test_pairs_are_packed_where_layers_are_not_written_out(
    tmp_path: Path,
    context: Any,
    monkeypatch: pytest.MonkeyPatch,
    dropout: float,
    collator: str,
) -> None:
    asked = set()

    def noting(name: str, collate: Any) -> Any:
        def noted(*args: Any) -> Any:
            asked.add(name)
            return collate(*args)

        return noted

    for name, kind, method in (
        ("packed", PairCollator, "__call__"),
        ("plain", DataCollatorForPreference, "torch_call"),
    ):
        monkeypatch.setattr(kind, method, noting(name, getattr(kind, method)))
    lora = {"r": 4, "alpha": 16.0, "dropout": dropout}
    list(reward.checkpoints(context(tmp_path / "run", [stage(tmp_path, members=1, lora=lora)])))
    assert asked == {collator}


def test_models_with_other_attention_get_plain_batches(tiny_llama: Path) -> None:
    inner = causal_model(load(ModelSpec(str(tiny_llama))).model)
    inner.config.sliding_window = 8
    assert not suits(inner)


def test_the_score_is_read_at_the_end_token_even_if_it_is_the_padding(tiny_llama: Path) -> None:
    _, net = member(tiny_llama)
    sequences = [[3, 10, 11, 2], [3, 10, 11, 12, 13, 2]]
    assert torch.allclose(
        net.scores(sequences, pad_id=2), net.scores(sequences, pad_id=0), atol=1e-6
    )


# --------------------------------------------------------------------------- the stage


def test_members_learn_and_score_alike_here_in_plain_transformers_and_in_the_harness(
    tmp_path: Path, tiny_llama: Path, context: Any
) -> None:
    ctx = context(tmp_path / "run", [stage(tmp_path)], quantization="none")
    [checkpoint] = reward.checkpoints(ctx)
    assert verify(checkpoint.folder) == []
    training = checkpoint.training
    assert training["accuracy"]["n"] == training["held_out"] == 12
    assert training["accuracy"]["value"] > 0.9
    assert set(training["accuracy_by_rating"]) == {"better", "slightly better"}
    assert (training["pairs"], training["dropped"], len(training["members"])) == (48, 0, 2)
    folders = reward.member_folders(checkpoint.folder)
    assert [folder.name for folder in folders] == ["0", "1"]
    names = {
        "adapter_config.json",
        "adapter_model.safetensors",
        "head.safetensors",
        "normalisation.json",
    }
    assert all({file.name for file in folder.iterdir()} == names for folder in folders)

    chats = [(user(f"say {i}"), assistant(w)) for i in range(5) for w in ("good", "bad bad")]
    base = load(ModelSpec(str(tiny_llama)))
    model = RewardModel("helpfulness", folders)
    with RewardScorer(
        base.model, base.tokenizer, [model], Rule(kind="mean"), batch_size=4
    ) as scorer:
        ours = scorer.score(chats)["helpfulness"]
    for number, folder in enumerate(folders):
        classifier = AutoModelForSequenceClassification.from_pretrained(tiny_llama, num_labels=1)
        classifier.score.weight.data = load_file(folder / "head.safetensors")["weight"]
        config = PeftConfig.from_pretrained(str(folder))
        config.task_type = None
        plain = PeftModel.from_pretrained(classifier, str(folder), config=config).eval()
        for index, chat in enumerate(chats):
            ids = torch.tensor([render(base.tokenizer, chat, reply_next=False)])
            with torch.no_grad():
                expected = float(plain(ids).logits)
            assert float(ours[number, index]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("bootstrap", [False, True])
def test_resuming_in_a_new_process_state_gives_the_same_bytes(
    tmp_path: Path, context: Any, digest: Callable[[Path], Any], bootstrap: bool
) -> None:
    settings = {
        "epochs": 2,
        "bootstrap": bootstrap,
        "lora": {**LORA, "dropout": 0.1},
        "safety_weight": 0.5,
        "mix": {preferences(tmp_path, 30, "tell"): 0.1},
        "eval_data": {"few": {"data": preferences(tmp_path, 20), "limit": 9}},
    }
    stages = [stage(tmp_path, **settings)]
    straight = [c.folder for c in reward.checkpoints(context(tmp_path / "a", stages))]
    stream = reward.checkpoints(context(tmp_path / "b", stages))
    next(stream)
    stream.close()
    torch.rand(7)
    folders = [c.folder for c in reward.checkpoints(context(tmp_path / "b", stages))]
    assert [digest(f) for f in folders] == [digest(f) for f in straight]
    hashes = {hash_file(member) for f in folders for member in reward.member_folders(f)}
    assert len(hashes) == 4  # two members, two epochs


def test_members_start_from_the_policy_and_leave_it_alone(
    tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = {
        "kind": "sft",
        "data": str(tmp_path / "d.jsonl"),
        "epochs": 1,
        "learning_rate": 1e-2,
        "batch": 4,
        "lora": LORA,
    }
    (tmp_path / "d.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 8)
    loads = []
    monkeypatch.setattr("harness.models.load", lambda spec: loads.append(spec) or load(spec))
    stages = [policy, stage(tmp_path, epochs=1)]
    ctx = context(tmp_path / "run", stages)
    *_, start = sft.checkpoints(ctx)
    second = context(tmp_path / "run", stages, 1, start=start.folder)
    second.loaded = ctx.loaded
    model, head = reward._place_member(second, second.stage, 0, None)
    assert adapter_hash(model, "member") == hash_file(start.folder)
    assert head.shape == (1, 64)
    [_] = reward.checkpoints(second)
    assert set(model.peft_config) == {"policy"}
    assert adapter_hash(model, "policy") == hash_file(start.folder)
    assert len(loads) == 1

    other = {**stage(tmp_path), "lora": {"r": 8, "alpha": 8.0}}
    third = context(tmp_path / "other", [policy, other], 1, start=start.folder)
    with pytest.raises(InputError, match=r"r and alpha are 8 and 8\.0.* 4 and 8"):
        list(reward.checkpoints(third))


def test_too_long_pairs_are_dropped_counted_and_reported(tmp_path: Path, context: Any) -> None:
    ctx = context(tmp_path / "run", [stage(tmp_path, max_length=26, members=1)])
    [checkpoint] = reward.checkpoints(ctx)
    training = checkpoint.training
    assert training["dropped"] > 0
    assert training["pairs"] + training["held_out"] + training["dropped"] == 60


def test_padded_batches_train_the_same_member(
    tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    heads = []
    for packed in (True, False):
        monkeypatch.setattr(reward, "suits", lambda _, packed=packed: packed)
        ctx = context(tmp_path / str(packed), [stage(tmp_path, members=1)], quantization="none")
        [checkpoint] = reward.checkpoints(ctx)
        folder = reward.member_folders(checkpoint.folder)[0]
        heads.append(load_file(folder / "head.safetensors")["weight"])
    torch.testing.assert_close(heads[0], heads[1], atol=1e-3, rtol=1e-2)


def test_the_mix_is_trained_on_and_not_held_out(tmp_path: Path, context: Any) -> None:
    other = preferences(tmp_path, 40, "tell")
    ctx = context(tmp_path / "run", [stage(tmp_path, members=1, mix={other: 0.25})])
    [checkpoint] = reward.checkpoints(ctx)
    assert checkpoint.training["mixed"] == {other: 16}
    assert (checkpoint.training["pairs"], checkpoint.training["held_out"]) == (64, 12)


def test_a_member_moves_at_the_learning_rate_of_llama_2(tmp_path: Path, context: Any) -> None:
    """Head and B in float32 on a 4-bit base; A has no gradient before B has moved."""
    ctx = context(tmp_path / "run", [stage(tmp_path, members=1, learning_rate=1e-6)])
    before = new_head(64, seed=ctx.seed("head", 0))
    [checkpoint] = reward.checkpoints(ctx)
    folder = reward.member_folders(checkpoint.folder)[0]
    head = load_file(folder / "head.safetensors")["weight"]
    assert head.dtype == torch.float32
    assert (head != before).float().mean() > 0.99
    weights = load_file(folder / "adapter_model.safetensors")
    moved = torch.cat([w.flatten() != 0 for name, w in weights.items() if "lora_B" in name])
    assert moved.float().mean() > 0.99


def test_weights_that_are_frozen_when_the_trainer_is_made_keep_their_bits(
    tmp_path: Path, tiny_llama: Path
) -> None:
    """trl rounds trainable weights on a 4-bit base to bfloat16 in its constructor."""
    loaded = load(ModelSpec(str(tiny_llama), quantization="nf4"))
    model = add_adapter(loaded.model, "member", lora_config(Lora(r=4)), seed=1)
    before = adapter_hash(model, "member")
    rows = sft.dataset([sft.Example([5, 6, 7], [-100, 6, 7])], packing=False, max_length=8, seed=1)
    for train, same in ((False, True), (True, False)):
        activate(model, "member", train=train)
        with borrowed(model, gradient_checkpointing=False):
            sft.PolicyTrainer(
                model=model,
                args=sft.SFTConfig(str(tmp_path), bf16=False, report_to="none"),
                train_dataset=rows,
                processing_class=loaded.tokenizer,
            )
        assert (adapter_hash(model, "member") == before) is same
