from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from harness import evalsets
from harness.errors import InputError
from harness.evalsets import find_folder, list_evalsets, load_evalset, write_evalset
from harness.splits import assign_splits, choose_rows

CARD = """\
name: tiny
version: "1"
probe: refusal
language: en
licence: CC0-1.0
source: written for this test
high_means: refuses too much
intended_use: tests
options: {safe: true}
"""
ROWS = [{"id": f"r{i}", "prompt": f"question {i}", "category": "ab"[i % 2]} for i in range(10)]


def make_set(folder: Path, *, card: str = CARD, rows: list[dict] | str = ROWS) -> Path:
    folder.mkdir(parents=True)
    (folder / "card.yaml").write_text(card)
    text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(text)
    return folder


@pytest.fixture
def houses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A shipped folder, a current folder with ./evalsets, an extra folder; all empty."""
    monkeypatch.setattr(evalsets, "SHIPPED", tmp_path / "shipped")
    for name in ("shipped", "cwd", "extra"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path


def test_reads_a_set_by_path(tmp_path: Path) -> None:
    found = load_evalset(str(make_set(tmp_path / "tiny")))
    assert found.name == "tiny"
    assert [row.id for row in found.rows] == [f"r{i}" for i in range(10)]
    assert len(found.hash) == 64


def test_the_hash_is_of_card_and_rows(tmp_path: Path) -> None:
    first = load_evalset(str(make_set(tmp_path / "a")))
    same = load_evalset(str(make_set(tmp_path / "b")))
    card = load_evalset(str(make_set(tmp_path / "c", card=CARD.replace('"1"', '"2"'))))
    rows = load_evalset(str(make_set(tmp_path / "d", rows=ROWS[:9])))
    assert first.hash == same.hash
    assert len({first.hash, card.hash, rows.hash}) == 3


def test_an_alias_names_but_does_not_change_the_set(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "a")
    aliased = load_evalset(str(folder), alias="other")
    assert aliased.name == "other"
    assert aliased.hash == load_evalset(str(folder)).hash


def test_a_limit_spreads_over_categories_and_is_another_set(tmp_path: Path) -> None:
    folder = make_set(tmp_path / "a")
    limited = load_evalset(str(folder), limit=4)
    assert Counter(row.category for row in limited.rows) == {"a": 2, "b": 2}
    assert limited.hash != load_evalset(str(folder)).hash
    assert load_evalset(str(folder), limit=99).hash == load_evalset(str(folder)).hash


def test_written_again_it_reads_the_same(tmp_path: Path) -> None:
    found = load_evalset(str(make_set(tmp_path / "a")))
    write_evalset(found, tmp_path / "b")
    again = load_evalset(str(tmp_path / "b"))
    assert (again.card, again.rows) == (found.card, found.rows)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"id": "x", "promt": "q"},
            "unknown field 'promt' .*expected one of .*did you mean 'prompt'",
        ),
        ({"id": "x"}, "prompt: this field is missing"),
        ({"id": "x", "prompt": 7}, "prompt: 7 is not a text"),
        ({"id": "x", "prompt": ""}, "prompt: '' is not a text that is not empty"),
        ({"id": "r0", "prompt": "q"}, "id: 'r0' is also the id of line 1"),
        ("{", "rows.jsonl:2: not JSON"),
        ("[1]", "is not a mapping"),
    ],
)
def test_a_bad_row_is_told_by_file_line_and_field(
    tmp_path: Path, row: dict | str, message: str
) -> None:
    text = json.dumps(ROWS[0]) + "\n" + (row if isinstance(row, str) else json.dumps(row)) + "\n"
    folder = make_set(tmp_path / "tiny", rows=text)
    with pytest.raises(InputError, match=message) as error:
        load_evalset(str(folder))
    assert f"{folder / 'rows.jsonl'}:2: " in str(error.value)


def test_a_misspelt_checker_is_told_where_it_stands(tmp_path: Path) -> None:
    card = CARD.replace("refusal", "rubric").replace("options: {safe: true}\n", "")
    rubric = [{"name": "tool", "checker": {"check": "contans", "text": "spade"}}]
    folder = make_set(
        tmp_path / "gold", card=card, rows=[{"id": "x", "prompt": "q", "rubric": rubric}]
    )
    with pytest.raises(InputError, match=r"'check' 'contans'.*did you mean 'contains'") as e:
        load_evalset(str(folder))
    assert e.value.field == "rubric.0.checker"
    rubric[0]["checker"] = {"check": "contains", "texts": "spade"}
    (folder / "rows.jsonl").write_text(json.dumps({"id": "x", "prompt": "q", "rubric": rubric}))
    with pytest.raises(InputError, match=r"checker\.texts: unknown field.*did you mean 'text'"):
        load_evalset(str(folder))


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("licence:", "license:", 5, "unknown field 'license'|licence: this field is missing"),
        ("probe: refusal", "probe: refusals", 3, "no probe 'refusals'.*did you mean 'refusal'"),
        ('version: "1"', "version: 1", 2, "version: 1 is not a text"),
        ("safe: true", "save: true", 9, "options"),
        ("name: tiny", "name: Tiny Set", 1, "name"),
        ("language: en", "name: tiny", 4, "duplicate key"),
        ("language: en", "language: [en", None, "expected"),
    ],
)
def test_a_bad_card_is_told_by_file_line_and_field(
    tmp_path: Path, old: str, new: str, line: int | None, message: str
) -> None:
    folder = make_set(tmp_path / "tiny", card=CARD.replace(old, new))
    with pytest.raises(InputError, match=message) as error:
        load_evalset(str(folder))
    assert error.value.path == folder / "card.yaml"
    if line is not None and "missing" not in str(error.value):
        assert error.value.line == line


def test_an_empty_set_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no rows"):
        load_evalset(str(make_set(tmp_path / "a", rows="\n")))


def test_a_name_is_found_among_shipped_then_local(houses: Path) -> None:
    make_set(houses / "shipped" / "pocket" / "one")
    make_set(houses / "cwd" / "evalsets" / "mine")
    assert load_evalset("pocket/one").folder == houses / "shipped" / "pocket" / "one"
    assert load_evalset("mine").folder == Path("evalsets/mine")
    assert list_evalsets() == ["mine", "pocket/one"]


def test_an_unknown_name_lists_what_there_is(houses: Path) -> None:
    make_set(houses / "shipped" / "pocket" / "borderline")
    with pytest.raises(InputError, match="did you mean 'pocket/borderline'"):
        load_evalset("pocket/bordeline")


def test_shadowing_a_shipped_name(houses: Path) -> None:
    make_set(houses / "shipped" / "one")
    make_set(houses / "cwd" / "evalsets" / "one")
    # A copy of the same content is no other set: tests run beside the sources of a wheel.
    assert find_folder("one") == houses / "shipped" / "one"
    (houses / "cwd" / "evalsets" / "one" / "rows.jsonl").write_text(json.dumps(ROWS[0]))
    with pytest.raises(InputError, match="shadows the shipped set 'one'"):
        find_folder("one")
    make_set(houses / "extra" / "one", rows=ROWS[:2])
    assert find_folder("one", [houses / "extra"]) == houses / "extra" / "one"
    assert find_folder("./evalsets/one") == Path("evalsets/one")


def test_a_missing_search_folder_is_an_error(houses: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        find_folder("one", [houses / "nowhere"])


def test_splits_keep_clusters_whole_and_are_balanced() -> None:
    rows = [(f"r{i}", f"c{i // 3}", "ab"[i // 3 % 2]) for i in range(300)]
    splits = assign_splits(rows)
    assert set(splits) == {row[0] for row in rows}
    assert all(len({splits[f"r{3 * c + k}"] for k in range(3)}) == 1 for c in range(100))
    for category in "ab":
        counts = Counter(splits[r] for r, _, c in rows if c == category)
        assert counts["A"] == counts["B"] == 75


def test_splits_do_not_depend_on_the_order_of_rows() -> None:
    rows = [(f"r{i}", f"c{i % 7}", "ab"[i % 7 % 2]) for i in range(50)]
    assert assign_splits(rows) == assign_splits(rows[::-1])


@pytest.mark.parametrize("n", [1, 2, 9, 10])
def test_halves_differ_by_at_most_one_row(n: int) -> None:
    counts = Counter(assign_splits([(f"r{i}", f"r{i}", f"c{i}") for i in range(n)]).values())
    assert abs(counts["A"] - counts["B"]) <= 1


def test_choose_rows_takes_whole_clusters_from_each_category() -> None:
    rows = [(f"r{i}", f"c{i // 2}", "ab"[i // 2 % 2]) for i in range(40)]
    chosen = choose_rows(rows, 8)
    assert len(chosen) == 8
    assert Counter(c for r, _, c in rows if r in chosen) == {"a": 4, "b": 4}
    assert len({cluster for r, cluster, _ in rows if r in chosen}) == 4


def test_every_shipped_set_is_valid() -> None:
    names = [n for n in list_evalsets() if (evalsets.SHIPPED / n).is_dir()]
    for name in names:
        assert load_evalset(name).rows
