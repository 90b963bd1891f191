"""The public formats of training data beyond hand-written pairs: votes, ShareGPT, text, TRL's."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.chat import assistant, system, user
from harness.errors import InputError
from trainers.data import (
    BadRowsError,
    Demonstration,
    Document,
    Pair,
    load_demonstrations,
    load_pairs,
    load_prompts,
)
from trainers.data_fields import RowError, number
from trainers.data_votes import score_of

HERE: dict[str, Any] = {"base_folder": Path("."), "seed": 1}


def write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def one_demonstration(tmp_path: Path, row: Any, data_format: str = "auto") -> Demonstration:
    loaded = load_demonstrations(write(tmp_path / "d.jsonl", [row]), data_format, **HERE)
    assert len(loaded.rows) == 1
    found = loaded.rows[0]
    assert isinstance(found, Demonstration)
    return found


# --------------------------------------------------------------------------- demonstrations


def test_sharegpt(tmp_path: Path) -> None:
    turns = [("system", "s"), ("human", "hi"), ("gpt", "a"), ("human", "more"), ("gpt", "b")]
    row = {"conversations": [{"from": who, "value": said} for who, said in turns]}
    expected = (system("s"), user("hi"), assistant("a"), user("more"), assistant("b"))
    assert one_demonstration(tmp_path, row).messages == expected
    beside = {"system": "s", "conversations": row["conversations"][1:]}
    assert one_demonstration(tmp_path, beside).messages == expected


@pytest.mark.parametrize(
    ("conversations", "message"),
    [
        ([], r"conversations: is an empty list; expected a list of \{from, value\}"),
        ("hi", r"conversations: is a str"),
        (["hi"], r"conversations\[0\]: is a str"),
        ([{"from": "bot", "value": "x"}], r"conversations\[0\].from: is 'bot'"),
        ([{"from": "human"}], r"conversations\[0\].value: is empty or no string"),
        ([{"from": "gpt", "value": "x"}], r"conversations\[0\].from: is assistant; expected user"),
        ([{"from": "human", "value": "x"}], r"conversations: does not end .* assistant"),
    ],
)
def test_bad_sharegpt_rows(tmp_path: Path, conversations: Any, message: str) -> None:
    with pytest.raises(InputError, match=r"d\.jsonl:1: " + message):
        one_demonstration(tmp_path, {"conversations": conversations})


def test_tools_are_refused_and_not_left_out(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "hi"}, {"from": "gpt", "value": "a"}]
    with pytest.raises(InputError, match=r"d\.jsonl:1: tools: are not supported"):
        one_demonstration(tmp_path, {"conversations": turns, "tools": "[{}]"})
    assert one_demonstration(tmp_path, {"conversations": turns, "tools": ""}).messages


def test_alpaca_with_a_system_prompt_and_earlier_turns(tmp_path: Path) -> None:
    row = {"instruction": "x", "output": "y", "system": "s", "history": [["a", "b"]]}
    expected = (system("s"), user("a"), assistant("b"), user("x"), assistant("y"))
    assert one_demonstration(tmp_path, row).messages == expected
    for history, message in ((["a"], r"history\[0\]"), ([["a", 1]], r"history\[0\]\[1\]")):
        with pytest.raises(InputError, match=message):
            one_demonstration(tmp_path, {**row, "history": history})


def test_prompt_and_completion_as_message_lists(tmp_path: Path) -> None:
    row = {
        "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}],
        "completion": [{"role": "assistant", "content": "a"}],
    }
    expected = (system("s"), user("hi"), assistant("a"))
    assert one_demonstration(tmp_path, row).messages == expected
    wrong = {**row, "completion": [{"role": "user", "content": "a"}]}
    with pytest.raises(InputError, match=r"prompt \+ completion\[2\].role: is user"):
        one_demonstration(tmp_path, wrong)


# --------------------------------------------------------------------------- raw text


def test_documents_from_rows_and_from_text_files(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"text": "one\n\ntwo"}, {"text": "three"}])
    loaded = load_demonstrations(path, **HERE)
    assert loaded.rows == (Document("one\n\ntwo"), Document("three"))
    assert loaded.report.format == "text"
    folder = tmp_path / "texts"
    folder.mkdir()
    (folder / "b.txt").write_text("second\n")
    (folder / "a.txt").write_text("first: é\n")
    loaded = load_demonstrations(str(folder), **HERE)
    assert loaded.rows == (Document("first: é\n"), Document("second\n"))
    assert [str(place) for place in loaded.places] == [
        f"{folder}/a.txt:1",
        f"{folder}/b.txt:1",
    ]
    assert load_demonstrations(str(folder / "b.txt"), "text", **HERE).rows == loaded.rows[1:]


def test_text_beside_data_files_is_no_document(tmp_path: Path) -> None:
    write(tmp_path / "d.jsonl", [{"prompt": "hi", "completion": "a"}])
    (tmp_path / "LICENSE.txt").write_text("MIT")
    assert len(load_demonstrations(str(tmp_path), **HERE).rows) == 1


def test_text_is_not_read_as_pairs_or_prompts(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hi")
    for load in (load_pairs, load_prompts):
        with pytest.raises(InputError, match="unknown kind of file"):
            load(str(tmp_path / "a.txt"), **HERE)
        with pytest.raises(InputError, match="no data files"):
            load(str(tmp_path), **HERE)


def test_an_empty_or_undecodable_text_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" \n")
    with pytest.raises(InputError, match=r"a\.txt:1: text: is empty"):
        load_demonstrations(str(tmp_path / "a.txt"), **HERE)
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    with pytest.raises(InputError, match=r"a\.txt: not UTF-8 at byte 3"):
        load_demonstrations(str(tmp_path / "a.txt"), **HERE)


# --------------------------------------------------------------------------- pairs


def test_a_whole_conversation_with_its_prompt_beside_it(tmp_path: Path) -> None:
    sides = {
        field: [{"role": "user", "content": "hi"}, {"role": "assistant", "content": reply}]
        for field, reply in (("chosen", "a"), ("rejected", "b"))
    }
    path = write(tmp_path / "p.jsonl", [{"prompt": "hi", **sides}])
    assert load_pairs(path, **HERE).rows == (Pair((user("hi"),), "a", "b"),)
    path = write(tmp_path / "p.jsonl", [{"prompt": "another", **sides}])
    with pytest.raises(InputError, match="chosen: does not begin with `prompt`"):
        load_pairs(path, **HERE)


def test_a_transcript_cut_into_prompt_and_replies(tmp_path: Path) -> None:
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: more\n\nAssistant:"
    row = {"prompt": start, "chosen": " yes", "rejected": " no"}
    loaded = load_pairs(write(tmp_path / "p.jsonl", [row]), **HERE)
    assert loaded.rows == (Pair((user("hi"), assistant("hello"), user("more")), "yes", "no"),)
    assert loaded.report.format == "transcript"
    plain = {"prompt": "hi", "chosen": "a", "rejected": "b"}
    with pytest.raises(InputError, match=r"p\.jsonl:2: prompt: is a transcript"):
        load_pairs(write(tmp_path / "p.jsonl", [plain, row]), **HERE)


@pytest.mark.parametrize(
    ("votes", "accepted", "score"),
    # By hand: log2(1 + v) of 0, 1, 2, 3, 4, 5, 10, 1023 is 0, 1, 1.58, 2, 2.32, 2.58, 3.46, 10.
    [
        (0, False, 0),
        (1, False, 1),
        (2, False, 2),
        (3, False, 2),
        (4, False, 2),
        (5, False, 3),
        (10, False, 3),
        (10, True, 4),
        (0, True, 1),
        (1023, False, 10),
        (-1, False, -1),
        (-7, False, -1),
        (-7, True, -1),
    ],
)
def test_scores_of_votes(votes: int, accepted: bool, score: int) -> None:
    assert score_of(votes, accepted) == score


def question(answers: Sequence[tuple[str, int]], asked: str = "why?") -> dict[str, Any]:
    return {
        "question": asked,
        "answers": [{"text": text, "votes": votes, "accepted": False} for text, votes in answers],
    }


def test_pairs_from_votes(tmp_path: Path) -> None:
    row = question([("low", -3), ("zero", 0), ("two", 2), ("three", 3)])
    row["answers"][1]["accepted"] = True  # 1
    loaded = load_pairs(write(tmp_path / "p.jsonl", [row]), **HERE)
    assert [(pair.chosen, pair.rejected) for pair in loaded.rows] == [
        ("zero", "low"),
        ("two", "low"),
        ("three", "low"),
        ("two", "zero"),
        ("three", "zero"),  # two and three score 2 both: no pair
    ]
    assert {pair.prompt for pair in loaded.rows} == {(user("why?"),)}
    assert loaded.report.format == "votes"


def test_at_most_ten_pairs_a_question_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    rows = [question([(f"{q}-{i}", 2**i - 1) for i in range(8)], f"q{q}") for q in range(5)]

    def drawn(rows: Sequence[Any], seed: int) -> dict[str, list[tuple[str, str]]]:
        path = write(tmp_path / "p.jsonl", rows)
        loaded = load_pairs(path, base_folder=tmp_path, seed=seed)
        assert loaded.report.notes == {"questions with more than 10 pairs, 10 drawn": 5}
        found: dict[str, list[tuple[str, str]]] = {}
        for pair in loaded.rows:
            found.setdefault(pair.prompt[0].content, []).append((pair.chosen, pair.rejected))
        return found

    once = drawn(rows, 1)
    assert {len(set(pairs)) for pairs in once.values()} == {10}
    assert all(int(a[-1]) > int(b[-1]) for pairs in once.values() for a, b in pairs)
    assert drawn(random.Random(0).sample(rows, len(rows)), 1) == once
    assert drawn(rows, 2) != once


def test_questions_without_a_pair_are_counted(tmp_path: Path) -> None:
    rows = [question([("a", 3), ("b", 3)]), question([("a", 1), ("b", 0)]), question([("a", 9)])]
    loaded = load_pairs(write(tmp_path / "p.jsonl", rows), **HERE)
    assert (loaded.report.read, loaded.report.kept) == (3, 1)
    assert loaded.report.notes == {"questions without a pair": 2}
    with pytest.raises(InputError, match="nothing to train on: 1 questions without a pair"):
        load_pairs(write(tmp_path / "p.jsonl", rows[:1]), **HERE)


def test_scores_that_are_there_already(tmp_path: Path) -> None:
    row = {
        "question": "why?",
        "answers": [
            {"text": "a", "pm_score": 1, "selected": False, "answer_id": 7},
            {"text": "b", "pm_score": 4, "selected": True, "answer_id": 8},
        ],
    }
    loaded = load_pairs(write(tmp_path / "p.jsonl", [row]), **HERE)
    assert loaded.rows == (Pair((user("why?"),), "b", "a"),)


def test_pairs_from_ratings(tmp_path: Path) -> None:
    responses = [
        {"text": "a", "rating": 3.5},
        {"text": "b", "rating": 5},
        {"text": "c", "rating": 5},
    ]
    row = {"prompt": "hi", "responses": responses}
    loaded = load_pairs(write(tmp_path / "p.jsonl", [row]), **HERE)
    assert [(pair.chosen, pair.rejected) for pair in loaded.rows] == [("b", "a"), ("c", "a")]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (question([("a", 1), ("b", 0)], " "), "question: is empty"),
        ({"question": "q", "answers": []}, "answers: is an empty list"),
        ({"question": "q", "answers": [1]}, r"answers\[0\]: is a int"),
        ({"question": "q", "answers": [{"votes": 1}]}, r"answers\[0\].text: missing"),
        ({"question": "q", "answers": [{"text": "a"}]}, r"answers\[0\].votes: missing"),
        (question([("a", True)]), r"answers\[0\].votes: is True; expected a finite number"),
        ({"question": "q", "answers": [{"text": "a", "votes": 1.5}]}, "votes: is 1.5; expected a"),
        (
            {"question": "q", "answers": [{"text": "a", "votes": 1, "accepted": "maybe"}]},
            r"answers\[0\].accepted: is 'maybe'; expected true or false",
        ),
        ({"prompt": "q", "responses": [{"text": "a", "rating": "5"}]}, "rating: is '5'"),
        (question([("a", 10**400)]), r"answers\[0\].votes: is 10+\.\.\.0+; expected a finite"),
        (
            {"question": "q", "answers": [{"text": "a", "pm_score": -(10**400)}]},
            r"answers\[0\].pm_score: is -10+\.\.\.0+; expected a finite number",
        ),
        (
            {"prompt": "q", "responses": [{"text": "a", "rating": 10**400}]},
            r"responses\[0\].rating: is 10+\.\.\.0+; expected a finite number",
        ),
        ({"prompt": "q", "responses": [{"text": "a", "rating": float("nan")}]}, "rating: is nan"),
    ],
)
def test_bad_votes_and_ratings(tmp_path: Path, row: Any, message: str) -> None:
    with pytest.raises(InputError, match=r"p\.jsonl:1: .*" + message):
        load_pairs(write(tmp_path / "p.jsonl", [row]), **HERE)


def test_a_tables_decimals_are_numbers(tmp_path: Path) -> None:
    ratings = [("a", Decimal("3.50")), ("b", Decimal("4.25")), ("c", Decimal("3.50"))]
    row = {"prompt": "hi", "responses": [{"text": t, "rating": r} for t, r in ratings]}
    path = tmp_path / "p.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    loaded = load_pairs(str(path), **HERE)
    assert [(pair.chosen, pair.rejected) for pair in loaded.rows] == [("b", "a"), ("b", "c")]


@pytest.mark.parametrize("value", ["NaN", "sNaN", "Infinity", "1E+400"])
def test_only_finite_decimals_are_numbers(value: str) -> None:
    assert number({"rating": Decimal("-0.5")}, "rating") == -0.5
    with pytest.raises(RowError, match="is Decimal") as raised:
        number({"rating": Decimal(value)}, "rating")
    assert (raised.value.field, raised.value.expected) == ("rating", "a finite number")


# --------------------------------------------------------------------------- which format


def test_columns_that_fit_two_formats_are_an_error_naming_both(tmp_path: Path) -> None:
    row = {"instruction": "a", "output": "b", "text": "a b"}
    path = write(tmp_path / "d.jsonl", [row])
    with pytest.raises(InputError) as raised:
        load_demonstrations(path, **HERE)
    assert "d.jsonl:1" in str(raised.value)
    assert "instruction {instruction, input?, output} and text {text}" in str(raised.value)
    assert "data_format: instruction | text" in str(raised.value)
    assert load_demonstrations(path, "text", **HERE).rows == (Document("a b"),)
    assert one_demonstration(tmp_path, row, "instruction").messages[0] == user("a")

    both = {"chosen": "a", "rejected": "b", "prompt": "c", "responses": []}
    with pytest.raises(InputError, match=r"fit 2 formats: prompt .* and ratings"):
        load_pairs(write(tmp_path / "p.jsonl", [both]), **HERE)
    asked = [{"role": "user", "content": "x"}]
    twice = {"prompt": "x", "messages": asked, "safety": True}
    with pytest.raises(InputError, match="prompt: stands beside `messages`"):
        load_prompts(write(tmp_path / "q.jsonl", [twice]), **HERE)


def test_half_a_surrogate_pair_is_named(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_text('{"prompt": "hi", "completion": "ab\\ud83d"}\n')
    with pytest.raises(InputError, match=r"completion: character 3 is half of a surrogate pair"):
        load_demonstrations(str(path), **HERE)


def test_many_bad_rows_are_told_up_to_a_limit_and_the_rest_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "hi", "completion": ""}] * 57
    with pytest.raises(BadRowsError) as raised:
        load_demonstrations(write(tmp_path / "d.jsonl", rows), **HERE)
    told = str(raised.value)
    assert told.count("d.jsonl:") == 20
    assert "(57 bad rows)" in told
    assert "and 37 more bad rows" in told
    assert len(raised.value.problems) == 57
