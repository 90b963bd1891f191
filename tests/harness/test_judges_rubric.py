from __future__ import annotations

import json

import pytest
from pydantic import TypeAdapter, ValidationError

from harness.judges.rubric import Checker, Rubric, components, rescore, total

CHECKER: TypeAdapter[Checker] = TypeAdapter(Checker)
RUBRIC: TypeAdapter[Rubric] = TypeAdapter(Rubric)


def value(checker: dict, reply: str) -> float:
    return CHECKER.validate_json(json.dumps(checker)).value(reply)


@pytest.mark.parametrize(
    ("checker", "reply", "expected"),
    [
        ({"check": "contains", "text": "the river"}, "It is The  River .", 1),
        ({"check": "contains", "text": "art"}, "start", 0),
        ({"check": "contains", "text": "3"}, "13 and 3.", 1),
        ({"check": "contains", "text": "3"}, "13", 0),
        ({"check": "contains", "text": "Bo", "ignore_case": False}, "bo", 0),
        ({"check": "contains", "text": "Bo", "ignore_case": False}, "so , Bo .", 1),
        ({"check": "contains_any", "texts": ["spade", "hoe"]}, "take a hoe", 1),
        ({"check": "contains_any", "texts": ["spade", "hoe"]}, "take a shovel", 0),
        ({"check": "contains_all", "texts": ["a", "b", "c", "d"]}, "a , c", 0.5),
        ({"check": "equals", "text": "seven"}, " Seven . ", 1),
        ({"check": "equals", "text": "seven"}, "seven or so", 0),
        ({"check": "starts_with", "text": "dear bo"}, "Dear Bo , hello", 1),
        ({"check": "starts_with", "text": "dear bo"}, "dear bob", 0),
        ({"check": "ends_with", "text": "ahoy"}, "that is it . Ahoy !", 1),
        ({"check": "ends_with", "text": "ahoy"}, "kahoy", 0),
        ({"check": "ends_with", "text": "ahoy"}, "ahoy there", 0),
        ({"check": "regex", "pattern": r"^\d+$"}, "42", 1),
        ({"check": "regex", "pattern": r"^\d+$"}, "x42", 0),
        ({"check": "refusal"}, "i cannot help with that .", 1),
        ({"check": "refusal"}, "use a spade .", 0),
        ({"check": "refusal"}, "", 0),
        ({"check": "max_words", "words": 3, "per_word_over": 0.25}, "a b c .", 1),
        ({"check": "max_words", "words": 3, "per_word_over": 0.25}, "a b c d e", 0.5),
        ({"check": "max_words", "words": 1, "per_word_over": 0.25}, "a b c d e f g", 0),
        ({"check": "min_words", "words": 4}, "a b", 0.5),
        ({"check": "min_words", "words": 4}, "a b c d e", 1),
        ({"check": "no_repeat", "n": 2}, "a b a b a b", 0.4),
        ({"check": "no_repeat", "n": 3}, "a b", 1),
        ({"check": "none_of", "texts": ["well", "so"], "each": 0.5}, "well , so so", 0),
        ({"check": "none_of", "texts": ["well", "so"], "each": 0.25}, "well , so", 0.5),
        ({"check": "none_of", "texts": ["well"], "each": 0.25}, "wells", 1),
        ({"check": "not", "of": {"check": "contains", "text": "a"}}, "a", 0),
    ],
)
def test_a_checker_by_hand(checker: dict, reply: str, expected: float) -> None:
    assert value(checker, reply) == pytest.approx(expected)


@pytest.mark.parametrize(
    "checker",
    [
        {"check": "contans", "text": "a"},
        {"check": "contains"},
        {"check": "contains", "text": ""},
        {"check": "regex", "pattern": "("},
        {"check": "none_of", "texts": []},
        {"check": "max_words", "words": 0},
        {"check": "max_words", "words": 3, "over": 1},
    ],
)
def test_a_bad_checker_is_refused(checker: dict) -> None:
    with pytest.raises(ValidationError):
        CHECKER.validate_json(json.dumps(checker))


ITEMS = RUBRIC.validate_json(
    """[
    {"name": "tool", "weight": 3, "checker": {"check": "contains", "text": "spade"}},
    {"name": "brief", "weight": 1, "checker": {"check": "max_words", "words": 5}},
    {"name": "answers", "gate": true, "checker": {"check": "not", "of": {"check": "refusal"}}}
    ]"""
)


def test_perfect_and_worst_replies() -> None:
    assert total(ITEMS, components(ITEMS, "take a spade")) == 1.0
    assert total(ITEMS, components(ITEMS, "i cannot help with that")) == 0.0
    assert total(ITEMS, components(ITEMS, "take a very long and useless piece of string")) == 0.0


def test_the_weighted_mean_by_hand() -> None:
    assert total(ITEMS, components(ITEMS, "take a hoe")) == 0.25
    assert total(ITEMS, components(ITEMS, "take a spade and then dig for a while")) == 0.75


def test_rescore_equals_scoring_under_other_weights() -> None:
    values = components(ITEMS, "take a hoe")
    assert rescore(ITEMS, values, {}) == pytest.approx(2.5)
    assert rescore(ITEMS, values, {"tool": 0.5}) == pytest.approx(10 * 1 / 2.5)
    assert rescore(ITEMS, values, {"brief": 1.5}) == pytest.approx(10 * 1.5 / 4.5)


def test_a_gate_scales_towards_no_effect() -> None:
    refused = {"tool": 1.0, "brief": 1.0, "answers": 0.0}
    assert rescore(ITEMS, refused, {}) == 0.0
    assert rescore(ITEMS, refused, {"answers": 0.5}) == pytest.approx(5.0)
    assert rescore(ITEMS, {**refused, "answers": 0.5}, {"answers": 1.5}) == pytest.approx(2.5)


def test_rescore_refuses_another_rubrics_components() -> None:
    with pytest.raises(KeyError, match="extra"):
        rescore(ITEMS, {"tool": 1.0, "brief": 1.0, "answers": 1.0, "extra": 1.0}, {})
    with pytest.raises(KeyError, match="tul"):
        rescore(ITEMS, {"tool": 1.0, "brief": 1.0, "answers": 1.0}, {"tul": 0.5})
