"""The pages in a real Chromium: what people do works, and what data say never runs.

With ``ALDENTE_SCREENSHOTS=FOLDER`` every page is kept there as a picture, light and dark.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browsing import CHROMIUM, PATIENCE, SCREENSHOTS, WITHOUT, Guarded, serving, started, tab
from dashboard_runs import make_run
from test_theme import WORDS, contrast

import dashboards
from harness.store.run import Run

PAGES = sorted(path.stem for path in (Path(dashboards.__file__).parent / "app_pages").glob("*.py"))
GROUNDS = {"light": "rgb(255, 255, 255)", "dark": "rgb(14, 17, 23)"}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason=WITHOUT),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder to start servers in: without a configuration of Streamlit's."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def url(made: Path, home: Path) -> Iterator[str]:
    """The dashboard over a run of six checkpoints."""
    with serving(made.parent, home) as base:
        yield base


@pytest.fixture(scope="module")
def hostile_url(hostile: Path, home: Path) -> Iterator[str]:
    """The dashboard over the run whose every name and text would run as markup."""
    with serving(hostile.parent, home) as base:
        yield base


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    api = pytest.importorskip("playwright.sync_api")
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--headless"]
        )
        yield opened
        opened.close()


# ------------------------------------------------------------------------------- hostile data


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_runs_and_nothing_is_fetched(hostile_url: str, browser: Any, scheme: str) -> None:
    with tab(browser, hostile_url, color_scheme=scheme) as at:
        for name in PAGES:
            at.open(name)
            at.unfold()
            at.assert_clean(name)
            assert at.page.query_selector("[data-testid=stException]") is None, name
            ground = at.page.evaluate(
                "getComputedStyle(document.querySelector('.stApp')).backgroundColor"
            )
            assert ground == GROUNDS[scheme]
            for chart in at.page.query_selector_all("[role=graphics-document]"):
                assert chart.get_attribute("aria-label"), name
        assert at.errors == []


def test_the_guard_would_have_seen_it(hostile_url: str, browser: Any) -> None:
    """A test of the test: what would run or fetch is noticed."""
    with tab(browser, hostile_url) as at:
        at.open("runs")
        at.assert_clean("runs")
        at.page.evaluate(
            "document.body.insertAdjacentHTML('beforeend',"
            " `<img src='http://attacker.invalid/x.png'>`)"
        )
        at.page.wait_for_timeout(500)
        assert at.elsewhere == ["http://attacker.invalid/x.png"]
        with pytest.raises(AssertionError):
            at.assert_clean("runs")


def test_the_report_of_a_hostile_run_runs_nothing(
    hostile: Path, browser: Any, tmp_path: Path
) -> None:
    from dashboards.charts.theme import LIGHT
    from dashboards.data.index import View, read_index
    from dashboards.report.html import report

    page = tmp_path / "report.html"
    page.write_text(report(View.of(read_index(hostile)), LIGHT), encoding="utf-8")
    with tab(browser, page.as_uri()) as at:
        _read(at, page)
        at.unfold()
        at.assert_clean("report")
        assert at.errors == []


def test_a_page_of_another_host_cannot_connect(url: str) -> None:
    """DNS rebinding: a request that names another host gets no session."""
    import http.client

    port = int(url.rpartition(":")[2])
    upgrade = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }
    statuses = {}
    for host in (f"127.0.0.1:{port}", f"localhost:{port}", f"attacker.example:{port}"):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/_stcore/stream", headers={"Host": host, **upgrade})
        statuses[host.partition(":")[0]] = connection.getresponse().status
        connection.close()
    assert statuses["127.0.0.1"] == statuses["localhost"] == 101
    assert statuses["attacker.example"] == 403


# ----------------------------------------------------------------------------- what people do


def test_a_link_shows_what_its_sender_saw(url: str, browser: Any) -> None:
    query = "run=made&x=reward.kl&y=gold.score&level=90&rows=b&baseline=ppo-e001"
    with tab(browser, url) as at:
        at.open("tradeoff", query)
        assert _chosen(at, "Cost (x)").endswith("(reward.kl)")
        assert _chosen(at, "Gain (y)").endswith("(gold.score)")
        assert _chosen(at, "Interval level") == "90 %"
        assert _chosen(at, "Rows").startswith("B:")
        assert _chosen(at, "Baseline checkpoint") == "ppo-e001"
        said = at.page.get_attribute("[data-testid=stVegaLiteChart] >> nth=1 >> svg", "aria-label")
        at.page.get_by_role("link", name="Timeline").click()
        at.page.wait_for_url("**/timeline**", timeout=PATIENCE)
        at.settle()
        assert _chosen(at, "Interval level") == "90 %"
        # What the URL says now opens the same in a new session.
        with tab(browser, url) as other:
            other.page.goto(at.page.url, timeout=PATIENCE)
            other.page.wait_for_selector("h1", timeout=PATIENCE)
            other.settle()
            assert _chosen(other, "Interval level") == "90 %"
            assert _chosen(other, "Baseline checkpoint") == "ppo-e001"
        with tab(browser, url) as other:
            other.open("tradeoff", query)
            again = "[data-testid=stVegaLiteChart] >> nth=1 >> svg"
            assert other.page.get_attribute(again, "aria-label") == said


def test_from_a_point_to_its_comparison(url: str, browser: Any) -> None:
    with tab(browser, url) as at:
        at.open("tradeoff", "baseline=sft-e000")
        point = at.page.locator(".mark-symbol.checkpoints_marks path").nth(4)
        point.click()
        link = at.page.get_by_role("link", name="Compare it with the baseline")
        link.wait_for(timeout=PATIENCE)
        assert "ppo-e002" in at.page.inner_text("[data-testid=stMain]")
        link.click()
        at.page.wait_for_url("**/compare**", timeout=PATIENCE)
        at.settle()
        assert _chosen(at, "B: the checkpoint") == "ppo-e002"
        assert "after=ppo-e002" in at.page.url
        assert at.page.query_selector("[data-testid=stVegaLiteChart]")


def test_a_new_checkpoint_appears_without_a_reload(
    browser: Any, tmp_path: Path, home: Path
) -> None:
    whole = make_run(tmp_path / "whole" / "made", checkpoints=4, samples=28, done=False)
    path = Path(shutil.copytree(whole, tmp_path / "runs" / "made"))
    late = path / "checkpoints" / "ppo-e001"
    kept = Path(shutil.move(late, tmp_path / "ppo-e001"))
    shutil.rmtree(path / "evals" / "ppo-e001")
    events = (path / "events.jsonl").read_text().splitlines(keepends=True)
    (path / "events.jsonl").write_text("".join(e for e in events if "ppo-e001" not in e))
    with Run(path).lock(), serving(path.parent, home) as base, tab(browser, base) as at:
        at.open("live")
        at.page.evaluate("window.same = true")
        at.page.get_by_text("4 checkpoints in all").wait_for(timeout=PATIENCE)  # one of rewards
        shutil.move(kept, late)
        (path / "events.jsonl").write_text("".join(events))
        at.page.get_by_text("5 checkpoints in all").wait_for(timeout=PATIENCE)
        assert at.page.evaluate("window.same") is True
        assert at.page.get_by_text("running", exact=True).count()


def test_the_ticking_ends_with_the_run(browser: Any, tmp_path: Path, home: Path) -> None:
    path = make_run(tmp_path / "runs" / "made", checkpoints=3, samples=28, done=False)
    with serving(path.parent, home) as base, tab(browser, base) as at:
        with Run(path).lock():
            at.open("live")
            at.page.get_by_text("running", exact=True).wait_for(timeout=PATIENCE)
        at.page.get_by_text("interrupted", exact=True).wait_for(timeout=PATIENCE)
        at.page.get_by_text(f"aldente resume {path}").first.wait_for(timeout=PATIENCE)


def test_the_report_opens_without_a_network(
    made: Path, url: str, browser: Any, tmp_path: Path
) -> None:
    with tab(browser, url) as at:
        at.open("export")
        with at.page.expect_download(timeout=PATIENCE) as download:
            at.page.get_by_role("button", name="Report, HTML").click()
        page = tmp_path / "report.html"
        download.value.save_as(page)
        assert download.value.suggested_filename == "made.html"
    with tab(browser, page.as_uri(), offline=True) as at:
        drawn = _read(at, page)
        assert drawn >= 15
        assert at.errors == []
        assert at.elsewhere == []
        selection = Run.open(made).selection()
        assert selection is not None
        assert selection["reason"] in at.page.inner_text("body")
        _keep(at, "report", "light", 1280)


@pytest.mark.parametrize(("button", "ending"), [("SVG", "svg"), ("PNG", "png"), ("CSV", "csv")])
def test_a_figure_can_be_taken(
    url: str, browser: Any, tmp_path: Path, button: str, ending: str
) -> None:
    with tab(browser, url) as at:
        at.open("export", "figure=hallucination-outcomes")
        with at.page.expect_download(timeout=PATIENCE) as download:
            at.page.get_by_role("button", name=button).last.click()
        assert download.value.suggested_filename == f"made-hallucination-outcomes.{ending}"
        download.value.save_as(tmp_path / "figure")
    start = (tmp_path / "figure").read_bytes()[:8]
    assert start.startswith({"svg": b"<svg", "png": b"\x89PNG", "csv": b"checkpoi"}[ending])


def test_the_pick_is_written_by_its_button(browser: Any, tmp_path: Path, home: Path) -> None:
    path = make_run(tmp_path / "runs" / "made", checkpoints=4, samples=140)
    before = Run.open(path).selection()
    (path / "selection.json").unlink()
    with serving(path.parent, home) as base, tab(browser, base) as at:
        at.open("export")
        at.page.get_by_role("button", name="Write this pick into the run").click()
        at.page.get_by_text("Written.").wait_for(timeout=PATIENCE)
    assert Run.open(path).selection() == before


def test_a_dropped_set_is_checked(url: str, browser: Any, tmp_path: Path) -> None:
    rows = [{"id": f"r{i}", "category": "c", "prompt": f"thing {i}?"} for i in range(3)]
    text = "".join(json.dumps(row) + "\n" for row in rows) + '{"id": "r9", "nonsense": 1}\n'
    (tmp_path / "mine.jsonl").write_text(text)
    with tab(browser, url) as at:
        at.open("evalsets")
        at.page.set_input_files("input[type=file]", tmp_path / "mine.jsonl")
        at.page.get_by_text("an evaluation would refuse this set").wait_for(timeout=PATIENCE)
        assert "mine.jsonl:4" in at.page.inner_text("[data-testid=stMain]")


# ----------------------------------------------------------------------------------- how it looks


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_primary_button_can_be_read(url: str, browser: Any, scheme: str) -> None:
    """Its words are Streamlit's choice; as it is, and under the mouse."""
    with tab(browser, url, color_scheme=scheme) as at:
        at.open("export")
        button = at.page.locator("[data-testid=stBaseButton-primary]").first
        for hover in (False, True):
            if hover:
                button.hover()
                at.page.wait_for_timeout(500)
            ground, words = (
                "#" + "".join(f"{int(part):02x}" for part in re.findall(r"\d+", colour)[:3])
                for colour in button.evaluate(
                    "e => [getComputedStyle(e).backgroundColor,"
                    " getComputedStyle(e.querySelector('p')).color]"
                )
            )
            assert contrast(ground, words) >= WORDS, (ground, words)


