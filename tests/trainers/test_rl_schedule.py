"""RLOO and DPO in a schedule: their errors, leaks, gates, and what ``aldente plan`` says."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from live_tensors import LiveTensors

from harness.adapters import CONFIG_FILE, WEIGHTS_FILE
from harness.chat import render, user
from harness.errors import InputError
from trainers import dpo, rloo
from trainers.devices import Device, devices, this_machine
from trainers.disk import plan_disk
from trainers.live_base import TRAINERS
from trainers.memory import plan_stages, replies_at_once, rows_a_forward
from trainers.memory_advice import advise, changed
from trainers.model_shapes import find_shape
from trainers.schedule import Schedule
from trainers.schedule_fields import STAGE_KINDS
from trainers.schedule_file import read_with_source
from trainers.schedule_stages import POLICY_KINDS, RL_KINDS
from trainers.tensor_bytes import FLOAT32, adapter_parameters
from trainers.validation import Resolved, resolve, watched

ROOT = Path(__file__).parents[2]
TEXT = """\
name: rl
model: pocket
stages:
  - sft: {data: pocket/demonstrations}
  - reward: {name: helpfulness, data: pocket/helpful}
  - reward: {name: safety, data: pocket/safe}
  - rloo: {batch: 64, mini_batch: 32, samples: 4}
  - dpo: {data: pocket/helpful, max_length: 256}
evaluate:
  sets: [pocket/borderline]
gates:
  - {metric: borderline.false_refusal, at_most: 0.3}
