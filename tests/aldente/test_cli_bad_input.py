"""What a user gets wrong is told in a line, with exit code 2, before anything is written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import CommandLine


def edit(path: Path, before: str, after: str) -> None:
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after))


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "metric: borderline.false_refusal",
            "metric: borderline.false_refusals",
            "gates.0.metric: no metric 'borderline.false_refusals'",
        ),
        (
            "minimize: borderline.false_refusal",
            "minimize: reward.proxy",
            "pick.minimize: no metric 'reward.proxy'",
        ),
        ("data: pairs.jsonl", "data: pears.jsonl", "stages.helpfulness.data: "),
        ("./sets/borderline", "./sets/border", "evaluate.sets.0: "),
        ("prompts: prompts.jsonl", "prompts: pairs.jsonl", "stages.ppo.prompts: "),
        ("model: /", "model: nowhere/", "no model in "),
        ("epochs: 2", "epochs: two", 'stages.ppo.epochs: got "two"; expected a whole number'),
    ],
)
def test_a_bad_schedule(
    aldente: CommandLine, schedule: Path, before: str, after: str, message: str
) -> None:
    if after == "model: nowhere/":
        after = "model: ./nowhere/"
    edit(schedule, before, after)
    for verb in ("validate", "run"):
        result = aldente(verb, schedule, *(["--runs", schedule.parent] if verb == "run" else []))
        assert result.code == 2
        assert message in result.err
        assert f"{schedule}:" in result.err
        assert result.out == ""
    assert not (schedule.parent / "tiny").exists()


def test_a_base_without_a_chat_template_is_told_before_it_is_loaded(
    aldente: CommandLine, schedule: Path, tiny_llama: Path, tmp_path: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_llama, bare)
    (bare / "chat_template.jinja").unlink()
    edit(schedule, f"model: {tiny_llama}", f"model: {bare}")
    result = aldente("validate", schedule)
    assert result.code == 2
    assert f"chat_template: the tokenizer in {bare} has none; expected a Jinja file" in result.err
    (schedule.parent / "mine.jinja").write_text("{{ messages[0]['content'] }}")
    edit(schedule, f"model: {bare}", f"model: {bare}\nchat_template: mine.jinja")
    assert aldente("validate", schedule).code == 0


def test_unknown_metrics_come_with_the_nearest_and_those_there_are(
    aldente: CommandLine, schedule: Path
) -> None:
    edit(schedule, "metric: borderline.false_refusal", "metric: borderline.false_refusel")
    result = aldente("validate", schedule)
    assert "did you mean 'borderline.false_refusal'?" in result.err
    assert "borderline.false_refusal_full" in result.err


def test_a_metric_that_needs_reward_models_says_so(aldente: CommandLine, schedule: Path) -> None:
    card = schedule.parent / "sets" / "borderline" / "card.yaml"
    edit(card, "probe: refusal", "probe: reward")
    edit(card, "options: {safe: true}", "options: {}")
    edit(schedule, "borderline.false_refusal, at_most: 0.9", "borderline.proxy, at_most: 9")
    edit(schedule, "minimize: borderline.false_refusal", "minimize: borderline.length")
    assert aldente("validate", schedule).code == 0
    edit(schedule, "on_fail: stop", "on_fail: stop, during: [sft]")
    result = aldente("validate", schedule)
    assert result.code == 2
    assert "borderline.proxy needs a reward stage before 'sft'" in result.err


def test_a_bad_row_is_named_by_file_and_line(aldente: CommandLine, schedule: Path) -> None:
    (schedule.parent / "demonstrations.jsonl").write_text('{"prompt": "a", "completion": 3}\n')
    result = aldente("validate", schedule)
    assert result.code == 2
    assert "demonstrations.jsonl:1: completion" in result.err


@pytest.mark.parametrize(
    "arguments", [("run",), ("run", "x.yaml", "--sed", "1"), ("eval", "m"), ("fly",)]
)
def test_misuse_of_the_command_line(aldente: CommandLine, arguments: tuple[str, ...]) -> None:
    assert aldente(*arguments).code == 2


@pytest.mark.parametrize("verb", ["status", "resume", "pick", "verify"])
def test_no_run_there(aldente: CommandLine, tmp_path: Path, verb: str) -> None:
    result = aldente(verb, tmp_path / "nothing")
    assert result.code == 2
    assert "no run here" in result.err


def test_eval_of_what_is_no_model(aldente: CommandLine, tmp_path: Path, schedule: Path) -> None:
    sets = str(schedule.parent / "sets" / "borderline")
    (tmp_path / "empty").mkdir()
    assert aldente("eval", tmp_path / "empty", "--sets", sets).code == 2
    assert aldente("eval", "pocket", "--sets", "pocket/bordeline").code == 2
    result = aldente("eval", "pocket", "--sets", sets, "--quantization", "nf5")
    assert result.code == 2
    assert "did you mean 'nf4'?" in result.err


def test_quick_verbs_do_not_load_torch(schedule: Path) -> None:
    code = (
        "import sys\n"
        "from aldente.main import main\n"
        f"sys.argv = ['aldente', 'validate', {str(schedule)!r}]\n"
        "try:\n"
        "    main()\n"
        "except SystemExit as end:\n"
        "    assert end.code in (0, None)\n"
        "heavy = {'torch', 'transformers', 'trl', 'datasets'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
