"""``aldente pocket``: the offline default, rebuilt."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from aldente.console import note

app = typer.Typer(help="The pocket world: a tiny model and its eval sets.", no_args_is_help=True)


@app.callback()
def group() -> None:
    """The pocket world: a tiny model and its eval sets."""


@app.command("build")
def build_command(
    out: Annotated[Path, typer.Option(help="Folder for base/ and evalsets/.")],
    seed: Annotated[int, typer.Option(help="Of the world, its corpus and the base.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
) -> None:
    """Train a new pocket base from scratch, with the eval sets of its world.

    Example: aldente pocket build --out my-pocket --seed 3
    """
    from trainers.pocket.base import build

    build(out, seed, threads, log=note)
    typer.echo(f"{out / 'base'}\n{out / 'evalsets'}")