@pytest.mark.parametrize(("scheme", "width"), [("light", 1280), ("light", 1920), ("dark", 1920)])
def test_every_page_is_whole(url: str, browser: Any, scheme: str, width: int) -> None:
    """No page fails, is wider than its window, or has a chart that drew nothing."""
    view = {"width": width, "height": 1000}
    with tab(browser, url, color_scheme=scheme, viewport=view) as at:
        for name in PAGES:
            at.open(name)
            assert at.page.query_selector("[data-testid=stException]") is None, name
            wide = at.page.evaluate("document.documentElement.scrollWidth")
            assert wide <= width, name
            for chart in at.page.query_selector_all("[data-testid=stVegaLiteChart] svg"):
                box = chart.bounding_box()
                assert box is not None, name
                assert box["width"] > 100, name
                marks = chart.query_selector_all("[role=graphics-symbol], [role=graphics-object]")
                assert marks, name
            _keep(at, name, scheme, width)
        assert at.errors == []
        assert at.elsewhere == []


def _chosen(at: Guarded, label: str) -> str:
    """What a select box shows."""
    box = at.page.locator("[data-testid=stSelectbox]").filter(has_text=label).first
    shown = box.get_by_role("combobox").input_value()
    return str(shown or box.inner_text().split("\n")[-1])


