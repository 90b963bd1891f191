"""Schedules with stages that sample replies: what is refused, and in which words; what they need in
memory."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from peft import LoraConfig

from harness.adapters import add_adapter, save_adapter
from harness.chat import user
from harness.errors import InputError
from harness.models import ModelSpec, load
from harness.reward_models import HEAD_FILE
from trainers.devices import devices
from trainers.memory import plan_stages
from trainers.memory_advice import advise
from trainers.memory_phases import Phase
from trainers.model_shapes import find_shape
from trainers.samples_file import Best, write_lines
from trainers.schedule import Schedule
from trainers.schedule_file import parse_schedule, read_with_source, resolved_yaml
from trainers.schedule_stages import RejectionSamplingStage
from trainers.tensor_bytes import adapter_parameters, base_bytes
from trainers.validation import Resolved, resolve

SCHEDULES = Path(__file__).parents[2] / "schedules"
TEXT = """\
name: small
model: pocket
stages:
  - sft: {data: pocket/demonstrations?n=40}
  - reward: {name: helpfulness, data: pocket/helpful?n=40}
  - reward: {name: safety, data: pocket/safe?n=40, members: 2}
  - rejection_sampling: {name: v1, epochs: 2, prompts: "pocket/prompts?n=60"}
  - context_distillation: {prompts: "pocket/prompts?n=60"}
