"""Multi-turn prompts and instructions: their formats, and what is wrong with a row."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import InputError
from trainers.data import (
    DECLARED,
    BadRowsError,
    load_demonstrations,
    load_dialogues,
    load_instructions,
    load_pairs,
    load_prompts,
)
from trainers.data_check import Looking, check_file
from trainers.data_formats import detect_kind
from trainers.data_instructions import InstructionRow
from trainers.data_rows import Dialogue
from trainers.validation import POCKET_BASE


def write(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def dialogues(path: Path, *rows: Any, **more: Any) -> Any:
    return load_dialogues(write(path / "d.jsonl", rows), base_folder=path, seed=1, **more)


def instructions(path: Path, *rows: Any, **more: Any) -> Any:
    return load_instructions(write(path / "i.jsonl", rows), base_folder=path, seed=1, **more)


def error_of(made: Any, *args: Any, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        made(*args, **more)
    return str(caught.value).replace(str(args[0]), "")


# --------------------------------------------------------------------------- dialogues


def test_the_users_turns_are_taken_from_every_format(tmp_path: Path) -> None:
    [given] = dialogues(tmp_path, {"turns": ["a", "b"], "category": "x"}).rows
    assert given == Dialogue(("a", "b"), "x")
    talk = [("system", "s"), ("user", "a"), ("assistant", "no"), ("user", "b"), ("assistant", "y")]
    row = {"messages": [{"role": role, "content": said} for role, said in talk]}
    loaded = dialogues(tmp_path, row)
    assert loaded.rows == (Dialogue(("a", "b")),)
    assert loaded.report.notes == {"system messages left out": 1}
    speakers = {"system": "system", "user": "human", "assistant": "gpt"}
    row = {"conversations": [{"from": speakers[role], "value": said} for role, said in talk]}
    assert dialogues(tmp_path, row).rows == (Dialogue(("a", "b")),)


def test_short_dialogues_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [{"turns": ["a"] * count} for count in (1, 2, 3, 1)]
    loaded = dialogues(tmp_path, *rows, least_turns=2)
    assert [len(row.turns) for row in loaded.rows] == [2, 3]
    assert loaded.report.dropped == {"fewer than 2 user turns": 2}
    assert [place.line for place in loaded.places] == [2, 3]
    message = error_of(dialogues, tmp_path, *rows, least_turns=4)
    assert message == "/d.jsonl: none of 4 dialogues has 4 user turns"


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"turns": []}, "/d.jsonl:1: turns: is an empty list; expected a list of the user's turns"),
        ({"turns": "a"}, "/d.jsonl:1: turns: is a str; expected a list of the user's turns"),
        ({"turns": ["a", " "]}, "/d.jsonl:1: turns[1]: is empty or no string; expected some text"),
        ({"turns": ["a", 3]}, "/d.jsonl:1: turns[1]: is empty or no string; expected some text"),
    ],
)
def test_bad_turns_are_named(tmp_path: Path, row: Any, told: str) -> None:
    assert error_of(dialogues, tmp_path, row) == told


# --------------------------------------------------------------------------- instructions

END = {
    "kind": "ending",
    "instruction": "End with {value}.",
    "short": "End: {value}.",
    "checker": {"check": "ends_with", "text": "{value}"},
    "values": ["ahoy", "amen"],
}
HAIKU = {"kind": "haiku", "instruction": "Answer in haiku."}
NAMELESS = {"kind": "name", "instruction": "Never say my name."}
NAME = {
    "kind": "name",
    "instruction": "I am {value}.",
    "ask": "Am I {value}?",
    "checker": {"check": "not", "of": {"check": "contains_any", "texts": ["no", "not {value}"]}},
    "values": ["Ann"],
}


def test_a_row_stands_for_each_of_its_values(tmp_path: Path) -> None:
    one, two, three, four = instructions(tmp_path, END, HAIKU, NAME).rows
    assert (one.kind, one.text, one.short, one.ask) == (
        "ending",
        "End with ahoy.",
        "End: ahoy.",
        "",
    )
    assert two.text == "End with amen."
    assert [two.checker.value(reply) for reply in ("yes, amen", "ahoy")] == [1.0, 0.0]
    assert (three.short, three.checker) == ("Answer in haiku.", None)  # there is no shorter form
    assert (four.short, four.ask) == ("I am Ann.", "Am I Ann?")
    assert [four.checker.value(reply) for reply in ("yes", "not Ann", "no")] == [1.0, 0.0, 0.0]


def test_kinds_held_out_are_dropped_and_counted(tmp_path: Path) -> None:
    loaded = instructions(tmp_path, END, HAIKU, NAME, held_out=("ending", "haiku"))
    assert [row.kind for row in loaded.rows] == ["name"]
    assert loaded.report.dropped == {"held out: ending": 2, "held out: haiku": 1}
    assert (loaded.report.read, loaded.report.kept) == (4, 1)


def test_what_cannot_be_held_out_is_told(tmp_path: Path) -> None:
    assert error_of(instructions, tmp_path, END, HAIKU, held_out=("haikus",)) == (
        "/i.jsonl: there is no kind 'haikus' to hold out; expected ending | haiku; "
        "did you mean 'haiku'?"
    )
    told = error_of(instructions, tmp_path, END, HAIKU, held_out=("haiku", "ending"))
    assert told == "/i.jsonl: every kind of instruction is held out"


def test_declared_instructions_stand_beside_the_files_or_alone(tmp_path: Path) -> None:
    declared = (InstructionRow.model_validate_json(json.dumps(END)),)
    loaded = instructions(tmp_path, HAIKU, declared=declared)
    assert [row.kind for row in loaded.rows] == ["haiku", "ending", "ending"]
    assert [str(place).rpartition("/")[2] for place in loaded.places] == [
        "i.jsonl:1",
        "(declared):1",
        "(declared):1",
    ]
    alone = load_instructions(DECLARED, base_folder=tmp_path, seed=1, declared=declared)
    assert [row.text for row in alone.rows] == ["End with ahoy.", "End with amen."]


def test_every_repeated_instruction_is_named_by_its_place(tmp_path: Path) -> None:
    declared = tuple(InstructionRow.model_validate(row) for row in (NAMELESS, HAIKU))
    with pytest.raises(BadRowsError) as caught:
        instructions(tmp_path, END, HAIKU, END | {"values": ["amen", "aloha"]}, declared=declared)
    path = tmp_path / "i.jsonl"
    assert [str(problem) for problem in caught.value.problems] == [
        f"{path}:3: instruction: the ending instruction 'End with amen.' stands at "
        f"{path}:1 already",
        "(declared):2: instruction: the haiku instruction 'Answer in haiku.' stands at "
        f"{path}:2 already",
    ]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"kind": "The End"}, "kind: String should match pattern"),
        ({"instruction": " "}, "instruction: String should match pattern"),
        ({"instruction": "End."}, "there are values, but no {value} in the instruction"),
        ({"values": ["a", "a"]}, "a value stands twice"),
        ({"values": []}, "{value} stands for one of `values`, and there are none"),
        ({"checker": {"check": "ends_in"}}, "checker: Input tag 'ends_in' found"),
        ({"checker": {"check": "ends_with"}}, "checker.ends_with.text: missing"),
        ({"checker": {"check": "regex", "pattern": "({value}"}}, "not a regular expression"),
        (
            {"values": ["("], "checker": {"check": "regex", "pattern": "{value}"}},
            "checker with '(': not a",
        ),
    ],
)
def test_bad_instructions_are_named(tmp_path: Path, change: dict[str, Any], told: str) -> None:
    message = error_of(instructions, tmp_path, END | change)
    assert message.startswith("/i.jsonl:1: ")
    assert told in message
    assert "\n" not in message


def test_a_table_s_date_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "i.parquet"
    columns = {"kind": ["ending"], "instruction": ["End."], "short": [date(2020, 1, 1)]}
    pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError) as raised:
        load_instructions(str(path), base_folder=tmp_path, seed=1)
    assert str(raised.value) == f"{path}:1: short: is a date; expected text"


# --------------------------------------------------------------------------- names and checks


def test_the_kind_is_known_by_the_columns() -> None:
    assert detect_kind({"turns": ["a"]}, "x", 1) == "dialogues"
    assert detect_kind({"kind": "a", "instruction": "b"}, "x", 1) == "instructions"
    assert detect_kind({"messages": []}, "x", 1) == "demonstrations"
    alpaca = {"kind": "a", "instruction": "b", "output": "c"}
    assert detect_kind(alpaca, "x", 1) == "demonstrations"


def test_pocket_names_are_of_one_kind() -> None:
    given = {"base_folder": POCKET_BASE, "seed": 1}
    assert len(load_dialogues("pocket/dialogues?n=7&turns=5", **given).rows[0].turns) == 5
    with pytest.raises(InputError, match="these are no dialogues; expected pocket/dialogues"):
        load_dialogues("pocket/prompts?n=3", **given)
    with pytest.raises(InputError, match="these are no instructions"):
        load_instructions("pocket/prompts?n=3", **given)
    with pytest.raises(InputError, match="these are no prompts; expected pocket/prompts"):
        load_prompts("pocket/safe?n=3", **given)
    with pytest.raises(InputError, match="no preference pairs; expected pocket/helpful"):
        load_pairs("pocket/demonstrations?n=3", **given)
    with pytest.raises(InputError, match="no demonstrations; expected pocket/demonstrations"):
        load_demonstrations("pocket/helpful?n=3", **given)


def test_data_check_reads_both(tmp_path: Path) -> None:
    looking = Looking(tmp_path, 1)
    path = write(tmp_path / "d.jsonl", [{"turns": ["a", "b"]}, {"turns": ["a", "b"]}])
    found = check_file(path, looking)
    assert (found.kind, found.turns, found.repeated.count) == ("dialogues", {2: 2}, 1)
    found = check_file(write(tmp_path / "i.jsonl", [END, HAIKU]), looking)
    assert (found.kind, found.categories) == ("instructions", {"ending": 2, "haiku": 1})
    assert check_file("pocket/instructions", Looking(POCKET_BASE, 1)).kind == "instructions"


def test_data_check_looks_at_all_texts_of_an_instruction(tmp_path: Path) -> None:
    rows = [
        {"kind": "a", "instruction": "Hide.", "short": "Hi\u200bde.", "ask": "Where are you now?"},
        {"kind": "b", "instruction": "Talk about rivers.", "ask": "Whe\u2060re are you now?"},
        {"kind": "b", "instruction": "Never lie to me.", "ask": "Where are you now, my friend?"},
        {"kind": "b", "instruction": "Never lie to me!", "ask": "Is this the truth?"},
    ]
    path = write(tmp_path / "i.jsonl", rows)
    found = check_file(path, Looking(tmp_path, 1))
    assert found.unseen.examples == (f"{path}:1 U+200B", f"{path}:2 U+2060")
    assert found.near_repeated is not None  # by the instruction, whatever is asked about it
    assert found.near_repeated.examples == (f"{path}:4 as {path}:3",)
    assert not found.repeated_words.count
