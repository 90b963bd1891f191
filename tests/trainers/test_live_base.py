"""Evaluating on the shared base: the right adapter and reference, and nothing left behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from safetensors.torch import load_file, save_file

from harness import chat
from harness.adapters import (
    adapter_weights,
    add_adapter,
    load_adapter,
    remove_adapter,
    save_adapter,
)
from harness.chat import render
from harness.engines.local import LocalEngine
from harness.errors import InputError, IntegrityError
from harness.models import ModelSpec, load
from harness.normalisation import measure, write_normalisation
from harness.reward_models import HEAD_FILE, RewardModel
from harness.sets import load_set
from harness.store.run import Run
from trainers import live_base
from trainers.live_base import LiveBase
from trainers.schedule import Schedule
from trainers.schedule_file import parse_schedule, resolved_yaml
from trainers.stage import Checkpoint, StageContext
from trainers.validation import Resolved, resolve

LORA = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")
TEXT = """\
name: test
model: MODEL
quantization: none
stages:
  - sft: {data: demonstrations.jsonl, epochs: 2}
evaluate: {sets: [./held_out], batch: 4, max_new_tokens: 6}
"""
CARD = """\
name: held_out
version: "1"
probe: reward
language: en
licence: Apache-2.0
source: ours
high_means: nothing
intended_use: tests
"""
Commit = Callable[[str, int, float], Checkpoint]


@pytest.fixture
def resolved(tmp_path: Path, tiny_llama: Path) -> Resolved:
    (tmp_path / "held_out").mkdir()
    (tmp_path / "held_out" / "card.yaml").write_text(CARD)
    rows = [{"id": f"r{i}", "prompt": f"What is {i}?"} for i in range(6)]
    (tmp_path / "held_out" / "rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    (tmp_path / "demonstrations.jsonl").write_text('{"prompt": "a", "completion": "b"}\n')
    text = TEXT.replace("MODEL", str(tiny_llama))
    return resolve(parse_schedule(text, "test.yaml")[0], tmp_path)


@pytest.fixture
def run(tmp_path: Path, resolved: Resolved) -> Run:
    return Run.create(
        tmp_path / "run",
        schedule_yaml=resolved_yaml(resolved.schedule),
        info={"schedule_folder": "."},
    )


@pytest.fixture
def commit(run: Run, resolved: Resolved) -> Commit:
    """Commits a checkpoint of the sft stage whose adapter is ``size`` away from nothing."""

    def make(name: str, epoch: int, size: float) -> Checkpoint:
        schedule: Schedule = resolved.schedule
        ctx = StageContext(run, schedule, schedule.stages[0], None, resolved.base)
        loaded = load(ModelSpec(resolved.base))
        model = add_adapter(loaded.model, name, LORA, seed=epoch)
        with torch.no_grad():
            for key, weight in adapter_weights(model, name).items():
                if "lora_B" in key:
                    weight.fill_(size)

        def write(folder: Path) -> dict[str, float]:
            save_adapter(model, name, folder)
            return {}

        return ctx.commit(epoch, write)

    return make


def nothing(_: str, __: int, ___: int) -> None:
    return None


def kl(base: LiveBase, checkpoint: Checkpoint, start: Path | None) -> float:
    value = base.evaluate(checkpoint, start, nothing).metric("held_out.kl", "all").value
    assert value is not None
    return value


def test_kl_is_measured_from_the_stages_start(run: Run, resolved: Resolved, commit: Commit) -> None:
    base = LiveBase(run, resolved)
    untrained, first, second = commit("one", 0, 0.0), commit("two", 1, 0.2), commit("three", 2, 0.2)
    assert kl(base, untrained, None) == 0.0
    assert kl(base, first, None) != 0.0  # from the base alone
    assert abs(kl(base, second, second.folder)) < 1e-5  # from itself


def test_a_base_that_cannot_be_packed_is_refused_before_anything_is_trained(
    run: Run, resolved: Resolved, family_base: Callable[..., Path]
) -> None:
    stage = resolved.schedule.stages[0]
    apart = resolved.schedule.model_copy(
        update={"stages": (stage.model_copy(update={"packing": False}),)}
    )
    other = replace(resolved, base=str(family_base("mpt")))
    base = LiveBase(run, other)
    for _ in range(2):  # it does not pass for loaded
        with pytest.raises(InputError, match=r"stages\.sft\.packing: packed rows would see each"):
            base.base()
    assert LiveBase(run, replace(other, schedule=apart)).base()


def test_every_checkpoint_is_asked_by_prompts_that_are_rendered_once(
    run: Run, resolved: Resolved, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered: list[object] = []

    def counted(tokenizer: object, messages: object, **more: bool) -> list[int]:
        rendered.append(messages)
        return render(tokenizer, messages, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(chat, "render", counted)
    base = LiveBase(run, resolved)
    first, second = commit("one", 1, 0.1), commit("two", 2, 0.2)
    for checkpoint in (first, second):
        base.evaluate(checkpoint, first.folder, nothing)
    questions = [messages for messages in rendered if len(messages) == 1]  # type: ignore[arg-type]
    assert len([q for q in questions if q[0].content.startswith("What is")]) == 6  # type: ignore


def test_nothing_is_left_on_the_base_and_other_adapters_stay(
    run: Run, resolved: Resolved, commit: Commit
) -> None:
    base = LiveBase(run, resolved)
    checkpoint = commit("one", 1, 0.2)
    loaded = base.base()
    loaded.model = load_adapter(loaded.model, "policy", checkpoint.folder)
    base.evaluate(checkpoint, checkpoint.folder, nothing)
    assert list(loaded.model.peft_config) == ["policy"]


def test_a_committed_evaluation_is_read_without_loading_anything(
    run: Run, resolved: Resolved, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = commit("one", 1, 0.2)
    first = LiveBase(run, resolved).evaluate(checkpoint, None, nothing)
    monkeypatch.setattr(LiveBase, "base", lambda self: pytest.fail("loaded the base"))
    again = LiveBase(run, resolved).evaluate(checkpoint, None, nothing)
    assert again.names() == first.names()
    assert again.metric("held_out.length") == first.metric("held_out.length")


def test_another_base_is_refused_on_resume(
    run: Run, resolved: Resolved, commit: Commit, tmp_path: Path
) -> None:
    LiveBase(run, resolved).evaluate(commit("one", 1, 0.2), None, nothing)
    other = tmp_path / "other"
    shutil.copytree(resolved.base, other)
    model = load(ModelSpec(resolved.base)).model
    with torch.no_grad():
        next(iter(model.parameters())).add_(0.1)
    model.save_pretrained(other)
    with pytest.raises(InputError, match="not the one that this run was begun with"):
        LiveBase(run, replace(resolved, base=str(other))).base()


def test_what_is_evaluated_is_what_was_committed(
    run: Run, resolved: Resolved, commit: Commit, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = commit("one", 1, 0.2)
    monkeypatch.setattr(live_base, "adapter_hash", lambda model, name: "of something else")
    with pytest.raises(IntegrityError, match="not what is stored"):
        LiveBase(run, resolved).evaluate(checkpoint, None, nothing)


def test_the_base_still_computes_when_its_only_adapter_was_removed(
    resolved: Resolved, commit: Commit
) -> None:
    """As when a resumed run evaluates before its stage puts its own adapters on the base."""
    folder = commit("one", 1, 0.2).folder
    loaded = load(ModelSpec(resolved.base))
    model = load_adapter(loaded.model, "evaluated", folder)
    remove_adapter(model, "evaluated")
    engine = LocalEngine(model, loaded.tokenizer, batch_size=2, max_new_tokens=2)
    before = engine.log_probs([[5, 6]], [[7, 8]])
    load_adapter(model, "policy", folder)
    model(input_ids=torch.tensor([[5, 6]]))  # peft's own forward asks for the active adapter
    after = engine.log_probs([[5, 6]], [[7, 8]])
    assert torch.equal(before[0], after[0])


# --------------------------------------------------------------------------- by which reward

REWARDED = """\
  - reward: {name: helpfulness, members: 2, data: demonstrations.jsonl}
  - ppo: {prompts: demonstrations.jsonl, reward: {kind: weighted, weights: {helpfulness: 1.0}}}
