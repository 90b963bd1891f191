"""Runs and pages that the tests of this folder read; also lets them import its other files."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

sys.path.insert(0, str(Path(__file__).parent))

from app_testing import App, opened
from dashboard_runs import HOSTILE_SET, make_run, rename_set

from dashboards.sidebar import RUNS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A browser on a busy machine may miss a deadline: that, and nothing else, is tried again."""
    for item in items:
        if item.get_closest_marker("browser"):
            item.add_marker(pytest.mark.flaky(reruns=2, only_rerun=["TimeoutError"]))


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> App:
    """Opens a page: ``app(runs, page, key=value)``."""

    def of(runs: Path, page: str, **parameters: str) -> AppTest:
        monkeypatch.setenv(RUNS, str(runs))
        return opened(page, **parameters)

    return of


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of six checkpoints; read it, do not write into it."""
    return make_run(tmp_path_factory.mktemp("runs") / "made", checkpoints=6, samples=280)


@pytest.fixture(scope="session")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has come to its first checkpoint; read only."""
    return make_run(tmp_path_factory.mktemp("one") / "one", checkpoints=1, done=False)


@pytest.fixture(scope="session")
def hundred(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of a hundred checkpoints with few samples each; read only."""
    return make_run(tmp_path_factory.mktemp("many") / "hundred", checkpoints=100, samples=28)


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose prompts, replies, categories and name would run as markup; read only."""
    name = "made <img src=x onerror=pwned=1> ![x](http: `x` [y](javascript:pwned=1) \u202egnp"
    run = make_run(tmp_path_factory.mktemp("hostile") / name, checkpoints=4, hostile=True)
    rename_set(run, "mt_bench", HOSTILE_SET)
    return run


@pytest.fixture
def spoilt(made: Path, tmp_path: Path) -> Path:
    """A copy of ``made``, to be damaged."""
    return Path(shutil.copytree(made, tmp_path / "runs" / "made"))
