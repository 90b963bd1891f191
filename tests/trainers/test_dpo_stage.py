"""The DPO stage end to end on a tiny model: checkpoints, exact resume, the base left as it was."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import trl.trainer.dpo_trainer
from counted_tokens import counted_tokens
from killing import again, killed
from leaving import left_as_it_was

from harness.adapters import adapter_hash, adapter_weights, hash_file, read_weights
from harness.models import causal_model
from harness.store.commit import verify
from trainers import dpo
from trainers.dpo_data import load
from trainers.lora import place_policy
from trainers.policy_epochs import Epoch


@pytest.fixture
def made(tmp_path: Path, context: Any, models: Any) -> Callable[..., Any]:
    """``made(path, **changed)``: the stage's context, after an earlier policy stage."""
    rows = [
        {"prompt": f"say {i}", "chosen": f"{i} it is" + "!" * i, "rejected": "no" + "?" * (i % 5)}
        for i in range(22)  # the last batch is not a whole one
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "kind": "dpo",
        "data": str(path),
        "epochs": 3,
        "batch": 8,
        "micro_batch": 4,
        "max_length": 96,
        "learning_rate": 1e-3,
        "held_out": 0.2,
        "lora": {"r": 4, "alpha": 32.0, "dropout": 0.5},
    }

    def make(path: Path, log: Any = lambda _: None, **changed: Any) -> Any:
        stages = [{"kind": "sft", "data": "x"}, {**settings, **changed}]
        return context(path, stages, 1, start=models[0], log=log)

    return make


def test_an_epoch_a_checkpoint_and_epoch_zero_is_the_start(
    tmp_path: Path, made: Any, models: Any
) -> None:
    found = list(dpo.checkpoints(made(tmp_path / "run")))
    assert [c.name for c in found] == [f"dpo-e{n:03d}" for n in range(4)]
    assert hash_file(found[0].folder) == hash_file(models[0])
    assert len({hash_file(c.folder) for c in found}) == 4
    assert all(verify(c.folder) == [] for c in found)
    assert (found[2].folder / "trainer" / "optimizer.pt").exists()
    assert not (found[3].folder / "trainer").exists()
    assert found[1].training["pairs"] + found[1].training["held_out"] == 22


