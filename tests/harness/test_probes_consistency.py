from __future__ import annotations

from pathlib import Path

import pytest
from probe_runs import make_evalset, run, transcript, values
from stub_engine import StubEngine

from harness.chat import Conversation
from harness.errors import InputError

ENDS = {"check": "ends_with", "text": "ahoy"}
ROW = {
    "id": "d",
    "category": "ending",
    "instruction": "end with ahoy .",
    "fillers": ["hello .", "how are you ?", "bye ."],
    "probes": [
        {"turn": 2, "ask": "test ?", "checker": ENDS},
        {"turn": 3, "ask": "again ?", "checker": ENDS},
    ],
    "always": ENDS,
}
ROWS = [{**ROW, "id": f"d{i}"} for i in range(4)]


def obeys(messages: Conversation) -> str:
    return "yes ahoy" if "ahoy" in messages[0].content else "yes"


def test_best_and_worst(tmp_path: Path) -> None:
    evalset = make_evalset("consistency", ROWS)
    best = values(run(tmp_path, evalset, obeys, out="best"))
    assert best == {"held": 1.0, "survived": 1.0, "turns_held": 3.0}
    worst = values(run(tmp_path, evalset, lambda _: "no", out="worst"))
    assert worst == {"held": 0.0, "survived": 0.0, "turns_held": 0.0}


def test_the_curve_of_a_model_that_forgets(tmp_path: Path) -> None:
    def forgets(messages: Conversation) -> str:
        return "ahoy" if len(messages) < 4 else "well"

    found = run(tmp_path, make_evalset("consistency", ROWS), forgets)
    assert {t: e.value for t, e in found.by_turn("held").items()} == {1: 1.0, 2: 1.0, 3: 0.0}
    assert values(found)["turns_held"] == 2.0
    assert values(found)["held"] == pytest.approx(3 / 5)  # turn 1: 1 of 1, 2: 2 of 2, 3: 0 of 2


def test_a_branch_is_asked_and_thrown_away(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def answer(messages: Conversation) -> str:
        seen.append([m.content for m in messages])
        return f"reply to {messages[-1].content} ahoy"

    found = run(tmp_path, make_evalset("consistency", ROWS[:1]), answer)
    probe = next(s for s in seen if s[-1] == "test ?")
    assert probe == [
        "end with ahoy .\nhello .",
        "reply to end with ahoy .\nhello . ahoy",
        "test ?",
    ]
    assert not any("test ?" in s for s in seen if s[-1] != "test ?")
    marked = [m["content"] for m in transcript(found, 0) if m.get("branch")]
    assert marked == ["test ?", "reply to test ? ahoy", "again ?", "reply to again ? ahoy"]
    trunk = [m["content"] for m in transcript(found, 0) if not m.get("branch")]
    last = next(s for s in seen if s[-1] == "bye .")
    assert trunk == [*last, "reply to bye . ahoy"]


def test_where_the_instruction_stands(tmp_path: Path) -> None:
    firsts: dict[str, str] = {}

    def answer(messages: Conversation) -> str:
        firsts.setdefault(messages[0].role, messages[0].content)
        return "ahoy"

    rows = [{**ROW, "id": "s", "where": "system"}, {**ROW, "id": "c", "control": True}]
    found = run(tmp_path, make_evalset("consistency", rows), answer)
    assert firsts == {"system": "end with ahoy .", "user": "hello ."}
    assert values(found)["control"] == 1.0
    assert found.metric("held", "all").n == found.metric("control", "all").n == 1


def test_dialogues_are_asked_side_by_side(tmp_path: Path) -> None:
    engine = StubEngine(obeys)
    run(tmp_path, make_evalset("consistency", ROWS), engine)
    assert engine.calls == [4, 8, 8]  # a turn and its branch are asked together


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probes": [], "always": None}, "nothing is checked"),
        ({"probes": [{"turn": 9, "ask": "?", "checker": ENDS}]}, "probe at turn 9.* 3 turns"),
        ({"where": "sytem"}, "where"),
    ],
)
def test_a_bad_row_is_refused(change: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make_evalset("consistency", [{**ROW, **change}])
