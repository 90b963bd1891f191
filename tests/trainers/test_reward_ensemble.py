"""Members of an ensemble: how they differ, and how they are measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reward_stages import preferences, stage
from safetensors.torch import load_file
from trl.trainer.reward_trainer import DataCollatorForPreference

from harness.errors import InputError
from harness.models import ModelSpec, load
from harness.normalisation import read_normalisation
from harness.reward_models import RewardModel, RewardScorer, Rule
from trainers import reward, reward_data
from trainers.reward_net import new_head


def seen(monkeypatch: pytest.MonkeyPatch) -> list[list[tuple[int, ...]]]:
    """For every member that is trained from here on, the chosen replies of its batches in order."""
    found: list[list[tuple[int, ...]]] = []
    collate = DataCollatorForPreference.torch_call

    def noting(self: DataCollatorForPreference, pairs: Any) -> Any:
        found[-1] += [tuple(pair["chosen_ids"]) for pair in pairs]
        return collate(self, pairs)

    train = reward._train_member

    def member(*arguments: Any) -> Any:
        found.append([])
        return train(*arguments)

    monkeypatch.setattr(DataCollatorForPreference, "torch_call", noting)
    monkeypatch.setattr(reward, "_train_member", member)
    return found


@pytest.mark.parametrize("bootstrap", [False, True])
def test_members_differ_as_declared(
    tmp_path: Path, context: Any, monkeypatch: pytest.MonkeyPatch, bootstrap: bool
) -> None:
    """By head and order of the pairs; with ``bootstrap`` each has its own resample, too."""
    found = seen(monkeypatch)
    settings = {"members": 3, "bootstrap": bootstrap, "data": preferences(tmp_path, 200)}
    ctx = context(tmp_path / "run", [stage(tmp_path, **settings)], quantization="none")
    [checkpoint] = reward.checkpoints(ctx)
    training = checkpoint.training
    assert [len(rows) for rows in found] == [training["pairs"]] * 3
    assert len({tuple(rows) for rows in found}) == 3  # in another order each
    samples = [tuple(sorted(rows)) for rows in found]
    if bootstrap:
        assert len(set(samples)) == 3
        distinct = [len(set(rows)) for rows in found]
        assert [member["distinct_pairs"] for member in training["members"]] == distinct
        # 1 − 1/e of them; three standard deviations of that count are 15 of 160
        assert all(abs(count - 0.632 * 160) < 15 for count in distinct)
    else:
        assert len(set(samples)) == 1
        assert "distinct_pairs" not in training["members"][0]
    heads = [
        load_file(folder / "head.safetensors")["weight"]
        for folder in reward.member_folders(checkpoint.folder)
    ]
    begun = [new_head(64, seed=ctx.seed("head", number)) for number in range(3)]
    for one in range(3):
        assert not torch.equal(begun[one], begun[one - 1])
        assert not torch.equal(heads[one], heads[one - 1])
    assert training["agreement"]["correlation"] < 1.0
    assert training["agreement"]["disagreement"]["n"] == training["held_out"]


@pytest.mark.parametrize(("pairs", "over"), [(200, "held_out"), (60, "training")])
def test_every_set_is_measured_as_the_harness_scores_it(
    tmp_path: Path, tiny_llama: Path, context: Any, pairs: int, over: str
) -> None:
    """Accuracies, by member and of the mean, and each member's normalisation, from the files."""
    settings = {
        "data": preferences(tmp_path, pairs),
        "eval_data": {"other": preferences(tmp_path, 30, "tell")},
        "learning_rate": 3e-4,
    }
    ctx = context(tmp_path / "run", [stage(tmp_path, **settings)], quantization="none")
    [checkpoint] = reward.checkpoints(ctx)
    training = checkpoint.training
    data = reward_data.load(ctx, ctx.stage)
    base = load(ModelSpec(str(tiny_llama)))
    model = RewardModel("helpfulness", reward.member_folders(checkpoint.folder))
    rule = Rule(kind="mean", normalise="member")
    measured = {name: found.rows for name, found in data.measured.items()}
    measured["training"] = data.train
    with RewardScorer(base.model, base.tokenizer, [model], rule, batch_size=8) as scorer:
        for name, rows in measured.items():
            tokens = [row.chosen for row in rows] + [row.rejected for row in rows]
            scores = scorer.score_tokens(tokens)["helpfulness"]
            right = scores[:, : len(rows)] > scores[:, len(rows) :]
            mean = scores.mean(0)
            together = float((mean[: len(rows)] > mean[len(rows) :]).float().mean())
            if name != "training":
                found = training if name == "held_out" else training["eval_data"][name]
                assert found["accuracy"]["value"] == pytest.approx(together)
                assert found["accuracy"]["n"] == len(rows)
                assert sum(b["n"] for b in found["calibration"]["bins"]) == len(rows)
                disagree = float((right[0] != right[1]).float().mean())
                assert found["agreement"]["disagreement"]["value"] == pytest.approx(disagree)
                for number, member in enumerate(training["members"]):
                    of_set = member if name == "held_out" else member["eval_data"][name]
                    own = float(right[number].float().mean())
                    assert of_set["accuracy"]["value"] == pytest.approx(own)
                    assert set(of_set["accuracy_by_rating"]) == {"better", "slightly better"}
            if name == over:
                for number, folder in enumerate(model.members):
                    known = read_normalisation(folder)
                    assert (known.over, known.replies) == (over, 2 * len(rows))
                    assert known.mean == pytest.approx(float(scores[number].mean()), abs=1e-4)
                    spread = float(scores[number].std(correction=0))
                    assert known.sd == pytest.approx(spread, rel=1e-3)
                    scores[number] = (scores[number] - known.mean) / known.sd
                raw = scorer.score_tokens(tokens)
                combined = scorer.combined(raw, [False] * len(tokens))
                torch.testing.assert_close(combined.reward, scores.mean(0), atol=1e-4, rtol=1e-4)
    (model.members[1] / "normalisation.json").unlink()
    with pytest.raises(InputError, match=r"normalisation\.json is missing"):
        RewardScorer(base.model, base.tokenizer, [model], rule, batch_size=8)
    RewardScorer(base.model, base.tokenizer, [model], Rule(kind="mean"), batch_size=8).close()
