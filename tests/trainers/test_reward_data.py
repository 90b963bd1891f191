"""What reward models are trained and measured on: margins, mixes, sets kept apart, labels."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from harness.chat import Conversation, assistant, render, user
from harness.errors import InputError
from trainers import pair_mix, reward, reward_data
from trainers.data_rows import Pair
from trainers.reward_data import RewardData
from trainers.schedule_file import parse_schedule
from trainers.schedule_stages import RewardStage

SHARED = Path(os.environ.get("ALDENTE_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def pair(prompt: str, rating: Any = None, **labels: Any) -> Pair:
    return Pair((user(prompt),), "good", "bad", rating, **labels)


# --------------------------------------------------------------------------- pairs


def test_pairs_end_with_the_end_token_and_carry_their_margin(tokenizer: Any) -> None:
    [row] = reward_data.examples(tokenizer, [pair("hi", "better")], size="small", eos=[2])
    messages: Conversation = (user("hi"), assistant("good"))
    assert row.chosen == render(tokenizer, messages, reply_next=False)
    assert row.chosen[-1] == row.rejected[-1] == 2
    assert (row.margin, row.rating) == (2 / 3, "better")


def test_pairs_carry_their_labels_and_which_share_a_prompt(tokenizer: Any) -> None:
    pairs = [pair("a", chosen_safe=True, rejected_safe=False), pair("b"), pair("a")]
    rows = reward_data.examples(tokenizer, pairs, size="none", eos=[2])
    assert [row.safe for row in rows] == [(1, 0), (-1, -1), (-1, -1)]
    assert rows[0].prompt == rows[2].prompt != rows[1].prompt


def test_margins_are_those_of_llama_2() -> None:
    """Table 27."""
    ratings = ["significantly better", "better", "slightly better", "negligibly better", None]
    assert [reward_data.margin(r, "small") for r in ratings] == [1, 2 / 3, 1 / 3, 0, 0]
    assert [reward_data.margin(r, "large") for r in ratings] == [3, 2, 1, 0, 0]
    assert [reward_data.margin(r, "none") for r in ratings] == [0] * 5


def test_held_out_pairs_share_no_prompt_with_training() -> None:
    pairs = [pair(str(number // 3)) for number in range(300)]
    train, held = pair_mix.split(pairs, 0.1, seed=1)
    assert len(held) == 30
    assert len(train) == 270
    assert not {p.prompt for p in train} & {p.prompt for p in held}
    assert pair_mix.split(pairs, 0.1, seed=1)[1] == held
    assert pair_mix.split(pairs, 0.1, seed=2)[1] != held
    assert pair_mix.split(pairs, 0.0, seed=1) == (pairs, [])


def test_a_share_of_the_mix_is_one_of_the_whole() -> None:
    assert pair_mix.mixed_counts(90, {"helpful": 0.1}) == {"helpful": 10}
    assert pair_mix.mixed_counts(50, {"a": 0.3, "b": 0.2}) == {"a": 30, "b": 20}
    with pytest.raises(InputError, match="less than 1"):
        pair_mix.mixed_counts(50, {"a": 0.5, "b": 0.5})


# --------------------------------------------------------------------------- a stage's data


def write(folder: Path, name: str, prompts: list[str], **more: Any) -> str:
    path = folder / f"{name}.jsonl"
    lines = [
        json.dumps({"prompt": p, "chosen": f"good {name}", "rejected": "bad", **more})
        for p in prompts
    ]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def numbered(word: str, count: int) -> list[str]:
    return [f"{word} {number}" for number in range(count)]


def loaded(context: Any, folder: Path, **settings: Any) -> RewardData:
    ctx = context(folder / "run", [{"kind": "reward", "held_out": 0.0, **settings}])
    assert isinstance(ctx.stage, RewardStage)
    return reward_data.load(ctx, ctx.stage)


def by_source(found: RewardData, tokenizer: Any) -> Counter[str]:
    """Training pairs by the name in their chosen reply."""
    return Counter(
        tokenizer.decode(row.chosen).split("good ")[1].removesuffix("</s>") for row in found.train
    )


def test_llama_2s_helpfulness_mix_is_all_of_it_and_as_much_of_the_rest(
    tmp_path: Path, context: Any, tokenizer: Any
) -> None:
    """'combined with an equal parts of the remaining data' (section 3.2.2): half of the whole."""
    own = write(tmp_path, "helpfulness", numbered("a", 120))
    safety = write(tmp_path, "safety", numbered("b", 300))
    public = write(tmp_path, "public", numbered("c", 300))
    found = loaded(context, tmp_path, data=own, mix={safety: 0.25, public: 0.25})
    assert by_source(found, tokenizer) == {"helpfulness": 120, "safety": 60, "public": 60}
    assert found.counts["mixed"] == {safety: 60, public: 60}
    assert found.counts["mix_missing"] == {}


def test_llama_2s_equal_part_is_drawn_uniformly_from_a_folder_of_the_rest(
    tmp_path: Path, context: Any, tokenizer: Any
) -> None:
    own = write(tmp_path, "helpfulness", numbered("a", 200))
    rest = tmp_path / "rest"
    rest.mkdir()
    write(rest, "safety", numbered("b", 100))
    write(rest, "public", numbered("c", 300))
    sources = by_source(loaded(context, tmp_path, data=own, mix={str(rest): 0.5}), tokenizer)
    assert sources["helpfulness"] == sources["safety"] + sources["public"] == 200
    assert 35 <= sources["safety"] <= 65  # a quarter of 200, sd 4.3 without replacement


def test_llama_2s_safety_mix_is_ninety_to_ten(tmp_path: Path, context: Any, tokenizer: Any) -> None:
    own = write(tmp_path, "safety", numbered("a", 200))
    other = write(tmp_path, "helpfulness", numbered("b", 100))
    found = loaded(context, tmp_path, data=own, held_out=0.1, mix={other: 0.1})
    assert by_source(found, tokenizer) == {"safety": 180, "helpfulness": 20}
    assert len(found.measured["held_out"].rows) == 20


def test_shares_are_of_pairs_that_are_trained_on_not_of_those_too_long(
    tmp_path: Path, context: Any, tokenizer: Any
) -> None:
    own = write(tmp_path, "own", numbered("a", 90) + numbered("a" * 200, 50))
    other = write(tmp_path, "other", numbered("b", 30) + numbered("b" * 200, 30))
    found = loaded(context, tmp_path, data=own, mix={other: 0.1}, max_length=100)
    assert by_source(found, tokenizer) == {"own": 90, "other": 10}
    assert found.counts["pairs"] == 100
    assert found.counts["dropped"] > 50  # 50, and those met while ten were drawn


def test_a_source_with_too_few_pairs_for_its_share_is_told(tmp_path: Path, context: Any) -> None:
    own = write(tmp_path, "own", numbered("a", 90))
    other = write(tmp_path, "other", numbered("b", 4))
    found = loaded(context, tmp_path, data=own, mix={other: 0.1})
    assert found.counts["mixed"] == {other: 4}
    assert found.counts["mix_missing"] == {other: 6}


def test_no_prompt_that_is_trained_on_is_measured_on(
    tmp_path: Path, context: Any, tokenizer: Any
) -> None:
    own = write(tmp_path, "own", numbered("a", 100))
    other = write(tmp_path, "other", [*numbered("a", 100), *numbered("b", 20)])
    extra = write(tmp_path, "extra", [*numbered("a", 10), *numbered("b", 5), *numbered("c", 7)])
    settings = {"data": own, "held_out": 0.2, "mix": {other: 0.3}}
    found = loaded(context, tmp_path, **settings, eval_data={"extra": extra})

    def prompts(rows: Any) -> list[str]:
        return [tokenizer.decode(row.chosen).split("good")[0] for row in rows]

    assert list(found.measured) == ["held_out", "extra"]
    trained = set(prompts(found.train))
    for measured in found.measured.values():
        assert measured.rows
        assert measured.seen
        assert not set(prompts(measured.rows)) & trained
    assert len(found.measured["held_out"].rows) + found.measured["held_out"].seen == 20
    assert len(found.measured["extra"].rows) + found.measured["extra"].seen == 22
    # What is measured has no say in what is trained on.
    assert loaded(context, tmp_path / "without", **settings).train == found.train


def test_too_long_pairs_are_counted_for_every_set(tmp_path: Path, context: Any) -> None:
    own = write(tmp_path, "own", numbered("a", 50))
    extra = write(tmp_path, "extra", [*numbered("b", 3), "b" * 200])
    found = loaded(
        context, tmp_path, data=own, held_out=0.2, max_length=100, eval_data={"extra": extra}
    )
    assert {name: one.dropped for name, one in found.measured.items()} == {
        "held_out": 0,
        "extra": 1,
    }
    assert len(found.measured["extra"].rows) == 3
    assert found.counts["dropped"] == 0  # of `data` and `mix`


@pytest.mark.parametrize(
    ("rows", "settings", "told"),
    [
        ({"rejected": "good own"}, {}, "no pair is left to train on: 6 were dropped: identical"),
        ({}, {"held_out": 1.0}, "no pair is left to train on: 6 are held out (held_out: 1)"),
        ({}, {"max_length": 3}, "no pair is left to train on: 6 are longer than max_length 3"),
        (
            {},
            {"held_out": 0.5, "max_length": 3},
            "to train on: 3 are held out (held_out: 0.5), 3 are longer than max_length 3",
        ),
    ],
)
def test_why_no_pair_is_left(
    tmp_path: Path, context: Any, rows: Any, settings: Any, told: str
) -> None:
    data = write(tmp_path, "own", numbered("own", 6), **rows)
    with pytest.raises(InputError) as caught:
        loaded(context, tmp_path, data=data, **settings)
    assert told in str(caught.value)
    assert ": 0 " not in str(caught.value)


def test_shares_that_add_up_to_one_but_for_rounding_are_refused() -> None:
    with pytest.raises(InputError, match="add up to 1 or more"):
        pair_mix.mixed_counts(10, {"a": 0.7, "b": 0.2, "c": 0.1})


def test_eval_data_may_have_a_limit_and_a_format(tmp_path: Path, context: Any) -> None:
    own = write(tmp_path, "own", numbered("a", 50))
    given = {"data": write(tmp_path, "few", numbered("b", 20)), "limit": 8}
    sets = {"few": {**given, "data_format": "prompt"}, "same": own}
    found = loaded(context, tmp_path, data=own, eval_data=sets)
    assert len(found.measured["few"].rows) == 8
    assert (found.measured["same"].rows, found.measured["same"].seen) == ([], 50)


def test_a_mix_draws_as_it_is_and_others_step_in_for_what_is_too_long(
    tmp_path: Path, context: Any, tokenizer: Any
) -> None:
    own = write(tmp_path, "own", numbered("a", 90))
    other = write(tmp_path, "other", [f"b {i} {'b' * 200 * (i % 5 == 0)}" for i in range(100)])
    found = loaded(context, tmp_path, data=own, mix={other: 0.25}, max_length=100)
    drawn = [tokenizer.decode(row.chosen) for row in found.train[90:]]
    assert len(set(drawn)) == 30
    all_fit = loaded(context, tmp_path / "all", data=own, mix={other: 0.25}, max_length=400)
    first = [tokenizer.decode(row.chosen) for row in all_fit.train[90:]]
    assert [text for text in first if text in drawn] == drawn[: len(set(first) & set(drawn))]
    assert found.counts["dropped"] >= sum("bbb" in text for text in first) > 0


def test_labels_are_counted_and_wanted_where_the_safety_loss_is_on(
    tmp_path: Path, context: Any
) -> None:
    own = write(tmp_path, "own", numbered("a", 90), chosen_safe=True, rejected_safe=False)
    other = write(tmp_path, "other", numbered("b", 20))
    found = loaded(context, tmp_path, data=own, mix={other: 0.1}, safety_weight=0.5)
    assert found.counts["labelled"] == {"safe": 90, "unsafe": 90, "unknown": 20}
    assert "labelled" not in loaded(context, tmp_path / "off", data=own).counts
    with pytest.raises(InputError, match=r"stages\.reward\.safety_weight.*labels"):
        loaded(context, tmp_path / "none", data=other, safety_weight=0.5)


def test_the_mixes_of_the_documentation_are_llama_2s() -> None:
    page = Path(__file__).parents[2] / "docs" / "training-data.md"
    [block] = re.findall(r"```yaml\n(stages:.*?)```", page.read_text(encoding="utf-8"), re.S)
    text = f"name: doc\nmodel: pocket\n{block}evaluate: {{sets: []}}\n"
    helpfulness, safety = parse_schedule(text, "doc.yaml")[0].stages
    assert isinstance(helpfulness, RewardStage)
    assert isinstance(safety, RewardStage)
    assert set(pair_mix.mixed_counts(1000, helpfulness.mix).values()) == {500}
    assert pair_mix.mixed_counts(900, safety.mix) == {"helpfulness.jsonl": 100}
    assert safety.eval_data["helpfulness"].limit == 500
    assert (safety.safety_weight, helpfulness.safety_weight) == (0.5, 0.0)


# --------------------------------------------------------------------------- real pairs


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no public data folder")
def test_tulus_rated_pairs_by_rating(tmp_path: Path, context: Any) -> None:
    path = SHARED / "preferences" / "tulu_human_preferences.jsonl"
    truth = Counter(json.loads(line)["rating"] for line in path.read_text().splitlines())
    assert sum(truth.values()) == 773
    found = loaded(context, tmp_path, data=str(path), held_out=0.2, max_length=100_000)
    held = Counter(row.rating for row in found.measured["held_out"].rows)
    same = found.counts["unusable"].get("identical replies", 0)
    assert sum(found.counts["ratings"].values()) + sum(held.values()) + same == 773
    for rating in truth:
        assert truth[rating] - found.counts["ratings"][rating] - held[rating] <= same
    margins = {"better": 2 / 3, "slightly better": 1 / 3}
    assert all(row.margin == margins[row.rating or ""] for row in found.train)


@pytest.mark.shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="no public data folder")
def test_tulus_rated_pairs_through_a_member(tmp_path: Path, context: Any, tokenizer: Any) -> None:
    """Every pair is trained on, measured under its rating, or counted as too long or identical."""
    path = SHARED / "preferences" / "tulu_human_preferences.jsonl"
    fits, too_long, same = Counter[str](), 0, 0
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        chats = [(user(row["prompt"]), assistant(row[side])) for side in ("chosen", "rejected")]
        if row["chosen"] == row["rejected"]:
            same += 1
        elif max(len(render(tokenizer, chat, reply_next=False)) for chat in chats) > 500:
            too_long += 1
        else:
            fits[row["rating"]] += 1
    settings = {"data": str(path), "held_out": 0.3, "max_length": 500, "members": 1, "batch": 32}
    ctx = context(tmp_path / "run", [{"kind": "reward", "lora": {"r": 4}, **settings}])
    [checkpoint] = reward.checkpoints(ctx)
    training = checkpoint.training
    measured = {rating: e["n"] for rating, e in training["accuracy_by_rating"].items()}
    trained = Counter(training["ratings"])
    assert set(measured) == {"better", "slightly better"}
    assert sum(measured.values()) == training["accuracy"]["n"] == training["held_out"]
    assert training["seen_held_out"] == 0
    assert {rating: trained[rating] + measured[rating] for rating in fits} == fits
    assert training["dropped"] == too_long
    assert 0 < training["dropped_held_out"] < too_long
    assert training["unusable"].get("identical replies", 0) == same
    assert sum(b["n"] for b in training["calibration"]["bins"]) == training["held_out"]
