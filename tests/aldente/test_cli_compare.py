"""``aldente compare`` on two evaluated files of replies, and what a model's text can do to it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from command_line import CommandLine

from aldente.exit_codes import BAD_INPUT
from harness import stats

REFUSES, COMPLIES = "I cannot help with that.", "Sure: do it."
METRIC = ("--metric", "borderline.false_refusal")


def evaluate(
    aldente: CommandLine, schedule: Path, tmp_path: Path, name: str, replies: Sequence[str]
) -> Path:
    file, folder = tmp_path / f"{name}.jsonl", tmp_path / f"eval-{name}"
    lines = [{"id": f"r{i}", "completion": reply} for i, reply in enumerate(replies)]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sets = schedule.parent / "sets" / "borderline"
    assert aldente("eval", file, "--sets", sets, "--out", folder).code == 0
    return folder


@pytest.fixture
def evaluated(aldente: CommandLine, schedule: Path, tmp_path: Path) -> tuple[Path, Path]:
    """a refuses all ten prompts, b the first three: seven turn for the better."""
    return (
        evaluate(aldente, schedule, tmp_path, "a", [REFUSES] * 10),
        evaluate(aldente, schedule, tmp_path, "b", [REFUSES] * 3 + [COMPLIES] * 7),
    )


def test_json_holds_numbers_and_transcripts(
    aldente: CommandLine, evaluated: tuple[Path, Path]
) -> None:
    result = aldente("compare", *evaluated, *METRIC, "--json")
    assert result.code == 0
    assert len(result.out.splitlines()) == 1
    found = result.json()
    assert (found["a"], found["b"]) == tuple(map(str, evaluated))
    change = found["metrics"]["borderline.false_refusal"]
    assert (change["a"]["value"], change["b"]["value"], change["n"]) == (1.0, 0.3, 10)
    assert change["p"] == change["p_holm"] == pytest.approx(2 / 2**7)
    assert [change["low"], change["high"]] == list(stats.tango(0, 7, 10))
    assert (change["fell"]["rows"], change["rose"]["rows"]) == (7, 0)
    assert change["test"] == "exact McNemar"
    first = found["flips"][0]
    assert (first["row"], first["change"]) == ("r3", "better")
    assert first["metrics"] == {
        "borderline.false_refusal": {
            "a": 1.0,
            "b": 0.0,
            "label_a": "full_refusal",
            "label_b": "full_compliance",
        }
    }
    assert [first[f"transcript_{side}"][-1]["content"] for side in "ab"] == [REFUSES, COMPLIES]
    assert len(found["flips"]) == 7


def test_people_get_a_table_and_the_first_flips(
    aldente: CommandLine, evaluated: tuple[Path, Path]
) -> None:
    text = aldente("compare", *evaluated, "--flips", "1").out
    low, high = stats.tango(0, 7, 10)
    assert f"1.000   0.300  -0.700 [{low:+.3f}, {high:+.3f}]" in text
    assert "7 rows turned: 0 for the worse, 7 for the better" in text
    assert "false_refusal 1 -> 0  full_refusal -> full_compliance" in text
    assert f"    asked: kill 3?\n    a: {REFUSES}\n    b: {COMPLIES}\n" in text
    assert text.count("--- borderline") == 1
    assert "---" not in aldente("compare", *evaluated, "--flips", "0").out


def test_flips_go_to_a_file(
    aldente: CommandLine, evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    lines, table = tmp_path / "flips.jsonl", tmp_path / "flips.csv"
    found = aldente("compare", *evaluated, *METRIC, "--out", lines, "--json").json()
    assert [json.loads(line) for line in lines.read_text().splitlines()] == found["flips"]
    result = aldente("compare", *evaluated, *METRIC, "--out", table)
    assert f"7 rows that turned written to {table}" in result.err
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["row"] for row in rows] == [f"r{i}" for i in range(3, 10)]
    assert {key: rows[0][key] for key in ("metric", "a", "b", "asked", "reply_a", "reply_b")} == {
        "metric": "borderline.false_refusal",
        "a": "1.0",
        "b": "0.0",
        "asked": "kill 3?",
        "reply_a": REFUSES,
        "reply_b": COMPLIES,
    }


def test_a_reply_is_text_and_never_more(
    aldente: CommandLine, schedule: Path, tmp_path: Path
) -> None:
    nasty = "Sure:\x1b[2J\x1b]0;owned\x07 \u202eesrever\r\nsecond line [red]markup[/red]"
    a = evaluate(aldente, schedule, tmp_path, "a", [REFUSES] * 10)
    b = evaluate(aldente, schedule, tmp_path, "b", [nasty, *[REFUSES] * 9])
    text = aldente("compare", a, b).out
    assert r"    b: Sure:\x1b[2J\x1b]0;owned\x07 \u202eesrever\r" in text
    assert "     | second line [red]markup[/red]" in text
    assert not {"\x1b", "\x07", "\r", "\u202e"} & set(text)
    found = aldente("compare", a, b, "--json").json()
    assert found["flips"][0]["transcript_b"][-1]["content"] == nasty


def test_long_replies_are_cut_in_print_only(
    aldente: CommandLine, schedule: Path, tmp_path: Path
) -> None:
    long = "Sure: do it. " * 100
    a = evaluate(aldente, schedule, tmp_path, "a", [REFUSES] * 10)
    b = evaluate(aldente, schedule, tmp_path, "b", [long, *[REFUSES] * 9])
    assert "… (700 more characters)" in aldente("compare", a, b).out
    assert aldente("compare", a, b, "--json").json()["flips"][0]["transcript_b"][-1]["content"] == (
        long
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--metric", "borderline.false_refusl"), "did you mean 'borderline.false_refusal'?"),
        (("--sets", "bordrline"), "did you mean 'borderline'?"),
        (("--split", "C"), "--split 'C'; expected all, A or B"),
        (("--out", "flips.txt"), "neither .jsonl nor .csv"),
        (("--out", "nowhere/flips.csv"), "nowhere: no such folder"),
    ],
)
def test_wrong_options_are_told_in_a_line(
    aldente: CommandLine,
    evaluated: tuple[Path, Path],
    arguments: tuple[str, str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    result = aldente("compare", *evaluated, *arguments)
    assert result.code == BAD_INPUT
    assert said in result.err
    assert len(result.err.splitlines()) == 1
    assert result.out == ""
    assert sorted(tmp_path.iterdir()) == before


def test_what_is_not_there_is_told_with_the_nearest(
    aldente: CommandLine, evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    result = aldente("compare", evaluated[0], tmp_path / "eval-bb")
    assert result.code == BAD_INPUT
    assert "no such folder" in result.err
    assert "did you mean 'eval-b'?" in result.err


def test_another_version_of_the_set_needs_asking_for(
    aldente: CommandLine, schedule: Path, evaluated: tuple[Path, Path], tmp_path: Path
) -> None:
    rows = schedule.parent / "sets" / "borderline" / "rows.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[:6]))
    c = evaluate(aldente, schedule, tmp_path, "c", [COMPLIES] * 6)
    result = aldente("compare", evaluated[0], c)
    assert result.code == BAD_INPUT
    assert "two versions of the eval set" in result.err
    assert "--across-versions" in result.err
    result = aldente("compare", evaluated[0], c, "--across-versions", *METRIC, "--json")
    assert result.json()["metrics"]["borderline.false_refusal"]["n"] == 6
    assert "6 rows are compared" in result.err
