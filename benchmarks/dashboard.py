"""How fast the dashboard is on 200,000 samples, in a real browser, beside TensorBoard.

A run of 100 checkpoints with 2,000 samples each is made by the harness's own evaluator
(``tests/dashboards/dashboard_runs.py``) and the real server is started on it, anew for each page.

- first render: from the navigation until the last change of the page (the script has ended, every
  chart is drawn, and then nothing changes for half a second), by the browser's own clock; the page
  is asked for as soon as the server answers;
- rerun: from the key that chooses something in the sidebar until the script has ended;
- bytes: what came over the websocket until then;
- memory: the server's resident set while one tab makes reruns.

With ``--tensorboard PYTHON`` (one that has the package) the same metrics are written as scalars and
TensorBoard's page is timed in the same way, until the first cards hold their lines.

    python benchmarks/dashboard.py --reruns 500 --out benchmarks/results/dashboard.md
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "dashboards"))
sys.path.insert(0, str(Path(__file__).parent))

from browsing import CHROMIUM, DRAWN, IDLE, PATIENCE, QUIET, WITHOUT, serving, tab  # noqa: E402
from dashboard_runs import make_run  # noqa: E402
from tensorboard_page import tensorboard_page  # noqa: E402

PAGES = (
    *("runs", "live", "tradeoff", "timeline", "overoptimization", "reward", "compare"),
    *("transcripts", "consistency", "hallucination", "evalsets", "export"),
)
# Sidebar label -> what is typed into its box, in turn. Every third level is new to the caches.
TURNS = (
    ("Rows", "played"),
    ("Rows", "all rows"),
    ("Rows", "gates"),
    ("Interval level", "90 %"),
    ("Interval level", "95 %"),
    ("Baseline checkpoint", "ppo-e040"),
    ("Baseline checkpoint", "sft-e000"),
    ("Interval level", "99 %"),
    ("Interval level", "95 %"),
    ("Rows", "played"),
    ("Rows", "gates"),
)
# When the page changed last, in milliseconds since the navigation.
CHANGES = """
new MutationObserver(() => { window.changed = performance.now(); })
    .observe(document, {childList: true, subtree: true, characterData: true});
