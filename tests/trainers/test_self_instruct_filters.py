"""Each rule: what it drops, and what it must not."""

from __future__ import annotations

import time

import pytest

from trainers.self_instruct_filters import (
    CITED,
    Dropped,
    Limits,
    closest,
    counted,
    judge_pair,
    may_answer,
    repeated,
    supported,
)
from trainers.self_instruct_prompts import Candidate
from trainers.self_instruct_texts import Document, Window, split
from trainers.self_instruct_words import content, length, names, numbers

TEXT = (
    "The footbridge over the Wend was planned by the engineer Marta Oluwole and built from larch. "
    "Work began in spring 2011. After a flood had delayed it, the bridge was opened on 3 June "
    "2013. It is 1.8 metres wide and cost 1,200 pounds. Dogs are not allowed. The bridge is open "
    "every day. Twelve lamps light it."
)


def window(text: str = TEXT, tag: str = "Source:0001REF") -> Window:
    found = tuple(split(text))
    return Window(Document("a.txt", tag, text, found), 1, 0, len(found))


def pair(question: str, answer: str | None, *cited: int, text: str = TEXT) -> Candidate:
    return Candidate(window(text), question, answer, cited)


@pytest.mark.parametrize(
    ("question", "answer", "cited"),
    [
        ("Who planned the footbridge over the Wend?", "Marta Oluwole", 0),
        ("Who planned the footbridge over the Wend?", "The engineer Marta Oluwole planned it.", 0),
        ("When was the bridge over the Wend opened?", "On 3 June 2013.", 2),
        ("Why was the opening of the bridge delayed?", "Because of a flood.", 2),
        ("How wide is the footbridge?", "1.8 metres", 3),
        ("What did the footbridge cost?", "1200 pounds", 3),
        ("How many lamps light the footbridge?", "12", 6),
        ("What was the footbridge made from?", "From larch.", 0),
    ],
)
def test_pairs_that_are_kept(question: str, answer: str, cited: int) -> None:
    assert judge_pair(pair(question, answer, cited), Limits()) is None


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ("Where is the source of the Wend?", None),
        ("Who is the author of the novel about the Wend?", None),
        ("What did the writer Marta Oluwole plan with larch?", None),
        ("How long was the sentence that Marta Oluwole served?", None),
        ("What was the article by Marta Oluwole about?", None),
        ("Which passage links the bridge and the Wend?", None),
        ("Who signed the text of the Wend treaty?", None),
        ("What is mentioned in the passage about dogs?", Dropped.POINTS),
        ("What does this document say about the Wend?", Dropped.POINTS),
        ("What did the Author plan over the Wend?", Dropped.POINTS),
        ("In the given text, who planned the bridge?", Dropped.POINTS),
        ("What bridge is described above the river Wend?", Dropped.POINTS),
        ("Who is named in [2] as an engineer?", Dropped.POINTS),
        ("Which river is mentioned in the second sentence?", Dropped.POINTS),
        ("When was it opened and painted?", Dropped.VAGUE),
        ("How wide is it there?", Dropped.VAGUE),
        ("How does Marta plan it?", None),
        ("How many lamps are there on the bridge?", None),
    ],
)
def test_questions_that_point_at_something(question: str, reason: Dropped | None) -> None:
    assert judge_pair(pair(question, None), Limits()) is reason


