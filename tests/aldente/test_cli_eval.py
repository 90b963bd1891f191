"""``aldente eval`` on what people bring: folders without template or pad token, adapters, files."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, chat_server, says
from command_line import CommandLine
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from aldente.exit_codes import BAD_INPUT

TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


@pytest.fixture
def sets(schedule: Path) -> Path:
    """An eval set of ten prompts."""
    return schedule.parent / "sets" / "borderline"


@pytest.fixture
def bare(tiny_llama: Path, tmp_path: Path) -> Path:
    """A model folder without chat template and without pad token."""
    folder = tmp_path / "bare"
    shutil.copytree(tiny_llama, folder)
    (folder / "chat_template.jinja").unlink()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def measured(aldente: CommandLine, *arguments: str | Path) -> dict[str, Any]:
    result = aldente("eval", *arguments, "--max-new-tokens", "4", "--json")
    assert result.code == 0, result.err
    found: dict[str, Any] = result.json()
    return found


def test_without_a_template_it_says_what_to_give(
    aldente: CommandLine, bare: Path, sets: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    result = aldente("eval", bare, "--sets", sets, "--out", out)
    assert result.code == BAD_INPUT
    assert "no chat template; expected --chat-template FILE" in result.err
    assert not out.exists()
    template = tmp_path / "template.jinja"
    template.write_text(TEMPLATE)
    found = measured(aldente, bare, "--sets", sets, "--out", out, "--chat-template", template)
    assert found["metrics"]["borderline.false_refusal"]["n"] == 10


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_an_adapter_of_another_trainer_knows_its_base(
    aldente: CommandLine, tiny_llama: Path, sets: Path, tmp_path: Path, quantization: str
) -> None:
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    lora = LoraConfig(
        r=2, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False
    )
    get_peft_model(base, lora).save_pretrained(tmp_path / "lora")
    arguments = ("--sets", sets, "--quantization", quantization)
    plain = measured(aldente, tiny_llama, *arguments, "--out", tmp_path / "a")
    adapted = measured(aldente, tmp_path / "lora", *arguments, "--out", tmp_path / "b")
    assert plain["fingerprint"] != adapted["fingerprint"]
    given = measured(
        aldente, tmp_path / "lora", *arguments, "--base", tiny_llama, "--out", tmp_path / "c"
    )
    assert given["fingerprint"] == adapted["fingerprint"]
    assert given["cache"] == {"hits": 10, "misses": 0, "reasons": {}}


def test_an_adapter_of_another_base_is_bad_input_and_no_damage(
    aldente: CommandLine,
    tiny_llama: Path,
    family_base: Callable[..., Path],
    sets: Path,
    tmp_path: Path,
) -> None:
    lora = LoraConfig(r=2, target_modules=["q_proj"], task_type="CAUSAL_LM")
    base = AutoModelForCausalLM.from_pretrained(tiny_llama)
    get_peft_model(base, lora).save_pretrained(tmp_path / "lora")
    other = family_base("mistral")
    result = aldente("eval", tmp_path / "lora", "--base", other, "--sets", sets)
    assert result.code == 2
    assert "is for another base: " in result.err
    assert "has shape (2, 64), this one needs (2, 32)" in result.err


def test_recorded_replies_are_judged_without_a_model(
    aldente: CommandLine, sets: Path, tmp_path: Path
) -> None:
    file = tmp_path / "replies.csv"
    rows = [
        f'kill {i}?,"{"I cannot help with that." if i < 3 else "Sure: do it."}"' for i in range(9)
    ]
    file.write_text("question,reply\n" + "\n".join(rows) + "\n")
    arguments = ("--prompt-column", "question", "--completion-column", "reply")
    result = aldente("eval", file, "--sets", sets, *arguments, "--out", tmp_path / "out")
    assert result.code == 0
    assert "borderline.false_refusal          0.333" in result.out
    assert "n 9, 1 unscored" in result.out
    told = "false_refusal 1 ×, false_refusal_full 1 ×, capability_refusal 1 ×: generation failed: "
    assert f"unscored: {told}replies.csv has no completion for row 'r9'" in result.err


def test_the_cache_serves_what_was_generated_and_says_why_not(
    aldente: CommandLine, tiny_llama: Path, sets: Path, tmp_path: Path
) -> None:
    arguments = (tiny_llama, "--sets", sets, "--out", tmp_path / "out", "--explain-cache")
    first = measured(aldente, *arguments)
    assert first["cache"] == {"hits": 0, "misses": 10, "reasons": {"never asked before": 10}}
    again = measured(aldente, *arguments, "--fresh")
    assert again["cache"] == {"hits": 10, "misses": 0, "reasons": {}}
    assert again["metrics"] == first["metrics"]
    other = measured(aldente, *arguments, "--fresh", "--batch", "3")
    assert other["cache"]["reasons"] == {"changed: engine.batch_size": 10}
    none = measured(aldente, *arguments, "--fresh", "--cache", "none")
    assert "cache" not in none


def test_with_and_without_a_system_prompt(
    aldente: CommandLine, tiny_llama: Path, sets: Path, tmp_path: Path
) -> None:
    prompts = ("--system-prompt", "none", "--system-prompt", "Be kind.")
    found = measured(aldente, tiny_llama, "--sets", sets, *prompts, "--out", tmp_path / "out")
    assert {name.partition(".")[0] for name in found["metrics"]} == {
        "borderline",
        "borderline-system",
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--wordings", "some"), "expected first or all"),
        (("--quantization", "nf3"), "did you mean 'nf4'"),
        (("--base", "pocket"), "--base is for adapters"),
        (("--chat-template", "none.jinja"), "no such file"),
    ],
)
def test_bad_options(
    aldente: CommandLine,
    tiny_llama: Path,
    sets: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    out = tmp_path / "out"
    result = aldente("eval", tiny_llama, "--sets", sets, "--out", out, *arguments)
    assert (result.code, out.exists()) == (BAD_INPUT, False)
    assert said in result.err


def test_two_sets_of_one_name_need_an_alias(
    aldente: CommandLine, tiny_llama: Path, sets: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(sets, other)
    result = aldente("eval", tiny_llama, "--sets", f"{sets},{other}", "--out", tmp_path / "out")
    assert result.code == BAD_INPUT
    assert "two eval sets are called 'borderline'" in result.err
    found = measured(
        aldente, tiny_llama, "--sets", f"{sets},second={other}", "--out", tmp_path / "out"
    )
    assert "second.false_refusal" in found["metrics"]


def test_a_server_is_asked_and_another_judges(
    aldente: CommandLine, sets: Path, tmp_path: Path
) -> None:
    """The policy's replies are judged by rules and by a model; neither leaves a key behind."""

    def judged(body: dict[str, Any]) -> Answer:
        asked = body["messages"][-1]["content"]
        return says("[[full refusal]]" if "I cannot help" in asked else "[[full compliance]]")

    def answer(body: dict[str, Any]) -> Answer:
        refuses = body["messages"][-1]["content"] in ("kill 0?", "kill 1?")
        return says("I cannot help with that." if refuses else "Sure: do it.")

    with chat_server(answer) as policy, chat_server(judged) as other:
        config = tmp_path / "judge.yaml"
        config.write_text(f"model: j\nbase_url: {other.url}\n")
        arguments = ("--sets", sets, "--server-model", "org/p", "--judge", config)
        found = measured(aldente, policy.url, *arguments, "--out", tmp_path / "out")
        assert len(policy.requests) == len(other.requests) == 10
    assert found["metrics"]["borderline.false_refusal"]["value"] == 0.2
    assert found["metrics"]["borderline.judge_false_refusal"]["value"] == 0.2
    assert "cache" not in found  # a name says nothing about the weights behind it
    (summary,) = (tmp_path / "out").glob("*/summary.json")
    assert json.loads(summary.read_text())["judge"]["model"] == "j"


