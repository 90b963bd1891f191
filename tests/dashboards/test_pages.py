"""Every page on every kind of run: nothing breaks, empty ones say what fills them, names stay text.

Pages are found by their files: a new one is tested with the rest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from app_testing import APP, App, charts, texts, titles
from dashboard_runs import HOSTILE, break_samples, make_run
from streamlit.testing.v1 import AppTest

from harness.store.run import Run

PAGES = sorted(path.stem for path in (APP.parent / "app_pages").glob("*.py"))
# Those of this file's own half, whose words are tested too.
OWN = ("overoptimization", "runs", "timeline", "tradeoff")


def chart_rows(found: AppTest) -> Iterator[pa.Table]:
    """The rows of the charts, which Streamlit sends apart from their specs."""
    for kind in ("arrow_vega_lite_chart", "vega_lite_chart"):
        for element in found.get(kind):
            for sent in (element.proto.data, *(d.data for d in element.proto.datasets)):
                if sent.data:
                    yield pa.ipc.open_stream(sent.data).read_all()


@pytest.mark.parametrize("page", PAGES)
def test_an_empty_folder_says_what_fills_it(app: App, tmp_path: Path, page: str) -> None:
    found = app(tmp_path, page)
    assert found.title
    assert "aldente " in "\n".join(texts(found))
    if page in OWN:
        assert f"aldente run schedules/pocket.yaml --runs {tmp_path}" in "\n".join(texts(found))
    assert charts(found) == []


@pytest.mark.parametrize("page", PAGES)
def test_a_run_without_any_checkpoint(app: App, tmp_path: Path, page: str) -> None:
    run = make_run(tmp_path / "new", checkpoints=0, done=False)
    found = app(tmp_path, page)
    if page in OWN:
        assert f"aldente resume {run}" in "\n".join(texts(found))


@pytest.mark.parametrize("page", PAGES)
def test_one_checkpoint(app: App, one: Path, page: str) -> None:
    found = app(one.parent, page)
    if page in ("tradeoff", "timeline"):
        assert charts(found)
    if page == "tradeoff":
        assert titles(found)[0].startswith("One checkpoint so far, sft-e000: ")
    if page == "overoptimization":
        assert f"aldente resume {one}" in "\n".join(texts(found))


@pytest.mark.parametrize("page", PAGES)
def test_a_hundred_checkpoints(app: App, hundred: Path, page: str) -> None:
    found = app(hundred.parent, page)
    if page in ("tradeoff", "timeline", "overoptimization"):
        assert charts(found)
        sizes = [len(rows) for rows in chart_rows(found)]
        assert max(sizes) >= 90
        assert max(sizes) <= 1000  # aggregates, never samples


@pytest.mark.parametrize("how", ["truncated", "torn", "gone"])
@pytest.mark.parametrize("page", PAGES)
def test_a_damaged_file_is_said_and_the_rest_is_shown(
    app: App, spoilt: Path, page: str, how: str
) -> None:
    for name in ("borderline", "gold", "reward"):
        break_samples(spoilt, "ppo-e001", name, how)
    found = app(spoilt.parent, page)
    if page in OWN and how != "torn":
        assert any("cannot be read" in warning.value for warning in found.warning)
        assert "samples.parquet" in "\n".join(texts(found))
    if page in ("tradeoff", "timeline"):
        assert charts(found)


@pytest.mark.parametrize("page", PAGES)
def test_broken_json_everywhere(app: App, spoilt: Path, page: str) -> None:
    for name in ("run.json", "schedule.yaml", "selection.json"):
        (spoilt / name).write_text("{]")
    next((spoilt / "evals" / "ppo-e000").glob("gold@*/summary.json")).write_text("[]")
    (spoilt / "events.jsonl").write_bytes(b"\xff\xfe\n" + (spoilt / "events.jsonl").read_bytes())
    (spoilt / "checkpoints" / "ppo-e002" / "checkpoint.json").write_text("null")
    app(spoilt.parent, page)


@pytest.mark.parametrize("page", PAGES)
def test_a_live_run(app: App, spoilt: Path, page: str) -> None:
    events = spoilt / "events.jsonl"
    kept = [line for line in events.read_text().splitlines() if '"done"' not in line]
    events.write_text("\n".join(kept[:-3]) + "\n")
    (next((spoilt / "evals" / "ppo-e003").glob("gold@*")) / "COMMIT").unlink()
    with Run(spoilt).lock():
        found = app(spoilt.parent, page)
        if page == "runs":
            assert any("is running" in text.value for text in found.text)
            assert "aldente resume" not in "\n".join(texts(found))


@pytest.mark.parametrize("page", PAGES)
def test_hostile_names_and_replies_stay_text(app: App, hostile: Path, page: str) -> None:
    found = app(hostile.parent, page)
    for kind in ("markdown", "title", "header", "subheader", "caption", "info", "warning", "error"):
        for element in getattr(found, kind):
            assert "onerror" not in element.value, kind
            assert "attacker.invalid" not in element.value, kind
    for element in (*found.metric, *found.expander, *found.tabs):
        assert "onerror" not in element.label
    for element in found.markdown:
        assert not element.allow_html
    for kind in ("html", "iframe", "image", "components"):
        assert not found.get(kind)
    everything = ["\n".join(texts(found)), *(text.value for text in found.text)]
    for table in found.dataframe:
        everything += [str(cell) for cell in table.value.to_numpy().ravel()]
    for box in (*found.selectbox, *found.multiselect):
        everything += box.options
    everything += [json.dumps(spec, ensure_ascii=False) for spec in charts(found)]
    for text in everything:
        assert not set(text) & set("\u202e\u202c\u2066\u2069\x1b\x07"), text
    assert any("\\u202e" in text for text in everything)


def test_no_page_allows_html() -> None:
    for path in APP.parent.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("unsafe_allow_html", "st.html", "components.v1", "st.iframe", "st.image("):
            assert word not in text, f"{path.name}: {word}"


# ---------------------------------------------------------------------------- the URL, the sidebar


def test_the_url_chooses_run_baseline_level_and_rows(app: App, made: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(made, tmp_path / "first")
    shutil.copytree(made, tmp_path / "second")
    found = app(tmp_path, "runs", run="second", baseline="ppo-e001", level="90", rows="b")
    assert found.selectbox(key="run").value == "second"
    assert found.selectbox(key="baseline").value == "ppo-e001"
    assert found.selectbox(key="level").value == "90"
    assert found.selectbox(key="rows").value == "b"
    found.switch_page("app_pages/timeline.py").run()
    assert found.selectbox(key="run").value == "second"
    subtitles = [" ".join(spec["title"]["subtitle"]) for spec in charts(found) if "title" in spec]
    assert subtitles
    assert all("90 %" in text for text in subtitles)


def test_nonsense_in_the_url_is_ignored(app: App, made: Path) -> None:
    found = app(made.parent, "runs", run="../../etc", baseline="<script>", level="7", rows="z")
    assert found.selectbox(key="run").value == "made"
    assert found.selectbox(key="level").value == "95"
    assert found.selectbox(key="baseline").value == "sft-e000"


def test_choices_go_into_the_url(app: App, made: Path) -> None:
    found = app(made.parent, "runs")
    found.selectbox(key="level").set_value("99").run()
    assert found.query_params["level"] == "99"
    assert found.query_params["run"] == "made"  # the default too: tomorrow it is another
    found.switch_page("app_pages/timeline.py").run()
    found.multiselect(key="metrics").set_value(["gold.score", "reward.kl"]).run()
    assert found.query_params["metrics"] == ["gold.score", "reward.kl"]
    assert found.query_params["level"] == "99"
    found.switch_page("app_pages/tradeoff.py").run()
    found.switch_page("app_pages/timeline.py").run()
    assert found.multiselect(key="metrics").value == ["gold.score", "reward.kl"]


def test_a_new_url_in_an_old_session_is_followed(app: App, made: Path) -> None:
    found = app(made.parent, "runs", level="90")
    found.selectbox(key="level").set_value("80").run()
    found.query_params["level"] = "99"
    found.run()
    assert found.selectbox(key="level").value == "99"


def test_two_versions_of_a_set_are_a_choice(app: App, spoilt: Path) -> None:
    import shutil

    old = next((spoilt / "evals" / "ppo-e001").glob("gold@*"))
    shutil.copytree(old, old.with_name("gold@000000000000"))
    found = app(spoilt.parent, "runs")
    versions = found.selectbox(key="version-gold")
    assert versions.value == old.name.rpartition("@")[2]
    versions.set_value("000000000000").run()
    assert not found.exception


# --------------------------------------------------------------------------------- own pages


def test_the_runs_page_names_state_pick_and_gates(app: App, made: Path) -> None:
    found = app(made.parent, "runs")
    said = "\n".join(text.value for text in found.text)
    assert "made is finished" in said
    assert f"Picked: {Run.open(made).selection()['picked']}. " in said
    table = found.dataframe[1].value
    assert len(table) == 7  # six policies and a reward model
    assert "✕ fail" in set(table["verdict"])


def test_an_interrupted_run_says_how_to_go_on(app: App, one: Path) -> None:
    assert f"aldente resume {one}" in texts(app(one.parent, "runs"))


def test_the_trade_off_shows_what_the_data_layer_has(app: App, made: Path) -> None:
    found = app(made.parent, "tradeoff")
    assert "fails the gate on false refusals" in titles(found)[0]
    x = found.selectbox(key="x")
    assert x.value == "borderline.false_refusal"
    x.set_value("reward.kl").run()
    assert not found.exception
    assert "nats" in json.dumps(charts(found)[-1])


def test_the_timeline_has_a_panel_for_each_metric(app: App, made: Path) -> None:
    found = app(made.parent, "timeline")
    chosen = found.multiselect(key="metrics")
    assert len(titles(found)) == len(chosen.value) == 8
    chosen.set_value(["gold.score"]).run()
    assert len(titles(found)) == 1
    chosen.set_value([]).run()
    assert not charts(found)
    assert found.info


def test_over_optimisation_says_what_is_not_identified(app: App, made: Path) -> None:
    found = app(made.parent, "overoptimization")
    assert "not identified" in titles(found)[0]
    assert found.selectbox(key="stage").value == "ppo"


def test_the_hostile_run_is_named_in_full(app: App, hostile: Path) -> None:
    found = app(hostile.parent, "runs")
    assert any("<img src=x" in text.value for text in found.text)
    assert HOSTILE  # what the prompts carry
