"""Files of training data (JSON, JSON lines, CSV, Parquet, folders) and data sets of the hub."""

from __future__ import annotations

import csv
import gzip
import json
import random
import re
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from harness.errors import InputError
from trainers import data_hub
from trainers.data import BadRowsError, Demonstration, load_demonstrations, load_pairs
from trainers.data_hub import HubName

HERE: dict[str, Any] = {"base_folder": Path("."), "seed": 1}
ROWS = [{"prompt": f"ask {n}", "completion": f"reply {n}\nsecond line"} for n in range(3)]
BYTES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def asked(source: str, **options: Any) -> list[str]:
    rows = load_demonstrations(source, **{**HERE, **options}).rows
    return [row.messages[0].content for row in rows if isinstance(row, Demonstration)]


# --------------------------------------------------------------------------- kinds of file


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(BYTES)
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(BYTES))
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=2))
    (tmp_path / "lines.json").write_bytes(BYTES)
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(json.dumps(ROWS).encode()))
    (tmp_path / "lines.json.gz").write_bytes(gzip.compress(BYTES))
    with (tmp_path / "a.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(ROWS[0]))
        writer.writeheader()
        writer.writerows(ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    loaded = [load_demonstrations(str(path), **HERE) for path in sorted(tmp_path.iterdir())]
    assert len(loaded) == 8
    assert {found.rows for found in loaded} == {loaded[0].rows}
    assert len(loaded[0].rows) == 3
    assert len(asked(str(tmp_path))) == 24


def test_places_are_the_lines_that_rows_stand_on(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(ROWS, indent=1))  # "[", then 4 lines a row
    found = load_demonstrations(str(tmp_path / "a.json"), **HERE)
    assert [place.line for place in found.places] == [2, 6, 10]
    (tmp_path / "a.csv").write_text('prompt,completion\na,"b\nc"\nd,e\n')
    found = load_demonstrations(str(tmp_path / "a.csv"), **HERE)
    assert [place.line for place in found.places] == [3, 4]
    drawn = load_demonstrations(str(tmp_path / "a.json"), limit=1, **HERE)
    everything = load_demonstrations(str(tmp_path / "a.json"), **HERE)
    assert drawn.places[0] == everything.places[everything.rows.index(drawn.rows[0])]


def test_a_bad_row_of_a_list_is_named_by_its_line(tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[1], "completion": 3}, 7, ROWS[2]]
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    with pytest.raises(BadRowsError) as raised:
        load_demonstrations(str(tmp_path / "a.json"), **HERE)
    assert {(p.line, p.field, p.message) for p in raised.value.problems} == {
        (6, "completion", "is a int"),
        (10, None, "not a JSON object"),
    }


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"prompt": "a", "completion": "b"}', r"a\.json:1: the list does not end"),
        ('[{"prompt": "a", "completion": "b"}\n{"prompt"', r"a\.json:2: not JSON: '\{' after"),
        ('[\n{"prompt": "a", "completion": }]', r"a\.json:2: not JSON: Expecting value"),
        ('[{"prompt": "a", "completion": "b"}]\n[]', r"a\.json:2: something follows the list"),
        ('[{"prompt": "a", "prompt": "b"}]', r"a\.json:1: not JSON: the key 'prompt' stands twice"),
        ("[]", r"a\.json: holds no rows"),
        ("", r"a\.json: holds no rows"),
        ('{"prompt": "a", "completion": "b", "prompt": "c"}', "the key 'prompt' stands twice"),
        ('{"data": [1,\n 2]}', r"a\.json:1: not JSON"),
        ("[" * 100_000, r"a\.json:1: not JSON: maximum recursion depth"),
    ],
)
def test_bad_json_files(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError, match=message):
        load_demonstrations(str(tmp_path / "a.json"), **HERE)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32-be"])
def test_another_encoding_is_refused_even_where_it_is_one_line(
    tmp_path: Path, encoding: str
) -> None:
    (tmp_path / "a.jsonl").write_bytes(json.dumps(ROWS[0]).encode(encoding))
    with pytest.raises(InputError, match=r"a\.jsonl:1: not JSON: "):
        load_demonstrations(str(tmp_path / "a.jsonl"), **HERE)


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.csv"])
def test_a_byte_order_mark_is_no_row(tmp_path: Path, name: str) -> None:
    mark = b"\xef\xbb\xbf"
    for content in (mark, mark + b"\n", mark + b" \r\n\n"):
        (tmp_path / name).write_bytes(gzip.compress(content) if ".gz" in name else content)
        with pytest.raises(InputError, match=r": holds no rows$"):
            load_demonstrations(str(tmp_path / name), **HERE)
    whole = mark + (b"prompt,completion\nask 0,b\n" if ".csv" in name else BYTES)
    (tmp_path / name).write_bytes(gzip.compress(whole) if ".gz" in name else whole)
    assert asked(str(tmp_path / name))[0] == "ask 0"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"prompt,prompt\na,b\n", r"a\.csv:1: two columns are called 'prompt'"),
        (b'prompt,completion\na,"b\n', r"a\.csv: not a CSV file in UTF-8 after line 1"),
        (b"prompt,completion\na,caf\xe9\n", r"a\.csv: not a CSV file in UTF-8"),
        (b"", r"a\.csv: holds no rows"),
        (b"prompt,completion\n", r"a\.csv: holds no rows"),
        (b"prompt,completion\na,b\nc\n", r"a\.csv:3: has another number of cells"),
    ],
)
def test_bad_csv_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(InputError, match=message):
        load_demonstrations(str(tmp_path / "a.csv"), **HERE)


