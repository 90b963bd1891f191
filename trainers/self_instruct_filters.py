"""Which of the generator's questions are kept, and why others are not: rules, each with a name.

Every rule is a plain comparison of words, so that a reader can tell why a pair was dropped. What
rules cannot see: an answer made of the cited sentences' own words that is wrong all the same (the
year of another event). Questions that point at the text and answers that abstain are known in
English only.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from harness.judges import abstention
from harness.judges.language import Code, detect
from harness.overlap import near_duplicates, words
from trainers.self_instruct_prompts import Candidate
from trainers.self_instruct_texts import TAG, Window
from trainers.self_instruct_words import (
    content,
    content_set,
    length,
    names,
    numbers,
    token_set,
    word_set,
)

QUESTION_WORDS = (3, 60)
NEAR = 0.8  # likeness of two pairs (harness.overlap) from which they are one
_SUPPORTED = 0.8  # share of an answer's content words that the cited sentences must have
_ABOUT = 0.5  # share of a question's content words with which a window is about the same thing
CITED = 4  # sentences that an answer may rest on


class Dropped(StrEnum):
    """Why a pair is not kept; the first that holds, in this order."""

    SHORT_QUESTION = f"question of fewer than {QUESTION_WORDS[0]} words"
    LONG_QUESTION = f"question of more than {QUESTION_WORDS[1]} words"
    LONG_ANSWER = "answer too long"
    CHARACTERS = "characters that are not seen"
    POINTS = "question points at the text"
    VAGUE = "question does not say what it is about"
    FOREIGN = "question shares no word with the window"
    LANGUAGE = "another language"
    ABSTAINS = "answer abstains"
    CITES_MUCH = f"more than {CITED} sentences cited"
    NO_CONTENT = "answer of yes, no, or no content"
    GIVEN_AWAY = "question holds its answer"
    NOT_CITED = "answer in the window, not in the sentences cited"
    UNSUPPORTED = "answer not in the window"
    UNANSWERED_NOT = "question without an answer that has one"
    NEAR_DUPLICATE = "near duplicate"
    CONTRADICTS = "one question of a source with two answers"
    LEAK = "leak"
    JUDGED_WRONG = "generator calls its answer wrong"
    JUDGED_ANSWERED = "generator finds an answer to a question that is to have none"
    NOT_JUDGED = "no verdict on it"


@dataclass(frozen=True)
class Limits:
    """What a question and an answer may be."""

    language: Code = "en"
    answer_words: int = 60


_TEXT = r"(?:text|passage|document|article|excerpt|paragraph|snippet|source|context|sentences?)"
_TELLER = r"(?:author|narrator|writer|speaker)"
_WHICH = r"(?:(?:given|above|following|provided|previous|same|whole|first|second|last|numbered) )"
# "The author of the novel" and "the source of the river" are things of the world.
_POINTS = re.compile(
    rf"\b(?i:the|this|that|these|those) (?i:{_WHICH}{{0,2}}(?:{_TEXT}|{_TELLER}))\b"
    r"(?! (?:of|by|that|who|which|for|behind|signed|called|named)\b)(?! [A-Z])"
    rf"|\b(?i:{_WHICH}{_TEXT})\b"
    rf"|\b(?i:according to|mentioned in|stated in|described in|listed in) (?i:the )?(?i:{_TEXT})\b"
    r"|\b(?i:mentioned|stated|described|listed|shown|given) (?i:above|below|here)\b"
    r"|\b(?i:sentences? (?:no\.? |number )?\[?\d+)|\[\d+\]"
    r"|\b(?i:as (?:mentioned|described|stated))\b"
)
_PERSONAL = word_set("it he she they his her hers its their theirs him them")
_POINTING = _PERSONAL | word_set("this these that those there here")
_YES_NO = word_set(
    "yes no yeah nope true false correct incorrect maybe sí si oui non ja nein nee não sim да нет"
)


def judge_pair(candidate: Candidate, limits: Limits) -> Dropped | None:
    """Why a question is not kept, by what it says and by its window alone; None: kept so far."""
    reason = _question(candidate, limits)
    if reason is None and candidate.answer is not None:
        reason = _answer(candidate, candidate.answer, limits)
    return reason


def _question(candidate: Candidate, limits: Limits) -> Dropped | None:
    question, window, language = candidate.question, candidate.window, limits.language
    size = length(question)
    said = [question] if candidate.answer is None else [question, candidate.answer]
    asked = content(question, language)
    if size < QUESTION_WORDS[0]:
        return Dropped.SHORT_QUESTION
    if size > QUESTION_WORDS[1]:
        return Dropped.LONG_QUESTION
    if candidate.answer is not None and length(candidate.answer) > limits.answer_words:
        return Dropped.LONG_ANSWER
    if any(_unseen(text, window.text) for text in said):
        return Dropped.CHARACTERS
    if _POINTS.search(question) or TAG.search(question):
        return Dropped.POINTS
    if _vague(question, language):
        return Dropped.VAGUE
    if content_set(window.text, language).isdisjoint(asked):
        return Dropped.FOREIGN
    if any(detect(text) not in (language, None) for text in (" ".join(said), *said)):
        return Dropped.LANGUAGE
    return None


def _vague(question: str, language: Code) -> bool:
    """Whether nothing in a question says what it is about: "When was it opened and painted?"."""
    said, spoken = content_set(question, language), frozenset(words(question))
    if len(said) < 2:
        return not said or not spoken.isdisjoint(_POINTING)
    return len(said) < 3 and not spoken.isdisjoint(_PERSONAL) and not names(question, language)


def _answer(candidate: Candidate, answer: str, limits: Limits) -> Dropped | None:
    question, language = candidate.question, limits.language
    if abstention.judge(answer, (question,)).abstains:
        return Dropped.ABSTAINS
    spoken = words(answer)
    if not spoken or spoken[0] in _YES_NO or not content(answer, language):
        return Dropped.NO_CONTENT
    if len(candidate.cited) > CITED:
        return Dropped.CITES_MUCH
    if content_set(answer, language) <= content_set(question, language):
        return Dropped.GIVEN_AWAY
    cited = [candidate.window.sentences[position].shown for position in candidate.cited]
    if supported(answer, question, " ".join(cited), language):
        return None
    whole = supported(answer, question, candidate.window.text, language)
    return Dropped.NOT_CITED if whole else Dropped.UNSUPPORTED


def supported(answer: str, question: str, evidence: str, language: Code = "en") -> bool:
    """Whether an answer's words stand in the evidence.

    Every number must; every word with a capital letter (but the first word, which may only begin
    the sentence) there or in the question, to the letter; of all content words at least 0.8 in one
    of the two; and something that the question does not say, in the evidence.
    """
    said, asked = content(answer, language), content_set(question, language)
    there = content_set(evidence, language)
    if not numbers(answer, language) <= there:
        return False
    if not names(answer, language) <= token_set(evidence) | token_set(question):
        return False
    known = sum(word in there or word in asked for word in said)
    return known >= _SUPPORTED * len(said) and any(word in there - asked for word in said)


def may_answer(
    windows: Sequence[Window], question: str, answer: str | None, language: Code = "en"
) -> bool:
    """Whether a source, given by all its windows, might hold the answer: rather yes than no.

    It might where one window has all of the answer and something of the question; or at least half
    of the question's content words, unless the question names somebody or something by name and no
    such name stands anywhere in the source.
    """
    asked = content_set(question, language)
    said = content_set(answer, language) if answer is not None else frozenset[str]()
    called = names(question, language)
    known = not called or any(not called.isdisjoint(token_set(w.text)) for w in windows)
    for window in windows:
        there = content_set(window.text, language)
        if said and said <= there and not asked.isdisjoint(there):
            return True
        if known and len(asked & there) >= _ABOUT * len(asked):
            return True
    return False


def closest(windows: Sequence[Window], question: str, most: int, language: Code) -> list[Window]:
    """The windows that share most of a question's content words, the most alike first."""
    asked = content_set(question, language)
    scored = [
        (-len(asked & content_set(window.text, language)), window.number, window)
        for window in windows
    ]
    return [window for _, _, window in sorted(scored, key=lambda entry: entry[:2])[:most]]


