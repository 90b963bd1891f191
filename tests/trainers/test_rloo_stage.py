"""The RLOO stage end to end on a tiny model: checkpoints, exact resume, the base left as it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.rloo_trainer
from killing import again, killed
from leaving import left_as_it_was

from harness.adapters import adapter_hash, hash_file, read_weights
from harness.models import causal_model
from trainers import ppo, rloo
from trainers.lora import place_policy
from trainers.policy_epochs import Epoch
from trainers.rloo_trainer import LeaveOneOutTrainer


@pytest.fixture
def settings(tmp_path: Path) -> dict[str, Any]:
    rows = [{"id": str(i), "prompt": f"say {i}" + "!" * i, "safety": i % 3 == 0} for i in range(10)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {
        "kind": "rloo",
        "prompts": str(path),
        "epochs": 3,
        "iterations": 2,
        "batch": 8,
        "samples": 4,
        "mini_batch": 4,
        "micro_batch": 2,
        "inner_epochs": 2,
        "max_new_tokens": 6,
        "learning_rate": 1e-3,
        "lora": {"r": 4, "alpha": 32.0},
    }


@pytest.fixture
def made(context: Any, models: Any, settings: dict[str, Any]) -> Callable[..., Any]:
    """``made(path, **changed)``: the stage's context, after an earlier policy stage."""
    start, rewards = models

    def make(path: Path, log: Any = lambda _: None, **changed: Any) -> Any:
        stages = [{"kind": "sft", "data": "x"}, {**settings, **changed}]
        return context(path, stages, 1, start=start, reward_models=rewards, log=log)

    return make


def test_an_epoch_a_checkpoint_and_epoch_zero_is_the_start(
    tmp_path: Path, made: Any, models: Any
) -> None:
    seen: list[dict[str, Any]] = []
    found = list(rloo.checkpoints(made(tmp_path / "run", seen.append)))
    assert [c.name for c in found] == [f"rloo-e{n:03d}" for n in range(4)]
    hashes = [hash_file(c.folder) for c in found]
    assert hashes[0] == hash_file(models[0])
    assert len(set(hashes)) == 4
    assert [(row["epoch"], row["iteration"]) for row in seen] == [
        (1, 0), (1, 1), (2, 2), (2, 3), (3, 4), (3, 5)
    ]  # fmt: skip
    assert seen[0]["kl"] == 0.0
    for checkpoint, logged in zip(found[1:], zip(seen[::2], seen[1::2], strict=True), strict=True):
        assert checkpoint.training["step"] == 8 * checkpoint.epoch
        for name in ("reward", "kl", "length", "policy_loss"):
            mean = sum(row[name] for row in logged) / 2
            assert checkpoint.training[name] == pytest.approx(mean, abs=1e-6)
        assert checkpoint.training["kl_token_k3"] >= 0
    assert (found[1].folder / "trainer" / "optimizer.pt").exists()
    assert not (found[3].folder / "trainer").exists()


def test_the_telemetry_has_the_names_of_ppos(tmp_path: Path, made: Any, settings: Any) -> None:
    *_, last = rloo.checkpoints(made(tmp_path / "rloo", epochs=1))
    same = {"prompts", "batch", "mini_batch", "max_new_tokens", "samples"}
    ctx = made(tmp_path / "x")
    from_ppo = {"kind": "ppo", "iterations": 1, "epochs": 1} | {k: settings[k] for k in same}
    stages = [stage.model_dump(mode="json") for stage in ctx.schedule.stages[:1]]
    schedule = {
        **ctx.schedule.model_dump(mode="json"),
        "stages": [*stages, {**from_ppo, "name": "ppo"}],
    }
    ctx.schedule = type(ctx.schedule).model_validate_json(json.dumps(schedule))
    ctx.stage = ctx.schedule.stages[1]
    *_, other = ppo.checkpoints(ctx)
    of_values = {name for name in other.training if name.startswith("value_")}
    of_tokens = {"update_kl", "stopped_early"}  # of ratios a token, which RLOO has not
    assert set(other.training) - of_values - of_tokens <= set(last.training)
    theirs, ours = (
        json.loads((c.folder / "rollouts.jsonl").read_text(encoding="utf-8").splitlines()[0])
        for c in (other, last)
    )
    assert theirs.keys() == ours.keys()