evaluate: {sets: []}
"""
CARD = """\
name: asked
version: "1"
probe: reward
language: en
licence: Apache-2.0
source: ours
high_means: nothing
intended_use: tests
"""
V1 = 'rejection_sampling: {name: v1, epochs: 2, prompts: "pocket/prompts?n=60"'
CD = 'context_distillation: {prompts: "pocket/prompts?n=60"'


def with_v1(settings: str) -> str:
    return TEXT.replace(V1, f"{V1}, {settings}")


def with_cd(settings: str) -> str:
    return TEXT.replace(CD, f"{CD}, {settings}")


def resolved(text: str, folder: Path) -> Resolved:
    schedule, source = parse_schedule(text, "s.yaml")
    return resolve(schedule, folder, source)


def error_of(text: str, folder: Path | None = None) -> str:
    with pytest.raises(InputError) as caught:
        resolved(text, folder or Path("/"))
    return str(caught.value)


# --------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "temperature: [1.0, 1.1, 1.2]",
            "s.yaml:7: stages.v1: temperature has 3 values for 2 epochs; give one, or one each",
        ),
        ("temperature: []", "stages.v1: temperature has 0 values for 2 epochs"),
        ("temperature: hot", 's.yaml:7: stages.v1.temperature.0: got "hot"; expected a number'),
        (
            "temperature: [1.0, 0]",
            "s.yaml:7: stages.v1.temperature.1: must be greater than 0, got 0",
        ),
        (
            "tune_temperature: [0.8, 1.2]",
            "s.yaml:7: stages.v1: tune_temperature needs held_out_prompts: how many prompts to "
            "measure it on",
        ),
        (
            "tune_temperature: [1, 1.0], held_out_prompts: 9",
            "stages.v1: tune_temperature needs several temperatures, all different",
        ),
        (
            "held_out_prompts: 9",
            "stages.v1: held_out_prompts are for tune_temperature, which is not given",
        ),
        (
            "tune_temperature: [0.8, 1.2], held_out_prompts: 60",
            "s.yaml:7: stages.v1.held_out_prompts: 60 of ",
        ),
        ("samples: 4, keep: 5", "stages.v1: keep 5 is more than samples 4"),
        ("reward: null", "stages.v1: reward: null is for samples_from, whose samples have rewards"),
        (
            "samples_from: a.jsonl, sampler: {model: a/b}",
            "stages.v1: samples_from and sampler exclude each other: nothing is sampled",
        ),
        ("samples_from: a.jsonl", "s.yaml:7: stages.v1.samples_from: /a.jsonl: no samples here"),
        ("sampler: {modl: a/b}", "stages.v1.sampler.modl: unknown field; did you mean 'model'?"),
        ("sampler: {model: gpt-9}", "s.yaml:7: stages.v1.sampler.model: no folder 'gpt-9', and no"),
        ("sampler: {model: ./none}", "s.yaml:7: stages.v1.sampler.model: no model in /none"),
        (
            "sampler: {model: pocket, adapter: ./none}",
            "s.yaml:7: stages.v1.sampler.adapter: no adapter in /none",
        ),
        (
            "sampler: {model: a, base_url: 'http://h/v1', adapter: ./none}",
            "stages.v1.sampler: adapter is for a local model; a server has its own",
        ),
        (
            "sampler: {model: a, base_url: 'http://me:secret@h/v1'}",
            "stages.v1.sampler: base_url must not hold credentials",
        ),
        (
            "tune_temperature: [0.8, 1.2], held_out_prompts: 9, "
            "sampler: {model: a, base_url: 'http://h/v1', omit: [temperature]}",
            "stages.v1: tune_temperature does nothing with a sampler that is told no temperature",
        ),
    ],
)
def test_rejection_sampling_settings_that_do_not_fit(settings: str, message: str) -> None:
    assert message in error_of(with_v1(settings))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("preprompts: []", "s.yaml:8: stages.context_distillation: there is no pre-prompt"),
        ('preprompts: [""]', "stages.context_distillation.preprompts.0:"),
        (
            "category_preprompts: {borderline: []}",
            "category_preprompts has no pre-prompt for 'borderline'",
        ),
        (
            "category_preprompts: {borderlin: [Be kind.]}",
            "s.yaml:8: stages.context_distillation.category_preprompts.borderlin: no prompt has "
            "the category 'borderlin'; expected one of ",
        ),
        (
            "preprompts_file: ./none.txt",
            "s.yaml:8: stages.context_distillation.preprompts_file: /none.txt: this file cannot be",
        ),
        (
            "safety: helpfulnes",
            "s.yaml:8: stages.context_distillation.safety: no reward stage called 'helpfulnes' "
            "before this one; expected one of helpfulness, safety; did you mean 'helpfulness'?",
        ),
    ],
)
def test_context_distillation_settings_that_do_not_fit(settings: str, message: str) -> None:
    assert message in error_of(with_cd(settings))


def test_an_adapter_that_cannot_reply_on_the_samplers_base_is_refused_before_training(
    tmp_path: Path, tiny_llama: Path
) -> None:
    """Its shapes are compared by the files' headers alone."""
    base = load(ModelSpec(str(tiny_llama)))
    folder = tmp_path / "adapter"
    folder.mkdir()
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    save_adapter(add_adapter(base.model, "policy", lora, seed=1), "policy", folder)

    def text(model: str) -> str:
        return with_v1(f"sampler: {{model: {model}, adapter: ./adapter}}")

    resolved(text(str(tiny_llama)), tmp_path)
    where = "s.yaml:7: stages.v1.sampler.adapter: "
    told = error_of(text("pocket"), tmp_path)
    assert told.startswith(f"{where}is for another base: model.layers.0.")
    assert "128" in told
    assert "\n" not in told
    weights = folder / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-10])
    told = error_of(text(str(tiny_llama)), tmp_path)
    assert told.startswith(f"{where}not a whole safetensors file: ")
    weights.unlink()
    assert error_of(text(str(tiny_llama)), tmp_path) == f"{where}no adapter in {folder}"
    weights.write_bytes(whole)
    (folder / HEAD_FILE).write_bytes(b"")
    told = error_of(text(str(tiny_llama)), tmp_path)
    assert told == f"{where}a member of a reward model is in {folder}, not a policy"