def repeated(candidates: Sequence[Candidate], language: Code) -> dict[int, Dropped]:
    """The positions of those that say what one before says, or contradict one.

    Question and answer are compared together, and two questions of one form that each name what
    the other does not, a bridge or a year, are two. Without answers one word makes two of them.
    One question asked of one source that gets two answers is dropped with both: which is right, no
    rule can tell. A question that is to have no answer goes where one like it has one, in any
    source.
    """
    found: dict[int, Dropped] = {}
    groups: dict[tuple[str, tuple[str, ...]], list[int]] = {}
    for number, candidate in enumerate(candidates):
        key = (candidate.window.document.tag, words(candidate.question))
        groups.setdefault(key, []).append(number)
    for group in groups.values():
        _same_question(group, candidates, language, found)
    texts = [f"{candidate.question} {candidate.answer or ''}" for candidate in candidates]
    # The same text a thousand times is half a million pairs: only the first goes on.
    distinct: dict[tuple[str, bool], int] = {}
    for number, candidate in enumerate(candidates):
        if number not in found:
            of_it = (texts[number], candidate.answer is None)
            if distinct.setdefault(of_it, number) != number:
                found[number] = Dropped.NEAR_DUPLICATE
    left = [*distinct.values()]
    for at, then, _ in near_duplicates([texts[number] for number in left], NEAR):
        i, j = left[at], left[then]
        first, second = candidates[i], candidates[j]
        if i in found or j in found or _of_two_things(first, second, language):
            continue
        if (first.answer is None) == (second.answer is None):
            found[j] = Dropped.NEAR_DUPLICATE
    _answered_after_all(candidates, language, found)
    return found


