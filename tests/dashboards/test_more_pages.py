"""What the pages consistency, hallucination, eval sets, live, and pick and export say."""

from __future__ import annotations

from pathlib import Path

import pytest
from app_testing import App, charts, texts, titles

from harness.store.run import Run

PAGES = ("consistency", "evalsets", "export", "hallucination", "live")


@pytest.mark.parametrize("page", PAGES)
def test_empty_ones_say_the_command_that_fills_them(app: App, tmp_path: Path, page: str) -> None:
    found = app(tmp_path, page)
    assert f"aldente run schedules/pocket.yaml --runs {tmp_path}" in "\n".join(texts(found))


def test_consistency_shows_turns_curves_and_a_dialogue(app: App, made: Path) -> None:
    found = app(made.parent, "consistency")
    said = titles(found)
    assert said[0].startswith("At ppo-e003 the instruction holds in ")
    assert said[1].startswith("Half the dialogues lose the instruction: ")
    assert found.multiselect(key="curves").value == ["sft-e000", "ppo-e001", "ppo-e003"]
    assert found.selectbox(key="at").value == Run.open(made).selection()["picked"]
    turns = [m.value for m in found.markdown if m.value.startswith("**Turn")]
    assert [t.split("**")[1] for t in turns] == [f"Turn {n}" for n in range(1, 7)]
    assert "lost" in found.selectbox(key="row").options[0]
    found.selectbox(key="count").set_value("survival").run()
    assert titles(found)[0].startswith("At ppo-e003 no check failed so far in ")
    found.multiselect(key="curves").set_value([]).run()
    assert len(titles(found)) == 1


def test_hallucination_keeps_accuracy_beside_silence(app: App, made: Path) -> None:
    found = app(made.parent, "hallucination")
    said = titles(found)
    assert said[0].startswith("Wrong answers: ")
    assert said[1].startswith("Right when attempted: ")
    assert said[2].startswith("Most wrong answers at ")
    assert said[3].startswith("Least right when attempted at ")
    wrong = found.selectbox(key="class")
    assert wrong.value == "incorrect"
    assert "It is Nils." in "\n".join(texts(found))
    wrong.set_value("not_attempted").run()
    assert "I do not know." in "\n".join(texts(found))


def test_eval_sets_are_told_with_their_hashes(app: App, made: Path) -> None:
    found = app(made.parent, "evalsets", set="gold")
    table = found.dataframe[0].value.set_index("set")
    for name, digest in Run.open(made).info()["evalsets"].items():
        assert table.loc[name, "hash"] == digest[:12]
        assert table.loc[name, "A"] + table.loc[name, "B"] == table.loc[name, "rows"]
    assert f"hash: {Run.open(made).info()['evalsets']['gold']}" in "\n".join(texts(found))
    assert any("Every row could be scored" in caption.value for caption in found.caption)


def test_live_says_what_goes_on(app: App, spoilt: Path) -> None:
    events = spoilt / "events.jsonl"
    kept = [line for line in events.read_text().splitlines() if '"done"' not in line]
    events.write_text("\n".join(kept) + "\n")
    with Run(spoilt).lock():
        found = app(spoilt.parent, "live")
    values = {metric.label: metric.value for metric in found.metric}
    assert values["State"] == "running"
    assert set(values) >= {"State", "Disk free", "Evaluation, tokens a second"}
    assert any(c.value.startswith("Heartbeat ") for c in found.caption)
    assert any("7 checkpoints in all" in c.value for c in found.caption)
    found = app(spoilt.parent, "live")
    assert {m.label: m.value for m in found.metric}["State"] == "interrupted"
    assert f"aldente resume {spoilt}" in "\n".join(texts(found))


def test_the_shortlist_is_the_pick_with_both_splits(app: App, made: Path) -> None:
    found = app(made.parent, "export")
    selection = Run.open(made).selection()
    assert selection is not None
    assert f"{selection['picked']}: {selection['reason']}" in "\n".join(texts(found))
    table = found.dataframe[0].value.set_index("checkpoint")
    assert list(table.index) == [c["checkpoint"] for c in selection["candidates"]]
    assert table.loc[selection["picked"], "is"] == "picked"
    for candidate in selection["candidates"]:
        n = candidate["b"]["gold.score"]["n"]
        assert table.loc[candidate["checkpoint"], "Gold score, 0–10: B"].endswith(f"n = {n}")
        assert bool(table.loc[candidate["checkpoint"], "why not"]) == (not candidate["eligible"])
    assert f"aldente export {made} --html made.html" in "\n".join(texts(found))
    assert len(charts(found)) == 1


def test_the_button_writes_and_is_off_while_the_run_goes_on(app: App, spoilt: Path) -> None:
    before = Run.open(spoilt).selection()
    (spoilt / "selection.json").unlink()
    found = app(spoilt.parent, "export")
    (button,) = [b for b in found.button if b.label == "Write this pick into the run"]
    assert not button.disabled
    button.click().run()
    assert not found.exception
    assert Run.open(spoilt).selection() == before
    assert any("Written" in success.value for success in found.success)
    with Run(spoilt).lock():
        found = app(spoilt.parent, "export")
        (button,) = [b for b in found.button if b.label == "Write this pick into the run"]
        assert button.disabled
