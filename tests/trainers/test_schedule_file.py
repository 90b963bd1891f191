"""Reading schedules: every error names its line and says what would have been right."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from harness.errors import InputError
from trainers.schedule import Schedule
from trainers.schedule_fields import STAGE_KINDS
from trainers.schedule_file import (
    differences,
    parse_schedule,
    read_schedule,
    resolved_yaml,
    schedule_hash,
)
from trainers.schedule_stages import PpoStage, RewardStage, SftStage

TEXT = """\
name: small
model: pocket
stages:
  - sft: {data: pocket/demonstrations, epochs: 2, learning_rate: 1e-3}
  - reward: {name: helpfulness, data: pocket/helpful}
  - reward:
      name: safety
      data: pocket/safe
      mix: {pocket/helpful: 0.1}
  - ppo: {epochs: 4, batch: 128, kl: 0.02}
evaluate:
  sets: [pocket/borderline, {set: pocket/harmful, limit: 3}]
gates:
  - {metric: borderline.false_refusal, at_most: 0.20, on_fail: stop}
pick:
  maximize: gold.score
"""


def parse(text: str = TEXT, *overrides: str, seed: int | None = None) -> Schedule:
    return parse_schedule(text, "s.yaml", overrides, seed)[0]


def error_of(text: str, *overrides: str) -> str:
    with pytest.raises(InputError) as caught:
        parse(text, *overrides)
    return str(caught.value)


def test_short_forms_become_the_models() -> None:
    schedule = parse()
    assert [stage.name for stage in schedule.stages] == ["sft", "helpfulness", "safety", "ppo"]
    assert schedule.stages[0].kind == "sft"
    assert isinstance(schedule.stages[2], RewardStage)
    assert schedule.stages[2].mix == {"pocket/helpful": 0.1}
    assert [ref.set for ref in schedule.evaluate.sets] == ["pocket/borderline", "pocket/harmful"]
    assert schedule.evaluate.sets[1].limit == 3


def test_yaml_1_2_numbers_and_words() -> None:
    schedule = parse(TEXT.replace("1e-3", "1e-5").replace("name: small", "name: no"))
    assert schedule.stages[0].learning_rate == 1e-5  # PyYAML would read a string
    assert schedule.name == "no"  # and here False


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (
            "learning_rate",
            "learning_rat",
            "s.yaml:4: stages.sft.learning_rat: unknown field; did you mean 'learning_rate'?",
        ),
        (
            "epochs: 2",
            "epochs: two",
            's.yaml:4: stages.sft.epochs: got "two"; expected a whole number',
        ),
        (
            "epochs: 2",
            'epochs: "2"',
            's.yaml:4: stages.sft.epochs: got "2"; expected a whole number',
        ),
        (
            "- sft",
            "- sfy",
            f"s.yaml:4: stages.0: unknown stage 'sfy'; expected one of {', '.join(STAGE_KINDS)}; "
            "did you mean 'sft'?",
        ),
        (
            "ppo: {epochs: 4,",
            "ppo: {epochs: 4, epochs: 5,",
            "s.yaml:10: epochs: duplicate key, first on line 10",
        ),
        (
            "mix: {pocket/helpful: 0.1}",
            "mix: {pocket/helpful: 1.5}",
            "s.yaml:9: stages.safety.mix.pocket/helpful: must be less than or equal to 1, got 1.5",
        ),
        (
            "at_most: 0.20",
            "at_most: 0.20, at_least: 0.1",
            "s.yaml:14: gates.0: give exactly one of at_most, at_least, drop_at_most",
        ),
        (
            "on_fail: stop",
            "on_fail: stpo",
            's.yaml:14: gates.0.on_fail: "stpo" is not known; expected stop, rollback or warn; '
            "did you mean 'stop'?",
        ),
        (
            "on_fail: stop",
            "on_fail: stop, during: [rl]",
            "s.yaml:14: gates.0.during.0: 'rl' is no stage that trains a policy; "
            "expected one of sft, ppo",
        ),
        ("name: small\n", "", "s.yaml:1: name: is missing"),
        ("kl: 0.02", "kl: -1", "s.yaml:10: stages.ppo.kl: must be greater than or equal to 0"),
        ("kl: 0.02", "kl: .inf", "s.yaml:10: '.inf' is not a number"),
        ("kl: 0.02", "kl: 1e999", "s.yaml:10: 1e999 is not a number one can use; expected finite"),
        (
            "kl: 0.02",
            "name: sft",
            "s.yaml:10: stages.sft.name: two stages are called 'sft'",
        ),
        (
            "batch: 128",
            "batch: 100",
            "s.yaml:10: stages.ppo: mini_batch 64 does not divide batch 100",
        ),
        ("pick:", "<<: {a: 1}\npick:", "s.yaml:15: `<<` is not part of YAML 1.2"),
        ("gates:", "gates: [}", "s.yaml:13: expected the node content, but found '}'"),
        ("kl: 0.02", "kl: !!python/name:os 1", "s.yaml:10: tag !!python/name:os is not supported"),
        ("kl: 0.02", "kl: &a [*a]", "s.yaml:10: an alias refers to what it is inside of"),
        (
            "data: pocket/helpful}",
            "data: pocket/helpful, lora: {r: 4}}",
            "s.yaml:5: stages.helpfulness.lora: differs from sft's, from whose adapter the members "
            "start; expected no lora of its own",
        ),
        (
            "epochs: 2",
            "optimizer: {betas: [2, 3]}",
            "s.yaml:4: stages.sft.optimizer.betas.0: ",
        ),
        (
            "epochs: 2",
            "optimizer: {betas: [0.9, 1.0]}",
            "s.yaml:4: stages.sft.optimizer.betas.1: ",
        ),
        (
            "epochs: 2",
            "lora: {targets: []}",
            "s.yaml:4: stages.sft.lora.targets: is empty: name at least one module, or all-linear",
        ),
        (
            "epochs: 2",
            "batch: 64, micro_batch: 10",
            "s.yaml:4: stages.sft.micro_batch: 10 does not divide batch 64; expected a divisor of "
            "64",
        ),
        (
            "data: pocket/helpful}",
            "data: pocket/helpful, micro_batch: 100}",
            "s.yaml:5: stages.helpfulness.micro_batch: 100 does not divide batch 512",
        ),
        (
            "  - ppo:",
            "  - dpo: {data: pocket/helpful, micro_batch: 3}\n  - ppo:",
            "s.yaml:10: stages.dpo.micro_batch: 3 does not divide batch 64",
        ),
        (
            "  - ppo:",
            "  - ghost_attention: {instructions: pocket/instructions, micro_batch: 3}\n  - ppo:",
            "s.yaml:10: stages.ghost_attention.micro_batch: 3 does not divide batch 64",
        ),
        (
            "  - ppo:",
            "  - rejection_sampling: {micro_batch: 3}\n  - ppo:",
            "s.yaml:10: stages.rejection_sampling.micro_batch: 3 does not divide batch 64",
        ),
        (
            "  - ppo:",
            "  - context_distillation: {micro_batch: 3}\n  - ppo:",
            "s.yaml:10: stages.context_distillation.micro_batch: 3 does not divide batch 64",
        ),
        (
            "mix: {pocket/helpful: 0.1}",
            "mix: {a.jsonl: 0.7, b.jsonl: 0.2, c.jsonl: 0.1}",
            "s.yaml:9: stages.safety.mix: the shares add up to 1 or more",
        ),
        (
            "mix: {pocket/helpful: 0.1}",
            "held_out: 1.0",
            "s.yaml:9: stages.safety.held_out: 1 leaves no pair to train on",
        ),
        (
            "mix: {pocket/helpful: 0.1}",
            "eval_data: {held_out: pocket/helpful}",
            "s.yaml:9: stages.safety.eval_data.held_out: is what the held-out share of the stage's "
            "own data is called; expected another name",
        ),
        (
            "name: safety",
            "name: saftey",
            "s.yaml:10: stages.ppo.reward.safety: no reward stage called 'safety' before this one; "
            "expected one of helpfulness, saftey; did you mean 'saftey'?",
        ),
    ],
)
def test_errors_name_line_field_and_what_was_meant(before: str, after: str, message: str) -> None:
    assert message in error_of(TEXT.replace(before, after, 1))


@pytest.mark.parametrize("given", ["3", "true", "null", "{q_proj: 8}", "q_proj", "[1, q_proj]"])
def test_adapter_targets_of_a_wrong_type_are_one_line(given: str) -> None:
    shown = json.dumps(YAML().load(given))
    assert error_of(TEXT.replace("epochs: 2", f"lora: {{targets: {given}}}", 1)) == (
        f"s.yaml:4: stages.sft.lora.targets: {shown} is not known; expected all-linear or a list "
        "of module names"
    )


def test_adapter_targets_are_the_word_or_names() -> None:
    for given in ("all-linear", ["q_proj", "v_proj"]):
        sft = parse(TEXT, f"stages.sft.lora.targets={json.dumps(given)}").stages[0]
        assert isinstance(sft, SftStage)
        assert sft.lora.targets == (given if isinstance(given, str) else tuple(given))
    near = error_of(TEXT.replace("epochs: 2", "lora: {targets: all_linear}", 1))
    assert near.endswith("or a list of module names; did you mean 'all-linear'?")


def test_all_problems_are_told_at_once() -> None:
    message = error_of(TEXT.replace("epochs: 2", "epoch: 2").replace("limit: 3", "limit: 3.5"))
    assert message.splitlines() == [
        "s.yaml:4: stages.sft.epoch: unknown field; did you mean 'epochs'?",
        "s.yaml:12: evaluate.sets.1.limit: got 3.5; expected a whole number",
    ]


def test_a_missing_file_names_its_neighbour(tmp_path: Path) -> None:
    (tmp_path / "pocket.yaml").write_text(TEXT)
    with pytest.raises(InputError, match=r"no such schedule file; did you mean 'pocket.yaml'"):
        read_schedule(tmp_path / "poket.yaml")


@pytest.mark.parametrize("text", ["", "# only a comment\n", "- a\n", "just words"])
def test_what_is_no_schedule_is_an_error(text: str) -> None:
    with pytest.raises(InputError):
        parse(text)


def test_overrides_go_by_stage_name_and_are_typed() -> None:
    schedule = parse(
        TEXT,
        "stages.ppo.kl=0.05",
        "stages.ppo.optimizer.eps=1e-6",
        "stages.safety.mix.data/a.jsonl=0.2",
        "gates.0.at_most=0.5",
        "evaluate.sets.1.limit=7",
        "pick=null",
        seed=5,
    )
    ppo, safety = schedule.stages[3], schedule.stages[2]
    assert isinstance(ppo, PpoStage)
    assert isinstance(safety, RewardStage)
    assert (ppo.kl, ppo.optimizer.eps, ppo.epochs) == (0.05, 1e-6, 4)
    assert safety.mix == {"pocket/helpful": 0.1, "data/a.jsonl": 0.2}
    assert schedule.gates[0].at_most == 0.5
    assert schedule.evaluate.sets[1].limit == 7
    assert schedule.pick is None
    assert schedule.seed == 5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("stages.ppo.kl=abc", '--set stages.ppo.kl=abc: got "abc"; expected a number'),
        (
            "stages.ppo.reward={safety: 3}",
            "--set stages.ppo.reward={safety: 3}: safety: got 3; expected text",
        ),
        (
            "evaluate.judge={model: m, votes: 0}",
            "--set evaluate.judge={model: m, votes: 0}: votes: must be greater than or equal to 1",
        ),
        ("stages.pppo.kl=1", "unknown path, no 'pppo' here; did you mean 'ppo'?"),
        ("stages.ppo.kll=1", "unknown path, no 'kll' here; did you mean 'kl'?"),
        ("stages.ppo.optimizer.epss=1", "unknown path, no 'epss' here; did you mean 'eps'?"),
        ("seeed=3", "unknown path, no 'seeed' here; did you mean 'seed'?"),
        ("gates.3.at_most=1", "unknown path, no '3' here; expected one of 0"),
        ("seed", "--set seed: not an override; expected PATH=VALUE"),
        (
            "stages.ppo.reward.kind=lama2",
            '--set stages.ppo.reward.kind=lama2: "lama2" is not known; expected llama2, mean, '
            "worst_case, uncertainty or weighted; did you mean 'llama2'?",
        ),
    ],
)
def test_a_bad_override_is_told_as_such(override: str, message: str) -> None:
    assert message in error_of(TEXT, override)


def test_resolved_yaml_reads_back_to_the_same_schedule() -> None:
    schedule = parse()
    again = parse(resolved_yaml(schedule))
    assert again == schedule
    assert schedule_hash(again) == schedule_hash(schedule)


def test_the_hash_ignores_comments_and_order_but_no_value() -> None:
    lines = TEXT.splitlines()
    reordered = "\n".join(["# a comment", lines[1], lines[0], *lines[2:]])
    assert schedule_hash(parse(reordered)) == schedule_hash(parse())
    assert schedule_hash(parse(TEXT, "stages.ppo.kl=0.03")) != schedule_hash(parse())


def test_differences_are_told_by_field() -> None:
    changed = parse(TEXT, "stages.ppo.kl=0.05", seed=3)
    assert differences(parse(), changed) == ["seed: 17 -> 3", "stages.ppo.kl: 0.02 -> 0.05"]
    assert differences(parse(), parse()) == []