def _of_two_things(one: Candidate, other: Candidate, language: Code) -> bool:
    """Whether each of two questions asks for something that the other does not: a name or a number;
    without answers that would be compared as well, any word that says something."""
    if one.answer is None or other.answer is None:
        first, second = (content_set(each.question, language) for each in (one, other))
    else:
        first, second = (
            names(each.question, language) | numbers(each.question, language)
            for each in (one, other)
        )
    return bool(first - second) and bool(second - first)


def _same_question(
    group: Sequence[int],
    candidates: Sequence[Candidate],
    language: Code,
    found: dict[int, Dropped],
) -> None:
    answered = [number for number in group if candidates[number].answer is not None]
    said = {content_set(candidates[number].answer or "", language) for number in answered}
    if any(not (one <= other or other <= one) for one in said for other in said):
        found.update(dict.fromkeys(answered, Dropped.CONTRADICTS))
    else:
        found.update(dict.fromkeys(answered[1:], Dropped.NEAR_DUPLICATE))


def _answered_after_all(
    candidates: Sequence[Candidate], language: Code, found: dict[int, Dropped]
) -> None:
    """Questions that are to have no answer, where one like them has one, whatever the source."""
    open_ones = [n for n, c in enumerate(candidates) if c.answer is None and n not in found]
    if not open_ones:
        return
    asked = {c.question: n for n, c in reversed([*enumerate(candidates)]) if c.answer is not None}
    answered = [*asked.values()]  # each question once
    mixed = sorted(open_ones + answered)
    for i, j, _ in near_duplicates([candidates[number].question for number in mixed], NEAR):
        pair = (mixed[i], mixed[j])
        if _of_two_things(candidates[pair[0]], candidates[pair[1]], language):
            continue
        open_of_them = [number for number in pair if candidates[number].answer is None]
        if len(open_of_them) == 1:
            found.setdefault(open_of_them[0], Dropped.UNANSWERED_NOT)


def _unseen(text: str, source: str) -> bool:
    """Whether a text has control or invisible characters that its source has not."""
    return any(
        unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co") and character not in source
        for character in text
    )


def counted(reasons: Iterable[str]) -> dict[str, int]:
    """How often each reason, the commonest first, then by name."""
    counts: dict[str, int] = {}
    for reason in reasons:
        counts[str(reason)] = counts.get(str(reason), 0) + 1
    return dict(sorted(counts.items(), key=lambda entry: (-entry[1], entry[0])))
