"""What counts as there: committed and listed files only, and nothing damaged takes others down."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from dashboard_runs import SHARES, break_samples, names

from dashboards.data.index import View, find_runs, read_index
from dashboards.data.metrics import checkpoints, metrics
from dashboards.data.queries import damaged, query
from dashboards.data.runs import runs
from dashboards.data.summaries import problems
from harness.store.run import Run

RATE = ("borderline.false_refusal",)


def test_everything_committed_is_found_in_training_order(made: Path) -> None:
    index = read_index(made)
    assert [c.name for c in index.checkpoints] == [c.name for c in Run.open(made).checkpoints()]
    known = checkpoints(index)
    assert known[known["order"] >= 0]["checkpoint"].tolist() == names(6)
    assert known[known["kind"] == "reward"]["order"].tolist() == [-1]
    assert len(index.evaluations) == 6 * len(SHARES)
    assert index.problems == ()
    assert index.picked == Run.open(made).selection()["picked"]
    assert index.state() == "finished" == Run.open(made).state()


def test_the_same_bytes_are_not_read_twice_and_new_ones_are(spoilt: Path) -> None:
    first = read_index(spoilt)
    assert read_index(spoilt) is first
    Run(spoilt).append("picked", picked=None, reason="again")
    second = read_index(spoilt)
    assert second != first
    assert len(second.events) == len(first.events) + 1


def test_uncommitted_folders_are_not_opened(spoilt: Path) -> None:
    folder = next((spoilt / "evals" / "ppo-e003").glob("borderline@*"))
    (folder / "COMMIT").unlink()
    (spoilt / "checkpoints" / "ppo-e002" / "COMMIT").unlink()
    view = View.of(read_index(spoilt))
    found = metrics(view, RATE)["checkpoint"].tolist()
    assert "ppo-e003" not in found
    assert "ppo-e002" not in found  # its checkpoint is not there
    assert "ppo-e001" in found
    assert view.index.problems == ()  # half-done is no damage


@pytest.mark.parametrize("how", ["truncated", "gone"])
def test_a_damaged_file_is_named_and_left_out(spoilt: Path, how: str) -> None:
    path = break_samples(spoilt, "ppo-e001", "borderline", how)
    view = View.of(read_index(spoilt))
    assert [problem.path for problem in problems(view)] == [path]
    assert metrics(view, RATE)["checkpoint"].tolist() == [n for n in names(6) if n != "ppo-e001"]
    counted = query(view.entries(set="borderline"), "select count(distinct entry) n from samples")
    assert counted["n"].tolist() == [5]


def test_damage_that_only_reading_shows_spares_the_other_files(spoilt: Path) -> None:
    path = break_samples(spoilt, "ppo-e001", "gold", "torn")
    view = View.of(read_index(spoilt))
    entries = view.entries(set="gold")
    found = query(entries, "select entry, count(transcript) as n from samples group by entry")
    assert sorted(found["entry"]) == [
        i for i, e in enumerate(entries) if e.checkpoint != "ppo-e001"
    ]
    assert [problem.path for problem in damaged(entries)] == [path]


def test_a_query_that_is_wrong_itself_is_an_error_and_blames_no_file(made: Path) -> None:
    entries = View.of(read_index(made)).entries(set="gold")
    with pytest.raises(Exception, match="nonsense"):
        query(entries, "select nonsense from samples")
    assert damaged(entries) == []


def test_broken_json_is_named(spoilt: Path) -> None:
    (spoilt / "checkpoints" / "ppo-e000" / "checkpoint.json").write_text("{")
    with (spoilt / "events.jsonl").open("r+b") as file:
        file.write(b"x")
    (spoilt / "selection.json").write_text("[]")
    index = read_index(spoilt)
    assert {p.path.name for p in index.problems} == {
        *("checkpoint.json", "events.jsonl", "selection.json")
    }
    assert "ppo-e000" not in [c.name for c in index.checkpoints]
    assert len(index.events) == len(read_index(spoilt).events) > 5
    assert index.picked is None


@pytest.mark.parametrize("name", ["a[b]*?c", "per%cent", "quo'te", "spa ce", "ünï"])
def test_any_name_of_a_run_is_read_as_it_is(made: Path, tmp_path: Path, name: str) -> None:
    run = Path(shutil.copytree(made, tmp_path / name))
    other = Path(shutil.copytree(made, tmp_path / "ab_c"))  # what a pattern would also match
    assert other.is_dir()
    view = View.of(read_index(run))
    found = query(view.entries(set="harmful"), "select count(*) as n from samples")
    rows = View.of(read_index(made)).entries(set="harmful")
    assert found["n"].tolist() == query(rows, "select count(*) as n from samples")["n"].tolist()
    assert read_index(run).name == name


def test_a_folder_of_runs_or_one_run(made: Path, tmp_path: Path) -> None:
    assert find_runs(made) == [made]
    assert find_runs(made.parent) == [made]
    assert find_runs(tmp_path / "nothing") == []
    assert runs(made.parent)["checkpoints"].tolist() == [6]
    assert runs(tmp_path).empty


def test_another_schema_is_refused_by_name(spoilt: Path) -> None:
    (spoilt / "run.json").write_text('{"schema": 2}')
    assert "schema 2" in read_index(spoilt).problems[0].message


def test_two_versions_of_a_set_are_kept_apart(spoilt: Path) -> None:
    old = next((spoilt / "evals" / "ppo-e001").glob("gold@*"))
    shutil.copytree(old, old.with_name("gold@000000000000"))
    index = read_index(spoilt)
    own = old.name.rpartition("@")[2]
    assert index.versions()["gold"] == [own, "000000000000"]  # the run's own first
    assert len(View.of(index).entries(set="gold")) == 6
    assert len(View.of(index, {"gold": "000000000000"}).entries(set="gold")) == 1


def test_the_data_layer_needs_neither_torch_nor_streamlit() -> None:
    code = (
        "import importlib, pkgutil, sys, dashboards.data, dashboards.charts\n"
        "for p in (dashboards.data, dashboards.charts):\n"
        "    for m in pkgutil.iter_modules(p.__path__):\n"
        "        importlib.import_module(f'{p.__name__}.{m.name}')\n"
        "heavy = {'torch', 'streamlit', 'transformers', 'trainers', 'aldente'}\n"
        "print(sorted(heavy & {name.partition('.')[0] for name in sys.modules}))"
    )
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert found.stdout.strip() == "[]", found.stderr
