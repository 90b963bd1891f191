"""``aldente status``: where a run is."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from aldente.console import json_line

_SECONDS = 2.0  # between two looks of --follow


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder, such as runs/pocket.")],
    follow: Annotated[bool, typer.Option(help="Look again until the run is not running.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a look.")] = False,
) -> None:
    """Show a run's checkpoints, metrics and verdicts.

    Example: aldente status runs/pocket --follow
    """
    from aldente.report import Report
    from harness.store.run import Run

    opened = Run.open(run)
    seen = None
    while True:
        report = Report.read(opened)
        if len(report.events) != seen:
            seen = len(report.events)
            if as_json:
                json_line(report.to_dict())
            else:
                typer.echo(report.text())
        if not follow or report.state != "running":
            return
        time.sleep(_SECONDS)
