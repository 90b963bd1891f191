"""The pages reward, compare and transcripts: what they show is what the files hold, as text.

That they bear every kind of run is tested with all pages, in test_pages.py.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import dashboard_runs
import pytest
from app_testing import App, charts, texts, titles, unfold
from streamlit.testing.v1 import AppTest

from dashboards.charts.reward import CELL
from dashboards.data import labels, pairs, reward, samples
from dashboards.data.index import View, read_index
from dashboards.data.worddiff import diff_lines
from harness.judges.llm.labelled import read_items

RATE = "borderline.false_refusal"
BIDI = "safe \u202egnp.exe\u202c \u2066mixed\u2069 \u200b end"


def captions(found: AppTest) -> str:
    return "\n".join(caption.value for caption in found.caption)


def button(found: AppTest, label: str) -> Any:
    return next(b for b in found.button if b.label == label)


# ---------------------------------------------------------------------------------------- compare


def test_every_flip_can_be_paged_through(app: App, made: Path) -> None:
    view = View.of(read_index(made))
    flips = pairs.flip_list(pairs.comparison(view, "sft-e000", "ppo-e003", (RATE,)))
    assert len(flips) > 2
    found = app(made.parent, "compare", after="ppo-e003", of=RATE)
    assert f"Row 1 of {len(flips)} that turned" in captions(found)
    for number, flip in enumerate(flips[:3], start=1):
        found.pagination(key="flip").set_value(number).run()
        shown = texts(found)
        assert flip.a.exchanges()[0][0] in shown
        assert flip.a.exchanges()[-1][1] in shown
        assert flip.b.exchanges()[-1][1] in shown
        assert diff_lines(flip.a.exchanges()[-1][1], flip.b.exchanges()[-1][1]) in shown
        assert any(flip.row_id in text.value for text in found.text)


def test_worse_and_better_flips_are_told_apart(app: App, made: Path) -> None:
    view = View.of(read_index(made))
    comparison = pairs.comparison(view, "sft-e000", "ppo-e003", (RATE,))
    worse = pairs.flip_list(comparison, "worse")
    found = app(made.parent, "compare", after="ppo-e003", of=RATE, turned="worse")
    assert f"of {len(worse)} that turned" in captions(found)
    better = pairs.flip_list(comparison, "better")
    found.selectbox(key="turned").set_value("better").run()
    assert not found.exception
    if not better:
        assert any("turned in this way" in info.value for info in found.info)


def test_the_table_has_p_and_holm_over_what_is_chosen(app: App, made: Path) -> None:
    found = app(made.parent, "compare", after="ppo-e003")
    chosen = found.multiselect(key="compared").value
    table = found.dataframe[0].value
    assert table["metric"].tolist() == chosen
    view = View.of(read_index(made))
    truth = pairs.moves(pairs.comparison(view, "sft-e000", "ppo-e003", tuple(chosen)))
    for shown, p in zip(table["p, Holm"], truth["p_holm"], strict=True):
        assert shown == ("–" if p != p else "< 0.001" if p < 0.001 else f"{p:.3f}")
    found.multiselect(key="compared").set_value([RATE]).run()
    alone = found.dataframe[0].value
    assert alone["p"].tolist() == alone["p, Holm"].tolist()


def test_the_baseline_is_a_and_the_matrix_is_of_both(app: App, made: Path) -> None:
    found = app(made.parent, "compare", baseline="sft-e001", after="ppo-e001", of=RATE)
    assert found.selectbox(key="after").value == "ppo-e001"
    view = View.of(read_index(made))
    truth = pairs.flip_matrix(view, "sft-e001", "ppo-e001", RATE)
    turned = int(truth[truth["before"] != truth["after"]]["n"].sum())
    assert any(title.startswith(f"{turned} of {truth['n'].sum()} rows") for title in titles(found))
    assert "sft-e001" not in found.selectbox(key="after").options  # not with itself


def test_another_run_can_be_b(app: App, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made, tmp_path / "one")
    shutil.copytree(made, tmp_path / "two")
    found = app(tmp_path, "compare", run="one", other_run="two", after="sft-e000", of=RATE)
    assert any("None of" in title for title in titles(found))  # the same checkpoint of a copy
    assert any("the same model" in code for code in texts(found))
    assert any("No row of" in info.value for info in found.info)


def test_two_versions_are_said_plainly_and_not_compared(app: App, spoilt: Path) -> None:
    old = next((spoilt / "evals" / "ppo-e003").glob("borderline@*"))
    old.rename(old.with_name("borderline@000000000000"))
    found = app(spoilt.parent, "compare", after="ppo-e003")
    assert any("1 eval set cannot be compared" in warning.value for warning in found.warning)
    version = old.name.rpartition("@")[2]
    assert any(f"borderline: A {version}; B 000000000000" in code for code in texts(found))
    command = f"aldente compare {spoilt}:sft-e000 {spoilt}:ppo-e003 --across-versions"
    assert command in texts(found)
    assert RATE not in found.multiselect(key="compared").options


# ----------------------------------------------------------------------------------------- reward


def test_a_cell_leads_to_its_replies(app: App, made: Path) -> None:
    view = View.of(read_index(made))
    found = app(made.parent, "reward", checkpoint="ppo-e002")
    plane = reward.reward_plane(view, "ppo-e002")
    assert plane is not None
    cells = {f"{c['i']}-{c['j']}": c for c in plane.cells.to_dict("records")}
    picker = found.selectbox(key="cell")
    assert len(picker.options) == len(cells)
    name, cell = max(cells.items(), key=lambda pair: pair[1]["n"])
    picker.set_value(name).run()
    rows = reward.cell_replies(view, "ppo-e002", cell["i"], cell["j"])
    assert found.selectbox(key="reply").options == rows["row_id"].tolist()
    last = rows["row_id"].iloc[-1]
    found.selectbox(key="reply").set_value(last).run()
    said = samples.sample(view, "ppo-e002", "reward", last)
    assert said is not None
    assert said.messages[-1]["content"] in texts(found)
    (link,) = found.get("page_link")
    assert "row=" + last in link.proto.query_string


def test_a_click_on_the_plane_chooses_the_cell(app: App, made: Path) -> None:
    """The chart selects by the fields that the page reads back; the click itself is tested in a
    browser."""
    found = app(made.parent, "reward", checkpoint="ppo-e002")
    plane = next(spec for spec in charts(found) if "below 0" in " ".join(spec["title"]["text"]))
    (parameter,) = plane["params"]
    assert parameter["name"] == CELL
    assert parameter["select"]["fields"] == ["i", "j"]
    assert parameter["select"]["type"] == "point"


def test_the_correlation_is_that_of_the_members(app: App, made: Path) -> None:
    view = View.of(read_index(made))
    found = app(made.parent, "reward", checkpoint="ppo-e002")
    truth = reward.member_correlation(view, "ppo-e002")
    table = next(d.value for d in found.dataframe if "r" in d.value)
    assert table["a"].tolist() == truth["a"].tolist()
    assert all(text.endswith(f"n = {n}") for text, n in zip(table["r"], truth["n"], strict=True))
    assert truth["r"].dtype == float  # what is cached was not written over


# ------------------------------------------------------------------------------------ transcripts


def test_filters_leave_what_they_name(app: App, made: Path) -> None:
    found = app(made.parent, "transcripts", set="borderline", at="ppo-e003", rows="all")
    counts = samples.label_counts(
        View.of(read_index(made), split="all"), "borderline", "", "ppo-e003"
    ).set_index("label")["n"]
    found.selectbox(key="class").set_value("full_refusal").run()
    assert f"of {counts['full_refusal']} samples" in captions(found)
    assert set(found.dataframe[0].value["label"]) == {"full_refusal"}
    found.text_input(key="search").set_value("borderline 3: WHAT").run()
    assert set(found.dataframe[0].value["row_id"]) <= {"borderline-0003"}
    found.text_input(key="search").set_value("nobody said this").run()
    assert any("No sample is like that" in info.value for info in found.info)


def test_pages_of_fifty_hold_every_sample_once(app: App, made: Path) -> None:
    found = app(made.parent, "transcripts", set="hallucination", rows="all")
    view = View.of(read_index(made), split="all")
    total = samples.sample_page(view, "hallucination").total
    seen: list[tuple[str, str]] = []
    for number in range(1, -(-total // 50) + 1):
        found.pagination(key="page").set_value(number).run()
        rows = found.dataframe[0].value
        assert len(rows) <= 50
        seen += zip(rows["checkpoint"], rows["row_id"], strict=True)
    assert len(seen) == len(set(seen)) == total


def test_one_prompt_across_all_checkpoints(app: App, made: Path) -> None:
    found = app(made.parent, "transcripts", set="gold", row="gold-0002", rows="all")
    history = samples.row_history(View.of(read_index(made), split="all"), "gold", "gold-0002")
    table = next(d.value for d in found.dataframe if "last reply" in d.value)
    assert table["checkpoint"].tolist() == [one.checkpoint for one in history]
    assert table["last reply"].tolist() == [one.messages[-1]["content"] for one in history]
    other = next(s for s in found.selectbox if s.label == "At checkpoint")
    other.set_value("ppo-e003").run()
    assert history[-1].messages[-1]["content"] in texts(found)


def test_blind_labellers_see_no_verdict(app: App, made: Path) -> None:
    found = app(made.parent, "transcripts", set="borderline", rows="all")
    assert any("why" in d.value for d in found.dataframe)
    found.toggle(key="blind").set_value(True).run()
    for table in found.dataframe:
        assert not {"value", "label", "why", "unscored"} & set(table.value.columns)
    assert "What was made of it" not in [s.value for s in found.subheader]


def test_a_label_is_kept_changed_and_taken_back(app: App, spoilt: Path) -> None:
    found = app(spoilt.parent, "transcripts", set="borderline", row="borderline-0001", rows="all")
    assert any("Nobody has labelled" in info.value for info in found.info)
    button(found, "Keep this label").click().run()
    assert any("Choose a label first" in warning.value for warning in found.warning)
    found.radio[0].set_value("partial_refusal")
    found.text_area[0].set_value("half of it")
    button(found, "Keep this label").click().run()
    path = spoilt / "labels" / "refusal.jsonl"
    (item,) = read_items(path, "refusal")
    assert item.label == "partial_refusal"
    assert any(text.value.startswith("Kept") for text in found.success)
    unfold(found)
    assert "\n".join(labels.commands(spoilt, "refusal")) in texts(found)
    assert found.radio[0].value == "partial_refusal"
    found.radio[0].set_value("full_refusal")
    button(found, "Keep this label").click().run()
    assert [item.label for item in read_items(path, "refusal")] == ["full_refusal"]
    button(found, "Take it back").click().run()
    assert path.read_text() == ""
    assert len((spoilt / "labels.jsonl").read_text().splitlines()) == 3
    assert any("Nobody has labelled" in info.value for info in found.info)


def test_a_run_that_cannot_be_written_to_says_so(
    app: App, spoilt: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = app(spoilt.parent, "transcripts", set="borderline", rows="all")

    def refused(*args: Any, **kwargs: Any) -> int:
        raise PermissionError(13, "Permission denied", "labels.jsonl")

    monkeypatch.setattr("harness.store.lines.append", refused)
    found.radio[0].set_value("full_refusal")
    button(found, "Keep this label").click().run()
    assert not found.exception
    assert any("could not be written" in error.value for error in found.error)


def test_a_damaged_log_of_labels_takes_nothing_else_down(app: App, spoilt: Path) -> None:
    (spoilt / "labels.jsonl").write_text("nonsense\n{}\n")
    found = app(spoilt.parent, "transcripts")
    assert found.dataframe
    assert any("is damaged" in error.value for error in found.error)
    assert any("labels.jsonl:1" in code for code in texts(found))


# ---------------------------------------------------------------------------------------- hostile


@pytest.fixture(scope="module")
def bidi(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose prompts, replies and categories hold markup and bidirectional overrides."""
    patch = pytest.MonkeyPatch()
    patch.setattr(dashboard_runs, "HOSTILE", f"{dashboard_runs.HOSTILE} {BIDI}")
    run = dashboard_runs.make_run(
        tmp_path_factory.mktemp("bidi") / "run", checkpoints=4, hostile=True
    )
    patch.undo()
    return run


