"""Training data: public formats, strict reading, and errors that name the row."""

from __future__ import annotations

import csv
import gzip
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.chat import assistant, system, user
from harness.errors import InputError
from trainers.data import (
    BadRowsError,
    load_demonstrations,
    load_pairs,
    load_prompts,
)
from trainers.data_formats import Demonstration, Pair, Prompt

SHARED = Path(os.environ.get("ALDENTE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
HERE: dict[str, Any] = {"base_folder": Path("."), "seed": 1}


def write(path: Path, rows: Sequence[Any]) -> str:
    """JSON lines; a string is written as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    content = "".join(line + "\n" for line in lines).encode()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)
    return str(path)


# --------------------------------------------------------------------------- formats


@pytest.mark.parametrize(
    ("row", "messages"),
    [
        (
            {
                "messages": [
                    {"role": "user", "content": "hi"},
                    {"role": "assistant", "content": "a"},
                ]
            },
            (user("hi"), assistant("a")),
        ),
        ({"prompt": "hi", "completion": "a"}, (user("hi"), assistant("a"))),
        (
            {"instruction": "add", "input": "1 2", "output": "3"},
            (user("add\n\n1 2"), assistant("3")),
        ),
        ({"instruction": "add", "output": "3"}, (user("add"), assistant("3"))),
        (
            {"instruction": "add", "instances": [{"input": "", "output": "3"}]},
            (user("add"), assistant("3")),
        ),
    ],
)
def test_demonstration_formats(tmp_path: Path, row: Any, messages: Any) -> None:
    loaded = load_demonstrations(write(tmp_path / "d.jsonl", [row]), **HERE)
    assert loaded.rows == (Demonstration(messages),)


def test_each_instance_is_a_row(tmp_path: Path) -> None:
    row = {"instruction": "add", "instances": [{"output": "3"}, {"input": "2 2", "output": "4"}]}
    loaded = load_demonstrations(write(tmp_path / "d.jsonl", [row]), **HERE)
    assert [r.messages[-1].content for r in loaded.rows] == ["3", "4"]
    assert (loaded.report.read, loaded.report.kept) == (1, 2)


def test_a_transcript_pair(tmp_path: Path) -> None:
    start = "\n\nHuman: hi\n\nAssistant: hello\n\nHuman: more\n\nAssistant:"
    row = {"chosen": f"{start} yes", "rejected": f"{start} no"}
    loaded = load_pairs(write(tmp_path / "p.jsonl.gz", [row]), **HERE)
    assert loaded.rows == (Pair((user("hi"), assistant("hello"), user("more")), "yes", "no"),)


def test_what_published_transcripts_contain_is_kept_and_counted(tmp_path: Path) -> None:
    rows = [
        {
            "chosen": "\n\nHuman: hi\n\nAssistant: a\n\nAssistant: b",
            "rejected": "\n\nHuman: hi\n\nAssistant: c",
        },
        {"chosen": "\n\nHuman: hi\n\nAssistant: ", "rejected": "\n\nHuman: hi\n\nAssistant: c"},
    ]
    loaded = load_pairs(write(tmp_path / "p.jsonl", rows), **HERE)
    assert [pair.chosen for pair in loaded.rows] == ["a\n\nb", ""]
    assert loaded.report.notes == {"turns of one speaker joined": 1, "empty replies": 1}


def test_pairs_with_ratings_and_message_lists(tmp_path: Path) -> None:
    rated = {"prompt": "hi", "chosen": "a", "rejected": "b", "rating": "slightly better"}
    assert load_pairs(write(tmp_path / "a.jsonl", [rated]), **HERE).rows == (
        Pair((user("hi"),), "a", "b", "slightly better"),
    )
    prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "hi"}]
    replies = {
        "chosen": [{"role": "assistant", "content": "a"}],
        "rejected": [{"role": "assistant", "content": "b"}],
    }
    expected = (Pair((system("s"), user("hi")), "a", "b"),)
    path = write(tmp_path / "b.jsonl", [{"prompt": prompt, **replies}])
    assert load_pairs(path, **HERE).rows == expected
    whole = {field: prompt + reply for field, reply in replies.items()}
    assert load_pairs(write(tmp_path / "c.jsonl", [whole]), **HERE).rows == expected


def test_identical_replies_are_dropped_and_counted(tmp_path: Path) -> None:
    rows = [{"prompt": "hi", "chosen": "a", "rejected": r} for r in ("a", "b")]
    loaded = load_pairs(write(tmp_path / "p.jsonl", rows), **HERE)
    assert len(loaded.rows) == 1
    assert loaded.report.dropped == {"identical replies": 1}


def test_csv_and_parquet_read_alike(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "prompt": "a, b", "safety": "true", "category": "x"},
        {"id": "2", "prompt": "two\nlines", "safety": "false", "category": ""},
    ]
    with (tmp_path / "p.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    typed = [{**row, "safety": row["safety"] == "true"} for row in rows]
    pq.write_table(pa.Table.from_pylist(typed), tmp_path / "p.parquet")
    expected = (
        Prompt("1", (user("a, b"),), True, "x"),
        Prompt("2", (user("two\nlines"),), False, ""),
    )
    for name in ("p.csv", "p.parquet"):
        assert load_prompts(str(tmp_path / name), **HERE).rows == expected


def test_a_folder_is_read_in_the_order_of_names(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write(tmp_path / f"{name}.jsonl", [{"prompt": name, "safety": False}])
    rows = load_prompts(str(tmp_path), **HERE).rows
    assert [(row.id, row.messages[0].content) for row in rows] == [("1", "a"), ("2", "b")]


def test_a_limit_is_drawn_by_the_seed_and_keeps_the_order(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"prompt": str(i), "completion": "x"} for i in range(50)])

    def drawn(seed: int) -> list[int]:
        loaded = load_demonstrations(path, base_folder=tmp_path, seed=seed, limit=10)
        return [int(row.messages[0].content) for row in loaded.rows]

    assert drawn(1) == drawn(1) == sorted(drawn(1))
    assert drawn(1) != drawn(2)
    assert len(drawn(1)) == 10


# --------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "hi"}, "completion: missing"),
        ({"prompt": "hi", "completion": 3}, "completion: is a int; expected a string"),
        ({"prompt": " ", "completion": "x"}, "prompt: is empty"),
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
    ],
)
def test_a_bad_row_is_named_by_file_line_field_and_reason(
    tmp_path: Path, row: Any, message: str
) -> None:
    good = {"prompt": "hi", "completion": "a"}
    path = write(tmp_path / "d.jsonl", [good, "", row, good])
    with pytest.raises(InputError, match=r"d\.jsonl:3: ") as raised:
        load_demonstrations(path, **HERE)
    assert message in str(raised.value)


def test_every_bad_row_is_named(tmp_path: Path) -> None:
    good = {"prompt": "hi", "chosen": "a", "rejected": "b"}
    bad = [{**good, "rating": "great"}, {**good, "chosen": None}, {"prompt": "x", "chosen": "y"}]
    with pytest.raises(BadRowsError) as raised:
        load_pairs(write(tmp_path / "p.jsonl", [good, *bad]), **HERE)
    assert [problem.line for problem in raised.value.problems] == [2, 3, 4]
    assert [problem.field for problem in raised.value.problems] == ["rating", "chosen", "rejected"]
    assert all(f"p.jsonl:{line}" in str(raised.value) for line in (2, 3, 4))
    assert "(3 bad rows)" in str(raised.value)


def test_only_what_is_missing_null_or_empty_is_no_rating(tmp_path: Path) -> None:
    pair = {"prompt": "hi", "chosen": "a", "rejected": "b"}
    unrated = [pair, {**pair, "rating": None}, {**pair, "rating": ""}]
    loaded = load_pairs(write(tmp_path / "a.jsonl", unrated), **HERE)
    assert [row.rating for row in loaded.rows] == [None] * 3
    values = [0, False, [], {}, 0.0, True, 10**400]
    path = write(tmp_path / "b.jsonl", [{**pair, "rating": value} for value in values])
    with pytest.raises(BadRowsError) as raised:
        load_pairs(path, **HERE)
    problems = raised.value.problems
    assert [(p.line, p.field) for p in problems] == [(n, "rating") for n in range(1, 8)]
    assert [p.message for p in problems[:4]] == ["is 0", "is False", "is []", "is {}"]


@pytest.mark.parametrize(
    ("roles", "message"),
    [
        (["user", "user", "assistant"], r"messages\[1\].role: is user; expected assistant"),
        (["assistant", "user"], r"messages\[0\].role: is assistant; expected user"),
        (["user"], "a last message of the assistant"),
        (["tool", "assistant"], "system, user or assistant"),
    ],
)
def test_turns_must_alternate(tmp_path: Path, roles: list[str], message: str) -> None:
    row = {"messages": [{"role": role, "content": "x"} for role in roles]}
    with pytest.raises(InputError, match=message):
        load_demonstrations(write(tmp_path / "d.jsonl", [row]), **HERE)


def test_replies_to_different_prompts_are_no_pair(tmp_path: Path) -> None:
    row = {"chosen": "\n\nHuman: a\n\nAssistant: x", "rejected": "\n\nHuman: b\n\nAssistant: y"}
    with pytest.raises(InputError, match="another prompt"):
        load_pairs(write(tmp_path / "p.jsonl", [row]), **HERE)


def test_prompts_need_their_safety_tag_and_one_id_each(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="safety: missing; expected true or false"):
        load_prompts(write(tmp_path / "a.jsonl", [{"prompt": "hi"}]), **HERE)
    ids = ["a", "b", "a", None, "c", "b", "4", "a"]
    rows = [{"id": name, "prompt": "hi", "safety": True} for name in ids]
    path = write(tmp_path / "b.jsonl", rows)
    with pytest.raises(BadRowsError) as raised:
        load_prompts(path, **HERE)
    assert [str(problem) for problem in raised.value.problems] == [
        f"{path}:3: id: the id 'a' stands at {path}:1 already",
        f"{path}:6: id: the id 'b' stands at {path}:2 already",
        f"{path}:7: id: the id '4' stands at {path}:4 already",  # which has none but its number
        f"{path}:8: id: the id 'a' stands at {path}:1 already",
    ]


def test_ids_are_text_or_whole_numbers_and_may_be_missing(tmp_path: Path) -> None:
    row = {"prompt": "hi", "safety": True}
    rows = [row, {**row, "id": None}, {**row, "id": ""}, {**row, "id": 0}, {**row, "id": "x"}]
    loaded = load_prompts(write(tmp_path / "a.jsonl", rows), **HERE)
    assert [prompt.id for prompt in loaded.rows] == ["1", "2", "3", "0", "x"]
    bad = [{**row, "id": value} for value in (True, 1.5, ["a"], "\ud800")]
    with pytest.raises(BadRowsError) as raised:
        load_prompts(write(tmp_path / "b.jsonl", bad), **HERE)
    assert [(p.line, p.field, p.message) for p in raised.value.problems] == [
        (1, "id", "is a bool"),
        (2, "id", "is a float"),
        (3, "id", "is a list"),
        (4, "id", "character 1 is half of a surrogate pair"),
    ]


def test_unknown_formats_files_and_contents(tmp_path: Path) -> None:
    path = write(tmp_path / "d.jsonl", [{"question": "hi"}])
    with pytest.raises(InputError, match=r"d\.jsonl:1: fields question fit no known format"):
        load_demonstrations(path, **HERE)
    with pytest.raises(InputError, match="did you mean 'messages'"):
        load_demonstrations(path, "message", **HERE)
    with pytest.raises(InputError, match="no such file"):
        load_pairs(str(tmp_path / "none.jsonl"), **HERE)
    with pytest.raises(InputError, match="unknown kind of file"):
        load_pairs(str(Path(__file__)), **HERE)
    with pytest.raises(InputError, match="holds no rows"):
        load_pairs(write(tmp_path / "empty.jsonl", []), **HERE)


def test_damaged_files_are_named(tmp_path: Path) -> None:
    whole = gzip.compress(b'{"prompt": "a", "completion": "b"}\n' * 1000)
    (tmp_path / "cut.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "cut.parquet").write_bytes(b"PAR1....")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "\xe9", "completion": "b"}\n')
    for name in ("cut.jsonl.gz", "cut.parquet", "latin.jsonl"):
        with pytest.raises(InputError, match=name):
            load_demonstrations(str(tmp_path / name), **HERE)


def test_a_csv_row_with_too_many_cells(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text("prompt,completion\na,b\na,b,c\n")
    with pytest.raises(InputError, match=r"p.csv:3: .*number of cells"):
        load_demonstrations(str(tmp_path / "p.csv"), **HERE)


def test_unknown_pocket_data(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="pocket/helpful"):
        load_pairs("pocket/helpfull", base_folder=tmp_path, seed=1)


@pytest.mark.parametrize("query", ["misread", "n=3&misread", "n=3&&", "&"])
def test_an_option_of_pocket_data_without_a_value(tmp_path: Path, query: str) -> None:
    with pytest.raises(InputError) as raised:
        load_pairs(f"pocket/safe?{query}", base_folder=tmp_path, seed=1)
    assert str(raised.value) == (
        f"pocket/safe?{query}: cannot read the options {query!r}; "
        "expected name=value, with & between them"
    )


def test_an_option_of_pocket_data_given_twice(tmp_path: Path) -> None:
    with pytest.raises(InputError) as raised:
        load_pairs("pocket/safe?n=1&misread=0&n=2", base_folder=tmp_path, seed=1)
    assert str(raised.value) == "pocket/safe?n=1&misread=0&n=2: the option 'n' is given twice"


# --------------------------------------------------------------------------- public files


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the public data folder is not there")
def test_every_row_of_the_public_files_is_read() -> None:
    harmless = load_pairs(str(SHARED / "preferences/hh_harmless_base_test.jsonl.gz"), **HERE)
    assert len(harmless.rows) == harmless.report.read == 2312
    assert harmless.report.notes == {"turns of one speaker joined": 9, "empty replies": 4}
    assert all(pair.prompt[-1].role == "user" for pair in harmless.rows)

    human = load_pairs(str(SHARED / "preferences/tulu_human_preferences.jsonl"), **HERE)
    assert human.report.read == 773
    assert human.report.dropped == {"identical replies": 1}  # row 380: "#ERROR!" twice
    assert sum(pair.rating == "better" for pair in human.rows) == 347
    assert sum(pair.rating == "slightly better" for pair in human.rows) == 425

    for name, count in (("self_instruct_seed_tasks", 175), ("user_oriented_instructions", 252)):
        tasks = load_demonstrations(str(SHARED / f"sft/{name}.jsonl"), **HERE)
        assert len(tasks.rows) == tasks.report.read == count
        assert tasks.report.format == "instances"
        assert not tasks.report.dropped
