"""A reward's identity: whatever changes a reward's number changes it, and nothing else does."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from harness.adapters import CONFIG_FILE, WEIGHTS_FILE, add_adapter
from harness.models import ModelSpec, load
from harness.normalisation import NORMALISATION_FILE, measure, write_normalisation
from harness.reward_identity import reward_identity
from harness.reward_models import HEAD_FILE, RewardModel, Rule, save_member

RULE = Rule(kind="weighted", weights={"helpfulness": 1.0, "safety": 0.5})


@pytest.fixture(scope="module")
def made(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("members")
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = add_adapter(load(ModelSpec(str(tiny_llama))).model, "made", lora, seed=1)
    for name in ("helpfulness", "safety"):
        (folder / name).mkdir()
        save_member(model, "made", torch.ones(1, 64), folder / name)
        scale = measure(torch.tensor([0.0, 2.0]), "held_out")
        assert scale is not None
        write_normalisation(folder / name, scale)
    return folder


def reward_models(folder: Path) -> tuple[RewardModel, ...]:
    return tuple(RewardModel(name, (folder / name,)) for name in ("helpfulness", "safety"))


def nudge(path: Path) -> None:
    """Change one number of one tensor."""
    tensors = load_file(path)
    key = sorted(tensors)[0]
    tensors[key].view(-1)[0] += 0.001
    save_file(tensors, path)


def edit(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


CHANGES: dict[str, Callable[[Path], None]] = {
    "adapter": lambda member: nudge(member / WEIGHTS_FILE),
    "its scale": lambda member: edit(member / CONFIG_FILE, lora_alpha=99),
    "head": lambda member: nudge(member / HEAD_FILE),
    "normalisation": lambda member: edit(member / NORMALISATION_FILE, mean=0.75),
    "no normalisation": lambda member: (member / NORMALISATION_FILE).unlink(),
}


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("whose", ["helpfulness", "safety"])
def test_a_changed_member_is_another_reward(
    made: Path, tmp_path: Path, what: str, whose: str
) -> None:
    shutil.copytree(made, tmp_path / "changed")
    CHANGES[what](tmp_path / "changed" / whose)
    before = reward_identity(reward_models(made), RULE)
    after = reward_identity(reward_models(tmp_path / "changed"), RULE)
    digests = "reward_models"
    assert {name for name in before[digests] if before[digests][name] != after[digests][name]} == {
        whose
    }


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "mean"},
        {"members": "worst_case"},
        {"uncertainty_weight": 0.6},
        {"safety_threshold": 0.2},
        {"weights": {"helpfulness": 1.0, "safety": 0.6}},
        {"normalise": "member"},
        {"helpfulness": "safety"},
    ],
)
def test_a_changed_rule_is_another_reward(made: Path, change: dict[str, object]) -> None:
    found = reward_identity(reward_models(made), replace(RULE, **change))  # type: ignore[arg-type]
    assert found != reward_identity(reward_models(made), RULE)


def test_a_missing_member_or_model_is_another_reward(made: Path) -> None:
    helpfulness, safety = reward_models(made)
    whole = reward_identity((helpfulness, safety), RULE)
    assert reward_identity((helpfulness,), RULE) != whole
    twice = RewardModel("safety", safety.members * 2)
    assert reward_identity((helpfulness, twice), RULE) != whole


def test_the_same_content_is_the_same_reward(made: Path, tmp_path: Path) -> None:
    """Elsewhere, written down otherwise, beside other files, through JSON: still the same."""
    copied = tmp_path / "copied"
    shutil.copytree(made, copied)
    member = copied / "safety"
    for name in (WEIGHTS_FILE, HEAD_FILE):
        save_file(load_file(member / name), member / name, metadata={"written": "otherwise"})
    edit(member / CONFIG_FILE, base_model_name_or_path="/elsewhere")
    edit(member / NORMALISATION_FILE)
    (member / "trainer").mkdir()
    backwards = replace(RULE, weights=dict(reversed([*RULE.weights.items()])))
    found = reward_identity(reward_models(copied), backwards)
    assert json.loads(json.dumps(found)) == reward_identity(reward_models(made), RULE)


def test_without_reward_models_there_is_no_rule() -> None:
    assert reward_identity((), RULE) == {"reward_models": {}, "reward_rule": None}
