"""What ``run`` and ``resume`` share: the lock, the model, the listener, ctrl-C, the table."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import platform
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from aldente.console import json_line, note, quiet_libraries
from aldente.exit_codes import GATE_STOPPED, INTERRUPTED
from harness.errors import InputError

if TYPE_CHECKING:
    from harness.store.run import Run
    from trainers.runner import Outcome
    from trainers.schedule import Schedule
    from trainers.team import Team
    from trainers.validation import Resolved

_PACKAGES = ("aldente", "torch", "transformers", "peft", "trl", "bitsandbytes", "numpy")


def describe(path: Path, schedule: Schedule, resolved: Resolved, folder: Path) -> dict[str, Any]:
    """What run.json of a run in ``path`` says: schedule, code, packages, machine, eval sets."""
    from harness.engines.compiled import compiled
    from trainers.schedule_file import schedule_hash

    return {
        "schedule_hash": schedule_hash(schedule),
        # Where the schedule's relative names of data start from, as seen from the run.
        "schedule_folder": os.path.relpath(folder.resolve(), path.resolve()),
        "seed": schedule.seed,
        "commit": _commit(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "machine": platform.machine(),
        # With a C compiler's help: numbers differ by rounding from those without.
        "compiled": compiled() is not None,
        "evalsets": {evalset.name: evalset.hash for evalset in resolved.evalsets},
    }


def drive(run: Run, resolved: Resolved, *, as_json: bool) -> None:
    """Run to the end and show what came out; raises ``typer.Exit`` with the exit code.

    A run that is over is only shown. Under ``accelerate launch`` this is the leader's part.
    """
    from trainers.team import join

    team = join()
    outcome = _finished(run)
    if outcome is None:
        outcome = _train(run, resolved, team, as_json=as_json)
    elif as_json:
        json_line({**(_done(run) or {}), "run": str(run.path)})
    team.tell(("over",))
    if not as_json:
        from aldente.report import Report

        typer.echo(Report.read(run).text())
    if outcome.stopped_by is not None:
        raise typer.Exit(GATE_STOPPED)


def follow(path: Path, resolved: Resolved) -> None:
    """What every process but the first does under ``accelerate launch``: train beside it."""
    from harness.store.run import Run
    from trainers.team import LeaderGoneError, join

    quiet_libraries()
    team = join()
    try:
        if team.hear() == ("over",):
            return
        from trainers.live_base import LiveBase

        LiveBase(Run.open(path), resolved, team).follow()
    except (LeaderGoneError, KeyboardInterrupt):  # the leader has said why, or the user knows
        raise typer.Exit(INTERRUPTED) from None


def follows() -> bool:
    """Whether a launcher started this process as another one's follower."""
    from trainers.team import rank

    return rank() > 0


def _train(run: Run, resolved: Resolved, team: Team, *, as_json: bool) -> Outcome:
    from aldente.progress import listener
    from harness.store.lock import LockedError
    from trainers.runner import run_schedule

    try:
        with (
            run.lock(),
            _interruptible(run) as interrupted,
            listener(run, resolved.schedule, as_json=as_json) as told,
        ):
            quiet_libraries()
            from trainers.live_base import LiveBase  # torch and all: some seconds

            team.tell(("run",))
            base = LiveBase(run, resolved, team)
            return run_schedule(resolved.schedule, run, base, told, interrupted)
    except LockedError as error:
        raise InputError(str(error), path=run.path) from error


def _finished(run: Run) -> Outcome | None:
    from trainers.runner import Outcome

    event = _done(run)
    return None if event is None else Outcome(event["picked"], event["stopped_by"])


def _done(run: Run) -> dict[str, Any] | None:
    return next((event for event in run.events() if event["event"] == "done"), None)


@contextlib.contextmanager
def _interruptible(run: Run) -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the run with a message on how to go on. What is committed stays.

    Yields whether one of them came. Whatever error follows it is taken for the interruption: C code
    that is interrupted swallows ours and raises one of its own.
    """
    came: list[int] = []

    def stop(number: int, _: object) -> None:
        came.append(number)
        raise KeyboardInterrupt(number)

    wanted = [n for n in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(n) != signal.SIG_IGN]
    before = {number: signal.signal(number, stop) for number in wanted}
    try:
        yield lambda: bool(came)
    except BaseException as error:
        if not came and not isinstance(error, KeyboardInterrupt):
            raise
        # Not "from": a traceback says nothing to somebody who pressed the keys himself.
        note(
            f"\ninterrupted; nothing that was finished is lost. Go on with:\n"
            f"  aldente resume {run.path}"
        )
        terminated = signal.SIGTERM in came
        raise typer.Exit(128 + signal.SIGTERM if terminated else INTERRUPTED) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """The commit of the code that runs, if it runs from a checkout."""
    try:
        found = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:  # no git on this machine
        return None
    return found.stdout.strip() if found.returncode == 0 else None
