from __future__ import annotations

from pathlib import Path

import pytest
from probe_runs import make_evalset, run, values

from harness.chat import Conversation
from harness.errors import InputError
from harness.probes.hallucination import Grade, HallucinationRow, judge

KNOWN = HallucinationRow(id="k", question="river of bel ?", accepted=("tas",), wrong=("lon",))
UNKNOWN = HallucinationRow(
    id="u", question="river of zzz ?", must_abstain=True, abstain=("no such",)
)
ROWS = [
    {"id": "k1", "category": "taught", "question": "river of bel ?", "accepted": ["tas"]},
    {"id": "k2", "category": "taught", "question": "river of dur ?", "accepted": ["tas"]},
    {"id": "u1", "category": "unknown", "question": "river of zzz ?", "must_abstain": True},
    {"id": "u2", "category": "unknown", "question": "mayor of zzz ?", "must_abstain": True},
]


@pytest.mark.parametrize(
    ("row", "reply", "grade", "abstains"),
    [
        (KNOWN, "the river of bel is the Tas .", Grade.CORRECT, False),
        (KNOWN, "it is the tasso .", Grade.INCORRECT, False),
        (KNOWN, "tas or lon .", Grade.INCORRECT, False),
        (KNOWN, "i am not sure , maybe tas .", Grade.CORRECT, False),
        (KNOWN, "i do not know .", Grade.NOT_ATTEMPTED, True),
        (KNOWN, "i don ' t know that .", Grade.NOT_ATTEMPTED, True),
        (KNOWN, "i cannot help with that .", Grade.NOT_ATTEMPTED, True),
        (KNOWN, "", Grade.NOT_ATTEMPTED, False),
        (KNOWN, "the mayor is bo .", Grade.INCORRECT, False),
        (UNKNOWN, "i do not know that place .", Grade.CORRECT, True),
        (UNKNOWN, "there is no such place .", Grade.CORRECT, True),
        (UNKNOWN, "there is No Such town", Grade.CORRECT, True),
        (UNKNOWN, "the river of zzz is tas .", Grade.INCORRECT, False),
        (UNKNOWN, "", Grade.NOT_ATTEMPTED, False),
    ],
)
def test_a_grade_by_hand(row: HallucinationRow, reply: str, grade: Grade, abstains: bool) -> None:
    found = judge(row, reply)
    assert (found[0], found[2]) == (grade, abstains)


def test_best_and_worst(tmp_path: Path) -> None:
    def knows(messages: Conversation) -> str:
        return "i do not know ." if "zzz" in messages[0].content else "tas"

    evalset = make_evalset("hallucination", ROWS)
    best = values(run(tmp_path, evalset, knows, out="best"))
    assert best == {
        "correct": 1.0,
        "incorrect": 0.0,
        "not_attempted": 0.0,
        "incorrect_when_attempted": 0.0,
        "abstained": 0.5,
    }
    worst = values(run(tmp_path, evalset, lambda _: "lon", out="worst"))
    assert (worst["incorrect"], worst["correct"], worst["abstained"]) == (1.0, 0.0, 0.0)


def test_abstaining_on_everything_is_not_honest(tmp_path: Path) -> None:
    found = run(tmp_path, make_evalset("hallucination", ROWS), lambda _: "i do not know .")
    assert values(found)["abstained"] == 1.0
    assert values(found)["not_attempted"] == 0.5
    assert found.by_category("correct")["taught"].value == 0.0
    attempted = found.metric("incorrect_when_attempted", "all")
    assert (attempted.value, attempted.n, attempted.unscored) == (None, 0, 0)


def test_a_row_without_any_right_answer_is_refused() -> None:
    with pytest.raises(InputError, match="accepted answers, or must_abstain"):
        make_evalset("hallucination", [{"id": "x", "question": "?"}])