@pytest.mark.parametrize(
    ("question", "answer", "cited", "reason"),
    [
        ("Why Wend?", "A flood.", 2, Dropped.SHORT_QUESTION),
        ("Why " + "so very " * 30 + "wide, footbridge?", "1.8 metres", 3, Dropped.LONG_QUESTION),
        ("What of the footbridge?", "larch " * 61, 0, Dropped.LONG_ANSWER),
        ("Who planned the \u202efootbridge?", "Marta Oluwole", 0, Dropped.CHARACTERS),
        ("Who planned the footbridge?", "Marta \x1b[31mOluwole", 0, Dropped.CHARACTERS),
        ("Who planned the footbridge?", "Marta \ud800Oluwole", 0, Dropped.CHARACTERS),
        ("Who planned the bridge in the passage?", "Marta Oluwole", 0, Dropped.POINTS),
        ("Who planned it, according to the text above?", "Marta Oluwole", 0, Dropped.POINTS),
        ("What does sentence 1 say of the Wend?", "larch", 0, Dropped.POINTS),
        ("Who built the bridge of Source:8989REF?", "Marta Oluwole", 0, Dropped.POINTS),
        ("What does the author say about the Wend?", "larch", 0, Dropped.POINTS),
        ("When was it opened?", "3 June 2013", 2, Dropped.VAGUE),
        ("Who is he?", "Marta Oluwole", 0, Dropped.VAGUE),
        ("Which painter lived in Paris?", "Marta Oluwole", 0, Dropped.FOREIGN),
        ("Wer hat die Brücke Wend für die Stadt geplant?", "Marta", 0, Dropped.LANGUAGE),
        ("Who planned the footbridge?", "The passage does not say.", 0, Dropped.ABSTAINS),
        ("Who planned the footbridge?", "I do not know.", 0, Dropped.ABSTAINS),
        ("Is the footbridge wide?", "Yes, 1.8 metres.", 3, Dropped.NO_CONTENT),
        ("Who planned the footbridge?", "It was her.", 0, Dropped.NO_CONTENT),
        ("Who planned the footbridge of larch?", "The footbridge of larch.", 0, Dropped.GIVEN_AWAY),
        ("When was the footbridge opened?", "3 June 2013", 0, Dropped.NOT_CITED),
        ("When was the footbridge opened?", "4 June 2013", 2, Dropped.UNSUPPORTED),
        ("How wide is the footbridge?", "8.1 metres", 3, Dropped.UNSUPPORTED),
        ("How wide is the footbridge?", "18 metres", 3, Dropped.UNSUPPORTED),
        ("Who planned the footbridge?", "Marta Olawole", 0, Dropped.UNSUPPORTED),
        ("Who planned the footbridge?", "Napoleon Bonaparte", 0, Dropped.UNSUPPORTED),
        ("Who planned the footbridge?", "Marta Oluwole from Lagos", 0, Dropped.UNSUPPORTED),
        ("How many lamps light the footbridge?", "13", 6, Dropped.UNSUPPORTED),
        ("Who planned the footbridge?", "some clever people nearby", 0, Dropped.UNSUPPORTED),
    ],
)
def test_pairs_that_are_dropped(question: str, answer: str, cited: int, reason: Dropped) -> None:
    assert judge_pair(pair(question, answer, cited), Limits()) is reason


def test_the_limits_are_the_ones_given() -> None:
    found = pair("What was the footbridge made from?", "Built from larch", 0)
    assert judge_pair(found, Limits(answer_words=2)) is Dropped.LONG_ANSWER
    assert judge_pair(found, Limits(answer_words=3)) is None
    many = pair("What was the footbridge made from?", "From larch", *range(CITED + 1))
    assert judge_pair(many, Limits()) is Dropped.CITES_MUCH


def test_a_question_without_an_answer_is_judged_alone() -> None:
    assert judge_pair(pair("Who paid for the footbridge?", None), Limits()) is None
    assert judge_pair(pair("Who paid for it?", None), Limits()) is Dropped.VAGUE


def test_other_languages() -> None:
    german = "Die Brücke wurde 1992 von der Ingenieurin Marta Oluwole geplant."
    found = pair("Wer hat die Brücke geplant?", "Marta Oluwole", 0, text=german)
    assert judge_pair(found, Limits(language="de")) is None
    japanese = "この橋は1992年に山田さんが作りました。川は東へ流れます。"
    found = pair("この橋は誰が作りましたか。", "山田さん", 0, text=japanese)
    assert judge_pair(found, Limits(language="ja")) is None
    wrong = pair("この橋は誰が作りましたか。", "田中さん", 0, text=japanese)
    assert judge_pair(wrong, Limits(language="ja")) is Dropped.UNSUPPORTED


def test_words_that_are_compared() -> None:
    assert content("The twelve bridges' 1,200 visitors were delayed in 2013.") == (
        *("12", "bridg", "1200", "visitor", "delay", "2013"),
    )
    assert names("The height of Mount Orrin in 1992") == {"mount", "orrin"}
    assert numbers("In 1.8 or 1,200 or three") == {"1.8", "1200", "3"}
    assert length("How long is it?") == 4
    assert length("この橋は誰が作りましたか。") == 6
    # What is asked does not count as support: something new must come from the evidence.
    assert not supported("the wide footbridge", "Is the wide footbridge old?", "It is old.")