"""


@pytest.fixture
def rewarded(
    tmp_path: Path, resolved: Resolved, models: tuple[Path, tuple[RewardModel, ...]]
) -> tuple[Run, Resolved, Checkpoint]:
    """A run with a committed reward stage of two members, and a checkpoint of its ppo stage."""
    text = TEXT.replace("MODEL", resolved.base).replace("evaluate:", REWARDED + "evaluate:")
    schedule = replace(resolved, schedule=parse_schedule(text, "test.yaml")[0])
    run = Run.create(tmp_path / "rewarded", schedule_yaml="", info={})
    start, (helpfulness, _) = models

    def members(folder: Path) -> dict[str, float]:
        for number, member in enumerate(helpfulness.members):
            shutil.copytree(member, folder / "members" / str(number))
            scale = measure(torch.tensor([0.0, 2.0]), "held_out")
            assert scale is not None
            write_normalisation(folder / "members" / str(number), scale)
        return {}

    def policy(folder: Path) -> dict[str, float]:
        shutil.copytree(start, folder, dirs_exist_ok=True)
        return {}

    _, reward, ppo = schedule.schedule.stages
    StageContext(run, schedule.schedule, reward, None, resolved.base).commit(1, members)
    checkpoint = StageContext(run, schedule.schedule, ppo, None, resolved.base).commit(1, policy)
    return run, schedule, checkpoint


def other_head(run: Run, resolved: Resolved) -> Resolved:
    head = run.path / "checkpoints" / "helpfulness-e001" / "members" / "1" / HEAD_FILE
    save_file({"weight": load_file(head)["weight"] + 1.0}, head)
    return resolved


def other_scale(run: Run, resolved: Resolved) -> Resolved:
    member = run.path / "checkpoints" / "helpfulness-e001" / "members" / "0"
    scale = measure(torch.tensor([0.0, 3.0]), "held_out")
    assert scale is not None
    write_normalisation(member, scale)
    return resolved


def other_rule(run: Run, resolved: Resolved) -> Resolved:
    text = resolved_yaml(resolved.schedule).replace("helpfulness: 1.0", "helpfulness: 2.0")
    return replace(resolved, schedule=parse_schedule(text, "test.yaml")[0])


def of_an_earlier_version(run: Run, resolved: Resolved) -> Resolved:
    """The summary says nothing of the rule."""
    (path,) = run.path.glob("evals/*/*/summary.json")
    summary = json.loads(path.read_text())
    del summary["identity"]["reward_rule"]
    path.write_text(json.dumps(summary))
    return resolved


@pytest.mark.parametrize("change", [other_head, other_scale, other_rule, of_an_earlier_version])
def test_what_another_reward_measured_is_measured_again(
    rewarded: tuple[Run, Resolved, Checkpoint], change: Callable[[Run, Resolved], Resolved]
) -> None:
    run, resolved, checkpoint = rewarded
    before = LiveBase(run, resolved).evaluate(checkpoint, None, nothing)
    changed = change(run, resolved)
    asked: list[int] = []
    after = LiveBase(run, changed).evaluate(checkpoint, None, lambda *at: asked.append(at[1]))
    assert max(asked) == 6
    proxy, length = "held_out.proxy", "held_out.length"
    same = change in (other_scale, of_an_earlier_version)  # this rule does not normalise
    assert (after.metric(proxy) == before.metric(proxy)) is same
    assert after.metric(length) == before.metric(length)


def test_what_the_same_reward_measured_is_not(
    rewarded: tuple[Run, Resolved, Checkpoint], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, resolved, checkpoint = rewarded
    before = LiveBase(run, resolved).evaluate(checkpoint, None, nothing)
    monkeypatch.setattr(LiveBase, "base", lambda self: pytest.fail("loaded the base"))
    after = LiveBase(run, resolved).evaluate(checkpoint, None, nothing)
    assert after.metric("held_out.proxy") == before.metric("held_out.proxy")


def test_a_set_that_asks_for_no_reward_is_not_measured_again(
    rewarded: tuple[Run, Resolved, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, resolved, checkpoint = rewarded
    card = (tmp_path / "held_out" / "card.yaml").read_text()
    other = tmp_path / "questions"
    other.mkdir()
    card = card.replace("held_out", "questions").replace("probe: reward", "probe: hallucination")
    (other / "card.yaml").write_text(card)
    row = {"id": "a", "category": "c", "question": "Who?", "accepted": ["x"]}
    (other / "rows.jsonl").write_text(json.dumps(row) + "\n")
    resolved = replace(resolved, evalsets=(load_set(str(other)),))
    LiveBase(run, resolved).evaluate(checkpoint, None, nothing)
    other_head(run, resolved)
    monkeypatch.setattr(LiveBase, "base", lambda self: pytest.fail("loaded the base"))
    LiveBase(run, resolved).evaluate(checkpoint, None, nothing)


def test_a_stage_does_not_start_from_a_flipped_bit(
    run: Run, resolved: Resolved, commit: Commit
) -> None:
    start = commit("one", 1, 0.2).folder
    content = bytearray((start / "adapter_model.safetensors").read_bytes())
    content[-2] ^= 1
    (start / "adapter_model.safetensors").write_bytes(content)
    with pytest.raises(IntegrityError, match="adapter_model"):
        next(LiveBase(run, resolved).train(resolved.schedule.stages[0], start, lambda _: None))
