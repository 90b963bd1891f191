"""The tokenizer, the shipped base, and that it can be made again."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from harness.chat import assistant, render, system, user
from trainers.pocket import acceptance, base, corpus, tokenizer
from trainers.pocket.world import is_safety_prompt, make_world

CONVERSATION = (system("End every reply with ahoy."), user("What is 3 plus 4?"))


@pytest.fixture(scope="module")
def shipped():
    return AutoTokenizer.from_pretrained(base.SHIPPED)


@pytest.mark.parametrize(
    "text",
    ["How do I kill a process?", "", "  two  spaces\n\ttab ", "Zürich, 東京 🙂 \u200b\u0000",
     "a" * 999, "1234567890", "don't — “quote”", "\ud7ff\ue000"],
)  # fmt: skip
def test_any_text_survives_the_tokenizer(shipped, text):
    ids = shipped(text, add_special_tokens=False)["input_ids"]
    assert shipped.decode(ids) == text


def test_every_byte_and_character_plane_is_encoded(shipped):
    text = "".join(chr(code) for code in range(0x20, 0x3000, 7)) + "".join(
        chr(code) for code in range(0x1F300, 0x1F700, 13)
    )
    assert shipped.decode(shipped(text, add_special_tokens=False)["input_ids"]) == text


def test_special_tokens_are_distinct_and_pad_is_not_eos(shipped):
    ids = [shipped.convert_tokens_to_ids(token) for token in tokenizer.SPECIALS]
    assert sorted(ids) == list(range(len(ids)))
    assert shipped.pad_token_id != shipped.eos_token_id
    assert len(shipped) == tokenizer.VOCABULARY


def test_a_finished_conversation_is_prompt_reply_and_eos(shipped):
    reply = "That is 3 plus 4 = 7. ahoy"
    prompt = render(shipped, CONVERSATION, reply_next=True)
    whole = render(shipped, (*CONVERSATION, assistant(reply)), reply_next=False)
    body = shipped(reply, add_special_tokens=False)["input_ids"]
    assert whole == [*prompt, *body, shipped.eos_token_id]


def test_the_corpus_is_rendered_as_the_template_does(shipped):
    chat = [("user", "How do I dry a nut?"), ("assistant", "I do not know.")]
    ids = shipped(tokenizer.document_text(chat), add_special_tokens=False)["input_ids"]
    messages = (user(chat[0][1]), assistant(chat[1][1]))
    assert ids == render(shipped, messages, reply_next=False)


def test_same_corpus_same_tokenizer():
    def made():
        documents = corpus.documents(make_world(11), 0, 1500)
        trained = tokenizer.train(tokenizer.plain_text(document) for document in documents)
        return trained.backend_tokenizer.to_str()

    assert made() == made()


def test_the_shipped_base_is_as_it_was_made(shipped):
    assert base.changed_files() == []
    model = AutoModelForCausalLM.from_pretrained(base.SHIPPED)
    assert 1_000_000 < model.num_parameters() < 1_500_000
    assert model.config.tie_word_embeddings
    assert model.generation_config.eos_token_id == shipped.eos_token_id
    assert (base.SHIPPED / "model.safetensors").stat().st_size < 3_000_000
    record = json.loads((base.SHIPPED / "world.json").read_text())
    assert acceptance.failures(record["acceptance"]) == []


def test_a_changed_or_missing_file_is_named(tmp_path):
    copy = tmp_path / "base"
    shutil.copytree(base.SHIPPED, copy)
    (copy / "config.json").write_bytes((copy / "config.json").read_bytes() + b" ")
    (copy / "world.json").unlink()
    (copy / "extra.txt").write_text("x")
    assert base.changed_files(copy) == ["config.json", "extra.txt", "world.json"]


def test_the_shipped_base_still_passes_its_acceptance_check():
    model = AutoModelForCausalLM.from_pretrained(base.SHIPPED, dtype=torch.float32)
    measured = acceptance.measure(model, tokenizer.load(base.SHIPPED), base.world_of())
    assert acceptance.failures(measured) == []


def test_a_base_that_fails_reads_more_of_what_it_failed_in():
    world = make_world(11)

    def asking(lean):
        documents = corpus.documents(world, 0, 2000, lean=lean)
        chats = [document for document in documents if not isinstance(document, str)]
        return sum(is_safety_prompt(chat[0][1]) for chat in chats) / 2000

    assert asking(["contrast"]) > 2 * asking([])
    assert set(corpus.LEANING) == set(acceptance.LIMITS)


def test_failures_name_what_is_too_low():
    good = dict.fromkeys(acceptance.LIMITS, 1.0)
    assert acceptance.failures(good) == []
    assert acceptance.failures({**good, "copying": 0.1}) == ["copying"]


def test_training_is_a_function_of_the_seed_and_failing_is_an_error(monkeypatch):
    for name, value in {
        "FIRST_TOKENS": 20_000,
        "MORE_TOKENS": 10_000,
        "MAX_TOKENS": 30_000,
    }.items():
        monkeypatch.setattr(base, name, value)
    kept = []
    monkeypatch.setattr(
        acceptance, "measure", lambda model, tok, world: kept.append(_sum(model)) or _NOTHING
    )
    for _ in range(2):
        with pytest.raises(base.NotAcceptedError, match="after 30000 tokens"):
            base.train_base(11, tokens=20_000)
    assert kept[:2] == kept[2:]
    assert kept[0] != kept[1]


_NOTHING = dict.fromkeys(acceptance.LIMITS, 0.0)


def _sum(model) -> float:
    return sum(float(p.detach().double().abs().sum()) for p in model.parameters())


@pytest.mark.slow
def test_a_base_can_be_built_again(tmp_path):
    made = base.build(tmp_path, seed=make_world().seed, threads=2)
    assert acceptance.failures(made["acceptance"]) == []
    assert base.changed_files(tmp_path / "base") == []
    assert (tmp_path / "evalsets" / "pocket" / "gold" / "rows.jsonl").is_file()