"""


def read(folder: Path, text: str) -> Resolved:
    path = folder / "s.yaml"
    path.write_text(text)
    schedule, source = read_with_source(path)
    return resolve(schedule, folder, source)


def error_of(folder: Path, old: str, new: str) -> str:
    assert old in TEXT
    with pytest.raises(InputError) as caught:
        read(folder, TEXT.replace(old, new))
    return str(caught.value).replace(f"{folder}/", "")


@pytest.mark.parametrize("kind", ["rloo", "dpo"])
def test_the_shipped_schedules_resolve(kind: str) -> None:
    path = ROOT / "schedules" / f"pocket-{kind}.yaml"
    schedule, source = read_with_source(path)
    resolved = resolve(schedule, path.parent, source)
    assert schedule.stages[-1].kind == kind
    assert {"borderline", "harmful", "mt_bench", "gold"} <= {s.name for s in resolved.evalsets}


def test_both_resolve_train_and_are_gated(tmp_path: Path) -> None:
    schedule = read(tmp_path, TEXT).schedule
    assert watched(schedule, schedule.gates[0]) == ["rloo", "dpo"]
    assert set(STAGE_KINDS) == set(TRAINERS)
    assert {"rloo", "dpo"} <= RL_KINDS <= POLICY_KINDS == set(STAGE_KINDS) - {"reward"}


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("samples: 4", "samples: 1", "s.yaml:7: stages.rloo.samples"),
        ("samples: 4", "samples: 5", "samples 5 does not divide batch 64"),
        ("mini_batch: 32", "mini_batch: 24", "mini_batch 24 does not divide batch 64"),
        (
            "mini_batch: 32",
            "mini_batch: 32, micro_batch: 5",
            "micro_batch 5 does not divide mini_batch 32",
        ),
        (
            "samples: 4",
            "samples: 4, reward: {kind: llama2, safety: safe}",
            "no reward stage called 'safe' before this one",
        ),
        ("samples: 4", "sample: 4", "did you mean 'samples'"),
        ("samples: 4", "kl: 0, kl_target: 6", "kl_target needs kl above 0"),
        ("samples: 4", "kl_target: 0", "stages.rloo.kl_target"),
        (
            "samples: 4",
            "kl_target: 6, kl_horizon: 12",
            "kl_horizon 12 is too short for batch 64: one update could make the KL's weight "
            "negative; it must be above 12.8",
        ),
        ("samples: 4", "sft_data: pocket/demonstration", "pocket/demonstration"),
        ("samples: 4", "sft_weight: 0", "stages.rloo.sft_weight"),
        (
            "max_length: 256",
            "label_smoothing: 0.1, loss: ipo",
            "label_smoothing is for loss sigmoid or robust, not ipo",
        ),
        ("max_length: 256", "loss: robust", "loss robust needs label_smoothing"),
        ("max_length: 256", "label_smoothing: 0.5", "label_smoothing"),
        ("max_length: 256", "loss: dpo", "stages.dpo.loss"),
        ("dpo: {data: pocket/helpful", "dpo: {data: pocket/helpfull", "pocket/helpful"),
        ("max_length: 256", "mix: {pocket/unsafe: 0.5}", "stages.dpo.mix"),
    ],
)
def test_errors_name_the_place(tmp_path: Path, old: str, new: str, expected: str) -> None:
    message = error_of(tmp_path, old, new)
    assert expected in message
    assert "s.yaml:" in message


def test_pairs_that_stand_in_an_eval_set_are_refused(tmp_path: Path) -> None:
    evalset = read(tmp_path, TEXT).evalsets[0]
    prompt = evalset.rows[0].prompt
    rows = [{"prompt": prompt, "chosen": "Of course.", "rejected": "No."}]
    rows += [{"prompt": f"another one {i}", "chosen": "a", "rejected": "b"} for i in range(3)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    own = TEXT.replace("dpo: {data: pocket/helpful", "dpo: {data: pairs.jsonl")
    with pytest.raises(InputError, match="training rows stand in the eval sets"):
        read(tmp_path, own)
    read(tmp_path, own.replace("max_length: 256", "max_length: 256, allow_leaks: true"))


# --------------------------------------------------------------------------- plans


def stages_of(text: str) -> Schedule:
    return Schedule.model_validate_json(text)


def schedule(*stages: dict[str, Any], quantization: str = "nf4", **more: Any) -> Schedule:
    named = [{"name": stage["kind"], **stage} for stage in stages]
    made = {"name": "t", "model": "pocket", "quantization": quantization, "stages": named}
    return stages_of(json.dumps({**made, "evaluate": {"sets": []}, **more}))


SFT = {"kind": "sft", "data": "x"}
REWARD = {"kind": "reward", "data": "x", "members": 3}
RLOO = {"kind": "rloo", "batch": 64, "mini_batch": 32, "samples": 4, "reward": {"kind": "mean"}}
DPO = {"kind": "dpo", "data": "x", "batch": 32, "max_length": 512}


def card(name: str) -> Device:
    return devices([name])[0]


def test_a_plan_has_the_phases_of_the_stages() -> None:
    made = schedule(SFT, REWARD, {**RLOO, "sample_batch": 48, "micro_batch": 2}, DPO)
    shape = find_shape("meta-llama/Llama-2-7b-hf")
    *_, of_rloo, of_dpo = plan_stages(made, shape, card("A100 80GB"), 128)
    assert [phase.name for phase in of_rloo.phases] == ["rollout", "scoring", "update"]
    assert [phase.name for phase in of_dpo.phases] == ["measuring", "training"]
    adapter = FLOAT32 * adapter_parameters(shape, made.stages[0].lora)
    for phase in of_rloo.phases:  # policy, reference, three members; one trains
        assert phase.parts["adapters"] == 5 * adapter
        assert phase.parts["optimizer"] >= 2 * adapter
    assert [phase.parts["adapters"] for phase in of_dpo.phases] == [2 * adapter, adapter]
    assert replies_at_once(made.stages[2]) == 48
    assert replies_at_once(made.stages[3]) == 0
    assert rows_a_forward(made.stages[2], 384) == 2
    assert rows_a_forward(made.stages[3], 512) == 16  # pairs: twice as many sequences


def test_demonstrations_beside_rloo_have_a_phase_of_their_own() -> None:
    shape = find_shape("meta-llama/Llama-2-7b-hf")
    made = schedule(SFT, REWARD, {**RLOO, "micro_batch": 2, "sft_data": "x", "sft_max_length": 300})
    plan = plan_stages(made, shape, card("H200"), 128)[-1]
    assert [phase.name for phase in plan.phases][2:] == ["update", "update, demonstrations"]
    *_, update, beside = plan.phases
    assert beside.parts["logits"] == 2 * 300 * shape.vocabulary * 12
    assert beside.parts["adapters"] == update.parts["adapters"]
    assert beside.parts["optimizer"] == update.parts["optimizer"]


@pytest.mark.parametrize("stage", [RLOO, DPO], ids=["rloo", "dpo"])
def test_both_are_made_to_fit_by_what_is_advised(stage: dict[str, Any]) -> None:
    made = schedule(SFT, REWARD, {**stage, "micro_batch": 32})
    shape, device = find_shape("meta-llama/Llama-2-7b-hf"), card("A10G")
    before = plan_stages(made, shape, device)[2].peak.bytes
    assert before > device.bytes
    advice = advise(made, shape, device, 2)
    assert advice.fits
    for change in advice.together:
        made = changed(made, change.settings)
    assert plan_stages(made, shape, device)[2].peak.bytes == advice.bytes < before
    own = f"stages.{stage['kind']}."
    settings = {path for change in advice.together for path in change.settings}
    assert settings <= {
        own + name for name in ("micro_batch", "gradient_checkpointing", "sample_batch")
    }  # nothing but time


def test_disk_is_what_a_stage_leaves(
    tmp_path: Path, context: Callable[..., Any], models: Any, tiny_llama: Path
) -> None:
    """Adapters and optimisers of every epoch, the start among them."""
    lines = [{"prompt": f"say {i}", "chosen": "a" * (i + 1), "rejected": "b"} for i in range(9)]
    asked = [{"prompt": f"say {i}", "safety": False} for i in range(9)]
    for name, rows in (("pairs", lines), ("asked", asked)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    start, rewards = models
    shape = find_shape(str(tiny_llama))
    lora = {"lora": {"r": 4, "alpha": 32.0}, "epochs": 3}
    sft = {**SFT, "lora": lora["lora"]}
    for trainer, stage in (
        (dpo, {**DPO, "data": str(tmp_path / "pairs.jsonl"), "batch": 4, **lora}),
        (
            rloo,
            {**RLOO, "prompts": str(tmp_path / "asked.jsonl"), "batch": 8, "mini_batch": 8}
            | {"iterations": 1, "max_new_tokens": 4, "reward": {"kind": "llama2"}, **lora},
        ),
    ):
        ctx = context(
            tmp_path / str(stage["kind"]), [sft, stage], 1, start=start, reward_models=rewards
        )
        found = [c.folder for c in trainer.checkpoints(ctx)]
        adapters = sum((f / WEIGHTS_FILE).stat().st_size for f in found)
        states = sum(f.stat().st_size for folder in found for f in folder.glob("trainer/opt*"))
        files = sum((f / CONFIG_FILE).stat().st_size for f in found)
        planned = plan_disk(ctx.schedule, shape).checkpoints[str(stage["kind"])]
        # The tokenizer beside each: the byte tokenizer's is small.
        assert len(found) == 4
        assert adapters + states - files < planned < 1.5 * (adapters + states) + 4 * 40_000


@pytest.mark.slow
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("kind", ["rloo", "dpo"])
def test_a_stage_holds_what_was_planned(
    tmp_path: Path,
    context: Callable[..., Any],
    models: Any,
    tiny_llama: Path,
    kind: str,
    quantization: str,
) -> None:
    """Every tensor counted. A bound that is kept (to 5 %: Python lets go of some tensors late), and
    not a loose one."""
    draw = random.Random(0)

    def text(length: int) -> str:
        return "".join(draw.choice("abcdefgh ") for _ in range(length))

    # Pairs that have little in common: what they share is computed once, and not foreseen.
    pairs = [{"prompt": text(3), "chosen": text(242), "rejected": text(242)} for _ in range(32)]
    asked = [{"prompt": text(80), "safety": False} for _ in range(32)]
    for name, rows in (("pairs", pairs), ("asked", asked)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    stages = {
        "rloo": {**RLOO, "prompts": str(tmp_path / "asked.jsonl"), "iterations": 1}
        | {"max_new_tokens": 64, "micro_batch": 16, "epochs": 1},
        "dpo": {**DPO, "data": str(tmp_path / "pairs.jsonl"), "max_length": 256, "epochs": 1}
        | {"micro_batch": 8, "held_out": 0.0},
    }
    lora = {"lora": {"r": 4, "alpha": 32.0}}
    start, rewards = models
    members = [{**REWARD, "name": r.name, "members": len(r.members)} for r in rewards]
    made = [{**SFT, **lora}, *members, {**stages[kind], **lora}]
    ctx = context(
        tmp_path / "run", made, 3, start=start, reward_models=rewards, quantization=quantization
    )
    prompt = len(render(ctx.base().tokenizer, [user("a" * 80)], reply_next=True))
    planned = plan_stages(ctx.schedule, find_shape(str(tiny_llama)), this_machine(), prompt)[3]
    bound = max(
        phase.bytes - phase.parts["base"] - phase.parts["reserve"] for phase in planned.phases
    )
    with LiveTensors(ctx.base().model) as live:
        list({"rloo": rloo, "dpo": dpo}[kind].checkpoints(ctx))
    assert 0.95 * live.peak < bound < 1.3 * live.peak