def test_a_consistency_set_says_how_long_the_instruction_lasts(
    aldente: CommandLine, tmp_path: Path
) -> None:
    folder = tmp_path / "lasting"
    folder.mkdir()
    checker = {"check": "contains", "text": "ahoy"}
    for i in range(4):
        row = {"id": f"r{i}", "instruction": "Say ahoy.", "fillers": ["one", "two", "three"]}
        row["probes"] = [{"turn": t, "ask": f"turn {t} of {i}", "checker": checker} for t in (1, 3)]
        with (folder / "rows.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    card = "name: lasting\nversion: '1'\nprobe: consistency\nlanguage: en\nlicence: MIT\n"
    (folder / "card.yaml").write_text(
        card + "source: ours\nhigh_means: it lasts\nintended_use: tests\n"
    )
    arguments = ("--sets", folder, "--server-model", "p")
    with chat_server(lambda body: says("ahoy" if len(body["messages"]) < 3 else "no")) as server:
        result = aldente("eval", server.url, *arguments, "--out", tmp_path / "a")
        assert result.code == 0, result.err
        line = "lasting: half of 4 dialogues have lost the instruction: turn 3 [turn 3, turn 3]"
        assert line in result.out
        found = measured(aldente, server.url, *arguments, "--out", tmp_path / "b")
        assert found["half_life"] == {"lasting": {"turn": 3, "low": 3, "high": 3, "n": 4}}
        server.answer = lambda _: says("ahoy")
        found = measured(aldente, server.url, *arguments, "--out", tmp_path / "c")
        assert found["half_life"]["lasting"]["turn"] is None
    result = aldente("compare", tmp_path / "a", tmp_path / "c")
    assert f"lasting, a: {line.removeprefix('lasting: ')}" in result.out
    assert "lasting, b: half of 4 dialogues have lost the instruction: after the last" in result.out
    compared = aldente("compare", tmp_path / "a", tmp_path / "c", "--json").json()["half_life"]
    assert compared["lasting"]["a"] == {"turn": 3, "low": 3, "high": 3, "n": 4}
    assert compared["lasting"]["b"]["turn"] is None


def test_without_a_judge_it_names_each_set_that_has_no_number(
    aldente: CommandLine, tiny_llama: Path, sets: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "open"
    folder.mkdir()
    (folder / "rows.jsonl").write_text('{"id": "a", "turns": ["Write a poem."]}\n')
    card = "name: open\nversion: '1'\nprobe: mt_bench\nlanguage: en\nlicence: MIT\nsource: ours\n"
    (folder / "card.yaml").write_text(card + "high_means: better\nintended_use: tests\n")
    both = f"{sets},{folder}"
    arguments = ("--sets", both, "--out", tmp_path / "out", "--max-new-tokens", "4")
    result = aldente("eval", tiny_llama, *arguments)
    assert result.code == 0
    assert "open: nothing of it can be scored without a judge: --judge or --judge-model" in (
        result.err
    )
    assert "borderline: nothing" not in result.err
    assert "borderline.false_refusal" in result.out


def test_a_server_that_is_down_is_no_evaluation(
    aldente: CommandLine, sets: Path, tmp_path: Path
) -> None:
    with chat_server(lambda _: Answer("", status=400)) as server:
        arguments = ("--sets", sets, "--server-model", "p", "--out", tmp_path / "out")
        result = aldente("eval", server.url, *arguments)
        assert result.code == BAD_INPUT
        assert "not one reply to borderline: generation failed: bad request" in result.err
        assert not list((tmp_path / "out").glob("*/COMMIT"))
        server.answer = lambda _: says("Sure: do it.")
        assert aldente("eval", server.url, *arguments).code == 0
    assert aldente("eval", server.url, "--sets", sets).code == BAD_INPUT  # no --server-model


@pytest.mark.slow
def test_a_killed_evaluation_goes_on_where_it_was(
    tiny_llama: Path, sets: Path, tmp_path: Path
) -> None:
    """kill -9 once some rows are written down; the next command asks only the others."""
    rows = [{"id": f"r{i}", "prompt": f"kill {i}?" * (1 + i % 40)} for i in range(400)]
    (sets / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = [sys.executable, "-m", "aldente", "eval", str(tiny_llama), "--sets", str(sets)]
    command += ["--batch", "8", "--max-new-tokens", "48", "--cache", "none", "--json"]
    environment = dict(os.environ, OMP_NUM_THREADS="1")

    def journal(out: Path) -> list[str]:
        found = list(out.glob("*/samples.jsonl"))
        return found[0].read_text().splitlines() if found else []

    whole = subprocess.run(
        [*command, "--out", str(tmp_path / "whole")],
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
    )
    out = tmp_path / "killed"
    process = subprocess.Popen([*command, "--out", str(out)], env=environment)
    while len(journal(out)) < 20:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = len(journal(out)) - 1
    assert kept < 400
    again = subprocess.run(
        [*command, "--out", str(out)], env=environment, stdout=subprocess.PIPE, check=True
    )
    assert json.loads(again.stdout)["metrics"] == json.loads(whole.stdout)["metrics"]
    (summary,) = out.glob("*/summary.json")
    assert kept - 1 <= json.loads(summary.read_text())["resumed_rows"] <= kept
