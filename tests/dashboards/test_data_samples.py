"""Single rows, flips, members, turns and outcomes against plain reading of the same files."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from dashboard_runs import HOSTILE, names

from dashboards.data import consistency, evalsets, hallucination, live, pairs, reward, samples
from dashboards.data.index import View, read_index
from harness.compare import compare
from harness.stats import holm
from harness.store.run import Run


def plain(run: Path, checkpoint: str, of_set: str) -> list[dict[str, Any]]:
    """The rows of one samples.parquet."""
    path = next((run / "evals" / checkpoint).glob(f"{of_set}@*")) / "samples.parquet"
    rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    return rows


def test_pages_hold_every_row_once_in_order(made: Path) -> None:
    view = View.of(read_index(made), split="all")
    expected = [(n, r["row_id"]) for n in names(6) for r in plain(made, n, "hallucination")]
    found: list[tuple[str, str]] = []
    for page in range(20):
        part = samples.sample_page(view, "hallucination", "correct", page=page)
        assert part.total == len(expected)
        assert len(part.rows) <= samples.PAGE == 50
        found += list(zip(part.rows["checkpoint"], part.rows["row_id"], strict=True))
    assert found == expected


def test_filters_agree_with_plain_reading(made: Path) -> None:
    view = View.of(read_index(made))
    rows = [r for r in plain(made, "ppo-e003", "borderline") if r["split"] == "A"]
    refused = {
        r["row_id"]
        for r in rows
        if any(s["metric"] == "false_refusal" and s["label"] == "full_refusal" for s in r["scores"])
    }
    page = samples.sample_page(
        view, "borderline", "false_refusal", checkpoint="ppo-e003", label="full_refusal"
    )
    assert set(page.rows["row_id"]) == refused
    assert 0 < len(refused) < len(rows) + 1
    odd = samples.sample_page(
        view, "borderline", "false_refusal", checkpoint="ppo-e003", category="odd"
    )
    assert set(odd.rows["row_id"]) == {r["row_id"] for r in rows if r["category"] == "odd"}
    said = {r["row_id"]: json.loads(r["transcript"]) for r in rows}
    for row in page.rows.to_dict("records"):
        assert row["prompt"] == said[row["row_id"]][0]["content"]
        assert row["reply"] == said[row["row_id"]][-1]["content"]
    counts = samples.label_counts(view, "borderline", "false_refusal", "ppo-e003")
    assert dict(zip(counts["label"], counts["n"], strict=True))["full_refusal"] == len(refused)
    assert samples.categories(view, "borderline") == ["even", "odd"]


@pytest.mark.parametrize(
    ("search", "hits"),
    [("CANNOT HELP", True), ("borderline-0000", True), ("'; drop table samples; --", False)],
)
def test_searching_is_plain_text(made: Path, search: str, hits: bool) -> None:
    view = View.of(read_index(made), split="all")
    found = samples.sample_page(view, "borderline", "false_refusal", search=search)
    assert bool(found.total) is hits
    for text in found.rows["reply"] if search == "CANNOT HELP" else ():
        assert "cannot help" in text


def test_markup_is_found_and_given_as_it_was_said(hostile: Path) -> None:
    view = View.of(read_index(hostile), split="all")
    found = samples.sample_page(view, "gold", "score", search='onerror="window.pwned=1"')
    assert found.total == len(plain(hostile, "sft-e000", "gold")) * 4
    assert found.rows["reply"].str.endswith(HOSTILE).all()


def test_a_row_in_full_and_over_the_training(made: Path) -> None:
    view = View.of(read_index(made))
    raw = plain(made, "ppo-e002", "consistency")[0]
    found = samples.sample(view, "ppo-e002", "consistency", raw["row_id"])
    assert found is not None
    assert found.messages == json.loads(raw["transcript"])
    assert [s["metric"] for s in found.scores] == [s["metric"] for s in raw["scores"]]
    assert [s.checkpoint for s in samples.row_history(view, "consistency", raw["row_id"])] == names(
        6
    )
    assert samples.sample(view, "ppo-e002", "consistency", "no such row") is None


def test_flips_are_those_of_compare(made: Path) -> None:
    view = View.of(read_index(made))
    opened = Run.open(made)
    a, b = opened.evaluation("sft-e001"), opened.evaluation("ppo-e003")
    assert a is not None
    assert b is not None
    wanted = ("borderline.false_refusal", "gold.score")
    truth = compare(a, b, metrics=wanted, split="A")
    found = pairs.comparison(view, "sft-e001", "ppo-e003", wanted)
    assert found.changes == truth.changes
    assert pairs.flip_list(found) == list(truth.flips) != []
    worse = pairs.flip_list(found, "worse")
    assert worse == [f for f in truth.flips if f.worse > 0]
    moves = pairs.moves(found).set_index("metric")
    assert moves.loc["gold.score", "difference"] == truth.changes[1].moves.difference
    shared = pairs.shared_metrics(view, "sft-e001", "ppo-e003")
    assert set(shared) == set(a.names()) & set(b.names())


def test_the_flip_matrix_counts_rows(made: Path) -> None:
    view = View.of(read_index(made))

    def labels(checkpoint: str) -> dict[str, str]:
        return {
            r["row_id"]: s["label"]
            for r in plain(made, checkpoint, "borderline")
            if r["split"] == "A"
            for s in r["scores"]
            if s["metric"] == "false_refusal"
        }

    before, after = labels("sft-e001"), labels("ppo-e001")
    truth = Counter((before[row], after[row]) for row in before)
    found = pairs.flip_matrix(view, "sft-e001", "ppo-e001", "borderline.false_refusal")
    assert {(r["before"], r["after"]): r["n"] for r in found.to_dict("records")} == truth
    assert len(truth) > 1
    assert pairs.flip_matrix(view, "sft-e001", "none", "borderline.false_refusal").empty


def test_members_are_those_in_the_details(made: Path) -> None:
    view = View.of(read_index(made), split="all")
    scores = reward.member_scores(view, "ppo-e002").set_index("row_id")
    for row in plain(made, "ppo-e002", "reward"):
        detail = next(json.loads(s["detail"]) for s in row["scores"] if s["metric"] == "proxy")
        for model, values in detail["members"].items():
            for i, value in enumerate(values):
                assert scores.loc[row["row_id"], f"{model}/{i}"] == pytest.approx(value)
    pair = reward.member_correlation(view, "ppo-e002").iloc[0]
    expected = np.corrcoef(scores["helpfulness/0"], scores["helpfulness/1"])[0, 1]
    assert pair["r"] == pytest.approx(expected)
    assert pair["low"] < pair["r"] < pair["high"]


def test_the_plane_counts_every_reply_once(made: Path) -> None:
    view = View.of(read_index(made), split="all")
    found = reward.reward_plane(view, "ppo-e002")
    assert found is not None
    assert (found.x, found.y) == ("helpfulness", "safety")
    assert found.cells["n"].sum() == found.n == len(plain(made, "ppo-e002", "reward"))
    assert len(found.cells) <= reward.MOST**2
    scores = reward.member_scores(view, "ppo-e002")
    columns = [f"{m}/{i}" for m in ("helpfulness", "safety") for i in range(2)]
    spread = (scores[columns[:2]].std(axis=1, ddof=0) + scores[columns[2:]].std(axis=1, ddof=0)) / 2
    weighted = (found.cells["disagreement"] * found.cells["n"]).sum() / found.n
    assert weighted == pytest.approx(spread.mean())
    assert found.spread.value == pytest.approx(spread.mean())
    assert reward.reward_plane(view, "helpfulness-e001") is None


def test_the_replies_of_a_cell_are_those_within_its_edges(made: Path) -> None:
    view = View.of(read_index(made), split="all")
    found = reward.reward_plane(view, "ppo-e002")
    assert found is not None
    scores = reward.member_scores(view, "ppo-e002")
    x = scores[["helpfulness/0", "helpfulness/1"]].mean(axis=1)
    assert found.below.value == pytest.approx((x < 0).mean())
    assert found.below.low < found.below.value < found.below.high
    clusters = len({r["cluster"] for r in plain(made, "ppo-e002", "reward")})
    assert clusters < found.below.n == found.n  # rows of a cluster are not independent
    seen: list[str] = []
    for cell in found.cells.to_dict("records"):
        rows = reward.cell_replies(view, "ppo-e002", cell["i"], cell["j"])
        assert len(rows) == cell["n"]
        assert rows["x"].between(cell["x0"] - 1e-9, cell["x1"] + 1e-9).all()
        assert rows["y"].between(cell["y0"] - 1e-9, cell["y1"] + 1e-9).all()
        assert rows["disagreement"].mean() == pytest.approx(cell["disagreement"])
        assert rows["disagreement"].is_monotonic_decreasing
        seen += rows["row_id"].tolist()
    assert sorted(seen) == sorted(scores["row_id"])
    assert reward.cell_replies(view, "ppo-e002", 99, 99).empty


def test_sides_by_category_are_the_means_of_shared_rows(made: Path) -> None:
    view = View.of(read_index(made))
    rate = "borderline.false_refusal"
    found = pairs.sides_by_category(view, "sft-e001", "ppo-e003", rate).set_index("category")

    def means(checkpoint: str) -> dict[str, float]:
        values: dict[str, list[float]] = {}
        for r in plain(made, checkpoint, "borderline"):
            if r["split"] == "A":
                score = next(s for s in r["scores"] if s["metric"] == "false_refusal")
                values.setdefault(r["category"], []).append(score["value"])
        return {category: float(np.mean(of)) for category, of in values.items()}

    before, after = means("sft-e001"), means("ppo-e003")
    assert set(found.index) == set(before)
    for category in before:
        row = found.loc[category]
        assert (row["a"], row["b"]) == pytest.approx((before[category], after[category]))
        assert row["difference"] == pytest.approx(row["b"] - row["a"])
    assert found["p_holm"].tolist() == pytest.approx(holm(found["p"].tolist()))
    assert (found["p_holm"] >= found["p"]).all()


def test_grades_are_told_apart_by_whole_points(made: Path) -> None:
    view = View.of(read_index(made))
    found = pairs.flip_matrix(view, "sft-e001", "ppo-e003", "gold.score")
    assert {float(v) for v in [*found["before"], *found["after"]]} <= set(range(11))
    rows = [r for r in plain(made, "sft-e001", "gold") if r["split"] == "A"]
    assert found["n"].sum() == len(rows)
    assert pairs.has_classes(view, "sft-e001", "ppo-e003", "gold.score", None)
    assert not pairs.is_grade(view, "reward.kl")


def test_two_runs_are_compared_on_the_versions_they_share(made: Path, spoilt: Path) -> None:
    old = next((spoilt / "evals" / "ppo-e003").glob("borderline@*"))
    for folder in (spoilt / "evals").glob("*/borderline@*"):
        folder.rename(folder.with_name("borderline@000000000000"))
    here, there = View.of(read_index(made)), View.of(read_index(spoilt))
    shared = pairs.shared_metrics(here, "sft-e000", "ppo-e003", there)
    assert "gold.score" in shared
    (wrong,) = pairs.mismatches(here, "sft-e000", "ppo-e003", there)
    version = old.name.rpartition("@")[2]
    assert (wrong.set, wrong.before, wrong.after) == ("borderline", (version,), ("0" * 12,))
    assert wrong.elsewhere == ()
    across = pairs.comparison(here, "sft-e000", "ppo-e003", ("gold.score",), there)
    within = pairs.comparison(here, "sft-e000", "ppo-e003", ("gold.score",))
    assert across.changes == within.changes  # the other run is a copy
    assert pairs.mismatches(here, "sft-e000", "ppo-e003") == ()


def test_a_version_on_one_side_only_is_a_mismatch_that_can_be_mended(spoilt: Path) -> None:
    for name in ("sft-e000", "ppo-e003"):
        old = next((spoilt / "evals" / name).glob("gold@*"))
        shutil.copytree(old, old.with_name("gold@000000000000"))
        if name == "ppo-e003":
            shutil.rmtree(old)
    view = View.of(read_index(spoilt))
    (wrong,) = pairs.mismatches(view, "sft-e000", "ppo-e003")
    assert wrong.set == "gold"
    assert wrong.elsewhere == ("000000000000",)
    assert "gold.score" not in pairs.shared_metrics(view, "sft-e000", "ppo-e003")
    other = View.of(view.index, {"gold": "000000000000"})
    assert pairs.mismatches(other, "sft-e000", "ppo-e003") == ()


def test_samples_of_all_sets_have_each_sets_own_metric(made: Path) -> None:
    view = View.of(read_index(made), split="all")
    sets = samples.sample_page(view).rows["set"]
    assert samples.sample_page(view).total == sum(
        len(plain(made, entry.checkpoint, entry.set)) for entry in view.entries()
    )
    assert set(sets) <= set(view.sets())
    found = samples.sample_page(view, search="gold-0001")
    assert set(found.rows["metric"]) == {"score"}
    assert set(found.rows["checkpoint"]) == {e.checkpoint for e in view.entries(set="gold")}
    graded = samples.sample_page(view, "reward", row="reward-0003")
    assert set(graded.rows["metric"]) == {"proxy"}
    for row in graded.rows.itertuples():
        truth = next(r for r in plain(made, row.checkpoint, "reward") if r["row_id"] == row.row_id)
        assert row.value == next(s["value"] for s in truth["scores"] if s["metric"] == "proxy")


def test_what_a_judge_said_is_not_taken_for_a_reply() -> None:
    messages = [
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "grade it", "judge": True},
        {"role": "assistant", "content": "[[3]]", "judge": True},
    ]
    found = samples.Sample(
        *("c", "s", "v", "r", "", "r", "A"), messages, [], [{"metric": "m", "reason": "why"}], 1, []
    )
    assert [m["content"] for m in found.conversation()] == ["q", "a"]
    assert [m["content"] for m in found.judging()] == ["grade it", "[[3]]"]
    assert samples.reasons(found)[["metric", "label", "why"]].to_numpy().tolist() == [
        ["m", "unscored", "why"]
    ]


def test_reasons_show_the_detail(made: Path) -> None:
    view = View.of(read_index(made), split="all")
    found = samples.sample(view, "ppo-e003", "borderline", "borderline-0000")
    assert found is not None
    why = samples.reasons(found).set_index("metric").loc["false_refusal", "why"]
    assert str(why).startswith("rule: ")


def test_shares_of_a_shift_add_up(made: Path) -> None:
    view = View.of(read_index(made))
    for model in (None, "safety"):
        bins = reward.score_shift(view, "sft-e000", "ppo-e003", model)
        assert bins.groupby("checkpoint")["share"].sum().tolist() == pytest.approx([1.0, 1.0])
        means = bins.drop_duplicates("checkpoint")["mean"].tolist()
        assert means[1] > means[0]  # the scorer likes it better and better
        moved = reward.score_move(view, "sft-e000", "ppo-e003", model)
        assert moved is not None
        assert moved.sure
        assert moved.difference == pytest.approx(means[1] - means[0])
    assert reward.score_shift(view, "none", "neither").empty
    assert reward.score_move(view, "none", "neither") is None


def test_accuracy_is_that_of_the_checkpoint(made: Path) -> None:
    rows = reward.accuracy_by_rating(read_index(made)).set_index("rating")
    assert rows.loc["better", "value"] == 38 / 50
    assert rows.loc["all", "n"] == 150


def test_turns_and_survival(made: Path) -> None:
    view = View.of(read_index(made))
    turns = consistency.by_turn(view, "consistency")
    evaluation = Run.open(made).evaluation("ppo-e001")
    assert evaluation is not None
    truth = evaluation.sets["consistency"].by_turn("held")
    mine = turns[turns["checkpoint"] == "ppo-e001"].set_index("turn")
    assert {int(t): mine.loc[t, "value"] for t in mine.index} == {
        t: e.value for t, e in truth.items()
    }
    found = consistency.survival(view, "consistency", ("sft-e000", "ppo-e003"))
    for _, curve in found.curves.groupby("checkpoint"):
        assert curve["value"].iloc[0] == 1.0
        assert curve["value"].is_monotonic_decreasing
    assert set(found.half_lives) == {"sft-e000", "ppo-e003"}
    assert consistency.sets_of(view, "consistency") == ["consistency"]


def test_outcomes_add_up_to_one(made: Path) -> None:
    view = View.of(read_index(made))
    rows = hallucination.outcomes(view, "hallucination")
    assert rows.groupby("checkpoint")["value"].sum().tolist() == pytest.approx([1.0] * 6)
    families = hallucination.by_family(view, "hallucination", "ppo-e003")
    assert families.groupby("category")["value"].sum().tolist() == pytest.approx([1.0, 1.0])


def test_cards_say_what_was_used(made: Path) -> None:
    view = View.of(read_index(made))
    found = {card.set: card for card in evalsets.set_cards(view)}
    assert found["gold"].rows == len(plain(made, "sft-e000", "gold"))
    assert found["gold"].checkpoints == 6
    assert found["gold"].match != "same"  # made in memory: no folder here has these rows
    parts = evalsets.composition(view, "gold")
    assert parts["rows"].sum() == found["gold"].rows


def test_a_shipped_set_is_recognised_by_its_rows(tmp_path: Path) -> None:
    from dashboard_runs import Cook

    from harness.evalsets import load_evalset
    from harness.evaluate import evaluate
    from harness.store.atomic import write_json

    evalset = load_evalset("pocket/borderline")
    text = "evaluate:\n  sets: [{set: pocket/borderline}]\n"
    run = Run.create(tmp_path / "run", schedule_yaml=text, info={})
    with run.lock(), run.new_checkpoint("sft-e000") as folder:
        described = {"schema": 1, "name": "sft-e000", "stage": "sft", "kind": "sft", "epoch": 0}
        write_json(folder / "checkpoint.json", {**described, "training": {}})
    evaluate(
        Cook(0.0),
        evalset,
        out=run.eval_folder("sft-e000", evalset.name, evalset.hash),
        seed=1,
        checkpoint="sft-e000",
        identity={},
    )
    (card,) = evalsets.set_cards(View.of(read_index(run.path)))
    assert card.match == "same"
    assert card.card == evalset.card


def test_a_live_run_shows_heartbeat_and_half_done_work(spoilt: Path) -> None:
    run = Run(spoilt)
    events = spoilt / "events.jsonl"
    kept = [line for line in events.read_text().splitlines() if '"done"' not in line]
    events.write_text("\n".join(kept) + "\n")
    folder = next((spoilt / "evals" / "ppo-e003").glob("gold@*"))
    (folder / "COMMIT").unlink()
    (folder / "samples.jsonl").write_text('{"header": {}}\n{"row_id": "a"}\n{"row_id": "b"}\n{"to')
    assert live.live(spoilt).state == "interrupted"
    with run.lock():
        found = live.live(spoilt)
    assert found.state == "running"
    assert found.heartbeat_age is not None
    assert found.heartbeat_age < live.FRESH
    assert [(p.checkpoint, p.set, p.rows) for p in found.under_way] == [("ppo-e003", "gold", 2)]
    assert found.under_way[0].of == len(plain(spoilt, "ppo-e002", "gold"))
    assert [s.stage for s in found.stages] == ["sft", "helpfulness", "ppo"]
    assert found.stages[2].done == 3
    assert found.stages[2].planned == 4
    assert found.events[0]["event"] == kept[-1].split('"event": "')[1].split('"')[0]
