"""Prompts are rendered once, and never otherwise than the tokenizer would render them now."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness import chat
from harness.chat import Prompts, assistant, render, system, user
from harness.engines.local import LocalEngine
from harness.models import ModelSpec, load

ASKED = (system("Be brief."), user("Who is there?"))
ANSWERED = (user("Hello"), assistant("Yes?"), user("Nothing."))


@pytest.fixture
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The conversations that were rendered, one after the other."""
    seen: list[object] = []

    def counted(tokenizer: PreTrainedTokenizerBase, messages: object, **more: bool) -> list[int]:
        seen.append(messages)
        return render(tokenizer, messages, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(chat, "render", counted)
    return seen


def test_a_question_is_rendered_once_and_a_dialogue_each_time(
    tokenizer: PreTrainedTokenizerBase, rendered: list[object]
) -> None:
    prompts = Prompts(tokenizer)
    for _ in range(3):
        assert prompts(list(ASKED)) == tuple(render(tokenizer, ASKED, reply_next=True))
        assert prompts(ANSWERED) == tuple(render(tokenizer, ANSWERED, reply_next=True))
    assert rendered.count(ASKED) == 1
    assert rendered.count(ANSWERED) == 3


def test_what_changes_in_the_tokenizer_changes_the_prompts(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    prompts = Prompts(tokenizer)
    before = prompts(ASKED)
    tokenizer.chat_template = "{{ messages[-1]['content'] }}"
    assert prompts(ASKED) == tuple(tokenizer.encode("Who is there?", add_special_tokens=False))
    tokenizer.add_tokens(["Who is"])
    assert prompts(ASKED) == tuple(tokenizer.encode("Who is there?", add_special_tokens=False))
    assert len(prompts(ASKED)) == len("Who is there?") - len("Who is") + 1 != len(before)


def test_a_template_that_asks_for_the_time_is_asked_each_time(
    tokenizer: PreTrainedTokenizerBase, rendered: list[object]
) -> None:
    tokenizer.chat_template = "{{ strftime_now('%H:%M:%S') }}{{ messages[0]['content'] }}"
    prompts = Prompts(tokenizer)
    prompts(ASKED)
    prompts(ASKED)
    assert len(rendered) == 2


def test_engines_of_one_base_share_prompts_and_others_do_not(
    tiny_llama: Path, tokenizer: PreTrainedTokenizerBase, rendered: list[object]
) -> None:
    loaded = load(ModelSpec(str(tiny_llama)))
    limits = {"batch_size": 1, "max_new_tokens": 1}
    prompts = Prompts(loaded.tokenizer)
    for _ in range(2):
        engine = LocalEngine(loaded.model, loaded.tokenizer, **limits, prompts=prompts)
        assert engine.tokenize(ASKED) == tuple(render(tokenizer, ASKED, reply_next=True))
    assert len(rendered) == 1
    with pytest.raises(ValueError, match="another tokenizer"):
        LocalEngine(loaded.model, loaded.tokenizer, **limits, prompts=Prompts(tokenizer))
