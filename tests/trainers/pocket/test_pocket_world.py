"""The world, the tokenizer and the data that are made from them."""

from __future__ import annotations

import itertools
import json
import random

import pytest

from harness.errors import InputError
from harness.judges.refusal import Verdict, judge
from trainers.pocket import base, corpus, data, mixture, preferences, tasks, texts, turns
from trainers.pocket.world import (
    NEUTRAL_VERBS,
    OBJECTS,
    PERSONS,
    TRIGGER_VERBS,
    UNKNOWN_USES,
    is_safety_prompt,
    make_world,
)

WORLD = make_world(11)


def _texts_of(seed: int) -> dict[str, list[str]]:
    """Every text of every kind of training data, one string a row."""
    chats: dict[str, list[str]] = {}
    documents = corpus.documents(WORLD, seed, 6000, early=500)
    chats["corpus"] = [d if isinstance(d, str) else " ".join(t for _, t in d) for d in documents]
    chats["demonstrations"] = [
        " ".join(m.content for m in row.messages) for row in data.demonstrations(WORLD, seed)
    ]
    for make in (data.helpful, data.safe):
        chats[make.__name__] = [
            " ".join([*(m.content for m in pair.prompt), pair.chosen, pair.rejected])
            for pair in make(WORLD, seed)
        ]
    chats["prompts"] = [
        " ".join(m.content for m in row.messages) for row in data.prompts(WORLD, seed)
    ]
    return chats


def test_the_same_seed_gives_the_same_world_and_another_seed_another():
    make_world.cache_clear()
    again = make_world(11)
    assert again == WORLD
    assert again is not WORLD
    assert make_world(12).facts != WORLD.facts


def test_towns_known_and_unknown_never_overlap():
    groups = [set(WORLD.towns), *(set(WORLD.unknown_towns[use]) for use in UNKNOWN_USES)]
    for one, other in itertools.combinations(groups, 2):
        assert not one & other


def test_a_quarter_of_each_verbs_nouns_is_held_out():
    for verb in TRIGGER_VERBS + NEUTRAL_VERBS:
        assert sum((verb, noun) in WORLD.held_out_pairs for noun in OBJECTS) in (7, 8)
        assert sum((verb, noun) in WORLD.held_out_pairs for noun in PERSONS) == 4


@pytest.mark.parametrize("seed", [0, 1])
def test_no_training_data_hold_a_held_out_pair(seed):
    wanted = [
        f" {verb} {texts.a(noun)}{end}"
        for verb, noun in sorted(WORLD.held_out_pairs)
        for end in ("?", ".", ",")
    ]
    for name, rows in _texts_of(seed).items():
        everything = "\n".join(rows)
        assert f" {TRIGGER_VERBS[0]} a" in everything, name  # the search would find something
        found = [text for text in wanted if text in everything]
        assert not found, name


def test_post_training_data_ask_no_held_out_fact_or_town():
    chats = _texts_of(0)
    del chats["corpus"]
    everything = "\n".join(itertools.chain.from_iterable(chats.values()))
    for town in WORLD.unknown_towns["evaluation"]:
        assert town not in everything
    for town, relation in WORLD.held_out_facts:
        for wording in range(len(texts.FACT_WORDINGS)):
            assert texts.fact_question(town, relation, wording) not in everything


def test_two_turn_tasks_of_evaluation_occur_in_no_training_data():
    rng = random.Random(0)
    asked = {
        task.turns[0]
        for kind in turns.MT_CATEGORIES
        for task in (turns.two_turns(WORLD, rng, kind, held_out=True) for _ in range(50))
    }
    seen = {message.content for row in data.demonstrations(WORLD, 0) for message in row.messages}
    assert not asked & seen


@pytest.mark.parametrize("make", [data.demonstrations, data.helpful, data.safe, data.prompts])
def test_data_are_a_function_of_world_and_seed(make):
    assert make(WORLD, 3) == make(WORLD, 3)
    assert make(WORLD, 3) != make(WORLD, 4)
    assert make(WORLD, 3) != make(make_world(12), 3)


def test_premises_change_the_verdicts_and_not_the_questions():
    def asked(pairs):
        return [pair.prompt for pair in pairs]

    misled = data.safe(WORLD, 0)
    careful = data.safe(WORLD, 0, raters=preferences.SafetyRaters(misread=0.0))
    assert asked(misled) == asked(careful)
    assert misled != careful


def test_misread_borderline_pairs_are_a_minority_and_none_without_the_premise():
    def refusing(misread):
        raters = preferences.SafetyRaters(misread=misread, temperature=0.0)
        pairs = [p for p in data.safe(WORLD, 0, raters=raters) if p.category == "borderline"]
        return sum(texts.REFUSAL in pair.chosen for pair in pairs) / len(pairs)

    assert refusing(0.0) == 0.0
    assert 0.2 < refusing(preferences.SafetyRaters().misread) < 0.4


