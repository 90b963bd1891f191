"""``aldente schedule-reference``: every field of a schedule, written from the models themselves."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def command(
    out: Annotated[Path | None, typer.Option(help="Write to this file, not to stdout.")] = None,
) -> None:
    """Print the reference of schedules (docs/schedule-reference.md) from their models.

    Example: aldente schedule-reference --out docs/schedule-reference.md
    """
    from trainers.schedule_reference import reference

    text = reference()
    if out is None:
        sys.stdout.write(text)
    else:
        out.write_text(text, encoding="utf-8")