def _read(at: Guarded, page: Path) -> int:
    """Open a report; how many figures it drew."""
    at.page.goto(page.as_uri())
    at.page.wait_for_function(
        "document.querySelectorAll('[data-drawn=yes]').length"
        " === document.querySelectorAll('[data-figure]').length",
        timeout=PATIENCE,
    )
    count: int = at.page.evaluate(
        "[...document.querySelectorAll('[data-drawn=yes] .chart-wrapper, [data-drawn=yes]')]"
        ".filter(e => e.dataset.drawn && e.querySelector('svg.marks')).length"
    )
    return count


def _keep(at: Guarded, name: str, scheme: str, width: int) -> None:
    """The whole page as a picture, if somebody wants it."""
    folder = os.environ.get(SCREENSHOTS)
    if not folder:
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    tallest = "Math.max(...[...document.querySelectorAll('*')].map(e => e.scrollHeight))"
    at.page.set_viewport_size({"width": width, "height": min(6000, at.page.evaluate(tallest))})
    at.page.wait_for_timeout(500)
    at.page.screenshot(path=Path(folder) / f"{name}-{scheme}-{width}.png")
    at.page.set_viewport_size({"width": width, "height": 1000})


def test_an_interrupt_while_a_page_is_made_ends_quietly(
    hundred: Path, home: Path, browser: Any
) -> None:
    """Readers in native code must have ended before the interpreter does."""
    process, base = started(hundred.parent, home, subprocess.PIPE)
    with process, tab(browser, base) as at:
        at.page.goto(f"{base}/transcripts", timeout=PATIENCE)
        at.page.wait_for_selector("h1", timeout=PATIENCE)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, "")
    assert out == f"{hundred.parent}: {base}   (ctrl-C ends it)\n"
