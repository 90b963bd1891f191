"""A run that is interrupted, whatever the code makes of it that is interrupted."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer

from aldente.drive import _interruptible
from harness.store.run import Run
from trainers.runner import run_schedule
from trainers.schedule import Schedule


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", schedule_yaml="", info={})


@pytest.fixture(autouse=True)
def interruptible_at_all() -> Any:
    """Whoever runs the tests may have had ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def _swallowed(number: signal.Signals, interrupted: Callable[[], bool]) -> None:
    """As safetensors does with a signal that comes while it reads."""
    assert not interrupted()
    try:
        os.kill(os.getpid(), number)
    except KeyboardInterrupt:
        assert interrupted()
        raise ValueError("could not determine the shape of object") from None


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_error_that_swallowed_the_signal_is_an_interruption(
    run: Run, capsys: pytest.CaptureFixture[str], number: signal.Signals, code: int
) -> None:
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(typer.Exit) as ended, _interruptible(run) as interrupted:
        _swallowed(number, interrupted)
    assert ended.value.exit_code == code
    assert f"aldente resume {run.path}" in capsys.readouterr().err
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


def test_other_errors_stay_what_they_are(run: Run) -> None:
    with pytest.raises(ValueError, match="wrong"), _interruptible(run):
        raise ValueError("wrong")


def test_ctrl_c_that_was_ignored_stays_so(run: Run) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with _interruptible(run) as interrupted:
        os.kill(os.getpid(), signal.SIGINT)
        assert not interrupted()


@pytest.mark.parametrize("came", [False, True])
def test_an_interruption_is_no_error_of_the_run(run: Run, came: bool) -> None:
    class Failing:
        def train(self, *_: Any) -> Any:
            raise ValueError("wrong")

        def evaluate(self, *_: Any) -> Any:
            raise AssertionError

    class Silent:
        def __getattr__(self, _: str) -> Any:
            return lambda *_, **__: None

    stages = ({"kind": "sft", "name": "sft", "data": "x"},)
    content = {"name": "t", "model": "pocket", "stages": stages, "evaluate": {"sets": ()}}
    schedule = Schedule.model_validate(content)
    bench: Any = Failing()
    listener: Any = Silent()
    with pytest.raises(ValueError, match="wrong"):
        run_schedule(schedule, run, bench, listener, lambda: came)
    assert [e["event"] for e in run.events() if e["event"] == "error"] == ["error"] * (not came)
