"""The schedules that are shipped: they are valid, explained line by line, and say what we claim."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from trainers.devices import devices
from trainers.memory import plan_stages
from trainers.memory_advice import changed
from trainers.model_shapes import find_shape
from trainers.schedule_file import differences, read_schedule, read_with_source
from trainers.schedule_stages import PpoStage
from trainers.validation import resolve

ROOT = Path(__file__).parents[2]
SCHEDULES = sorted((ROOT / "schedules").glob("*.yaml"))
DATA = Path(os.environ.get("ALDENTE_TEST_DATA", ROOT.parent / "shared" / "data"))


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda path: path.stem)
def test_a_comment_stands_above_every_field(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    for number, (above, line) in enumerate(zip(["", *lines], lines, strict=False), 1):
        if re.match(r"\s*(- )?[a-z_]+:", line) and not _in_a_gate(lines, number - 1):
            assert above.strip().startswith("#"), f"{path.name}:{number}: {line}"


def _in_a_gate(lines: list[str], at: int) -> bool:
    """A gate is a sentence of three lines, explained as one."""
    start = lines.index("gates:") if "gates:" in lines else len(lines)
    return at > start and lines[at].startswith("    ")


@pytest.mark.parametrize("path", SCHEDULES, ids=lambda path: path.stem)
def test_it_can_be_read(path: Path) -> None:
    assert read_schedule(path).pick is not None


@pytest.mark.parametrize("name", ["pocket", "pocket-ungated"])
def test_pocket_schedules_resolve(name: str) -> None:
    path = ROOT / "schedules" / f"{name}.yaml"
    schedule, source = read_with_source(path)
    resolved = resolve(schedule, path.parent, source)
    assert {"borderline", "harmful", "mt_bench", "gold", "reward"} <= {
        evalset.name for evalset in resolved.evalsets
    }


def test_ungated_is_the_same_training() -> None:
    gated, ungated = (
        read_schedule(ROOT / "schedules" / f"{name}.yaml") for name in ("pocket", "pocket-ungated")
    )
    changed = {line.split(":")[0] for line in differences(gated, ungated)}
    # The demo saves a minute by smaller ensembles.
    members = {"stages.helpfulness.members", "stages.safety.members"}
    assert {name for name in changed if not name.startswith("gates")} == {"name"} | members


def test_the_iterations_have_llama_2s_batch_and_fit_the_gpu_that_they_name() -> None:
    path = ROOT / "schedules" / "llama2-iterations.yaml"
    schedule = read_schedule(path)
    ppo = schedule.stages[-1]
    assert isinstance(ppo, PpoStage)
    assert (ppo.batch, ppo.mini_batch, ppo.epochs * ppo.iterations) == (512, 64, 400)
    shape = find_shape(str(schedule.model))
    assert "on one GPU of 40 GB" in path.read_text(encoding="utf-8").splitlines()[0]
    device, larger = devices(["A100 40GB", "A100 80GB"])
    assert all(plan.peak.bytes < device.bytes for plan in plan_stages(schedule, shape, device, 512))
    wider = changed(schedule, {"stages.v5.sample_batch": 128})
    fits = [
        plan_stages(wider, shape, card, 512)[-1].peak.bytes < card.bytes
        for card in (device, larger)
    ]
    assert fits == [False, True]


@pytest.mark.shared
@pytest.mark.skipif(not DATA.is_dir(), reason="no public data folder")
@pytest.mark.parametrize("name", ["real-data", "llama-2-7b", "llama2-iterations"])
def test_public_files_fit_under_the_names_in_the_schedule(name: str, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "schedules", tmp_path, dirs_exist_ok=True)
    data = tmp_path / "data"
    data.mkdir(exist_ok=True)
    for source, target in {
        "sft/user_oriented_instructions.jsonl": "instructions.jsonl",
        "preferences/hh_harmless_base_test.jsonl.gz": "harmless_pairs.jsonl.gz",
        "preferences/tulu_human_preferences.jsonl": "rated_pairs.jsonl",
        "evalsets/xstest_prompts.csv": "xstest_prompts.csv",
    }.items():
        shutil.copy(DATA / source, data / target)
    rows = [{"prompt": f"Hello {n}", "safety": n % 2 == 0} for n in range(80)]
    (data / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    path = tmp_path / f"{name}.yaml"
    schedule, source_text = read_with_source(path)
    resolved = resolve(schedule, tmp_path, source_text)
    assert len(resolved.evalsets[0].rows) == 250
    assert "borderline.false_refusal" in resolved.metrics


def test_the_llama_2_template_renders_turns_as_the_paper_does(tiny_llama: Path) -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tiny_llama)
    tokenizer.chat_template = (ROOT / "schedules" / "llama-2.jinja").read_text(encoding="utf-8")
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "Bye"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHello [/INST] Hi </s><s>[INST] Bye [/INST]"
    )
    begun = tokenizer.apply_chat_template(turns[:2], tokenize=False, add_generation_prompt=True)
    assert text.startswith(begun)