def test_what_a_pairs_replies_begin_with_is_trained_on_once(
    tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx = made(tmp_path / "run", epochs=1, held_out=0.0)
    rows = load(ctx, ctx.stage).train
    whole = shared = 0
    for row in rows:
        chosen, rejected = (*row.prompt, *row.chosen), (*row.prompt, *row.rejected)
        whole += len(chosen) - 1 + len(rejected) - 1  # nothing is read behind the end token
        alike = [one == other for one, other in zip(chosen, rejected, strict=False)]
        assert alike.index(False) >= len(row.prompt)
        shared += alike.index(False)
    computed = counted_tokens(monkeypatch)
    list(dpo.checkpoints(ctx))
    # The reference reads whole replies, before training.
    assert sum(computed) == whole + whole - shared


def gradients(ctx: Any, monkeypatch: pytest.MonkeyPatch) -> tuple[list[dict[str, Any]], float]:
    """The policy's gradient at each step of an epoch, and the epoch's loss."""
    seen: list[dict[str, Any]] = []
    training = dpo.PreferenceTrainer.training_step

    def watched(self: Any, *args: Any) -> Any:
        loss = training(self, *args)
        if self.accelerator.sync_gradients:
            weights = adapter_weights(ctx.base().model, "policy")
            seen.append({key: weight.grad.clone() for key, weight in weights.items()})  # type: ignore[union-attr]
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(dpo.PreferenceTrainer, "training_step", watched)
        *_, last = dpo.checkpoints(ctx)
    return seen, last.training["loss"]


def test_a_batchs_gradient_does_not_depend_on_the_micro_batch(
    tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nineteen pairs in batches of eight: the last has three, in forwards of 1+1+1, 2+1 and 3. The
    learning rate is next to nothing, so that every step is of the same policy."""
    found = {}
    for micro in (1, 2, 4, 8):
        settings = {"micro_batch": micro, "epochs": 1, "learning_rate": 1e-12, "held_out": 0.14}
        ctx = made(tmp_path / str(micro), **settings)
        assert len(load(ctx, ctx.stage).train) == 19
        found[micro] = gradients(ctx, monkeypatch)
    steps, loss = found[8]
    assert len(steps) == 3
    for others, other_loss in found.values():
        assert other_loss == pytest.approx(loss, abs=1e-6)
        for step, other in zip(steps, others, strict=True):
            for key, gradient in step.items():
                torch.testing.assert_close(other[key], gradient, atol=1e-6, rtol=1e-6)
    assert min(max(float(g.abs().max()) for g in step.values()) for step in steps) > 1e-3


@pytest.mark.parametrize("after", [1, 2, 3])
def test_resuming_gives_the_same_bytes(
    tmp_path: Path, made: Any, digest: Callable[[Path], Any], after: int
) -> None:
    straight = [digest(c.folder) for c in dpo.checkpoints(made(tmp_path / "a"))]
    stream = dpo.checkpoints(made(tmp_path / "b"))
    for _ in range(after):
        next(stream)
    stream.close()
    torch.rand(7)  # whatever the process did with the global generator in between
    assert [digest(c.folder) for c in dpo.checkpoints(made(tmp_path / "b"))] == straight


def test_the_reference_after_a_resume_is_still_the_stages_start(
    tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    dataset = dpo.dataset

    def watched(rows: Any, reference: Any) -> Any:
        seen.append(reference)
        return dataset(rows, reference)

    monkeypatch.setattr(dpo, "dataset", watched)
    stream = dpo.checkpoints(made(tmp_path / "run"))
    next(stream), next(stream)
    stream.close()
    list(dpo.checkpoints(made(tmp_path / "run")))
    assert len(seen) == 3
    assert all(torch.equal(seen[0].chosen, later.chosen) for later in seen[1:])
    assert all(torch.equal(seen[0].rejected, later.rejected) for later in seen[1:])


def test_epoch_by_epoch_is_bit_equal_to_one_run_of_trl(tmp_path: Path, made: Any) -> None:
    *_, last = dpo.checkpoints(made(tmp_path / "a", epochs=2))
    ctx = made(tmp_path / "b", epochs=2)
    model = place_policy(ctx, ctx.start, ctx.stage.lora)
    data = load(ctx, ctx.stage)
    known, _ = dpo._reference(ctx, model, data)
    run_epoch = dpo.run_epoch

    def whole(trainer: Any, *, passes: int, **more: Any) -> Any:
        return run_epoch(trainer, passes=2, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dpo, "run_epoch", whole)
        dpo._train_epoch(
            ctx,
            ctx.stage,
            model,
            dpo.dataset(data.train, known),
            dpo._plan(ctx, ctx.stage, data.train),
            Epoch(2, None, tmp_path / "out", False),
        )
    assert adapter_hash(model, "policy") == hash_file(last.folder)


def test_trainables_are_float32_and_move_at_the_learning_rate_of_rlhf(
    tmp_path: Path, made: Any, models: Any
) -> None:
    """In bfloat16, to which trl casts them on a 4-bit base, few would move at all."""
    ctx = made(
        tmp_path / "run", epochs=1, learning_rate=1e-6, lr_schedule="constant", warmup_ratio=0.0
    )
    *_, last = dpo.checkpoints(ctx)
    before, after = read_weights(models[0]), read_weights(last.folder)
    assert {tensor.dtype for tensor in after.values()} == {torch.float32}
    moved = sum(int((after[key] != before[key]).sum()) for key in before)
    assert moved > 0.99 * sum(tensor.numel() for tensor in before.values())
    largest = max(float((after[key] - before[key]).abs().max()) for key in before)
    assert largest < 2e-6 * last.training["step"]


def test_the_base_comes_back_as_it_was_and_is_the_only_one(
    tmp_path: Path, made: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def another(*_: Any, **__: Any) -> None:
        raise AssertionError("a second base")

    monkeypatch.setattr(trl.trainer.dpo_trainer, "create_model_from_path", another)
    ctx = made(tmp_path / "run", epochs=1, gradient_checkpointing=True)
    with left_as_it_was(causal_model(ctx.base().model)):
        list(dpo.checkpoints(ctx))
    assert set(ctx.base().model.peft_config) == {"policy"}


def test_dropout_stays_what_the_adapter_says(tmp_path: Path, made: Any) -> None:
    """Off while DPO trains, and not turned off for the stages that follow on the same adapter."""
    ctx = made(tmp_path / "run", epochs=1)
    list(dpo.checkpoints(ctx))
    rates = {
        module.p
        for name, module in ctx.base().model.named_modules()
        if name.endswith("lora_dropout.policy") and isinstance(module, torch.nn.Dropout)
    }
    start = json.loads((ctx.start / "adapter_config.json").read_text())["lora_dropout"]
    assert rates == ({start} if start else set())


def test_gradient_checkpointing_changes_no_gradient(tmp_path: Path, made: Any) -> None:
    hashes = []
    for on in (False, True):
        ctx = made(tmp_path / str(on), epochs=1, gradient_checkpointing=on)
        hashes.append([hash_file(c.folder) for c in dpo.checkpoints(ctx)])
    assert hashes[0] == hashes[1]


def test_a_first_policy_stage_has_the_base_as_reference(
    tmp_path: Path, context: Any, made: Any
) -> None:
    stage = made(tmp_path / "x").schedule.stages[1].model_dump(mode="json")
    first, *_, last = dpo.checkpoints(context(tmp_path / "run", [stage]))
    assert all("lora_A" in k or not v.any() for k, v in read_weights(first.folder).items())
    assert last.training["implicit_margin"] > 0


def test_nothing_is_printed_to_stdout(
    tmp_path: Path, made: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    list(dpo.checkpoints(made(tmp_path / "run", epochs=1)))
    assert capfd.readouterr().out == ""


# --------------------------------------------------------------------------- kill -9

SCRIPT = """
import sys
from pathlib import Path
from harness.store.run import Run
from trainers import dpo
from trainers.schedule import Schedule
from trainers.stage import StageContext
schedule = Schedule.model_validate_json(Path(sys.argv[1]).read_text())
run = Run.open(sys.argv[2])
run.clean()
context = StageContext(run, schedule, schedule.stages[1], Path(sys.argv[3]), schedule.model)
for checkpoint in dpo.checkpoints(context):
    print(checkpoint.name, flush=True)
"""


@pytest.mark.slow
def test_kill_9_and_the_same_call_again_leave_the_same_bytes(
    tmp_path: Path, made: Any, models: Any, digest: Callable[[Path], Any]
) -> None:
    straight = [digest(c.folder) for c in dpo.checkpoints(made(tmp_path / "a"))]
    ctx = made(tmp_path / "b")
    (tmp_path / "schedule.json").write_text(ctx.schedule.model_dump_json())
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "schedule.json"), str(tmp_path / "b")]
    command.append(str(models[0]))
    killed(command, after=["dpo-e000\n", "dpo-e001\n"], seconds=0.05)  # in epoch 2
    assert not (tmp_path / "b" / "checkpoints" / "dpo-e003").exists()
    again(command)
    assert [digest(c.folder) for c in dpo.checkpoints(made(tmp_path / "b"))] == straight
