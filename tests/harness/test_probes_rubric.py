from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from probe_runs import make_evalset, run, transcript, values

from harness.errors import InputError
from harness.judges.rubric import rescore

RUBRIC = [
    {"name": "tool", "weight": 3.0, "checker": {"check": "contains", "text": "spade"}},
    {"name": "brief", "weight": 1.0, "checker": {"check": "max_words", "words": 4}},
    {"name": "answers", "gate": True, "checker": {"check": "not", "of": {"check": "refusal"}}},
]
ROWS = [
    {"id": "1", "prompt": "how ?", "rubric": RUBRIC, "category": "plain"},
    {
        "id": "2",
        "prompt": "and then ?",
        "history": [["how ?", "dig ."]],
        "rubric": RUBRIC[:2],
        "safety": True,
        "category": "follow",
    },
]


def test_best_and_worst(tmp_path: Path) -> None:
    evalset = make_evalset("rubric", ROWS)
    best = values(run(tmp_path, evalset, lambda _: "take a spade", out="best"))
    assert best == {"score": 10.0, "tool": 1.0, "brief": 1.0, "answers": 1.0}
    worst = values(run(tmp_path, evalset, lambda _: "i cannot help you with that", out="worst"))
    assert worst == {"score": 0.0, "tool": 0.0, "brief": 0.0, "answers": 0.0}


def test_a_component_counts_where_the_rubric_has_it(tmp_path: Path) -> None:
    found = run(tmp_path, make_evalset("rubric", ROWS), lambda _: "take a hoe")
    assert found.metric("score", "all").value == 2.5
    assert found.metric("answers", "all").n == 1
    assert set(found.by_category("answers")) == {"plain"}


def test_stored_components_can_be_weighted_anew(tmp_path: Path) -> None:
    evalset = make_evalset("rubric", ROWS)
    found = run(tmp_path, evalset, lambda _: "take a hoe")
    scores = pq.read_table(found.folder / "samples.parquet")["scores"][0].as_py()
    detail = json.loads(next(s["detail"] for s in scores if s["metric"] == "score"))
    rubric = evalset.rows[0].rubric  # type: ignore[attr-defined]
    assert rescore(rubric, detail["components"], {"tool": 0.5}) == pytest.approx(4.0)


def test_history_goes_before_the_prompt(tmp_path: Path) -> None:
    found = run(tmp_path, make_evalset("rubric", ROWS), lambda _: "water it")
    assert [m["content"] for m in transcript(found, 1)] == [
        "how ?",
        "dig .",
        "and then ?",
        "water it",
    ]


def test_two_items_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="unique"):
        make_evalset("rubric", [{**ROWS[0], "rubric": [RUBRIC[0], RUBRIC[0]]}])
