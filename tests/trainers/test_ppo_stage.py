"""The PPO stage end to end on a tiny model: checkpoints, exact resume, and it learns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig

from harness.adapters import adapter_weights, add_adapter, hash_file, save_adapter
from harness.errors import InputError, IntegrityError
from harness.models import ModelSpec, load
from harness.reward_models import RewardModel, save_member
from harness.store.run import Run
from trainers.ppo import checkpoints
from trainers.schedule import Schedule
from trainers.stage import Checkpoint, StageContext

LORA = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")


def _perturbed(loaded: Any, name: str, seed: int) -> None:
    loaded.model = add_adapter(loaded.model, name, LORA, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for key, weight in adapter_weights(loaded.model, name).items():
            if "lora_B" in key:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))


@pytest.fixture(scope="module")
def parts(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A start policy, two reward models of two members, and a prompt file."""
    folder = tmp_path_factory.mktemp("ppo")
    loaded = load(ModelSpec(base=str(tiny_llama), quantization="nf4"))
    (folder / "start").mkdir()
    _perturbed(loaded, "start", 1)
    save_adapter(loaded.model, "start", folder / "start")
    models = []
    for name in ("helpfulness", "safety"):
        members = []
        for number in range(2):
            seed = 10 * len(name) + number
            _perturbed(loaded, f"{name}{number}", seed)
            member = folder / name / str(number)
            member.mkdir(parents=True)
            head = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed))
            save_member(loaded.model, f"{name}{number}", head, member)
            members.append(member)
        models.append(RewardModel(name, tuple(members)))
    rows = [{"id": str(i), "prompt": f"say {i}", "safety": i % 3 == 0} for i in range(10)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"folder": folder, "base": str(tiny_llama), "rewards": tuple(models)}


def _context(parts: dict[str, Any], path: Path, **stage: Any) -> StageContext:
    settings = {
        "kind": "ppo",
        "name": "ppo",
        "prompts": str(parts["folder"] / "prompts.jsonl"),
        "epochs": 3,
        "iterations": 2,
        "batch": 8,
        "mini_batch": 4,
        "max_new_tokens": 6,
        "learning_rate": 1e-3,
    }
    schedule = Schedule.model_validate(
        {
            "name": "t",
            "model": parts["base"],
            "stages": ({**settings, **stage},),
            "evaluate": {"sets": ()},
        }
    )
    run = Run.open(path) if path.exists() else Run.create(path, schedule_yaml="name: t\n", info={})
    return StageContext(
        run=run,
        schedule=schedule,
        stage=schedule.stages[0],
        start=parts["folder"] / "start",
        base_folder=parts["base"],
        reward_models=parts["rewards"],
    )