@pytest.mark.parametrize("page", ["reward", "compare", "transcripts"])
def test_markup_is_shown_and_overrides_are_written_out(app: App, bidi: Path, page: str) -> None:
    found = app(bidi.parent, page, of="harmful.compliance", after="ppo-e001")
    shown = texts(found)
    assert any("<script>window.pwned=1</script>" in code for code in shown)
    assert any("safe \\u202egnp.exe\\u202c" in code for code in shown)
    everything = [*shown, *(text.value for text in found.text), captions(found)]
    for table in found.dataframe:
        everything += [str(cell) for cell in table.value.to_numpy().ravel()]
    for box in found.selectbox:
        everything += box.options
    for text in everything:
        assert not any(sign in text for sign in "\u202e\u202c\u2066\u2069\u200b")
    for kind in ("markdown", "caption", "subheader", "info", "warning", "error", "success"):
        for element in getattr(found, kind):
            assert "pwned" not in element.value
    for element in (*found.expander, *found.button, *found.radio, *found.selectbox):
        assert "pwned" not in element.label
    for link in found.get("page_link"):
        assert "pwned" not in link.proto.label


def test_a_page_reads_and_never_writes_but_for_labels(app: App, spoilt: Path) -> None:
    def stamps() -> dict[str, tuple[int, int]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_size)
            for root, _, names in os.walk(spoilt)
            for path in (Path(root) / name for name in names)
        }

    before = stamps()
    for page in ("reward", "compare", "transcripts"):
        app(spoilt.parent, page)
    assert stamps() == before


@pytest.mark.parametrize("page", ["reward", "compare"])
def test_a_rerun_draws_no_chart_anew(
    app: App, made: Path, page: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = app(made.parent, page)
    drawn = len(charts(found))
    assert drawn

    def again(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("drawn again")

    for module in ("compare", "reward"):
        monkeypatch.setattr(f"dashboards.charts.{module}.finish", again)
    found.run()
    assert not found.exception
    assert len(charts(found)) == drawn
