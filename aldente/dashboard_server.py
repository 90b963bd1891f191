"""Starting Streamlit for the dashboard: bound to this machine, silent, and ended by ctrl-C."""

from __future__ import annotations

import contextlib
import gc
import importlib
import importlib.util
import inspect
import ipaddress
import logging
import os
import pkgutil
import socket
import threading
import time
import urllib.request
import webbrowser
from pathlib import Path
from types import ModuleType
from typing import Final

import typer

from harness.errors import InputError

_NEEDED = ("streamlit", "altair", "duckdb", "uvicorn", "vl_convert")
_WEBSOCKETS: Final = "websockets-sansio"  # what Streamlit names for its own server
_READERS = ("ScriptRunner", "read-ahead")  # Streamlit's name for what runs a page, and ours
_PATIENCE = 20.0  # seconds until the server answers, and until its readers have ended


def serve(runs: Path, *, port: int, address: str, allow_remote: bool, browser: bool) -> None:
    """Serve until interrupted. Raises ``InputError`` for what cannot be served."""
    _check_installed()
    _check_address(address, allow_remote)
    if not runs.is_dir():
        raise InputError("no such folder", path=runs, expected="a folder of runs, or one run")
    listener = _listener(address, port)
    host = f"[{address}]" if ":" in address else address
    url = f"http://{host}:{port}"
    os.environ["ALDENTE_RUNS"] = str(runs.resolve())
    import streamlit
    import uvicorn
    from streamlit.web import bootstrap

    import dashboards

    _load(dashboards)
    from dashboards.data import ahead

    ahead.of_newest(runs.resolve())
    bootstrap.load_config_options(options(address, port, allow_remote))
    logging.getLogger("streamlit").setLevel(logging.WARNING)
    app = streamlit.App(Path(dashboards.__file__).parent / "streamlit_app.py")
    server = uvicorn.Server(uvicorn.Config(app, ws=_WEBSOCKETS, log_level="warning"))
    typer.echo(f"{runs}: {url}   (ctrl-C ends it)")
    if browser:
        threading.Thread(target=_open, args=(url,), daemon=True).start()
    try:
        with listener, contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[listener])
    finally:
        ahead.end()
        _wait_for_readers()
        gc.unfreeze()  # what is frozen cannot be taken apart, which DuckDB complains of


def options(address: str, port: int, allow_remote: bool) -> dict[str, object]:
    """Streamlit's options: ours go before a config file of the user's.

    Without ``allow_remote`` only requests that name this machine are answered, so that a page on
    another site cannot reach the dashboard through a host name of its own (DNS rebinding).
    """
    from dashboards.charts.theme import DARK, LIGHT  # here: needs the extra

    known: dict[str, object] = {
        "server.address": address,
        "server.port": port,
        "server.headless": True,
        "server.fileWatcherType": "none",
        "server.allowedHosts": [] if allow_remote else ["localhost", "127.0.0.1", "[::1]", "::1"],
        "server.enableStaticServing": False,
        "server.enableAgentApi": False,
        "browser.gatherUsageStats": False,
        "browser.serverAddress": address,
        "client.toolbarMode": "viewer",
        "client.showErrorLinks": False,
        "client.showErrorDetails": "type",
        "runner.magicEnabled": False,
        "logger.hideWelcomeMessage": True,
        "theme.headingFontSizes": ["1.9rem", "1.35rem", "1.1rem"],
        **{
            f"theme.{theme.name}.{option}": colour
            for theme in (LIGHT, DARK)
            for option, colour in (
                ("primaryColor", theme.accent),
                ("backgroundColor", theme.ground),
                ("secondaryBackgroundColor", theme.raised),
                ("textColor", theme.text),
            )
        },
    }
    return {name.replace(".", "_"): value for name, value in known.items()}


def _load(package: ModuleType) -> None:
    """Import what the pages use before the address is printed, not while somebody waits."""
    for name in ("data", "charts", "report"):
        inner = importlib.import_module(f"{package.__name__}.{name}")
        for found in pkgutil.iter_modules(inner.__path__):
            importlib.import_module(f"{inner.__name__}.{found.name}")
    for name in ("sidebar", "show", "controls"):
        importlib.import_module(f"{package.__name__}.{name}")
    # Streamlit looks at the stack once, in the first page: it takes 0.1 s to learn where modules
    # are from.
    inspect.stack()
    # Libraries stay: without them to look through, collecting garbage does not hold a page up.
    gc.collect()
    gc.freeze()


def _check_installed() -> None:
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise InputError(
            f"the dashboard needs {', '.join(missing)}",
            expected="pip install 'aldente[dashboard]'",
        )


def _check_address(address: str, allow_remote: bool) -> None:
    try:
        local = address == "localhost" or ipaddress.ip_address(address).is_loopback
    except ValueError:
        local = False
    if not local and not allow_remote:
        raise InputError(
            f"{address} can be reached from other machines, and there is no password",
            field="--address",
            expected="127.0.0.1, or --allow-remote if that is meant",
        )


def _listener(address: str, port: int) -> socket.socket:
    """Bound, so that nobody else takes the port meanwhile.

    What is accepted from it sends small parts at once. Otherwise the second part of an answer
    waits for the browser to acknowledge the first, which takes 40 ms: of each of the 140 files of
    a page.
    """
    with contextlib.ExitStack() as undone:
        try:
            listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
            undone.callback(listener.close)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if os.name == "posix":  # elsewhere it would let two processes have the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if listener.family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            listener.bind((address, port))
            listener.listen()
        except OSError as error:
            raise InputError(
                f"cannot listen on {address}, port {port} ({error.strerror})",
                field="--port",
                expected="a port that is free",
            ) from error
        undone.pop_all()
    return listener


def _wait_for_readers() -> None:
    """Until no page is being made and nothing is read ahead any more, for a while.

    Native code of DuckDB or Arrow that still runs as the interpreter ends takes the process down.
    """
    until = time.monotonic() + _PATIENCE
    for thread in threading.enumerate():
        if thread.name.startswith(_READERS):
            thread.join(max(0.0, until - time.monotonic()))


def _open(url: str) -> None:
    """Open the browser once the server answers."""
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            with urllib.request.urlopen(f"{url}/_stcore/health", timeout=1):
                webbrowser.open(url)
                return
        except OSError:
            time.sleep(0.2)