def _bytes(checkpoint: Checkpoint) -> dict[str, bytes]:
    return {
        str(path.relative_to(checkpoint.folder)): path.read_bytes()
        for path in sorted(checkpoint.folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def straight(parts: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> list[Checkpoint]:
    return list(checkpoints(_context(parts, tmp_path_factory.mktemp("straight") / "run")))


def test_an_epoch_a_checkpoint_and_epoch_zero_is_the_start(
    straight: list[Checkpoint], parts: dict[str, Any]
) -> None:
    assert [c.name for c in straight] == [f"ppo-e{n:03d}" for n in range(4)]
    hashes = [hash_file(c.folder) for c in straight]
    assert hashes[0] == hash_file(parts["folder"] / "start")
    assert len(set(hashes)) == 4
    for checkpoint in straight[1:]:
        assert checkpoint.training["kl_token_k3"] >= 0
        assert checkpoint.training["length"] <= 6


@pytest.mark.parametrize("after", [1, 2, 3])
def test_resuming_gives_the_same_bytes(
    straight: list[Checkpoint], parts: dict[str, Any], tmp_path: Path, after: int
) -> None:
    """Stop after ``after`` checkpoints, drop everything in memory, go on from the disk."""
    path = tmp_path / "run"
    iterator = checkpoints(_context(parts, path))
    for _ in range(after):
        next(iterator)
    iterator.close()
    torch.rand(7)  # the global generator is somewhere else, and must not matter
    resumed = list(checkpoints(_context(parts, path)))
    assert [_bytes(c) for c in resumed] == [_bytes(c) for c in straight]


def test_rollouts_are_kept_for_reading(straight: list[Checkpoint]) -> None:
    text = (straight[-1].folder / "rollouts.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["iteration"] for row in rows] == [5] * 8
    assert {row["source"] for row in rows} <= {"helpfulness", "safety"}
    assert all(row["spread"] >= 0 for row in rows)
    assert not (straight[0].folder / "rollouts.jsonl").exists()


@pytest.fixture(scope="module")
def demonstrations(parts: dict[str, Any]) -> str:
    path = parts["folder"] / "demonstrations.jsonl"
    rows = [{"prompt": f"say {i}", "completion": f"{i} it is"} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_demonstrations_join_every_step(
    parts: dict[str, Any], tmp_path: Path, demonstrations: str
) -> None:
    """A heavy weight, and the demonstrations' loss falls; the run without has no such loss."""
    settings = {"sft_data": demonstrations, "sft_weight": 20.0, "learning_rate": 5e-3, "epochs": 3}
    found = [c.training for c in checkpoints(_context(parts, tmp_path / "with", **settings))][1:]
    assert found[0]["sft_loss"] > found[1]["sft_loss"] > found[2]["sft_loss"]
    plain = next(iter(list(checkpoints(_context(parts, tmp_path / "without", epochs=1)))[1:]))
    assert "sft_loss" not in plain.training


def test_a_stage_with_demonstrations_resumes_to_the_same_bytes(
    parts: dict[str, Any], tmp_path: Path, demonstrations: str
) -> None:
    settings = {"sft_data": demonstrations, "samples": 2, "whiten": "per_prompt"}
    whole = list(checkpoints(_context(parts, tmp_path / "whole", **settings)))
    iterator = checkpoints(_context(parts, tmp_path / "cut", **settings))
    next(iterator), next(iterator)
    iterator.close()
    resumed = list(checkpoints(_context(parts, tmp_path / "cut", **settings)))
    assert [_bytes(c) for c in resumed] == [_bytes(c) for c in whole]


def test_replies_to_one_prompt_are_compared_with_each_other(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    settings = {"samples": 4, "whiten": "per_prompt", "epochs": 1, "iterations": 1}
    *_, last = checkpoints(_context(parts, tmp_path / "run", **settings))
    text = (last.folder / "rollouts.jsonl").read_text(encoding="utf-8")
    prompts = [json.loads(line)["prompt"] for line in text.splitlines()]
    assert prompts == [prompts[0]] * 4 + [prompts[4]] * 4
    assert prompts[0] != prompts[4]


def test_masked_replies_without_eos_move_nothing(parts: dict[str, Any], tmp_path: Path) -> None:
    """The tiny model never ends by itself within a token: then nothing is left to learn from."""
    settings = {"mask_no_eos": True, "max_new_tokens": 1, "epochs": 1}
    _, last = checkpoints(_context(parts, tmp_path / "run", **settings))
    assert last.training["no_eos"] == 1.0
    assert last.training["policy_grad_norm"] == 0.0
    assert last.training["value_grad_norm"] == 0.0


@pytest.mark.slow
def test_the_reward_rises(parts: dict[str, Any], tmp_path: Path) -> None:
    """Not a matter of luck: no KL, one pass, thirty iterations; the reward must climb."""
    context = _context(
        parts, tmp_path / "run", epochs=3, iterations=10, kl=0.0, learning_rate=3e-3, batch=40
    )
    rewards = [c.training["reward"] for c in checkpoints(context) if c.training]
    assert rewards[0] < rewards[1] < rewards[2]


@pytest.mark.parametrize(
    "file", ["adapter_model.safetensors", "trainer/policy_optimizer.pt", "trainer/controller.json"]
)
def test_a_flipped_bit_is_not_gone_on_from(
    parts: dict[str, Any], tmp_path: Path, file: str
) -> None:
    path = tmp_path / "run"
    iterator = checkpoints(_context(parts, path))
    last = [next(iterator), next(iterator)][-1]
    iterator.close()
    content = bytearray((last.folder / file).read_bytes())
    content[-2] ^= 1
    (last.folder / file).write_bytes(content)
    with pytest.raises(IntegrityError, match=file.rpartition("/")[2]):
        list(checkpoints(_context(parts, path)))


def test_prompts_too_long_for_the_model_are_left_out_and_counted(
    parts: dict[str, Any], tmp_path: Path
) -> None:
    rows = [
        {"id": name, "prompt": text, "safety": False}
        for name, text in (("long", "word " * 3000), ("short", "say 1"))
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"prompts": str(prompts), "epochs": 1, "iterations": 1}
    *_, last = checkpoints(_context(parts, tmp_path / "run", **settings))
    assert last.training["skipped_prompts"] == 1
    replies = (last.folder / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()
    assert {json.loads(line)["prompt"] for line in replies} == {"short"}
    prompts.write_text(json.dumps(rows[0]) + "\n")
    with pytest.raises(InputError, match="no prompt leaves room") as caught:
        list(checkpoints(_context(parts, tmp_path / "other", **settings)))
    assert str(caught.value.path) == str(prompts)