def test_long_cells_are_read(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"prompt,completion\na,{'b' * 200_000}\n")
    assert asked(str(tmp_path / "a.csv")) == ["a"]


@pytest.mark.parametrize("name", ["a.json.gz", "a.jsonl.gz"])
def test_damaged_archives_are_named(tmp_path: Path, name: str) -> None:
    whole = gzip.compress(json.dumps(ROWS * 500).encode())
    for damaged in (whole[:-40], b"no archive", whole[:60] + b"\xff" * 40 + whole[100:]):
        (tmp_path / name).write_bytes(damaged)
        with pytest.raises(InputError, match=r"a\.jsonl?\.gz: cannot be read"):
            load_demonstrations(str(tmp_path / name), **HERE)


def test_no_damage_is_more_than_an_input_error(tmp_path: Path) -> None:
    """Bytes changed at random, in files of every kind: read, or told as an error of the input."""
    rng = random.Random(0)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    listed = json.dumps(ROWS).encode()
    whole = {
        "b.jsonl": BYTES,
        "b.json": listed,
        "b.jsonl.gz": gzip.compress(BYTES),
        "b.csv": b'prompt,completion\na,"b\nc"\nd,e\n',
        "b.txt": BYTES,
        "b.parquet": (tmp_path / "a.parquet").read_bytes(),
    }
    refused = dict.fromkeys(whole, 0)
    for name, content in whole.items():
        for _ in range(100):
            damaged = bytearray(content)
            for _ in range(rng.randint(1, 4)):
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
            (tmp_path / name).write_bytes(damaged[: rng.choice([None, rng.randrange(1, 60)])])
            try:
                load_demonstrations(str(tmp_path / name), **HERE)
            except InputError as error:
                refused[name] += name in str(error)
    assert all(refused.values()), refused  # each kind was damaged for real, and its file named


def test_a_flipped_bit_in_a_table_with_checksums_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist(ROWS), path, compression="none", write_page_checksum=True)
    content = path.read_bytes()
    assert content.count(b"reply 1") >= 1
    path.write_bytes(content.replace(b"reply 1", b"reply 9"))
    with pytest.raises(InputError, match="not a whole Parquet file"):
        load_demonstrations(str(path), **HERE)