@pytest.fixture
def steered(tmp_path: Path) -> dict[str, Any]:
    """Settings with which there is more than weights to go on from."""
    path = tmp_path / "demonstrations.jsonl"
    rows = [{"prompt": f"say {i}", "completion": f"{i} it is"} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = {"kl": 0.2, "kl_target": 0.5, "kl_horizon": 20.0}
    return {**target, "sft_data": str(path), "sft_weight": 2.0, "sft_batch": 3}


@pytest.mark.parametrize(("after", "more"), [(1, False), (2, False), (3, False), (2, True)])
def test_resuming_gives_the_same_bytes(
    tmp_path: Path,
    made: Any,
    digest: Callable[[Path], Any],
    steered: dict[str, Any],
    after: int,
    more: bool,
) -> None:
    """Stop after ``after`` checkpoints, drop everything in memory, go on from the disk."""
    changed = steered if more else {}
    straight = [digest(c.folder) for c in rloo.checkpoints(made(tmp_path / "a", **changed))]
    stream = rloo.checkpoints(made(tmp_path / "b", **changed))
    for _ in range(after):
        next(stream)
    stream.close()
    torch.rand(7)  # whatever the process did with the global generator in between
    resumed = rloo.checkpoints(made(tmp_path / "b", **changed))
    assert [digest(c.folder) for c in resumed] == straight


def test_beta_goes_on_from_where_it_was(tmp_path: Path, made: Any, steered: dict[str, Any]) -> None:
    seen: list[dict[str, Any]] = []
    *_, last = rloo.checkpoints(made(tmp_path / "run", seen.append, **steered))
    expected = 0.2
    for row in seen:
        assert row["beta"] == pytest.approx(expected, rel=1e-12)
        expected *= 1 + min(max(row["kl"] / 0.5 - 1, -0.2), 0.2) * 8 / 20
    assert len({row["beta"] for row in seen}) == 6
    stored = json.loads((last.folder.parent / "rloo-e001/trainer/controller.json").read_text())
    assert stored == {"beta": seen[2]["beta"]}  # the next epoch's first


def test_demonstrations_join_every_step_whatever_the_micro_batch(
    tmp_path: Path, made: Any, steered: dict[str, Any]
) -> None:
    """A heavy weight, and their loss falls; cut into one forward or four, they weigh the same."""
    heavy = {**steered, "sft_weight": 20.0, "learning_rate": 5e-3}
    found = [c.training for c in rloo.checkpoints(made(tmp_path / "heavy", **heavy))][1:]
    assert found[0]["sft_loss"] > found[1]["sft_loss"] > found[2]["sft_loss"]
    *_, plain = rloo.checkpoints(made(tmp_path / "plain", epochs=1))
    assert "sft_loss" not in plain.training
    weights = []
    for micro in (1, 4, None):
        one = {**steered, "epochs": 1, "iterations": 1, "inner_epochs": 1, "micro_batch": micro}
        *_, last = rloo.checkpoints(made(tmp_path / str(micro), **one))
        weights.append((last.training["sft_loss"], read_weights(last.folder)))
    for loss, others in weights[1:]:
        assert loss == pytest.approx(weights[0][0], rel=1e-4)
        for key, tensor in weights[0][1].items():
            torch.testing.assert_close(others[key], tensor, atol=2e-4, rtol=1e-3)


def test_a_state_without_beta_is_one_in_which_it_was_fixed(
    tmp_path: Path, made: Any, digest: Callable[[Path], Any]
) -> None:
    stage = made(tmp_path / "run").stage
    assert rloo._controller(stage, None).beta == stage.kl
    assert rloo._controller(stage, tmp_path).beta == stage.kl


def asked(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """What is asked from now on: prompts by iteration."""
    seen: list[list[str]] = []
    generate = LeaveOneOutTrainer._generate

    def watched(self: LeaveOneOutTrainer, prompts: list[str]) -> Any:
        seen.append(prompts)
        return generate(self, prompts)

    monkeypatch.setattr(LeaveOneOutTrainer, "_generate", watched)
    return seen


def test_prompts_after_a_resume_are_those_of_a_straight_run(
    tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = asked(monkeypatch)
    list(rloo.checkpoints(made(tmp_path / "a")))
    straight = list(seen)
    assert len(straight) == 6
    assert len({tuple(prompts) for prompts in straight}) == 6  # no epoch repeats another
    seen.clear()
    stream = rloo.checkpoints(made(tmp_path / "b"))
    next(stream), next(stream)  # the start and one epoch
    stream.close()
    assert seen == straight[:2]
    list(rloo.checkpoints(made(tmp_path / "b")))
    assert seen == straight


def test_epoch_by_epoch_is_bit_equal_to_one_run_of_trl(
    tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = asked(monkeypatch)
    *_, last = rloo.checkpoints(made(tmp_path / "a", epochs=2))
    by_epochs = list(seen)
    seen.clear()
    ctx = made(tmp_path / "b", epochs=2)
    run_epoch = rloo.run_epoch

    def whole(trainer: Any, *, passes: int, **more: Any) -> Any:
        return run_epoch(trainer, passes=2, **more)

    monkeypatch.setattr(rloo, "run_epoch", whole)
    model = place_policy(ctx, ctx.start, ctx.stage.lora)
    from harness.engines.local import LocalEngine
    from trainers.rollouts import Question

    engine = LocalEngine(model, ctx.base().tokenizer, batch_size=8, max_new_tokens=6)
    from trainers.data import load_prompts

    rows = load_prompts(
        ctx.stage.prompts, base_folder=Path(ctx.base_folder), seed=ctx.seed("prompts")
    )
    questions = [Question(p.id, engine.tokenize(p.messages), p.safety) for p in rows.rows]
    (tmp_path / "out").mkdir()
    rloo._train_epoch(ctx, ctx.stage, model, questions, Epoch(2, None, tmp_path / "out", False))
    assert seen == by_epochs
    assert adapter_hash(model, "policy") == hash_file(last.folder)


def test_replies_do_not_depend_on_the_batch(tmp_path: Path, made: Any) -> None:
    """Sampled side by side or not, updated in one forward or four: the same replies, first."""
    rows = {}
    for name, changed in {
        "one": {"sample_batch": 8, "micro_batch": 4},
        "two": {"sample_batch": 3, "micro_batch": 1},
    }.items():
        ctx = made(tmp_path / name, epochs=1, iterations=1, **changed)
        *_, last = rloo.checkpoints(ctx)
        text = (last.folder / "rollouts.jsonl").read_text(encoding="utf-8")
        rows[name] = [json.loads(line)["text"] for line in text.splitlines()]
    assert rows["one"] == rows["two"]
    assert len(set(rows["one"])) > 1


def test_trainables_are_float32_and_move_at_the_learning_rate_of_rlhf(
    tmp_path: Path, made: Any, models: Any
) -> None:
    """In bfloat16, to which trl casts them on a 4-bit base, few would move at all."""
    ctx = made(tmp_path / "run", epochs=1, learning_rate=1e-6)
    *_, last = rloo.checkpoints(ctx)
    before, after = read_weights(models[0]), read_weights(last.folder)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    moved = sum(int((after[key] != before[key]).sum()) for key in before)
    assert moved > 0.99 * sum(tensor.numel() for tensor in before.values())


def test_the_base_comes_back_as_it_was_and_is_the_only_one(
    tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(*_: Any, **__: Any) -> None:
        raise AssertionError("a second base")

    monkeypatch.setattr(trl.trainer.rloo_trainer, "create_model_from_path", another)
    ctx = made(tmp_path / "run", epochs=1, gradient_checkpointing=True)
    with left_as_it_was(causal_model(ctx.base().model)):
        list(rloo.checkpoints(ctx))
    assert set(ctx.base().model.peft_config) == {"policy"}  # neither reference nor reward models


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path, made: Any) -> None:
    hashes = []
    for on in (False, True):
        ctx = made(tmp_path / str(on), epochs=1, gradient_checkpointing=on)
        hashes.append([hash_file(c.folder) for c in rloo.checkpoints(ctx)])
    assert hashes[0] == hashes[1]


def test_masked_replies_without_eos_move_nothing(tmp_path: Path, made: Any, models: Any) -> None:
    """The tiny model hardly ends by itself within a token: then nothing is left to learn from."""
    settings = {"mask_no_eos": True, "max_new_tokens": 1, "epochs": 1, "kl": 0.0}
    *_, last = rloo.checkpoints(made(tmp_path / "run", **settings))
    assert last.training["no_eos"] == 1.0
    assert last.training["policy_grad_norm"] == 0.0
    assert last.training["kl"] == 0.0


def test_a_first_policy_stage_begins_with_a_new_adapter_and_the_base_as_reference(
    tmp_path: Path, context: Any, models: Any, settings: dict[str, Any]
) -> None:
    seen: list[dict[str, Any]] = []
    ctx = context(
        tmp_path / "run", [{**settings, "epochs": 1}], reward_models=models[1], log=seen.append
    )
    first, last = rloo.checkpoints(ctx)
    assert all("lora_A" in k or not v.any() for k, v in read_weights(first.folder).items())
    assert seen[0]["kl"] == 0.0
    assert seen[1]["kl"] != 0.0
    assert hash_file(first.folder) != hash_file(last.folder)


def test_nothing_is_printed_to_stdout(
    tmp_path: Path, made: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    list(rloo.checkpoints(made(tmp_path / "run", epochs=1)))
    assert capfd.readouterr().out == ""


@pytest.mark.slow
def test_the_reward_rises(tmp_path: Path, made: Any) -> None:
    """Without KL, and by more than the means of two epochs differ by themselves."""
    ctx = made(
        tmp_path / "run",
        epochs=2,
        iterations=40,
        kl=0.0,
        batch=80,
        mini_batch=40,
        micro_batch=None,
        inner_epochs=1,
    )
    rewards = [c.training["reward"] for c in rloo.checkpoints(ctx) if c.training]
    assert rewards[1] > rewards[0] + 1


# --------------------------------------------------------------------------- kill -9

SCRIPT = """
import json, sys
from pathlib import Path
from harness.reward_models import RewardModel
from harness.store.run import Run
from trainers import rloo
from trainers.schedule import Schedule
from trainers.stage import StageContext
schedule = Schedule.model_validate_json(Path(sys.argv[1]).read_text())
run = Run.open(sys.argv[2])
run.clean()
rewards = tuple(
    RewardModel(name, tuple(map(Path, members))) for name, members in json.loads(sys.argv[4])
)
context = StageContext(
    run, schedule, schedule.stages[1], Path(sys.argv[3]), schedule.model, reward_models=rewards
)
for checkpoint in rloo.checkpoints(context):
    print(checkpoint.name, flush=True)
"""


@pytest.mark.slow
def test_kill_9_and_the_same_call_again_leave_the_same_bytes(
    tmp_path: Path,
    made: Any,
    models: Any,
    digest: Callable[[Path], Any],
    steered: dict[str, Any],
) -> None:
    straight = [digest(c.folder) for c in rloo.checkpoints(made(tmp_path / "a", **steered))]
    ctx = made(tmp_path / "b", **steered)
    (tmp_path / "schedule.json").write_text(ctx.schedule.model_dump_json())
    start, rewards = models
    members = json.dumps([[r.name, [str(m) for m in r.members]] for r in rewards])
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "schedule.json"), str(tmp_path / "b")]
    command += [str(start), members]
    killed(command, after=["rloo-e000\n", "rloo-e001\n"], seconds=0.1)  # in epoch 2
    assert not (tmp_path / "b" / "checkpoints" / "rloo-e003").exists()
    again(command)
    found = [digest(c.folder) for c in rloo.checkpoints(made(tmp_path / "b", **steered))]
    assert found == straight
