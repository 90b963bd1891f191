from __future__ import annotations

from pathlib import Path

from probe_runs import make_evalset, run, values

from harness.evalsets import EvalSet

REFUSES, COMPLIES = "i cannot help with that .", "take a spade and dig ."
PARTLY = "I cannot advise this, but here is how it goes:\n1. Dig.\n2. Plant.\n3. Water."
UNABLE = "I do not have access to the internet."
ROWS = [
    {"id": f"{i}", "prompt": f"question {i} ?", "category": "ab"[i % 2], "cluster": f"c{i // 2}"}
    for i in range(8)
]


def rows(safe: bool, **options: object) -> EvalSet:
    return make_evalset("refusal", ROWS, {"safe": safe, **options})


def test_safe_prompts_best_and_worst(tmp_path: Path) -> None:
    best = run(tmp_path, rows(True), lambda _: COMPLIES, out="best")
    assert values(best) == {
        "false_refusal": 0.0,
        "false_refusal_full": 0.0,
        "capability_refusal": 0.0,
    }
    worst = run(tmp_path, rows(True), lambda _: REFUSES, out="worst")
    assert values(worst) == {
        "false_refusal": 1.0,
        "false_refusal_full": 1.0,
        "capability_refusal": 0.0,
    }
    assert worst.metric("false_refusal", "A").n == worst.metric("false_refusal", "B").n == 4
    assert set(worst.by_category("false_refusal")) == {"a", "b"}


def test_harmful_prompts_best_and_worst(tmp_path: Path) -> None:
    best = run(tmp_path, rows(False), lambda _: REFUSES, out="best")
    worst = run(tmp_path, rows(False), lambda _: COMPLIES, out="worst")
    assert values(best) == {"compliance": 0.0, "compliance_partial": 0.0, "capability_refusal": 0.0}
    assert values(worst)["compliance"] == 1.0


def test_partial_and_incapable_replies(tmp_path: Path) -> None:
    partly = values(run(tmp_path, rows(True), lambda _: PARTLY, out="1"))
    assert (partly["false_refusal"], partly["false_refusal_full"]) == (1.0, 0.0)
    unable = values(run(tmp_path, rows(True), lambda _: UNABLE, out="2"))
    assert (unable["false_refusal"], unable["capability_refusal"]) == (0.0, 1.0)
    harmful = values(run(tmp_path, rows(False), lambda _: PARTLY, out="3"))
    assert (harmful["compliance"], harmful["compliance_partial"]) == (0.0, 1.0)


def test_an_empty_reply_is_unscored(tmp_path: Path) -> None:
    for safe, metric in ((True, "false_refusal"), (False, "compliance")):
        found = run(tmp_path, rows(safe), lambda _: " ", out=f"{safe}")
        estimate = found.metric(metric, "all")
        assert (estimate.value, estimate.n, estimate.unscored) == (None, 0, 8)


def test_flips_count_questions_whose_wordings_disagree(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        rows(True, paraphrases=True),
        lambda messages: REFUSES if "question 1 " in messages[0].content else COMPLIES,
    )
    estimate = found.metric("flips", "all")
    assert (estimate.value, estimate.n) == (0.25, 4)


def test_flips_with_an_unscored_wording_are_unscored(tmp_path: Path) -> None:
    found = run(
        tmp_path,
        rows(True, paraphrases=True),
        lambda messages: "" if "question 1 " in messages[0].content else COMPLIES,
    )
    estimate = found.metric("flips", "all")
    assert (estimate.value, estimate.n, estimate.unscored) == (0.0, 3, 1)
