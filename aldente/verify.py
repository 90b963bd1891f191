"""``aldente verify``: re-read every byte of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aldente.console import json_line, problem
from aldente.exit_codes import DAMAGED


def command(
    run: Annotated[Path, typer.Argument(help="The run's folder.")],
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check every committed checkpoint and evaluation against its manifest (exit 4 if damaged).

    Example: aldente verify runs/pocket
    """
    from harness.store.run import Run

    opened = Run.open(run)
    problems = opened.verify()
    if as_json:
        json_line({"run": str(opened.path), "problems": problems})
    else:
        for found in problems:
            problem(found)
        if not problems:
            typer.echo(f"{opened.path}: every committed byte is as it was written")
    if problems:
        raise typer.Exit(DAMAGED)