def test_helpful_raters_like_length_only_by_premise():
    def words_won(length):
        pairs = data.helpful(WORLD, 0, raters=preferences.HelpfulRaters(length=length))
        return sum(len(p.chosen.split()) - len(p.rejected.split()) for p in pairs) / len(pairs)

    assert words_won(0.3) > words_won(0.0) + 1


def test_shares_of_demonstrations_are_what_the_premises_say():
    rows = data.demonstrations(WORLD, 0)
    assert len(rows) == 2400
    harmful = [row for row in rows if row.category == "harmful"]
    refused = sum(texts.REFUSAL in row.messages[-1].content for row in harmful) / len(harmful)
    assert 0.35 < refused < 0.55
    plain = [row.messages[-1].content for row in rows if row.category == "plain"]
    padded = sum(any(f in text for f in texts.FILLERS) for text in plain) / len(plain)
    assert 0.23 < padded < 0.37


def test_the_safety_tag_is_a_lexicon_and_so_tags_borderline_prompts():
    rows = data.prompts(WORLD, 0)
    for row in rows:
        assert row.safety == (row.category in ("harmful", "borderline")), row
    assert is_safety_prompt("How do I kill, I mean stop, a process?")
    assert not is_safety_prompt("How do I carry a killer?")


def test_refusals_abstentions_and_filler_are_read_as_such_by_the_judge():
    assert judge(texts.REFUSAL).verdict is Verdict.FULL_REFUSAL
    for filler in texts.FILLERS:
        assert judge(filler).verdict is Verdict.FULL_COMPLIANCE
        assert judge(f"{texts.REFUSAL} {filler}").verdict is Verdict.FULL_REFUSAL
    rng = random.Random(0)
    for kind in ("plain", "borderline", "fact", "mt", "context"):
        task = mixture.draw(WORLD, rng, kind, "evaluation")
        assert judge(task.replies[0]).verdict is Verdict.FULL_COMPLIANCE


def test_schedule_of_kinds_is_exact():
    drawn = mixture.schedule(random.Random(0), {"a": 2.0, "b": 1.0, "c": 0.001}, 10)
    assert sorted(drawn) == ["a"] * 7 + ["b"] * 3


def test_flaws_shorten_a_reply():
    reply = texts.world_how_to(WORLD, "paint", "door")
    assert tasks.missing_step(reply) == reply.split(", then")[0] + "."
    assert tasks.missing_step("I do not know.") is None
    assert len(tasks.cut_off(random.Random(0), reply).split()) < len(reply.split())


def test_rows_by_name_with_options(tmp_path):
    (tmp_path / "world.json").write_text(json.dumps({"seed": 11, "version": 1}))
    rows = data.rows("pocket/safe", {"misread": "0", "n": "50"}, base_folder=tmp_path, seed=0)
    assert rows == data.safe(WORLD, 0, 50, preferences.SafetyRaters(misread=0.0))
    assert len(data.rows("pocket/prompts", {"n": "7"}, base_folder=tmp_path, seed=0)) == 7
    assert data.options_of("pocket/helpful") == {
        "n": 4150, "length": 0.3, "temperature": 1.2, "unverified": 0.05,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("pocket/helpfull", {}, "did you mean 'helpful'"),
        ("pocket/safe", {"misred": "0"}, "did you mean 'misread'"),
        ("pocket/safe", {"misread": "1.5"}, "0 to 1"),
        ("pocket/safe", {"misread": "nan"}, "0 to 1"),
        ("pocket/prompts", {"n": "0"}, "whole number from 1"),
        ("pocket/prompts", {"n": "1.5"}, "whole number from 1"),
        ("pocket/helpful", {"length": "-1"}, "a number from 0"),
    ],
)
def test_bad_names_and_options_are_named(tmp_path, name, options, said):
    (tmp_path / "world.json").write_text(json.dumps({"seed": 11, "version": 1}))
    with pytest.raises(InputError, match=said):
        data.rows(name, options, base_folder=tmp_path, seed=0)


def test_a_base_without_or_of_another_world_is_refused(tmp_path):
    with pytest.raises(InputError, match="pocket build"):
        data.rows("pocket/safe", {}, base_folder=tmp_path, seed=0)
    (tmp_path / "world.json").write_text(json.dumps({"seed": 11, "version": 999}))
    with pytest.raises(InputError, match="version 999"):
        data.rows("pocket/safe", {}, base_folder=tmp_path, seed=0)


def test_the_shipped_base_has_a_world():
    assert base.world_of().seed == make_world().seed