def test_prompts_without_a_harmful_one_are_no_use_to_distillation(tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a", "safety": false}\n')
    text = TEXT.replace(CD, "context_distillation: {prompts: prompts.jsonl")
    message = error_of(text, tmp_path)
    assert "s.yaml:8: stages.context_distillation.prompts: no prompt has `safety: true`" in message


def test_rewards_of_others_cannot_be_compared_with_ours(tmp_path: Path) -> None:
    again = "  - rejection_sampling: {name: v2, samples_from: a.jsonl, reward: null}\n"
    text = TEXT.replace("evaluate:", f"{again}evaluate:")
    assert (
        "s.yaml:9: stages.v2.reward: null: those rewards cannot be compared with the ones of 'v1'; "
        "expected a reward rule, or keep_earlier: false"
    ) in error_of(text)


def test_members_start_from_the_adapter_that_a_sampling_stage_made() -> None:
    text = """\
name: small
model: pocket
stages:
  - rejection_sampling: {samples_from: a.jsonl, reward: null, lora: {r: 8}}
  - reward: {data: pocket/helpful, lora: {r: 4}}
evaluate: {sets: []}
"""
    message = "s.yaml:5: stages.reward.lora: differs from rejection_sampling's"
    assert message in error_of(text)


def test_samples_from_is_held_against_the_eval_sets(tmp_path: Path) -> None:
    sets = tmp_path / "asked"
    sets.mkdir()
    (sets / "card.yaml").write_text(CARD)
    row = {"id": "r1", "prompt": "Which of these is the tallest of all the towers in the town?"}
    (sets / "rows.jsonl").write_text(json.dumps(row) + "\n")
    best = Best("v1", 1, "a", (user("Hello?"),), True, [1], [2], "Hi.", True, 1.0, 0.0, "safety")
    path = tmp_path / "samples.jsonl"
    text = with_v1("samples_from: samples.jsonl").replace("sets: []", "sets: [./asked]")
    write_lines([best], path)
    stage = resolved(text, tmp_path).schedule.stages[3]
    assert isinstance(stage, RejectionSamplingStage)
    assert stage.samples_from == str(path)  # absolute, for the trainer
    write_lines([best, replace(best, messages=(user(row["prompt"]),))], path)
    message = error_of(text, tmp_path)
    assert "s.yaml:7: stages.v1.samples_from: 1 training rows stand in the eval sets" in message
    assert f"{path}:2" in message
    allowed = text.replace("samples_from:", "allow_leaks: true, samples_from:")
    resolved(allowed, tmp_path)


def test_a_schedule_reads_back_the_same() -> None:
    settings = "temperature: 1.1, tune_temperature: [1, 1.2], held_out_prompts: 5, keep: 2, "
    text = with_v1(settings + "sampler: {model: a, base_url: 'http://h/v1', concurrency: 2}")
    schedule = parse_schedule(text, "s.yaml")[0]
    stage = schedule.stages[3]
    assert isinstance(stage, RejectionSamplingStage)
    assert stage.temperature == (1.1,)
    assert parse_schedule(resolved_yaml(schedule), "s.yaml")[0] == schedule
    changed = parse_schedule(text, "s.yaml", ["stages.v1.temperature=[0.9, 1.0]"])[0].stages[3]
    assert isinstance(changed, RejectionSamplingStage)
    assert changed.temperature == (0.9, 1.0)
    again = parse_schedule(text, "s.yaml", ["stages.v1.sampler.concurrency=3"])[0].stages[3]
    assert isinstance(again, RejectionSamplingStage)
    assert again.sampler is not None
    assert again.sampler.concurrency == 3


# --------------------------------------------------------------------------- memory


def phases(schedule: Schedule, at: int) -> dict[str, Phase]:
    shape, [device] = find_shape("pocket"), devices(["T4"])
    return {p.name: p for p in plan_stages(schedule, shape, device)[at].phases}


def test_what_is_sampled_elsewhere_is_not_in_memory() -> None:
    def names(settings: str) -> list[str]:
        return list(phases(parse_schedule(with_v1(settings), "s.yaml")[0], 3))

    assert names("samples: 8") == ["sampling", "scoring", "training"]
    assert names("samples_from: a.jsonl") == ["scoring", "training"]
    assert names("samples_from: a.jsonl, reward: null") == ["training"]
    assert names("sampler: {model: a, base_url: 'http://h/v1'}") == ["scoring", "training"]


def test_fewer_side_by_side_is_offered_where_it_helps() -> None:
    text = with_v1("prompts_per_epoch: 64, max_new_tokens: 384, micro_batch: 1")
    schedule = parse_schedule(text, "s.yaml", ["model=meta-llama/Llama-2-7b-hf"])[0]
    shape, [card] = find_shape(schedule.model), devices(["A100-80"])
    assert plan_stages(schedule, shape, card)[3].peak.bytes > card.bytes
    advice = advise(schedule, shape, card, 3)
    assert advice.fits
    changes = {path: value for change in advice.together for path, value in change.settings.items()}
    assert changes["stages.v1.sample_batch"] < 256


def test_another_model_stands_beside_the_base() -> None:
    large = "meta-llama/Llama-2-7b-hf"
    plain = phases(parse_schedule(TEXT, "s.yaml")[0], 3)["sampling"]
    settings = f"sampler: {{model: {large}, quantization: nf4, batch: 4}}"
    beside = phases(parse_schedule(with_v1(settings), "s.yaml")[0], 3)["sampling"]
    shape = find_shape(large)
    assert beside.parts["base"] - plain.parts["base"] == base_bytes(shape, "nf4", 2)
    assert beside.parts["adapters"] == plain.parts["adapters"]
    adapted = settings.replace("batch: 4", "batch: 4, adapter: x")
    parts = phases(parse_schedule(with_v1(adapted), "s.yaml")[0], 3)["sampling"].parts
    stage = parse_schedule(TEXT, "s.yaml")[0].stages[0]
    assert parts["base"] - beside.parts["base"] == 4 * adapter_parameters(shape, stage.lora)  # type: ignore[union-attr,arg-type]


def test_distillation_is_judged_by_the_safety_members_alone() -> None:
    found = phases(parse_schedule(TEXT, "s.yaml")[0], 4)
    assert list(found) == ["sampling", "scoring", "training"]
    adapter = found["sampling"].parts["adapters"]
    assert found["scoring"].parts["adapters"] == 3 * adapter
    few = parse_schedule(with_cd("prompts_per_epoch: 4"), "s.yaml")[0]
    shares = found["sampling"].parts["kv_cache"] / phases(few, 4)["sampling"].parts["kv_cache"]
    assert shares == 256 / 8


# --------------------------------------------------------------------------- the example


def test_the_iterations_of_llama_2_resolve_with_data_beside_them(tmp_path: Path) -> None:
    """With data of the public files' shapes; their own are tried in test_schedules_shipped.py."""
    shutil.copytree(SCHEDULES, tmp_path, dirs_exist_ok=True)
    data = tmp_path / "data"
    data.mkdir()
    rows: dict[str, list[dict[str, object]]] = {
        "instructions.jsonl": [{"instruction": "Greet.", "output": "Hello."}],
        "rated_pairs.jsonl": [
            {"prompt": "Hi", "chosen": "Hello.", "rejected": "No.", "rating": "better"}
        ],
        "prompts.jsonl": [{"prompt": f"say {n}", "safety": n % 2 == 0} for n in range(80)],
    }
    for name, content in rows.items():
        (data / name).write_text("".join(json.dumps(row) + "\n" for row in content))
    pair = {
        "chosen": "\n\nHuman: How?\n\nAssistant: Ask a doctor.",
        "rejected": "\n\nHuman: How?\n\nAssistant: Like this.",
    }
    with gzip.open(data / "harmless_pairs.jsonl.gz", "wt") as stream:
        stream.write(json.dumps(pair) + "\n")
    (data / "xstest_prompts.csv").write_text(
        "id,prompt,type,label,focus,note\n1,How do I kill a process?,homonyms,safe,kill,\n"
    )
    path = tmp_path / "llama2-iterations.yaml"
    schedule, source = read_with_source(path)
    found = resolve(schedule, tmp_path, source).schedule
    kinds = {stage.name: stage.kind for stage in found.stages}
    assert [kinds[f"v{n}"] for n in range(1, 6)] == ["rejection_sampling"] * 4 + ["ppo"]
    iterations = [s for s in found.stages if isinstance(s, RejectionSamplingStage)]
    assert {(s.held_out_prompts, s.prompts, s.keep_earlier) for s in iterations} == {
        (64, str(data / "prompts.jsonl"), True)
    }
    [card] = devices(["a100-80"])  # as its first line says
    for planned in plan_stages(found, find_shape(found.model), card):
        assert planned.peak.bytes < card.bytes
