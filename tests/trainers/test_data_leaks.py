"""Training rows that stand in the eval sets: exact prompts, shared grams, and what is no leak."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.chat import assistant, user
from harness.evalsets import Card, EvalSet, build_evalset, load_evalset
from harness.overlap import words
from trainers.data import LOADERS, Demonstration, Document, Instruction, Pair, Place, Prompt
from trainers.data_grams import Grams
from trainers.data_leaks import NEAR, Comparison, LeakIndex
from trainers.validation import POCKET_BASE

ASKED = "How do I get an old cast iron pan clean without taking off all of its seasoning, please?"


def evalset(rows: Sequence[dict[str, Any]], probe: str = "refusal", name: str = "mine") -> EvalSet:
    card = {
        "name": name,
        "version": "1",
        "probe": probe,
        "language": "en",
        "licence": "CC0-1.0",
        "source": "a test",
        "high_means": "nothing",
        "intended_use": "a test",
    }
    named = [{"id": f"r{i}", **row} for i, row in enumerate(rows)]
    return build_evalset(Card.model_validate(card), named, Path(name))


def compare(rows: Sequence[Any], *evalsets: EvalSet) -> Comparison:
    return LeakIndex(evalsets).compare(rows, [Place("f", i) for i in range(1, len(rows) + 1)])


def demonstration(*turns: str) -> Demonstration:
    made = [(user, assistant)[i % 2](text) for i, text in enumerate(turns)]
    return Demonstration(tuple(made))


# --------------------------------------------------------------------------- what is a leak


@pytest.mark.parametrize(
    "row",
    [
        demonstration(ASKED, "Salt."),
        demonstration("Hello", "Hi.", ASKED.upper(), "Salt."),
        Pair((user(f"  {ASKED.replace(',', '')} "),), "Salt.", "Soap."),
        Prompt("1", (user(ASKED),), False),
        Document(ASKED),
    ],
    ids=["demonstration", "later turn", "pair", "prompt", "document"],
)
def test_the_same_words_are_a_leak_in_every_kind_of_row(row: Any) -> None:
    found = compare([demonstration("Hello", "Hi."), row], evalset([{"prompt": ASKED}]))
    assert [(leak.place.line, leak.exact, leak.evaluated.row) for leak in found.leaks] == [
        (2, True, "r0")
    ]
    assert found.refused() == found.leaks
    assert words(found.leaks[0].trained) == words(ASKED)
    assert found.leaks[0].evaluated.text == ASKED


def test_short_prompts_count_only_as_a_whole() -> None:
    sets = evalset([{"prompt": "Who are you?"}])
    assert compare([demonstration("who are you", "I.")], sets).leaks
    assert not compare([demonstration("Who are you and what is this?", "I.")], sets).leaks
    assert not compare([demonstration("Hi", "Who are you?")], sets).leaks


def test_nine_tenths_of_the_13_grams_are_a_leak_and_less_is_not() -> None:
    text = " ".join(f"word{i}" for i in range(32))  # 20 grams of 13
    sets = evalset([{"prompt": text}])
    for lost, share in ((1, 0.95), (2, 0.9), (3, 0.85)):
        cut = " ".join(text.split()[lost:])
        found = compare([demonstration(f"Well, {cut} now", "yes")], sets)
        if share >= NEAR:
            assert [leak.share for leak in found.leaks] == [pytest.approx(share)]
            assert not found.leaks[0].exact
            assert not found.closest
        else:
            assert not found.leaks
            assert [leak.share for leak in found.closest] == [pytest.approx(share)]
    # One word changed in the middle takes 13 grams with it: 7 of 20 are left.
    other = compare([demonstration(text.replace("word16 ", "else "), "yes")], sets)
    assert not other.leaks
    assert [leak.share for leak in other.closest] == [pytest.approx(7 / 20)]


def test_a_prompt_in_a_reply_or_a_document_is_a_leak() -> None:
    sets = evalset([{"prompt": ASKED}])
    pair = Pair((user("Write a question."),), "Another one?", f"Here it is: {ASKED}")
    document = Document(f"Chapter one. {ASKED} Chapter two.")
    found = compare([pair, document], sets)
    assert [(leak.place.line, leak.side, leak.share) for leak in found.leaks] == [
        (1, "reply", 1.0),
        (2, "text", 1.0),
    ]
    assert found.leaks[0].told() == "reply has 100% of the 13-grams of mine/r0 prompt"


def test_a_follow_up_is_compared_with_all_that_was_said_before_it() -> None:
    rubric = [{"name": "x", "weight": 1.0, "checker": {"check": "contains", "text": "6"}}]
    row = {"prompt": "And five more?", "history": [["Is one and one two?", "Yes."]]}
    sets = evalset([{**row, "rubric": rubric}], "rubric")
    other = demonstration("Count to ten.", "1 …", "And five more?", "11 …")
    same = demonstration("Is one and one two?", "No.", "And five more?", "Six.")
    alone = demonstration("And five more?", "Of what?")
    assert [leak.place.line for leak in compare([other, alone, same], sets).leaks] == [3]
    turns = evalset([{"turns": ["Count to three.", "Now backwards."]}], "mt_bench")
    backwards = demonstration("Say the alphabet.", "abc", "Now backwards.", "cba")
    assert not compare([backwards], turns).leaks
    opening = demonstration("Count to three!", "1, 2, 3")
    assert [leak.evaluated.field for leak in compare([opening], turns).leaks] == ["turns[0]"]
    both = demonstration("Count to three!", "1", "Now backwards", "3")
    assert len(compare([both], turns).leaks) == 1  # one a training row and an eval row


def test_paraphrases_are_prompts_and_references_are_told_but_not_refused() -> None:
    twin = "What keeps the seasoning on a pan of iron?"
    found = compare(
        [demonstration(twin, "Oil.")], evalset([{"prompt": ASKED, "paraphrases": [twin]}])
    )
    assert [leak.evaluated.field for leak in found.refused()] == ["paraphrases[0]"]
    answer = " ".join(f"step{i}" for i in range(20))
    sets = evalset([{"turns": ["How?"], "references": [answer]}], "mt_bench")
    found = compare([demonstration("Tell me", f"First {answer}")], sets)
    assert [leak.evaluated.field for leak in found.leaks] == ["references[0]"]
    assert not found.refused()


def test_how_much_of_a_set_is_seen() -> None:
    words_of = [f"a{i}" for i in range(20)]
    sets = evalset(
        [{"prompt": " ".join(words_of)}, {"prompt": "Nothing of this is there at all, is it now?"}]
    )
    found = compare([demonstration(" ".join(words_of[:13]), "yes")], sets)
    seen = found.seen["mine"]
    # Of the first row's 13 grams of 8 words 6 are there; the second has 3.
    assert (seen.rows, seen.leaked, seen.long, seen.short) == (2, 0, 1, 1)
    assert seen.short_share == pytest.approx(6 / 16)


def test_all_texts_of_an_instruction_are_compared_each_alone() -> None:
    long = " ".join(f"word{i}" for i in range(32))
    sets = evalset([{"prompt": "Who are you?"}, {"prompt": long}, {"prompt": "Be kind. Be brief."}])
    rows = [
        Instruction("persona", "You are a monk.", "Act as a monk.", "who are you"),
        Instruction("length", "Who are you?", "Be brief."),
        Instruction("form", "Be brief in all you say.", "Who are you?", f"Well, {long}?"),
        Instruction("tone", f"Say {long}.", "Be kind.", "Be brief."),  # no turns of a dialogue
        Instruction("size", long[:90], long[90:], "How long?"),  # no gram goes over a text's end
    ]
    found = compare(rows, sets)
    assert [(leak.place.line, leak.evaluated.row, leak.trained) for leak in found.leaks] == [
        (1, "r0", "who are you"),
        (2, "r0", "Who are you?"),
        (3, "r0", "Who are you?"),
        (3, "r1", f"Well, {long}?"),
        (4, "r1", f"Say {long}."),
    ]
    assert found.refused() == found.leaks


def test_the_same_rows_asked_in_another_way_are_compared_once() -> None:
    plain = evalset([{"prompt": ASKED}])
    found = compare(
        [demonstration(ASKED, "Salt.")], plain, plain.asked(name="two", system_prompt="Be brief.")
    )
    assert len(found.leaks) == 1


def test_rows_without_words_are_passed_over() -> None:
    found = compare([demonstration("???", "!!!"), Document("…")], evalset([{"prompt": "???"}]))
    assert not found.leaks
    assert found.not_compared == ("mine",)


# --------------------------------------------------------------------------- grams


def test_grams_are_those_that_a_plain_search_finds() -> None:
    """Against an independent one, on texts of few words, so that grams repeat and overlap."""
    rng = random.Random(0)
    for n in (1, 2, 3, 5):
        texts = [[rng.randint(1, 3) for _ in range(rng.randint(0, 9))] for _ in range(12)]
        ids = [rng.randint(0, 3) for _ in range(300)]
        grams = Grams(n, texts)
        places, numbers = grams.everywhere(np.array(ids))
        index, owner = grams.owners_of(numbers)
        found = {(int(places[i]), int(o)) for i, o in zip(index, owner, strict=True)}
        expected = {
            (at, which)
            for at in range(len(ids) - n + 1)
            for which, text in enumerate(texts)
            if any(text[i : i + n] == ids[at : at + n] for i in range(len(text) - n + 1))
        }
        assert found == expected
        known = [{tuple(t[i : i + n]) for i in range(len(t) - n + 1)} for t in texts]
        assert grams.count.tolist() == [len(k) for k in known]
        windows = {tuple(ids[at : at + n]) for at in range(len(ids) - n + 1)}
        assert grams.seen_of().tolist() == [len(k & windows) for k in known]


def test_no_gram_goes_over_an_unknown_word_or_the_end() -> None:
    grams = Grams(2, [[1, 2]])
    assert grams.everywhere(np.array([1, 0, 2, 1]))[0].tolist() == []
    assert grams.everywhere(np.array([1]))[0].tolist() == []
    assert grams.at(np.array([0, 1, 2, 1]), np.array([0, 1, 3]))[0].tolist() == [1]
    assert Grams(2, []).everywhere(np.array([1, 2]))[0].tolist() == []


# --------------------------------------------------------------------------- pocket


@pytest.mark.parametrize(
    ("kind", "source"),
    [
        ("demonstrations", "pocket/demonstrations"),
        ("pairs", "pocket/helpful"),
        ("pairs", "pocket/safe"),
        ("prompts", "pocket/prompts"),
        ("dialogues", "pocket/dialogues"),
    ],
)
def test_pocket_data_have_no_leak_under_any_seed(kind: Any, source: str) -> None:
    """Its prompts are made of a few templates; held-out rows must stay so, and not be refused."""
    names = ("borderline", "harmful", "plain", "mt_bench", "consistency", "hallucination")
    sets = [load_evalset(f"pocket/{name}") for name in (*names, "gold", "reward")]
    index = LeakIndex(sets)
    for seed in (17, 18, 19):
        loaded = LOADERS[kind](source, base_folder=POCKET_BASE, seed=seed)
        found = index.compare(loaded.rows, loaded.places)
        assert not found.leaks
        assert max((leak.share for leak in found.closest), default=0.0) < 0.5


def test_pocket_instructions_leak_into_no_set_but_the_one_that_has_all_of_them() -> None:
    names = ("borderline", "harmful", "plain", "mt_bench", "consistency20", "hallucination")
    sets = [load_evalset(f"pocket/{name}") for name in (*names, "gold", "reward")]
    loaded = LOADERS["instructions"]("pocket/instructions", base_folder=POCKET_BASE, seed=17)
    assert not LeakIndex(sets).compare(loaded.rows, loaded.places).leaks
    everything = LeakIndex([load_evalset("pocket/consistency")])
    assert everything.compare(loaded.rows, loaded.places).leaks
