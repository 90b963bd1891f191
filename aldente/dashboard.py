"""``aldente dashboard``: look at runs in a browser."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    runs: Annotated[Path, typer.Argument(help="A folder of runs, or one run.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="To listen on.", min=1, max=65535)] = 8501,
    address: Annotated[str, typer.Option(help="To listen on.")] = "127.0.0.1",
    allow_remote: Annotated[
        bool,
        typer.Option(
            help="Let --address be other than this machine's own. There is no password: whoever "
            "reaches it can read everything in the runs, write labels, and make a run's pick "
            "(selection.json), from which it is shipped."
        ),
    ] = False,
    no_browser: Annotated[bool, typer.Option(help="Only print the address.")] = False,
) -> None:
    """Show the runs in a browser, until ctrl-C. Nothing is sent anywhere.

    Runs are only read, but for two buttons: keeping a label, and writing the pick.

    Example: aldente dashboard runs --port 8600
    """
    from aldente.dashboard_server import serve

    serve(runs, port=port, address=address, allow_remote=allow_remote, browser=not no_browser)
