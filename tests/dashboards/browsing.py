"""The real server and a real Chromium for the dashboard's tests.

Debian's chromium is used, or the one that ``CHROMIUM`` names; Playwright's own is never downloaded.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
WITHOUT = "there is no chromium: apt-get install -y chromium, or set CHROMIUM to one"
SCREENSHOTS = "ALDENTE_SCREENSHOTS"  # a folder that is to keep a picture of every page
APP = "[data-testid=stApp]"
IDLE = "[data-testid=stApp][data-test-script-state=notRunning]"
# Charts hold their drawings, and nothing waits for a part of Streamlit to be loaded.
DRAWN = """
!document.querySelector('[data-testid=stSkeleton]')
&& [...document.querySelectorAll('[data-testid=stVegaLiteChart]')]
    .every(chart => chart.querySelector('svg, canvas'))
"""
# Half a second without a change of the page.
QUIET = """
() => new Promise(done => {
    const end = () => { observer.disconnect(); done(true); };
    let timer = setTimeout(end, 500);
    const observer = new MutationObserver(() => {
        clearTimeout(timer);
        timer = setTimeout(end, 500);
    });
    observer.observe(document.querySelector('[data-testid=stMain]'),
                     {childList: true, subtree: true, characterData: true});
})
"""
PATIENCE = 90_000  # ms: machines that build are slow


@contextmanager
def serving(runs: Path, home: Path) -> Iterator[str]:
    """``aldente dashboard`` over a folder of runs, on a free port; its address."""
    process, base = started(runs, home, subprocess.DEVNULL)
    try:
        yield base
    finally:
        process.terminate()
        process.wait(timeout=30)


def started(runs: Path, home: Path, output: int) -> tuple[subprocess.Popen[str], str]:
    """The same, for whoever wants to end it: the process, with its output there, and its address
    once it answers."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "aldente", "dashboard", str(runs), "--no-browser"]
    process = subprocess.Popen(
        [*command, "--port", str(port)], stdout=output, stderr=output, cwd=home, text=True
    )
    base = f"http://127.0.0.1:{port}"
    try:
        _wait(base, process)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process, base


def _wait(base: str, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + PATIENCE / 1000
    while time.monotonic() < until:
        if process.poll() is not None:
            raise RuntimeError(f"the dashboard ended with {process.returncode}")
        try:
            with urllib.request.urlopen(f"{base}/_stcore/health", timeout=2):
                return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError("the dashboard did not answer")


@dataclass
class Guarded:
    """A tab in which whatever goes to another host is stopped and remembered."""

    page: Any
    base: str
    elsewhere: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def open(self, name: str, query: str = "") -> None:
        """A page of the dashboard, until its script has ended and its charts are drawn."""
        path = "" if name == "runs" else name
        self.page.goto(f"{self.base}/{path}{'?' + query if query else ''}", timeout=PATIENCE)
        self.page.wait_for_selector("h1", timeout=PATIENCE)
        self.settle()

    def settle(self) -> None:
        """Until the script has ended, every chart holds its drawing, and nothing changes."""
        self.page.wait_for_selector(IDLE, timeout=PATIENCE)
        # When the script has ended, the browser may not yet have made all that it was told of.
        self.page.wait_for_function(QUIET, timeout=PATIENCE)
        self.page.wait_for_function(DRAWN, timeout=PATIENCE)
        self.page.wait_for_timeout(100)

    def unfold(self) -> None:
        """Open everything that is folded, so that it is made and drawn too."""
        app = self.page.query_selector(APP)
        for folded in self.page.query_selector_all("details:not([open])"):
            folded.query_selector("summary").click()
            self.page.wait_for_timeout(150 if app else 20)  # until the script has begun
            if app:
                self.page.wait_for_selector(IDLE, timeout=PATIENCE)
                assert folded.evaluate("part => part.open")
        if app:
            self.settle()

    def assert_clean(self, where: str) -> None:
        """Nothing of the data ran, made an element, or asked another host for anything."""
        assert self.page.evaluate("window.pwned") is None, where
        for selector in ("img[src='x']", "svg[onload]", "iframe", "link[href*=attacker]"):
            assert self.page.query_selector(selector) is None, f"{where}: {selector}"
        for scheme in ("javascript:", "attacker"):
            found = self.page.query_selector(f"[href*='{scheme}'], [src*='{scheme}']")
            assert found is None, f"{where}: {scheme}"
        assert self.dialogs == [], where
        assert self.elsewhere == [], where


@contextmanager
def tab(browser: Any, base: str, **options: Any) -> Iterator[Guarded]:
    """A new guarded tab; ``options`` are those of Playwright's ``new_context``."""
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 1400}, **options})
    page = context.new_page()
    guarded = Guarded(page, base)

    def route(handler: Any) -> None:
        if handler.request.url.startswith((base, "data:", "blob:")):
            handler.continue_()
        else:
            guarded.elsewhere.append(handler.request.url)
            handler.abort()

    def socket_opened(opened: Any) -> None:
        if not opened.url.replace("ws://", "http://").startswith(base):
            guarded.elsewhere.append(opened.url)

    def dialog(shown: Any) -> None:
        guarded.dialogs.append(shown.message)
        shown.dismiss()

    context.route("**/*", route)
    page.on("websocket", socket_opened)
    page.on("dialog", dialog)
    page.on("pageerror", lambda error: guarded.errors.append(str(error)))
    try:
        yield guarded
    finally:
        context.close()
