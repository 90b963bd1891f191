from __future__ import annotations

from pathlib import Path

import pytest
from probe_runs import make_evalset, run, transcript, values
from stub_engine import StubEngine

from harness.chat import Conversation
from harness.errors import InputError
from harness.probes import available_metrics

RUBRIC = [
    [
        {"name": "right", "weight": 2.0, "checker": {"check": "equals", "text": "seven"}},
        {"name": "brief", "weight": 1.0, "checker": {"check": "max_words", "words": 1}},
    ],
    [{"name": "right", "checker": {"check": "contains", "text": "eight"}}],
]
ROWS = [
    {
        "id": f"m{i}",
        "category": "writing" if i == 0 else "count",
        "turns": ["3 + 4 ?", "+ 1 ?"],
        "references": ["seven", None],
        "rubric": RUBRIC,
    }
    for i in range(4)
]


def right(messages: Conversation) -> str:
    return "eight" if len(messages) == 3 else "seven"


def test_best_and_worst(tmp_path: Path) -> None:
    evalset = make_evalset("mt_bench", ROWS)
    best = run(tmp_path, evalset, right, out="best")
    assert values(best) == {"score": 10.0, "turn_1": 10.0, "turn_2": 10.0}
    worst = run(tmp_path, evalset, lambda _: "one word too many", out="worst")
    assert values(worst) == {"score": 1.0, "turn_1": 1.0, "turn_2": 1.0}


def test_turns_and_their_mean_by_hand(tmp_path: Path) -> None:
    found = run(tmp_path, make_evalset("mt_bench", ROWS), lambda _: "seven")
    assert values(found) == {"score": 5.5, "turn_1": 10.0, "turn_2": 1.0}
    assert {t: e.value for t, e in found.by_turn("score").items()} == {1: 10.0, 2: 1.0}
    assert found.metric("score", "all").n == 4
    half = run(tmp_path, make_evalset("mt_bench", ROWS), lambda _: "six", out="half")
    assert half.metric("turn_1", "all").value == pytest.approx(4.0)


def test_the_second_turn_follows_the_first_reply(tmp_path: Path) -> None:
    engine = StubEngine(right)
    found = run(tmp_path, make_evalset("mt_bench", ROWS), engine)
    assert [(m["role"], m["content"]) for m in transcript(found, 0)] == [
        ("user", "3 + 4 ?"),
        ("assistant", "seven"),
        ("user", "+ 1 ?"),
        ("assistant", "eight"),
    ]
    assert engine.calls == [4, 4]
    assert {(r.key, r.temperature) for r in engine.asked if r.key.startswith("m0/")} == {
        ("m0/0", 0.7),
        ("m0/1", 0.7),
    }


def test_without_a_rubric_the_score_needs_a_judge(tmp_path: Path) -> None:
    bare = [{key: value for key, value in row.items() if key != "rubric"} for row in ROWS]
    evalset = make_evalset("mt_bench", bare)
    assert available_metrics(evalset) == {}
    assert "score" in available_metrics(evalset, have_judge=True)
    assert run(tmp_path, evalset, right).names() == []


def test_a_rubric_for_each_turn() -> None:
    with pytest.raises(InputError, match="1 rubric for 2 turns"):
        make_evalset("mt_bench", [{**ROWS[0], "rubric": RUBRIC[:1]}])
