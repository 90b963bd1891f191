"""Reading what pages will ask for before somebody waits for it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

from dashboards.data.index import View, find_runs, read_index
from dashboards.data.metrics import catalogue
from dashboards.data.samples import label_counts
from dashboards.data.scores import scores

_lock = threading.Lock()
_done: deque[tuple[str, tuple[tuple[str, str], ...]]] = deque(maxlen=64)  # see _key


def of_newest(folder: Path) -> threading.Thread:
    """Begin with the run that is shown first; the server is not held up."""

    def read() -> None:
        for path in find_runs(folder)[:1]:
            _read(View.of(read_index(path)))

    return _begun(read)


def of(view: View) -> None:
    """Begin with all scores of a run, once for the same bytes."""
    with _lock:
        if _key(view) in _done:
            return
    _begun(lambda: _read(view))


def _read(view: View) -> None:
    with _lock:
        if _key(view) in _done:
            return
        _done.append(_key(view))
    catalogue(view)
    for name in view.sets():
        scores(view.entries(set=name))
        label_counts(view, name)


def _key(view: View) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The bytes on the disk, and which versions of the sets."""
    return view.index.stamp, view.versions


def _begun(read: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    return thread
