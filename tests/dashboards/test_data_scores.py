"""What is read once and kept, against the harness's own reading; and what keeps it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dashboard_runs import break_samples, make_run, names

from dashboards.data import ahead, queries
from dashboards.data.estimating import at_level, items
from dashboards.data.index import View, read_index
from dashboards.data.metrics import catalogue
from dashboards.data.remembering import remembered
from dashboards.data.scores import scores
from harness.evaluation import MetricInfo
from harness.store.run import Run


@pytest.mark.parametrize("split", ["A", "B", "all"])
def test_items_are_those_of_the_harness(made: Path, split: str) -> None:
    view = View.of(read_index(made), split=split)
    run = Run.open(made)
    for name in catalogue(view):
        of_set, _, metric = name.partition(".")
        entries = view.entries(set=of_set)
        found = items(entries, metric, split)
        assert len(found) == 6
        for place, entry in enumerate(entries):
            evaluation = run.evaluation(entry.checkpoint)
            assert evaluation is not None
            expected = evaluation.items(name, split)
            assert found[place].ids == expected.ids
            assert found[place].clusters == expected.clusters
            assert found[place].values == pytest.approx(expected.values, rel=1e-12)
            assert found[place].weights == pytest.approx(expected.weights, rel=1e-12)


def test_rows_that_are_the_same_are_kept_once(made: Path) -> None:
    entries = View.of(read_index(made)).entries(set="gold")
    found = scores(entries)
    assert len({id(scored.rows) for scored in found.values()}) == 1


def test_evaluations_with_other_rows_are_told_apart(tmp_path: Path) -> None:
    """As after a run was mended by hand: one checkpoint has fewer rows under the same name."""
    run = make_run(tmp_path / "run", checkpoints=3, samples=280, limit_sets=("gold", "borderline"))
    less = make_run(tmp_path / "less", checkpoints=3, samples=140, limit_sets=("gold",))
    there = next((run / "evals" / "sft-e001").glob("gold@*"))
    other = next((less / "evals" / "sft-e001").glob("gold@*"))
    for file in other.iterdir():
        (there / file.name).write_bytes(file.read_bytes())
    entries = View.of(read_index(run)).entries(set="gold")
    found = scores(entries)
    sizes = {entries[place].checkpoint: len(scored.rows.ids) for place, scored in found.items()}
    assert sizes == {"sft-e000": 42, "sft-e001": 21, "ppo-e000": 42}
    info = MetricInfo("mean", "higher", "", 0.0, 10.0)
    for level in (0.8, 0.95):
        bounds = at_level(entries, "score", info, "all", level)
        for entry in entries:
            evaluation = Run.open(run).evaluation(entry.checkpoint)
            assert evaluation is not None
            said = evaluation.metric("gold.score", "all", confidence=level)
            assert bounds[entry] == pytest.approx((said.low, said.high), abs=1e-9)


def test_a_damaged_file_leaves_the_others(spoilt: Path) -> None:
    break_samples(spoilt, "ppo-e001", "gold", "torn")
    entries = View.of(read_index(spoilt)).entries(set="gold")
    found = scores(entries)
    there = [entries[place].checkpoint for place in found]
    assert there == [name for name in names(6) if name != "ppo-e001"]


def test_a_new_checkpoint_is_read_and_the_others_are_not(
    spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = View.of(read_index(spoilt)).entries(set="mt_bench")
    scores(entries[:-1])
    asked: list[int] = []
    query = queries.query

    def counted(given: list[object], *rest: object) -> object:
        asked.append(len(given))
        return query(given, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr("dashboards.data.scores.query", counted)
    assert len(scores(entries)) == 6
    assert set(asked) == {1}
    asked.clear()
    scores(entries)
    assert asked == []


def test_what_was_read_ahead_is_not_read_again(
    spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead.of_newest(spoilt.parent).join(60)
    begun = ahead.of(View.of(read_index(spoilt)))
    assert begun is not None
    begun.join(60)
    assert ahead.of(View.of(read_index(spoilt), level=0.8)) is None

    def never(*_: object) -> object:
        raise AssertionError("read again")

    monkeypatch.setattr("dashboards.data.scores.query", never)
    view = View.of(read_index(spoilt), split="B", level=0.9)
    for name in view.sets():
        assert len(scores(view.entries(set=name))) == 6


def test_results_are_kept_by_what_they_depend_on(made: Path) -> None:
    seen: list[tuple[float, str]] = []

    @remembered(8)
    def of_rows(view: View, name: str) -> str:
        seen.append((view.level, view.split))
        return name

    @remembered(8, rows=False)
    def of_neither(view: View) -> float:
        seen.append((view.level, view.split))
        return np.pi

    index = read_index(made)
    for level in (0.8, 0.95, 0.99):
        assert of_rows(View.of(index, level=level), "a") == "a"
    assert of_rows(View.of(index, split="B"), "a") == "a"
    assert seen == [(0.95, "A"), (0.95, "B")]
    seen.clear()
    for level in (0.8, 0.95):
        for split in ("A", "all"):
            of_neither(View.of(index, split=split, level=level))
    assert seen == [(0.95, "all")]