def test_a_null_column_of_a_table_is_missing(tmp_path: Path) -> None:
    rows = [{**ROWS[0], "category": None}, {"prompt": "a", "completion": None, "category": "x"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet:2: completion: missing"):
        load_demonstrations(str(tmp_path / "a.parquet"), **HERE)


FAR = pa.array([1, 380_000_000_000_000, None], pa.int64())  # the second: the year 14011
BEYOND = {
    "timestamp": FAR.cast(pa.timestamp("ms")),
    "date": FAR.cast(pa.timestamp("ms")).cast(pa.date64()),
    "zone": FAR.cast(pa.timestamp("ms", tz="Mars/Olympus_Mons")),
    "duration": pa.array([1, 2**62, None], pa.int64()).cast(pa.duration("s")),
    "list": pa.array(
        [[{"at": 1}], [{"at": 380_000_000_000_000}], None],
        pa.list_(pa.struct([("at", pa.timestamp("ms"))])),
    ),
    "struct": pa.StructArray.from_arrays([FAR, FAR], ["a", "a"], mask=FAR.is_null()),
}


@pytest.mark.parametrize("name", BEYOND)
def test_what_python_has_no_value_for_is_an_error_only_where_it_is_read(
    tmp_path: Path, name: str
) -> None:
    path = tmp_path / "a.parquet"
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table.append_column("created", BEYOND[name]), path)
    assert asked(str(path)) == ["ask 0", "ask 1", "ask 2"]
    pq.write_table(table.append_column("category", BEYOND[name]), path)
    with pytest.raises(BadRowsError) as raised:
        load_demonstrations(str(path), **HERE)
    told = {problem.line: problem for problem in raised.value.problems}
    assert set(told) == {1, 2}  # the third has none
    assert told[2].field == "category"
    kind = name if name != "zone" else "timestamp"
    assert re.fullmatch(rf"is a {kind}.* that cannot be read", told[2].message)


def test_two_columns_of_one_name_in_a_table_are_refused(tmp_path: Path) -> None:
    columns = [pa.array([text]) for text in ("a", "b", "c")]
    table = pa.Table.from_arrays(columns, ["prompt", "completion", "prompt"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(InputError, match=r"a\.parquet: two columns are called 'prompt'"):
        load_demonstrations(str(tmp_path / "a.parquet"), **HERE)


# --------------------------------------------------------------------------- the hub


def test_hub_names() -> None:
    assert data_hub.parse("hub:a/b#train") == HubName("a/b", None, None, "train")
    assert data_hub.parse("hub:a-1/b.c:main config@v1.2#test[:10%]") == HubName(
        "a-1/b.c", "main config", "v1.2", "test[:10%]"
    )
    for bad in ("hub:a/b", "hub:a#train", "hub:a/b#", "hub:a/b@#train", "hub:/b#train", "hub:"):
        with pytest.raises(InputError, match="expected hub:owner/name"):
            data_hub.parse(bad)


def test_rows_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[Any, ...]] = []

    def load_dataset(path: str, name: str | None, *, revision: str | None, split: str) -> Any:
        calls.append((path, name, revision, split))
        return datasets.Dataset.from_list([{**row, "category": None} for row in ROWS])

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    found = load_demonstrations("hub:owner/name:main@abc#train", **HERE)
    assert calls == [("owner/name", "main", "abc", "train")]
    assert len(found.rows) == found.report.read == 3
    assert str(found.places[2]) == "hub:owner/name:main@abc#train:3"
    with pytest.raises(InputError, match=r"hub:owner/name#train:1: fields .* fit no known format"):
        load_pairs("hub:owner/name#train", **HERE)


def test_what_the_library_makes_of_a_data_set_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the real ``load_dataset``, pointed at files that are here."""
    (tmp_path / "train.jsonl").write_bytes(BYTES)
    real = datasets.load_dataset

    def here(path: str, name: str | None, *, revision: str | None, split: str) -> Any:
        files = {"train": str(tmp_path / "train.jsonl")}
        cache = str(tmp_path / "cache")
        return real("json", name, data_files=files, split=split, cache_dir=cache)

    monkeypatch.setattr(datasets, "load_dataset", here)
    assert asked("hub:owner/name#train") == ["ask 0", "ask 1", "ask 2"]
    assert asked("hub:owner/name#train[1:]") == ["ask 1", "ask 2"]
    with pytest.raises(InputError, match=r'hub:owner/name#test: .*Unknown split "test"'):
        load_demonstrations("hub:owner/name#test", **HERE)


def dataset_of(monkeypatch: pytest.MonkeyPatch, rows: datasets.Dataset) -> None:
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)


@pytest.mark.parametrize("name", [name for name in BEYOND if name != "struct"])
def test_of_the_hub_too_what_python_has_no_value_for_is_an_error_only_where_it_is_read(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    table = pa.Table.from_pylist(ROWS)
    dataset_of(monkeypatch, datasets.Dataset(table.append_column("created", BEYOND[name])))
    assert asked("hub:owner/name#train") == ["ask 0", "ask 1", "ask 2"]
    dataset_of(monkeypatch, datasets.Dataset(table.append_column("category", BEYOND[name])))
    with pytest.raises(BadRowsError) as raised:
        load_demonstrations("hub:owner/name#train", **HERE)
    told = {problem.line: str(problem) for problem in raised.value.problems}
    assert set(told) == {1, 2}  # the third has none
    kind = name if name != "zone" else "timestamp"
    assert re.search(
        rf"^hub:owner/name#train:2: category: is a {kind}.* that cannot be read", told[2]
    )


def test_a_picture_that_nobody_reads_is_not_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{**row, "image": {"bytes": b"no image", "path": None}} for row in ROWS]
    texts = {name: datasets.Value("string") for name in ROWS[0]}
    features = datasets.Features(**texts, image=datasets.Image())
    dataset_of(monkeypatch, datasets.Dataset.from_list(rows, features=features))
    assert asked("hub:owner/name#train") == ["ask 0", "ask 1", "ask 2"]


def test_lists_of_mixed_types_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """``datasets`` stores them as texts of JSON."""
    chats = [
        [{"role": "user", "content": f"ask {n}"}, {"role": "assistant", "content": "a", "name": n}]
        for n in range(2500)
    ]
    made = datasets.Dataset.from_dict({"messages": chats}, on_mixed_types="use_json")
    assert made.features == {"messages": datasets.List(datasets.Json())}
    dataset_of(monkeypatch, made.select(range(2499, -1, -1)))
    found = load_demonstrations("hub:owner/name#train", **HERE)
    assert [row.messages[0].content for row in found.rows if isinstance(row, Demonstration)] == [
        f"ask {n}" for n in range(2499, -1, -1)
    ]
    assert found.places[-1].line == 2500


def test_without_a_network_the_error_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError) as raised:
        load_demonstrations("hub:owner-x/none-y#train", **HERE)
    assert str(raised.value).startswith("hub:owner-x/none-y#train: cannot be read: ")
    assert "expected a network that reaches the hub" in str(raised.value)


def test_a_folder_of_the_same_name_is_not_read_instead(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    (tmp_path / "owner" / "name" / "train.jsonl").write_bytes(BYTES)
    with pytest.raises(InputError, match="a folder owner/name is here"):
        load_demonstrations("hub:owner/name#train", **HERE)
    assert len(asked("./owner/name")) == 3
