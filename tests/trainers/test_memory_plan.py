"""Plans of whole schedules: published figures, what is in memory at once, and advice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.engines import adapted, folding, local, measuring, room, trunk
from harness.errors import InputError
from harness.models import TOKENS_AT_ONCE, ModelSpec, torch_dtype
from trainers import learner, memory, memory_phases, tensor_bytes, trl_epoch
from trainers.devices import CARDS, GIB, Device, devices, this_machine
from trainers.disk import plan_disk
from trainers.fitting import plan
from trainers.memory import StagePlan, plan_stages
from trainers.memory_advice import advise, changed
from trainers.memory_phases import Phase
from trainers.model_shapes import ModelShape, find_shape
from trainers.schedule import Schedule
from trainers.schedule_file import read_schedule
from trainers.schedule_stages import Lora, PpoStage, RewardStage
from trainers.tensor_bytes import (
    adapter_parameters,
    base_bytes,
    kv_bytes,
    passing,
    trained,
    trunk_kept,
    trunk_passing,
    weight_bytes,
)

GB = 10**9
SFT: dict[str, Any] = {
    "kind": "sft",
    "data": "x",
    "micro_batch": 1,
    "max_length": 512,
    "gradient_checkpointing": True,
}
PPO: dict[str, Any] = {
    "kind": "ppo",
    "batch": 8,
    "mini_batch": 8,
    "micro_batch": 1,
    "max_new_tokens": 64,
    "reward": {"kind": "mean"},
}
REWARD: dict[str, Any] = {"kind": "reward", "data": "x", "micro_batch": 1, "max_length": 256}


def schedule(*stages: dict[str, Any], quantization: str = "nf4", **more: Any) -> Schedule:
    named = [{"name": stage["kind"], **stage} for stage in stages]
    text = {
        "name": "test",
        "model": "pocket",
        "quantization": quantization,
        "stages": named,
        "evaluate": {"sets": [], "batch": 4, "max_new_tokens": 64},
        **more,
    }
    return Schedule.model_validate_json(json.dumps(text))


def one(made: Schedule, model: str, card: str, prompt_tokens: int = 64) -> StagePlan:
    return plan_stages(made, find_shape(model), devices([card])[0], prompt_tokens)[-1]


def phase(stage: StagePlan, name: str) -> Phase:
    return next(entry for entry in stage.phases if entry.name == name)


def card(name: str) -> Device:
    return devices([name])[0]


# ------------------------------------------------------------------------- published figures


def test_bytes_a_parameter() -> None:
    count = 4096 * 4096
    assert weight_bytes(count, "none", 4) == 4 * count
    assert weight_bytes(count, "none", 2) == 2 * count
    assert weight_bytes(count, "int8", 2) == count
    # QLoRA, section 3: constants cost 0.127 bits a weight after double quantisation, which saves
    # 0.373 of the 0.5 that one float32 for every 64 weights costs.
    bits = 8 * weight_bytes(count, "nf4", 2) / count
    assert bits == pytest.approx(4.127, abs=0.001)
    assert 32 / 64 - (bits - 4) == pytest.approx(0.373, abs=0.001)


def test_blocks_are_rounded_up() -> None:
    tables = 4 * (16 + 256 + 1)
    assert weight_bytes(64, "nf4", 2) == 32 + 1 + 4 + tables
    assert weight_bytes(65, "nf4", 2) == 33 + 2 + 4 + tables
    assert weight_bytes(64 * 257, "nf4", 2) == 32 * 257 + 257 + 8 + tables


def test_full_fine_tuning_of_7b() -> None:
    """16-bit weights and AdamW: (2 + 8) · 7 = 70 GB, before gradients and activations."""
    cost = trained(7 * GB, width=2)
    assert cost.weights + cost.optimizer == 70 * GB


@pytest.mark.parametrize(
    "model", ["meta-llama/Llama-2-7b-hf", "meta-llama/Llama-2-13b-hf", "EleutherAI/gpt-neox-20b"]
)
def test_lora_over_int8(model: str) -> None:
    """1.2-1.4 GB for 1B parameters in all ("20B on a 24 GB consumer GPU": its LoRA is on the
    attention's input)."""
    targets = ["query_key_value"] if "neox" in model else ["q_proj", "v_proj"]
    stage = SFT | {"lora": {"r": 16, "targets": targets}}
    peak = one(schedule(stage, quantization="int8"), model, "A100 80").peak.bytes
    assert 1.2 < peak / find_shape(model).parameters < 1.4


def test_ppo_of_20b_on_24_gb() -> None:
    """gpt-neox-20b in int8, LoRA, short texts (the blog's were of up to 16 + 32 tokens)."""
    stage = PPO | {
        "value_adapter": False,
        "max_new_tokens": 32,
        "lora": {"r": 16, "targets": ["query_key_value"]},
    }
    made = schedule(stage, quantization="int8")
    peak = one(made, "EleutherAI/gpt-neox-20b", "RTX 4090", prompt_tokens=16).peak.bytes
    assert peak < card("4090").bytes
    in_16_bits = one(changed(made, {"quantization": "none"}), "EleutherAI/gpt-neox-20b", "4090", 16)
    assert in_16_bits.peak.bytes > 40 * GB


def test_inference_of_70b_in_nf4() -> None:
    shape = find_shape("meta-llama/Llama-2-70b-hf")
    needed = base_bytes(shape, "nf4", 2) + kv_bytes(shape, 1, 2048, 2)
    assert 36 * GB < needed < 38 * GB


@pytest.mark.parametrize("rank", [16, 64])
def test_qlora_of_65b_on_48_gb(rank: int) -> None:
    made = schedule({**SFT, "lora": {"r": rank}})
    peak = one(made, "huggyllama/llama-65b", "48GB").peak.bytes
    assert peak < 48 * GIB
    without = one(changed(made, {"quantization": "int8"}), "huggyllama/llama-65b", "48GB")
    assert without.peak.bytes > 60 * GB


def test_qlora_of_7b_on_a_t4() -> None:
    made = schedule(SFT | {"max_length": 1024})
    peak = one(made, "meta-llama/Llama-2-7b-hf", "T4").peak.bytes
    assert peak < card("T4").bytes
    in_16_bits = one(changed(made, {"quantization": "none"}), "meta-llama/Llama-2-7b-hf", "T4")
    assert in_16_bits.peak.bytes > card("T4").bytes


def cards_to_serve(model: str, device: Device) -> int:
    """The fewest cards that hold 16-bit weights and the cache of four texts of 2,048 tokens."""
    shape = find_shape(model)
    needed = base_bytes(shape, "none", 2) + kv_bytes(shape, 4, 2048, 2)
    count = 1
    while count * (device.bytes - device.process_bytes) < needed:
        count *= 2  # tensor parallelism halves
    return count


def test_serving_advice() -> None:
    assert cards_to_serve("meta-llama/Llama-2-7b-hf", card("A10G")) == 1
    assert cards_to_serve("meta-llama/Llama-2-13b-hf", card("A10G")) == 2
    assert cards_to_serve("meta-llama/Llama-2-13b-hf", card("A100 40")) == 1
    assert 2 < cards_to_serve("meta-llama/Llama-2-70b-hf", card("A100 40")) <= 8


# ------------------------------------------------------------------------- what is in memory


def test_constants_are_those_of_the_stages() -> None:
    """Private to their files, and repeated in the plan: here, so that they cannot drift apart."""
    assert memory_phases.TOKENS_AT_ONCE == TOKENS_AT_ONCE
    assert memory_phases.PROMPTS_AT_ONCE == local._PART
    assert measuring._MAX_LOGITS == memory.LOGITS_AT_ONCE
    assert trunk._TOKENS == tensor_bytes.TRUNK_TOKENS
    assert learner._LOGITS_AT_ONCE == tensor_bytes._TRUNK_LOGITS
    assert adapted.KEPT_BYTES == memory_phases.KEPT_BYTES
    assert (room._LEAST_ROOM, room._ROOM_SHARE) == (
        memory_phases.LEAST_ROOM,
        memory_phases.ROOM_SHARE,
    )
    assert local.LocalEngine.__init__.__kwdefaults__["thread_bytes"] == memory.DIALOGUE_BYTES
    assert folding.MAX_BYTES == memory_phases.FOLDED_BYTES


def test_the_type_that_is_computed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = Device("cpu", 1, cuda=False)
    for dtype in ("auto", "float32", "bfloat16"):
        chosen = torch_dtype(ModelSpec(base="x", dtype=dtype, device="cpu"))  # type: ignore[arg-type]
        assert memory_phases.number_width(schedule(SFT, dtype=dtype), cpu) == chosen.itemsize
    assert memory_phases.number_width(schedule(SFT), card("A100 40")) == 2


def test_rows_a_forward_are_those_of_training() -> None:
    made = schedule({**SFT, "micro_batch": None, "batch": 60, "max_length": 1000})
    assert memory.rows_a_forward(made.stages[0], 1000) == trl_epoch.micro_batch(60, None, 1000)
    pairs = schedule({**REWARD, "micro_batch": None, "batch": 64, "max_length": 512})
    assert memory.rows_a_forward(pairs.stages[0], 512) == 16


def weights_of(shape: ModelShape, made: Schedule) -> int:
    return 4 * adapter_parameters(shape, memory_phases.policy_lora(made, 0))


def test_ppo_holds_every_adapter() -> None:
    """Policy, reference, value, 2 + 3 members; moments of policy and value; a head a member."""
    shape = find_shape("pocket")
    helpful = {**REWARD, "name": "helpful", "members": 2}
    safe = {**REWARD, "name": "safe", "members": 3}
    made = schedule({**SFT, "lora": {"r": 4}}, helpful, safe, PPO)
    adapter, head = weights_of(shape, made), 4 * (shape.hidden + 1)
    update = phase(one(made, "pocket", "T4"), "update").parts
    assert update["adapters"] == 8 * adapter
    assert update["heads"] == 6 * head
    assert update["gradients"] == 2 * adapter + head
    assert update["optimizer"] == 2 * update["gradients"]
    assert (
        update["activations"] > phase(one(made, "pocket", "T4"), "measuring").parts["activations"]
    )
    without = changed(made, {"stages.ppo.value_adapter": False, "stages.safe.members": 1})
    update = phase(one(without, "pocket", "T4"), "update").parts
    assert update["adapters"] == 5 * adapter
    assert update["gradients"] == adapter + head


def test_without_a_policy_before_there_is_no_reference() -> None:
    shape = find_shape("pocket")
    made = schedule(REWARD, PPO)
    update = phase(one(made, "pocket", "T4"), "update").parts
    assert update["adapters"] == 4 * adapter_parameters(shape, Lora()) * (2 + 3)


def test_one_member_at_a_time_is_trained() -> None:
    shape = find_shape("pocket")
    made = schedule(SFT, {**REWARD, "members": 5})
    training = phase(one(made, "pocket", "T4"), "training").parts
    assert training["adapters"] == 2 * weights_of(shape, made)  # the policy's and the member's
    assert training["optimizer"] == 2 * training["gradients"]


def test_an_evaluation_seats_checkpoint_start_and_members() -> None:
    made = schedule(SFT, REWARD, PPO, evaluate={"sets": [{"set": "pocket/borderline"}]})
    adapter = weights_of(find_shape("pocket"), made)
    plans = plan_stages(made, find_shape("pocket"), card("T4"))
    assert phase(plans[0], "evaluation").parts["adapters"] == 2 * adapter
    assert "evaluation" not in [entry.name for entry in plans[1].phases]
    # policy, reference, value; the checkpoint and its start; three members
    assert phase(plans[2], "evaluation").parts["adapters"] == 8 * adapter
    cache = phase(plans[2], "evaluation").parts["kv_cache"]
    # of the batch, and of dialogues that go on; no longer than the model's 512 positions
    assert cache == kv_bytes(find_shape("pocket"), 64 + memory.ROWS_A_SET, 512, 2)


def test_generation_holds_the_whole_batch() -> None:
    shape = find_shape("meta-llama/Llama-2-7b-hf")
    made = schedule(SFT, REWARD, PPO | {"batch": 16})
    rollout = phase(one(made, "meta-llama/Llama-2-7b-hf", "H200", 100), "rollout").parts
    assert rollout["kv_cache"] == 16 * 164 * 2 * 32 * 4096 * 2
    sampling = {"kind": "rejection_sampling", "samples": 4, "prompts_per_epoch": 3}
    sampling |= {"micro_batch": 1, "max_new_tokens": 64, "reward": {"kind": "mean"}}
    made = schedule(SFT, REWARD, sampling)
    parts = phase(one(made, "meta-llama/Llama-2-7b-hf", "H200", 100), "sampling").parts
    assert parts["kv_cache"] == kv_bytes(shape, 12, 164, 2)


def test_ppo_generates_so_many_replies_side_by_side() -> None:
    model = "meta-llama/Llama-2-7b-hf"
    made = schedule(SFT, REWARD, PPO | {"batch": 512, "sample_batch": 16})
    found = one(made, model, "H200", 100)
    assert phase(found, "rollout").parts["kv_cache"] == kv_bytes(find_shape(model), 16, 164, 2)
    more = one(changed(made, {"stages.ppo.sample_batch": 32}), model, "H200", 100)
    for name in ("scoring", "measuring", "measuring values", "update"):
        assert phase(more, name) == phase(found, name)


def test_what_takes_no_gradients_is_cut_by_tokens() -> None:
    """However many rows there are, and however long: so many tokens, or a single row."""
    model = "meta-llama/Llama-2-7b-hf"
    made = schedule(SFT, REWARD, PPO | {"batch": 512, "max_new_tokens": 256})
    shape = find_shape(model)
    run = memory_phases.PhaseMaker(made, shape, card("H200"), 2, 256).forward(8, 512)
    within = passing(shape, run, backward=False)
    assert run.tokens == TOKENS_AT_ONCE
    found = one(made, model, "H200", 256)
    for name in ("scoring", "measuring values"):
        assert phase(found, name).parts["activations"] == within
    assert phase(found, "measuring").parts["logits"] == 12 * shape.vocabulary * 8 * 256
    words = find_shape("meta-llama/Meta-Llama-3-8B").vocabulary
    many = one(made, "meta-llama/Meta-Llama-3-8B", "H200", 256)
    tokens = measuring._MAX_LOGITS // (words * 256) * 256
    assert tokens < 8 * 256
    assert phase(many, "measuring").parts["logits"] == 12 * words * tokens
    longest = one(schedule(SFT, REWARD | {"max_length": 20_000}), model, "H200")
    assert phase(longest, "scoring held-out pairs").parts["activations"] > within
    for length in (512, 1024):
        pairs = one(schedule(SFT, REWARD | {"max_length": length}), model, "H200")
        scoring = phase(pairs, "scoring held-out pairs").parts["activations"]
        assert scoring == pytest.approx(within, rel=0.05)  # masks grow with the length


@pytest.mark.parametrize("settings", [REWARD, {**REWARD, "kind": "dpo"}])
def test_a_pairs_sides_go_through_the_layers_together(settings: dict[str, Any]) -> None:
    """However long they are, on a processor, where other rows are cut by tokens."""
    shape = find_shape("meta-llama/Llama-2-7b-hf")
    made = schedule({**settings, "max_length": 4096, "gradient_checkpointing": True})
    training = phase(plan_stages(made, shape, this_machine(), 256)[0], "training").parts
    kept = trunk_kept(shape, 8192, 8192, together=8192, checkpointing=True)
    assert training["activations"] + training["logits"] >= kept + trunk_passing(shape, 8192)


def test_gradient_checkpointing_of_ppo() -> None:
    model = "meta-llama/Llama-2-7b-hf"
    for quantization in ("nf4", "int8"):
        made = schedule(SFT, REWARD, PPO | {"sft_data": "x"}, quantization=quantization)
        less = changed(made, {"stages.ppo.gradient_checkpointing": True})
        before, after = (one(s, model, "H200", 400) for s in (made, less))
        for name in ("update", "update, demonstrations"):
            kept = [phase(found, name).parts["activations"] for found in (before, after)]
            assert kept[1] < 0.6 * kept[0]
        assert phase(before, "rollout") == phase(after, "rollout")


def test_demonstrations_beside_ppo() -> None:
    shape = find_shape("meta-llama/Llama-2-7b-hf")
    made = schedule(SFT, REWARD, PPO | {"sft_data": "x", "sft_max_length": 300})
    parts = phase(one(made, "meta-llama/Llama-2-7b-hf", "H200"), "update, demonstrations").parts
    assert parts["logits"] == 300 * shape.vocabulary * 12


def test_several_replies_a_prompt_are_read_once() -> None:
    model = "meta-llama/Llama-2-7b-hf"
    one_each = one(schedule(SFT, REWARD, PPO), model, "H200", 1024)
    many = one(schedule(SFT, REWARD, PPO | {"samples": 8}), model, "H200", 1024)
    few, all_parts = phase(many, "rollout").parts, phase(one_each, "rollout").parts
    assert few["activations"] < all_parts["activations"]
    assert few["kv_cache"] == all_parts["kv_cache"]


def test_a_local_judge_stays_from_the_first_evaluation_on() -> None:
    evaluate: dict[str, Any] = {"sets": [{"set": "pocket/borderline"}], "batch": 4}
    local_judge = {"model": "mistralai/Mistral-7B-v0.1", "quantization": "nf4", "batch": 2}
    made = schedule(REWARD, SFT, PPO, evaluate=evaluate | {"judge": local_judge})
    stages = plan_stages(made, find_shape("pocket"), card("T4"))
    weights = base_bytes(find_shape("mistralai/Mistral-7B-v0.1"), "nf4", 2)
    held = [{entry.parts["judge"] for entry in stage.phases} for stage in stages]
    assert held == [{0}, {weights}, {weights}]
    cache = phase(stages[1], "evaluation, judging").parts["kv_cache"]
    room = 512 + 1024  # pocket's longest text, and the judge's longest answer
    assert cache == kv_bytes(find_shape("mistralai/Mistral-7B-v0.1"), 2, room, 2)
    served = {"model": "m", "base_url": "http://localhost:8000/v1"}
    made = schedule(SFT, evaluate=evaluate | {"judge": served})
    (stage,) = plan_stages(made, find_shape("pocket"), card("T4"))
    assert all(entry.parts["judge"] == 0 for entry in stage.phases)


def test_smaller_settings_never_need_more() -> None:
    made = schedule(SFT | {"gradient_checkpointing": False, "micro_batch": 8})
    before = one(made, "meta-llama/Llama-2-7b-hf", "H200").peak.bytes
    for setting, value in [
        ("micro_batch", 4),
        ("gradient_checkpointing", True),
        ("max_length", 256),
        ("lora.r", 8),
    ]:
        smaller = changed(made, {f"stages.sft.{setting}": value})
        assert one(smaller, "meta-llama/Llama-2-7b-hf", "H200").peak.bytes < before


def test_disk() -> None:
    shape = find_shape("pocket")
    made = schedule(SFT | {"epochs": 3}, REWARD | {"members": 2}, PPO | {"epochs": 2})
    disk = plan_disk(made, shape)
    adapter, head = weights_of(shape, made), 4 * (shape.hidden + 1)
    tokenizer = 100 * shape.vocabulary
    # epoch 0 and three epochs; what two of them resume from
    assert disk.checkpoints["sft"] == 4 * (adapter + tokenizer) + 2 * 2 * adapter
    assert disk.checkpoints["reward"] == 2 * (adapter + head)
    each = adapter + tokenizer + 2 * adapter + 3 * adapter + 3 * head
    assert disk.checkpoints["ppo"] == 3 * each
    assert disk.base == 2 * shape.parameters


# ------------------------------------------------------------------------- devices and advice


def test_devices() -> None:
    assert [device.name for device in devices()] == [*(c.name for c in CARDS), "this CPU"]
    assert devices(["t4", "a100-80", "cpu", "48GB"])[3].bytes == 48 * GIB
    assert not devices(["cpu"])[0].cuda
    with pytest.raises(InputError, match="several devices"):
        devices(["a100"])
    with pytest.raises(InputError, match="no device 'tpu'"):
        devices(["tpu"])


def test_savings_are_those_of_a_new_plan() -> None:
    shape, device = find_shape("meta-llama/Llama-2-7b-hf"), card("T4")
    made = schedule(
        SFT | {"micro_batch": 4, "max_length": 2048, "gradient_checkpointing": False},
        quantization="none",
    )
    before = plan_stages(made, shape, device)[0].peak.bytes
    advice = advise(made, shape, device, 0)
    assert advice.fits
    assert advice.bytes <= device.bytes
    savings = [change.saving for change in advice.single]
    assert savings == sorted(savings, reverse=True)
    offered = {path for change in advice.single for path in change.settings}
    own = {f"stages.sft.{name}" for name in ("micro_batch", "gradient_checkpointing", "max_length")}
    assert offered >= own
    for change in advice.single:
        after = plan_stages(changed(made, change.settings), shape, device)[0].peak.bytes
        assert before - after == change.saving
    both = made
    for change in advice.together:
        both = changed(both, change.settings)
    assert plan_stages(both, shape, device)[0].peak.bytes == advice.bytes
    assert sum(change.saving for change in advice.together) == before - advice.bytes


def test_ppo_is_made_to_fit_by_time_alone() -> None:
    made = schedule(SFT, REWARD, PPO | {"batch": 512, "mini_batch": 64, "max_new_tokens": 2048})
    shape, device = find_shape("meta-llama/Llama-2-7b-hf"), card("A10G")
    advice = advise(made, shape, device, 2)
    assert advice.fits
    changes = dict(setting for change in advice.together for setting in change.settings.items())
    assert changes["stages.ppo.gradient_checkpointing"] is True
    assert 0 < changes["stages.ppo.sample_batch"] < 128
    assert {path.split(".")[-1] for path in changes} <= {
        "sample_batch",
        "gradient_checkpointing",
        "micro_batch",
    }


def test_what_does_not_help_is_not_offered() -> None:
    """At the peak is the base: nothing about batches changes that."""
    made = schedule(SFT, PPO, quantization="nf4")
    advice = advise(made, find_shape("meta-llama/Llama-2-70b-hf"), card("T4"), 0)
    assert not advice.fits
    assert all("micro_batch" not in path for c in advice.single for path in c.settings)


def test_a_plan_names_the_devices_that_will_do() -> None:
    made = schedule(SFT, model="meta-llama/Llama-2-13b-hf", quantization="none")
    found = plan(made, Path())
    fits = {entry.device.name: entry.fits for entry in found.devices}
    assert not fits["A10G 24 GB"]
    assert fits["A100 40 GB"]
    assert found.reference.device.name == "A100 40 GB"
    assert not found.advice
    asked = plan(made, Path(), ["a10g"])
    assert [advice.stage for advice in asked.advice] == ["sft"]
    assert asked.advice[0].together[0].arguments() == ["quantization=nf4"]
    assert asked.advice[0].fits


@pytest.mark.parametrize("name", ["A10G", "4090"])
def test_llama_2_7b_fits_the_card_that_its_schedule_names(name: str) -> None:
    """Two reward models of three members and PPO on 24 GB, all of it; a tenth to spare."""
    path = Path(__file__).parents[2] / "schedules" / "llama-2-7b.yaml"
    made = read_schedule(path)
    assert "one GPU of 24 GB" in path.read_text(encoding="utf-8").splitlines()[0]
    ppo = next(stage for stage in made.stages if isinstance(stage, PpoStage))
    members = [stage.members for stage in made.stages if isinstance(stage, RewardStage)]
    assert (ppo.batch, members, made.quantization) == (512, [3, 3], "nf4")
    found = plan(made, path.parent, [name])
    [fit] = found.devices
    assert [stage.name for stage in fit.stages] == [stage.name for stage in made.stages]
    for stage in fit.stages:
        for moment in stage.plan.phases:
            assert moment.bytes < 0.9 * fit.device.bytes, f"{stage.name}: {moment.name}"
    assert not found.advice


def test_adapters_on_modules_that_are_none() -> None:
    made = schedule(SFT | {"lora": {"targets": ["q_porj"]}})
    with pytest.raises(InputError, match="did you mean 'q_proj'"):
        one(made, "pocket", "T4")
