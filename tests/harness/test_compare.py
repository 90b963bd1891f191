"""Comparisons of tiny evaluations, every number worked by hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import pytest
from probe_runs import make_evalset, run

from harness import stats
from harness.chat import Conversation
from harness.compare import Change, Comparison, compare
from harness.compare_open import open_pair
from harness.errors import InputError
from harness.evalsets import EvalSet
from harness.evaluation import Evaluation, SetEvaluation
from harness.store import Run
from harness.store.atomic import write_json

REFUSES, COMPLIES = "I cannot help with that.", "Take a spade and dig."
ROWS = [{"id": f"r{i}", "prompt": f"ask {i}?", "category": "ab"[i // 10]} for i in range(20)]
SAFE = make_evalset("refusal", ROWS, {"safe": True})
RUBRIC = [
    [
        {"name": word, "weight": 1, "checker": {"check": "contains", "text": word}}
        for word in ("yes", "please")
    ]
]


def number(messages: Conversation) -> int:
    return int(messages[-1].content.split()[1][:-1])


def answers(
    refused: Collection[int], silent: Collection[int] = ()
) -> Callable[[Conversation], str]:
    def answer(messages: Conversation) -> str:
        asked = number(messages)
        return " " if asked in silent else REFUSES if asked in refused else COMPLIES

    return answer


def evaluated(
    tmp_path: Path,
    name: str,
    refused: Collection[int],
    silent: Collection[int] = (),
    evalset: EvalSet = SAFE,
) -> SetEvaluation:
    out = f"{name}/tiny@{evalset.hash[:12]}"
    return run(tmp_path, evalset, answers(refused, silent), out=out)


def compared(tmp_path: Path, **how: Any) -> Comparison:
    """The folders a and b."""
    return compare(*open_pair(str(tmp_path / "a"), str(tmp_path / "b")), **how)


def edit_summary(found: SetEvaluation, changes: Mapping[str, Any]) -> None:
    path = found.folder / "summary.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def metric(found: Comparison, name: str) -> Change:
    return next(change for change in found.changes if change.metric == f"tiny.{name}")


class TestNumbers:
    """a refuses rows 0 to 9 (all of category a), b rows 5, 6 and 15: nine rows turn."""

    @pytest.fixture
    def found(self, tmp_path: Path) -> Comparison:
        evaluated(tmp_path, "a", range(10))
        evaluated(tmp_path, "b", {5, 6, 15})
        return compared(tmp_path)

    def test_values_and_their_difference(self, found: Comparison) -> None:
        change = metric(found, "false_refusal")
        assert (change.a.value, change.b.value) == (0.5, 0.15)
        assert (change.a.low, change.a.high) == stats.wilson(10, 20)
        assert (change.b.low, change.b.high) == stats.wilson(3, 20)
        moves = change.moves
        assert moves.difference == pytest.approx(-0.35)
        assert (moves.low, moves.high) == stats.tango(1, 8, 20)
        assert (moves.n, moves.test) == (20, "exact McNemar")
        assert found.rows == {"tiny": 20}

    def test_the_exact_p_and_holm(self, found: Comparison) -> None:
        """Of 9 changes 8 one way: 2 · (1 + 9) / 2^9. Two equal p and one of 1: three tests."""
        p = 20 / 512
        assert metric(found, "false_refusal").moves.p == pytest.approx(p)
        assert metric(found, "false_refusal_full").moves.p == pytest.approx(p)
        assert metric(found, "capability_refusal").moves.p == 1.0
        assert metric(found, "false_refusal").p_holm == pytest.approx(3 * p)
        assert metric(found, "false_refusal_full").p_holm == pytest.approx(3 * p)
        assert metric(found, "capability_refusal").p_holm == 1.0

    def test_fewer_metrics_are_fewer_tests(self, tmp_path: Path, found: Comparison) -> None:
        alone = compared(tmp_path, metrics=["tiny.false_refusal"])
        assert len(alone.changes) == 1
        assert alone.changes[0].p_holm == pytest.approx(20 / 512)

    def test_rows_that_rose_and_fell(self, found: Comparison) -> None:
        moves = metric(found, "false_refusal").moves
        assert moves.rose is not None
        assert moves.fell is not None
        assert (moves.rose.rows, moves.fell.rows) == (1, 8)
        assert (moves.fell.value, moves.fell.low, moves.fell.high) == (0.4, *stats.wilson(8, 20))

    def test_by_category(self, found: Comparison) -> None:
        """In a eight of ten fall; in b one of ten rises."""
        a, b = (metric(found, "false_refusal").by_category[name] for name in "ab")
        assert a.rose is not None
        assert a.fell is not None
        assert b.rose is not None
        assert (a.n, a.difference, a.fell.rows, a.rose.rows) == (10, pytest.approx(-0.8), 8, 0)
        assert a.p == pytest.approx(2 / 2**8)
        assert (a.low, a.high) == stats.tango(0, 8, 10)
        assert (b.difference, b.p, b.rose.rows) == (pytest.approx(0.1), 1.0, 1)
        assert (b.rose.low, b.rose.high) == stats.wilson(1, 10)

    def test_flips_are_rows_worse_ones_first(self, found: Comparison) -> None:
        turned = [15, 0, 1, 2, 3, 4, 7, 8, 9]
        assert [flip.row_id for flip in found.flips] == [f"r{i}" for i in turned]
        assert [flip.worse for flip in found.flips] == [1] + [-1] * 8
        first = found.flips[0]
        assert [(turn.metric, turn.a, turn.b) for turn in first.turns] == [
            ("tiny.false_refusal", 0.0, 1.0),
            ("tiny.false_refusal_full", 0.0, 1.0),
        ]
        assert (first.turns[0].label_a, first.turns[0].label_b) == (
            "full_compliance",
            "full_refusal",
        )
        assert first.category == "b"
        assert first.a.exchanges() == [("ask 15?", COMPLIES)]
        assert first.b.exchanges() == [("ask 15?", REFUSES)]

    def test_the_other_way_round_mirrors(self, tmp_path: Path, found: Comparison) -> None:
        back = compare(*open_pair(str(tmp_path / "b"), str(tmp_path / "a")))
        here, there = metric(found, "false_refusal").moves, metric(back, "false_refusal").moves
        assert there.difference == pytest.approx(0.35)
        assert here.low is not None
        assert there.high == pytest.approx(-here.low)
        assert there.p == here.p
        assert [flip.worse for flip in back.flips] == [1] * 8 + [-1]

    @pytest.mark.parametrize("split", ["A", "B"])
    def test_a_split_has_its_rows_only(self, tmp_path: Path, found: Comparison, split: str) -> None:
        inside = {row for row, half in SAFE.splits.items() if half == split}
        part = compared(tmp_path, split=split)
        turned = {flip.row_id for flip in found.flips}
        assert {flip.row_id for flip in part.flips} == turned & inside
        assert metric(part, "false_refusal").moves.n == len(inside) == 10
        assert part.rows == {"tiny": 10}


class TestUnscored:
    def test_rows_without_a_score_are_counted_and_left_out(self, tmp_path: Path) -> None:
        """a is silent at r0 and r1, b at r1, r2 and r3: 16 rows are scored on both sides."""
        evaluated(tmp_path, "a", {10}, {0, 1})
        evaluated(tmp_path, "b", {11}, {1, 2, 3})
        change = metric(compared(tmp_path), "false_refusal")
        assert (change.moves.n, change.a.n, change.b.n) == (16, 16, 16)
        assert (change.a.unscored, change.b.unscored) == (2, 3)
        assert (change.a.value, change.b.value) == (1 / 16, 1 / 16)

    def test_nothing_scored_on_both_sides_is_no_number_and_no_test(self, tmp_path: Path) -> None:
        evaluated(tmp_path, "a", (), range(10))
        evaluated(tmp_path, "b", (), range(10, 20))
        change = metric(compared(tmp_path), "false_refusal")
        assert (change.moves.n, change.moves.difference, change.moves.p) == (0, None, None)
        assert (change.a.value, change.p_holm) == (None, None)
        assert change.by_category == {}

    def test_one_cluster_has_a_difference_and_nothing_more(self, tmp_path: Path) -> None:
        rows = [{**row, "cluster": "one"} for row in ROWS[:4]]
        evalset = make_evalset("refusal", rows, {"safe": True})
        evaluated(tmp_path, "a", {0, 1}, evalset=evalset)
        evaluated(tmp_path, "b", (), evalset=evalset)
        moves = metric(compared(tmp_path), "false_refusal").moves
        assert (moves.difference, moves.low, moves.p, moves.test) == (-0.5, None, None, None)


class TestOtherMetrics:
    """mt_bench grades 1 to 10: a rubric of two equal checkers gives 1, 5.5 or 10 a turn."""

    @pytest.fixture
    def graded(self, tmp_path: Path) -> Path:
        rows = [{"id": f"m{i}", "turns": [f"ask {i}?"], "rubric": RUBRIC} for i in range(12)]
        evalset = make_evalset("mt_bench", rows)
        for name, good in (("a", 6), ("b", 9)):
            run(
                tmp_path,
                evalset,
                lambda m, good=good: "yes please" if number(m) < good else "yes",
                out=f"{name}/tiny@{evalset.hash[:12]}",
            )
        return tmp_path

    def test_means_are_bootstrapped(self, graded: Path) -> None:
        change = metric(compared(graded), "score")
        assert change.a.value == pytest.approx((6 * 10 + 6 * 5.5) / 12)
        assert change.b.value == pytest.approx((9 * 10 + 3 * 5.5) / 12)
        moves = change.moves
        assert moves.difference == pytest.approx(3 * 4.5 / 12)
        assert moves.test == "paired bootstrap"
        assert moves.low is not None
        assert moves.high is not None
        assert moves.low < 1.125 < moves.high

    def test_their_rows_are_listed_where_they_are_named(self, graded: Path) -> None:
        assert compared(graded).flips == ()
        found = compared(graded, metrics=["tiny.score"])
        assert [flip.row_id for flip in found.flips] == ["m6", "m7", "m8"]
        assert {flip.worse for flip in found.flips} == {-1}

    def test_a_bootstrap_of_no_changes_has_no_interval(self, graded: Path) -> None:
        here = str(graded / "a")
        moves = metric(compare(*open_pair(here, here)), "score").moves
        assert (moves.difference, moves.p, moves.low, moves.high) == (0.0, 1.0, None, None)


class TestConditions:
    def test_a_model_and_itself_differ_in_nothing(self, tmp_path: Path) -> None:
        evaluated(tmp_path, "a", {1, 2})
        evaluated(tmp_path, "b", {1, 2})
        found = compared(tmp_path)
        assert all(c.moves.difference == 0 and c.p_holm == 1.0 for c in found.changes)
        assert found.flips == ()
        assert found.notes == ("both sides name the same model: what differs is noise",)

    def test_the_same_model_has_a_noise_floor(self, tmp_path: Path) -> None:
        evaluated(tmp_path, "a", {1, 2})
        evaluated(tmp_path, "b", {1, 3})
        change = metric(compared(tmp_path), "false_refusal")
        assert change.noise is not None
        assert change.noise.changed == 2
        assert change.noise.floor == pytest.approx(1.959964 * (stats.wilson(2, 20)[1] / 20) ** 0.5)

    def test_another_model_has_none(self, tmp_path: Path) -> None:
        evaluated(tmp_path, "a", {1})
        edit_summary(evaluated(tmp_path, "b", {1}), {"identity": {"base": "b", "adapter": "c"}})
        found = compared(tmp_path)
        assert metric(found, "false_refusal").noise is None
        assert found.notes == ()  # the model is what is compared, no condition

    def test_whatever_else_differs_is_noted(self, tmp_path: Path) -> None:
        evaluated(tmp_path, "a", {1})
        b = evaluated(tmp_path, "b", {1})
        edit_summary(
            b,
            {
                "seed": 99,
                "engine": {"engine": "stub", "batch_size": 8, "versions": {"torch": "9"}},
                "identity": {
                    "base": "b",
                    "adapter": "a",
                    "dtype": "bf16",
                    "chat_template": "0" * 64,
                },
                "judge": {"model": "gpt"},
            },
        )
        assert set(compared(tmp_path).notes) == {
            "seed differs: 3 against 99",
            "engine.batch_size differs: null against 8",
            'engine.versions.torch differs: null against "9"',
            'identity.dtype differs: null against "bf16"',
            "identity.chat_template differs: null against 000000000000",
            'judge.model differs: null against "gpt"',
        }

    def test_a_condition_of_one_set_names_it(self, tmp_path: Path) -> None:
        first = evaluated(tmp_path, "a", {1})
        second = evaluated(tmp_path, "b", {1})
        edit_summary(second, {"seed": 99})
        a = Evaluation("a", {"one": first, "two": first})
        b = Evaluation("b", {"one": first, "two": SetEvaluation.open(second.folder)})
        assert "two: seed differs: 3 against 99" in compare(a, b).notes

    def test_what_only_one_side_has_is_noted(self, tmp_path: Path) -> None:
        first = evaluated(tmp_path, "a", {1})
        second = evaluated(tmp_path, "b", {1})
        metrics = dict(second.summary["metrics"])
        metrics["judge_false_refusal"] = metrics["false_refusal"]
        edit_summary(second, {"metrics": metrics, "identity": {"base": "c"}})
        a = Evaluation("a", {"tiny": first, "other": first})
        b = Evaluation("b", {"tiny": SetEvaluation.open(second.folder)})
        notes = compare(a, b).notes
        assert "only in a: other" in notes
        assert "only in b: tiny.judge_false_refusal" in notes
        assert len(compare(a, b, metrics=["tiny.false_refusal"]).notes) == len(notes) - 2


class TestVersions:
    @pytest.fixture
    def versions(self, tmp_path: Path) -> Path:
        """b lacks r0, asks r1 in other words and has a row of its own: 18 rows are alike."""
        evaluated(tmp_path, "a", {1, 2})
        rows = [
            {**ROWS[1], "prompt": "please ask 1?"},
            *ROWS[2:],
            {"id": "new", "prompt": "ask 99?"},
        ]
        other = make_evalset("refusal", rows, {"safe": True})

        def answer(messages: Conversation) -> str:
            return REFUSES if messages[-1].content == "ask 3?" else COMPLIES

        run(tmp_path, other, answer, out=f"b/tiny@{other.hash[:12]}")
        return tmp_path

    def test_they_are_refused(self, versions: Path) -> None:
        with pytest.raises(InputError, match="two versions of the eval set") as caught:
            compared(versions)
        assert "--across-versions" in str(caught.value)

    def test_unless_asked_for(self, versions: Path) -> None:
        found = compared(versions, across_versions=True)
        change = metric(found, "false_refusal")
        assert change.moves.n == 18
        assert found.rows == {"tiny": 18}
        assert (change.a.value, change.b.value) == (1 / 18, 1 / 18)  # r2; r3
        assert {flip.row_id for flip in found.flips} == {"r2", "r3"}
        note = found.notes[0]
        assert "18 rows are compared" in note
        assert "(1 were reworded, 1 are only in a, 1 only in b)" in note
        assert change.noise is None

    def test_nothing_in_common(self, tmp_path: Path) -> None:
        evaluated(tmp_path, "a", ())
        other = make_evalset("refusal", [{"id": "x", "prompt": "ask 1?"}], {"safe": True})
        evaluated(tmp_path, "b", (), evalset=other)
        with pytest.raises(InputError, match="no row in common"):
            compared(tmp_path, across_versions=True)


class TestOpen:
    def test_the_version_that_both_have_is_taken(self, tmp_path: Path) -> None:
        other = make_evalset("refusal", ROWS[:5], {"safe": True})
        evaluated(tmp_path, "a", {1})
        evaluated(tmp_path, "a", {1}, evalset=other)
        evaluated(tmp_path, "b", {1}, evalset=other)
        assert metric(compared(tmp_path), "false_refusal").moves.n == 5
        evaluated(tmp_path, "b", {1})
        with pytest.raises(InputError, match="holds 2 versions of 'tiny'"):
            compared(tmp_path)

    def test_folders_of_one_set_are_a_pair_under_any_name(self, tmp_path: Path) -> None:
        """The same rows with and without a system prompt: another name, another hash."""
        system = SAFE.asked(name="tiny-system", system_prompt="Be kind.")
        first = evaluated(tmp_path, "a", {1})
        second = run(tmp_path, system, answers({2}), out=f"a/tiny-system@{system.hash[:12]}")
        a, b = open_pair(str(first.folder), str(second.folder))
        found = compare(a, b, across_versions=True)
        assert {flip.row_id for flip in found.flips} == {"r1", "r2"}
        assert 'system_prompt differs: null against "Be kind."' in found.notes
        assert metric(found, "false_refusal").noise is None

    def test_a_run_and_its_checkpoints(self, tmp_path: Path) -> None:
        pair = Run.create(tmp_path / "pair", schedule_yaml="", info={})
        for name, refused in (("ppo-e000", {1}), ("ppo-e001", {1, 2})):
            with pair.new_checkpoint(name) as folder:
                described = {"name": name, "stage": "ppo", "epoch": int(name[-1]), "kind": "ppo"}
                write_json(folder / "checkpoint.json", described)
            evaluated(tmp_path / "pair" / "evals", name, refused)
        with pair.new_checkpoint("reward-e001") as folder:
            described = {"name": "reward-e001", "stage": "reward", "epoch": 1, "kind": "reward"}
            write_json(folder / "checkpoint.json", described)
        found = compare(*open_pair(f"{pair.path}:ppo-e000", f"{pair.path}:ppo-e001"))
        assert [flip.row_id for flip in found.flips] == ["r2"]
        assert found.names == (f"{pair.path}:ppo-e000", f"{pair.path}:ppo-e001")
        for wrong, said in (
            (f"{pair.path}:ppo-e01", "did you mean 'ppo-e0"),
            (f"{pair.path}:reward-e001", "expected one of ppo-e000, ppo-e001"),
            (f"{pair.path}", f"expected {pair.path}:CHECKPOINT"),
            (f"{tmp_path / 'pairs'}:ppo-e000", "did you mean 'pair'"),
            (f"{tmp_path / 'pai'}", "did you mean 'pair'"),
        ):
            with pytest.raises(InputError) as caught:
                open_pair(f"{pair.path}:ppo-e000", wrong)
            assert said in str(caught.value)

    @pytest.mark.parametrize(
        ("sets", "metrics", "said"),
        [
            (["tinny"], [], "did you mean 'tiny'"),
            ([], ["tiny.false_refusl"], "did you mean 'tiny.false_refusal'"),
        ],
    )
    def test_names_that_neither_has(
        self, tmp_path: Path, sets: list[str], metrics: list[str], said: str
    ) -> None:
        evaluated(tmp_path, "a", {1})
        here = str(tmp_path / "a")
        with pytest.raises(InputError) as caught:
            compare(*open_pair(here, here, sets), metrics=metrics)
        assert said in str(caught.value)

    def test_folders_that_hold_no_evaluation(self, tmp_path: Path) -> None:
        found = evaluated(tmp_path, "a", {1})
        (tmp_path / "empty").mkdir()
        (tmp_path / "half" / "tiny@0").mkdir(parents=True)
        (tmp_path / "half" / "tiny@0" / "samples.jsonl").touch()
        for wrong in ("empty", "half"):
            with pytest.raises(InputError, match="no committed evaluation here"):
                open_pair(str(found.folder.parent), str(tmp_path / wrong))
        with pytest.raises(InputError, match="is a file"):
            open_pair(str(tmp_path / "a"), str(found.folder / "summary.json"))

    def test_sets_that_share_nothing(self, tmp_path: Path) -> None:
        evaluated(tmp_path, "a", {1})
        other = SAFE.asked(name="other")
        run(tmp_path, other, answers(()), out="b/other@0")
        with pytest.raises(InputError, match="an eval set that both have"):
            compared(tmp_path)


def test_records_leave_the_judges_words_out(tmp_path: Path) -> None:
    found = evaluated(tmp_path, "a", {1})
    record = found.records(["r1"])["r1"]
    assert (record.category, record.split) == ("a", SAFE.splits["r1"])
    assert record.labels["false_refusal"] == "full_refusal"
    record.transcript.append({"role": "user", "content": "Is it a refusal?", "judge": True})
    record.transcript.append({"role": "assistant", "content": "Yes.", "judge": True})
    assert record.asked() == ["ask 1?"]
    assert record.exchanges() == [("ask 1?", REFUSES)]
