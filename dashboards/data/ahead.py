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
_ended = threading.Event()
_done: deque[tuple[str, tuple[tuple[str, str], ...]]] = deque(maxlen=64)  # see _key


def of_newest(folder: Path) -> threading.Thread:
    """Begin with the summaries of the run that is shown first; the server is not held up.

    Its scores are read once a page is drawn (``of``): reading them now would slow down that page.
    """

    def read() -> None:
        for path in find_runs(folder)[:1]:
            catalogue(View.of(read_index(path)))

    return _begun(read)


def of(view: View) -> threading.Thread | None:
    """Begin with all scores of a run, once for the same bytes; None if that was done."""
    with _lock:
        if _key(view) in _done:
            return None
        _done.append(_key(view))
    return _begun(lambda: _read(view))


def end() -> None:
    """Read no further than the set that is being read: the process is about to end."""
    _ended.set()


def _read(view: View) -> None:
    catalogue(view)
    for name in view.sets():
        if _ended.is_set():
            return
        scores(view.entries(set=name))
        label_counts(view, name)


def _key(view: View) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The bytes on the disk, and which versions of the sets."""
    return view.index.stamp, view.versions


def _begun(read: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=read, name="read-ahead", daemon=True)
    thread.start()
    return thread
