"""``aldente validate``: is this schedule one that can run?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aldente.console import json_line


def command(
    schedule: Annotated[Path, typer.Argument(help="A schedule (YAML).")],
    seed: Annotated[int | None, typer.Option(help="Instead of the schedule's.")] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="As for run.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
) -> None:
    """Check a schedule, its data, eval sets and metrics; write nothing.

    Example: aldente validate schedules/pocket.yaml --set stages.ppo.kl=0.05
    """
    from trainers.schedule_file import read_with_source, resolved_yaml, schedule_hash
    from trainers.validation import resolve

    parsed, source = read_with_source(schedule, overrides or [], seed)
    resolved = resolve(parsed, schedule.parent, source)
    if as_json:
        json_line(
            {
                "schedule": str(schedule),
                "hash": schedule_hash(parsed),
                "resolved": resolved_yaml(parsed),
                "metrics": sorted(resolved.metrics),
            }
        )
        return
    stages = ", ".join(f"{stage.name} ({stage.epochs})" for stage in parsed.stages)
    rows = ", ".join(f"{evalset.name} ({len(evalset.rows)})" for evalset in resolved.evalsets)
    typer.echo(f"{schedule}: ok\nstages (epochs): {stages}\neval sets (rows): {rows}")
    typer.echo(f"metrics: {', '.join(resolved.metrics)}")
