"""Training on another model's samples: a file, another local model, a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_server import Answer, chat_server, says
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from harness.chat import render, user
from harness.errors import InputError
from harness.models import ModelSpec, load
from harness.reward_models import RewardScorer, Rule
from trainers import rejection_sampling as rs
from trainers.sampled_replies import CACHE_FILE, Sampled, asking, tokenised
from trainers.samples_file import SAMPLES_FILE, Best, read_samples, write_lines
from trainers.schedule_stages import RejectionSamplingStage
from trainers.stage import StageContext

EOS = 2


@pytest.fixture
def make(tmp_path: Path, context: Any, models: Any) -> Callable[..., StageContext]:
    """``make(name, **settings)``: a run with one rejection-sampling stage, of 6 prompts."""
    rows = [{"id": f"p{i}", "prompt": f"say {i}", "safety": i % 3 == 0} for i in range(6)]
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    start, reward_models = models

    def made(name: str, **settings: Any) -> StageContext:
        stage = {
            "kind": "rejection_sampling",
            "name": "v1",
            "prompts": str(path),
            "samples": 3,
            "max_new_tokens": 6,
            "learning_rate": 1e-3,
            "batch": 4,
            **settings,
        }
        stages = [{"kind": "sft", "data": "unused"}, stage]
        return context(tmp_path / name, stages, 1, start=start, reward_models=reward_models)

    return made


def only(ctx: StageContext) -> tuple[dict[str, Any], list[Best]]:
    [checkpoint] = rs.checkpoints(ctx)
    return checkpoint.training, read_samples(checkpoint.folder)


# --------------------------------------------------------------------------- tokens


def test_replies_as_text_become_the_runs_tokens(make: Any) -> None:
    ctx = make("run")
    prompt = (user("a"),)
    given = [(prompt, "bé", True), (prompt, "bé", False), (prompt, "", True), (prompt, "", False)]
    long = (prompt, "x" * 600, True)  # the tiny model reads 512 tokens
    whole, cut, empty, nothing, too_long = tokenised(ctx, [*given, long])
    tokenizer = ctx.base().tokenizer
    asked = render(tokenizer, prompt, reply_next=True)
    assert isinstance(whole, Sampled)
    assert isinstance(cut, Sampled)
    assert tokenizer.decode([*asked, *whole.reply_ids]) == "<s><|user|>a</s><|assistant|>bé</s>"
    assert whole.reply_ids == (*cut.reply_ids, EOS)
    assert isinstance(empty, Sampled)
    assert empty.reply_ids == (EOS,)
    assert nothing == "empty"
    assert too_long == "no room in the context"


# --------------------------------------------------------------------------- a file


def test_samples_of_another_run(make: Any, tmp_path: Path, models: Any, tiny_llama: Path) -> None:
    """A large model's run, then a small one's that draws nothing itself."""
    _, of_large = only(make("large", keep=2))
    checkpoint = tmp_path / "large" / "checkpoints" / "v1-e001"
    for source in (checkpoint / SAMPLES_FILE, checkpoint, tmp_path / "large"):
        training, taken = only(make(f"of-{source.name}", samples_from=str(source)))
        assert {b.messages for b in taken} == {b.messages for b in of_large}
        assert training["prompts"] == 6
        assert training["samples"] == len(of_large)
        assert "best_by_k" not in training  # those are no random samples
        assert "temperature" not in training
        assert len(training["samples_from"]) == 64
    base = load(ModelSpec(str(tiny_llama), quantization="nf4"))
    with RewardScorer(base.model, base.tokenizer, models[1], Rule(), batch_size=4) as scorer:
        scores = scorer.score_tokens([[*b.prompt_ids, *b.reply_ids] for b in taken])
        combined = scorer.combined(scores, [b.safety for b in taken])
    assert [b.reward for b in taken] == pytest.approx(combined.reward.tolist(), abs=1e-4)


def test_their_own_rewards_may_stand(make: Any, tmp_path: Path) -> None:
    _, of_large = only(make("large", keep=3))
    path = tmp_path / "chosen.jsonl"
    worst_first = of_large[::-1]
    write_lines(worst_first, path)
    training, taken = only(make("small", samples_from=str(path), reward=None))
    best = {b.messages: b.reward for b in worst_first}  # the best of a prompt comes last
    assert {b.messages: b.reward for b in taken} == best
    assert training["targets"] == 6


def test_a_file_without_a_prompt_that_fits(make: Any, tmp_path: Path) -> None:
    _, [first, *_] = only(make("large"))
    path = tmp_path / "long.jsonl"
    write_lines([Best(**{**_fields(first), "text": "x" * 600})], path)
    with pytest.raises(InputError, match="no sample has room"):
        only(make("small", samples_from=str(path)))
    write_lines([first, Best(**{**_fields(first), "text": "x" * 600})], path)
    training, _ = only(make("small", samples_from=str(path)))
    assert training["failed_samples"] == {"no room in the context": 1}


def _fields(best: Best) -> dict[str, Any]:
    return {name: getattr(best, name) for name in Best.__dataclass_fields__}


# --------------------------------------------------------------------------- another model


def test_another_local_model_is_sampled_from(make: Any, tmp_path: Path, tiny_llama: Path) -> None:
    other = tmp_path / "other"
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(5)
        LlamaForCausalLM(AutoConfig.from_pretrained(tiny_llama)).save_pretrained(other)
    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    tokenizer.chat_template = tokenizer.chat_template.removeprefix("<s>")  # not ours
    tokenizer.save_pretrained(other)
    ctx = make("run", sampler={"model": str(other), "batch": 4})
    training, taken = only(ctx)
    assert (training["prompts"], training["samples"]) == (6, 18)
    tokenizer = ctx.base().tokenizer
    own = {b.messages: b.text for b in only(make("own"))[1]}
    assert any(own[b.messages] != b.text for b in taken)
    for b in taken:
        assert b.prompt_ids == render(tokenizer, b.messages, reply_next=True)
        assert tokenizer.decode(b.reply_ids, skip_special_tokens=True) == b.text
        assert b.ended == (b.reply_ids[-1] == EOS)
    assert len(training["best_by_k"]) == 3


def test_pocket_is_a_sampler_too(make: Any) -> None:
    ctx = make("run", sampler={"model": "pocket"})
    stage = ctx.stage
    assert isinstance(stage, RejectionSamplingStage)
    with asking(ctx, stage, stage.sampler) as ask:
        [replies] = ask([(user("What is a ladder?"),)], ["a"], samples=2, temperature=0.0, seed=1)
    assert len(replies.samples) == 2
    assert replies.samples[0] == replies.samples[1]
    tokenizer = ctx.base().tokenizer
    asked = render(tokenizer, (user("What is a ladder?"),), reply_next=True)
    assert replies.prompt_ids == tuple(asked)


# --------------------------------------------------------------------------- a server


def test_a_server_is_sampled_from_and_asked_once(make: Any, digest: Any, tmp_path: Path) -> None:
    """A stage that is killed and begun again has the same bytes and no request twice."""

    def answer(body: dict[str, Any]) -> Answer:
        return says(f"{body['messages'][-1]['content']} {body['seed'] % 10}")

    folders = []
    with chat_server(answer) as server:
        sampler = {"model": "large", "base_url": server.url}
        for name in ("once", "again"):
            server.requests.clear()
            ctx = make(name, sampler=sampler, temperature=0.9)
            training, taken = only(ctx)
            assert len(server.requests) == 18
            assert {body["temperature"] for body in server.requests} == {0.9}
            assert {body["max_tokens"] for body in server.requests} == {6}
            assert training["samples"] == 18
            assert all(b.ended and b.text.startswith(b.messages[0].content) for b in taken)
            assert (ctx.run.path / CACHE_FILE).is_file()
            folders.append(ctx.run.path / "checkpoints" / "v1-e001")
        assert digest(folders[0]) == digest(folders[1])
        before = digest(folders[1])
        (folders[1] / "COMMIT").unlink()  # as if killed before
        ctx = make("again", sampler=sampler, temperature=0.9)
        ctx.run.clean()
        only(ctx)
        assert len(server.requests) == 18
        assert digest(folders[1]) == before


def test_a_server_that_fails_now_and_then(make: Any) -> None:
    def answer(body: dict[str, Any]) -> Answer:
        asked = body["messages"][-1]["content"]
        if asked == "say 1":
            return Answer({"error": {"message": "no"}}, status=400)
        return says(None if asked == "say 2" else "fine", finish="length")

    with chat_server(answer) as server:
        training, taken = only(make("run", sampler={"model": "large", "base_url": server.url}))
    assert training["skipped_prompts"] == 2
    assert training["failed_samples"]["empty"] == 3  # nothing, cut off
    assert training["failed_samples"]["bad request"] == 3
    assert training["samples"] == 18 - sum(training["failed_samples"].values())
    assert "say 1" not in {b.messages[0].content for b in taken}
    assert not any(b.ended for b in taken)


def test_a_server_that_is_not_there(make: Any) -> None:
    sampler = {"model": "large", "base_url": "http://127.0.0.1:9/v1", "retries": 0}
    with pytest.raises(InputError, match=r"v1.sampler: 18 of 18 samples failed: unreachable"):
        only(make("run", sampler=sampler))


def test_a_server_that_says_nothing(make: Any) -> None:
    with chat_server(lambda body: says(None, finish="length")) as server:
        ctx = make("run", sampler={"model": "large", "base_url": server.url})
        with pytest.raises(
            InputError, match=r"prompts\.jsonl: no prompt got a reply to choose from: 18 empty$"
        ):
            only(ctx)