"""
FIRST, RERUN, BYTES = 2.5, 0.5, 1_000_000  # the targets: s, s, bytes a page
MEMORY_PAGE = "timeline"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path(tempfile.gettempdir()) / "aldente-bench")
    parser.add_argument("--checkpoints", type=int, default=100)
    parser.add_argument("--samples", type=int, default=2000, help="of a checkpoint")
    parser.add_argument("--reruns", type=int, default=500, help="for the memory; 0: not measured")
    parser.add_argument("--tensorboard", help="a Python that has tensorboard")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    if CHROMIUM is None:
        raise SystemExit(WITHOUT)
    run = given.runs / f"bench-{given.checkpoints}x{given.samples}"
    if not (run / "selection.json").exists():
        shutil.rmtree(run, ignore_errors=True)
        given.runs.mkdir(parents=True, exist_ok=True)
        make_run(run, checkpoints=given.checkpoints, samples=given.samples)
    found: dict[str, Any] = {
        "checkpoints": given.checkpoints,
        "samples": given.checkpoints * given.samples,
        "megabytes": sum(f.stat().st_size for f in run.rglob("*") if f.is_file()) / 1e6,
        "date": time.strftime("%Y-%m-%d"),
        "load": os.getloadavg()[0],
        "others": _others(),
        "nice": os.nice(0),
    }
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--headless"]
        )
        found["pages"] = {name: _page(browser, run, Path(home), name) for name in PAGES}
        if given.tensorboard:
            found["tensorboard"] = tensorboard_page(browser, run, given.tensorboard)
        if given.reruns:
            found["memory"] = _memory(browser, run, Path(home), given.reruns)
        browser.close()
    found["load_after"], found["others_after"] = os.getloadavg()[0], _others()
    print(json.dumps(found, indent=2))
    if given.out is not None:
        given.out.write_text(_markdown(found), encoding="utf-8")


def _others() -> list[str]:
    """The processes that took more than a fifth of a core in the last second, none of ours."""
    own = {os.getpid(), *(child.pid for child in psutil.Process().children(recursive=True))}
    seen = [p for p in psutil.process_iter(["name"]) if p.pid not in own]
    for process in seen:
        with contextlib.suppress(psutil.Error):
            process.cpu_percent()
    time.sleep(1.0)
    found = []
    for process in seen:
        with contextlib.suppress(psutil.Error):
            if (percent := process.cpu_percent()) > 20:
                found.append(f"{process.info['name']} {percent:.0f} %")
    return sorted(found)


def _page(browser: Any, run: Path, home: Path, name: str) -> dict[str, Any]:
    """Seconds and bytes of one page in a server of its own."""
    with serving(run, home) as base, tab(browser, base) as at:
        received = [0]

        def opened(socket: Any) -> None:
            def frame(payload: Any) -> None:
                received[0] += len(payload)

            socket.on("framereceived", frame)

        at.page.on("websocket", opened)
        # The browser's own start is not the dashboard's doing.
        at.page.goto(f"{base}/_stcore/health")
        at.page.add_init_script(CHANGES)
        at.page.goto(f"{base}/{'' if name == 'runs' else name}", timeout=PATIENCE)
        at.page.wait_for_selector("h1", timeout=PATIENCE)
        at.page.wait_for_selector(IDLE, timeout=PATIENCE)
        at.page.wait_for_function(QUIET, timeout=PATIENCE)
        at.page.wait_for_function(DRAWN, timeout=PATIENCE)
        first = at.page.evaluate("window.changed") / 1000
        size = received[0]
        again = [_turn(at.page, label, text) for label, text in TURNS]
    print(f"{name}: {first:.2f} s, {size:,} bytes, {max(again):.2f} s", file=sys.stderr, flush=True)
    return {"first_s": first, "bytes": size, "rerun_s": again}


def _memory(browser: Any, run: Path, home: Path, reruns: int) -> list[tuple[int, float]]:
    """(reruns so far, megabytes of the server) as one tab turns choices over and over.

    The first hundred fill the caches: they are counted from there.
    """
    found = []
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with serving(run, home) as base, tab(browser, base) as at:
        (server,) = [
            child
            for child in psutil.Process().children()
            if child.pid not in before and "aldente" in " ".join(child.cmdline())
        ]
        at.open(MEMORY_PAGE)
        for i in range(reruns + 1):
            if i % max(1, reruns // 10) == 0:
                found.append((i, server.memory_info().rss / 1e6))
                print(f"memory: {i} reruns, {found[-1][1]:.0f} MB", file=sys.stderr, flush=True)
            _turn(at.page, *TURNS[i % len(TURNS)], pause=20)
    return found


def _turn(page: Any, label: str, text: str, pause: int = 150) -> float:
    """Choose in the sidebar; seconds from the deciding key until the script has ended."""
    box = page.get_by_role("combobox", name=label)
    box.click()
    box.fill(text)
    page.wait_for_timeout(pause)
    # The change of state is watched from inside the page: polling from here would miss short runs.
    # A choice that is made already starts no script.
    page.evaluate(
        """() => {
            const app = document.querySelector('[data-testid=stApp]');
            window.ended = new Promise(done => {
                let ran = false;
                const began = () => window.began;
                setTimeout(() => { if (!ran) { done(0); } }, 5000);
                new MutationObserver((_, observer) => {
                    const state = app.getAttribute('data-test-script-state');
                    if (state === 'running') ran = true;
                    if (ran && state === 'notRunning') {
                        observer.disconnect();
                        done((performance.now() - began()) / 1000);
                    }
                }).observe(app, {attributes: true});
            });
            window.began = performance.now();
        }"""
    )
    box.press("Enter")
    seconds: float = page.evaluate("window.ended")
    page.wait_for_timeout(pause)
    return seconds


def _markdown(found: dict[str, Any]) -> str:
    """The table, with what was measured and where."""
    pages = found["pages"]
    every = sorted(s for page in pages.values() for s in page["rerun_s"] if s > 0)
    p95 = every[max(0, round(0.95 * len(every)) - 1)]
    slowest = max(page["first_s"] for page in pages.values())
    most = max(page["bytes"] for page in pages.values())
    lines = [
        "# The dashboard on 200,000 samples",
        "",
        f"{found['samples']:,} samples: {found['checkpoints']} checkpoints of a made run "
        f"({found['megabytes']:.0f} MB on disk). {found['date']}, {platform.machine()}, "
        f"{os.cpu_count()} cores, Python {platform.python_version()}. Load average "
        f"{found['load']:.1f} at the start, {found['load_after']:.1f} at the end; other processes "
        f"with more than a fifth of a core: {', '.join(found['others']) or 'none'} at the start, "
        f"{', '.join(found['others_after']) or 'none'} at the end (they slow all of this down). "
        f"{_priority(found['nice'])}Each page in a server of its own, asked for as soon as it "
        "answers, in Chromium; a first render lasts until the page no longer changes. Made by",
        "",
        "```",
        "python benchmarks/dashboard.py --reruns 500 --tensorboard PYTHON "
        "--out benchmarks/results/dashboard.md",
        "```",
        "",
        "| page | first render, s | rerun: median, s | rerun: slowest, s | websocket, kB |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, page in pages.items():
        turns = [s for s in page["rerun_s"] if s > 0]
        lines.append(
            f"| {name} | {page['first_s']:.2f} | {statistics.median(turns):.2f} "
            f"| {max(turns):.2f} | {page['bytes'] / 1000:.0f} |"
        )
    lines += [
        "",
        "| | measured | target | |",
        "|---|---:|---:|---|",
        _against("slowest first render, s", slowest, FIRST, 2),
        _against(f"rerun, 95th percentile of {len(every)}, s", p95, RERUN, 2),
        _against("most bytes of a page, kB", most / 1000, BYTES / 1000, 0),
        "",
    ]
    if found.get("memory"):
        lines += _memory_lines(found["memory"])
    if found.get("tensorboard"):
        of = found["tensorboard"]
        lines += [
            f"TensorBoard {of['version']} on the same {of['scalars']:,} numbers ({of['tags']} "
            f"metrics of every checkpoint): {of['first_s']:.2f} s until its first cards held their "
            f"lines, {of['bytes'] / 1000:.0f} kB over the network, its own scripts included. It "
            "shows the curves alone: no intervals, no samples, no comparisons.",
            "",
        ]
    return "\n".join(lines)


def _priority(nice: int) -> str:
    return f"Run with niceness {nice}, before other work. " if nice < 0 else ""


def _against(what: str, measured: float, target: float, digits: int) -> str:
    verdict = "met" if measured <= target else "missed"
    return f"| {what} | {measured:,.{digits}f} | {target:,.{digits}f} | {verdict} |"


def _memory_lines(memory: list[tuple[int, float]]) -> list[str]:
    told = ", ".join(f"{n}: {size:.0f}" for n, size in memory)
    filled = [point for point in memory if point[0] >= memory[-1][0] / 5]
    slope = (filled[-1][1] - filled[0][1]) / max(1, filled[-1][0] - filled[0][0])
    return [
        f"Resident memory of the server, MB, by reruns of one tab on the {MEMORY_PAGE} page: "
        f"{told}. From {filled[0][0]} on, when the caches are full: {1000 * slope:+.0f} kB a "
        "rerun.",
        "",
    ]


if __name__ == "__main__":
    main()