def test_sources_that_might_answer() -> None:
    other = [window("The ferry sails to Ness Holm. A ticket costs 12 euros.", "Source:0002REF")]
    same = [window("Oluwole planned the footbridge over the Wend.", "Source:0002REF")]
    asked = "Who planned the footbridge over the Wend?"
    assert not may_answer(other, asked, "Marta Oluwole")
    assert may_answer(same, asked, "Marta Oluwole")
    assert may_answer(same, asked, None)
    # Half of the words are there, but nothing that is called Wend.
    third = [window("A footbridge planned by Ruth Abernathy.", "Source:0003REF")]
    assert not may_answer(third, asked, "Marta Oluwole")
    assert may_answer(third, "Who planned the footbridge?", "Marta Oluwole")
    # All of the answer and something of the question.
    assert may_answer(other, "What does a trip cost?", "12 euros")


def test_the_closest_windows_first() -> None:
    texts = ["Dogs swim here.", "The Wend is a river here.", "The Wend floods the river meadow."]
    document = Document("a", "Source:0001REF", " ".join(texts), tuple(split(" ".join(texts))))
    every = [Window(document, n + 1, n, n + 1) for n in range(3)]
    found = closest(every, "When does the Wend flood the river meadow?", 2, "en")
    assert [each.number for each in found] == [3, 2]


def test_repetition_over_all_windows() -> None:
    first = pair("Who planned the footbridge over the Wend?", "Marta Oluwole", 0)
    again = pair("Who planned the foot-bridge over the Wend?", "Marta Oluwole.", 0)
    same = pair("who planned the footbridge over the Wend", "The engineer Marta Oluwole", 0)
    other = pair("When was the footbridge over the Wend opened?", "3 June 2013", 2)
    year = pair("What happened to the footbridge in 2011?", "Work began", 1)
    later = pair("What happened to the footbridge in 2013?", "Work ended", 1)
    found = repeated([first, again, same, other, year, later], "en")
    assert found == {1: Dropped.NEAR_DUPLICATE, 2: Dropped.NEAR_DUPLICATE}


def test_one_pair_thousands_of_times_is_told_once() -> None:
    """Text that a folder repeats; comparing all with all took gigabytes."""
    tags = (f"Source:{n:04d}REF" for n in range(100))
    windows = [window(tag=tag) for tag in tags]
    one = pair("Who planned the footbridge over the Wend?", "Marta Oluwole", 0)
    answered = [Candidate(windows[n % 100], one.question, one.answer, (0,)) for n in range(12_000)]
    nobody = "Who owns the meadow?"
    open_ones = [Candidate(windows[n % 100], nobody, None, ()) for n in range(3_000)]
    before = time.process_time()
    found = repeated([*answered, *open_ones], "en")
    assert time.process_time() - before < 10.0
    assert sorted({*range(15_000)} - {*found}) == [0, 12_000]
    assert set(found.values()) == {Dropped.NEAR_DUPLICATE}


def test_one_question_with_two_answers_goes_with_both() -> None:
    one = pair("When was the footbridge opened?", "3 June 2013", 2)
    two = pair("When was the footbridge opened?", "In spring 2011", 1)
    assert repeated([one, two], "en") == dict.fromkeys((0, 1), Dropped.CONTRADICTS)
    elsewhere = Candidate(window(tag="Source:0002REF"), one.question, "In spring 2011", (1,))
    assert repeated([one, elsewhere], "en") == {}


def test_an_open_question_goes_where_one_like_it_is_answered() -> None:
    answered = pair("Who planned the footbridge over the Wend?", "Marta Oluwole", 0)
    near = pair("Who planned the footbridge over the river Wend?", None)
    open_one = pair("Who paid for the lamps of the bridge?", None)
    again = pair("Who paid for the lamps of the bridge, then?", None)
    owner = pair("Who owns the footbridge over the Wend?", None)  # one word is another question
    found = repeated([near, answered, open_one, again, owner], "en")
    assert found == {0: Dropped.UNANSWERED_NOT, 3: Dropped.NEAR_DUPLICATE}


def test_counting() -> None:
    assert counted(["b", "a", "b", Dropped.LEAK]) == {"b": 2, "a": 1, "leak": 1}
