"""What every page looks at: chosen in the sidebar, kept in the URL, handed over as one object."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

import streamlit as st

from dashboards import words
from dashboards.charts.theme import DARK, LIGHT, Theme
from dashboards.controls import choose
from dashboards.data.index import RunIndex, Split, View, find_runs, read_index
from dashboards.data.metrics import checkpoints

RUNS = "ALDENTE_RUNS"  # the folder of runs, for the server's process
LEVELS = (0.95, 0.8, 0.9, 0.99)
_ROWS: dict[str, tuple[Split, str]] = {
    "a": ("A", "A: gates and pick read it"),
    "b": ("B", "B: played no part in choosing"),
    "all": ("all", "all rows"),
}
_OWN = "as the run names it"
_KEY = "dashboard_state"


@dataclass(frozen=True)
class State:
    """What was chosen. ``index`` is None if the folder holds no run; then nothing else is there.

    ``view`` carries the eval-set versions, the rows and the level that the data layer needs;
    ``baseline`` is a policy checkpoint that was evaluated, or None if there is none yet.
    """

    folder: Path
    theme: Theme
    index: RunIndex | None
    view: View | None
    baseline: str | None

    @property
    def level(self) -> float:
        return 0.95 if self.view is None else self.view.level

    @property
    def rows(self) -> str:
        """The rows that numbers are over, for subtitles."""
        split = "A" if self.view is None else self.view.split
        return "all rows" if split == "all" else f"split {split}"

    @property
    def folder_argument(self) -> str:
        """The folder of runs as it is typed after ``--runs``."""
        return shlex.quote(str(self.folder))

    @property
    def run_argument(self) -> str:
        """The run's folder as it is typed after ``aldente resume`` and the like."""
        return shlex.quote(str(self.folder / "NAME" if self.index is None else self.index.path))


def current() -> State:
    """The state that the sidebar drew in this run of the script."""
    found: State = st.session_state[_KEY]
    return found


def draw() -> State:
    """Draw the sidebar and keep what it says for ``current``; called by streamlit_app.py only."""
    folder = Path(os.environ.get(RUNS, "runs"))
    theme = DARK if st.context.theme.type == "dark" else LIGHT
    paths = find_runs(folder)
    if not paths:
        state = State(folder, theme, None, None, None)
    else:
        with st.sidebar:
            state = _chosen(folder, theme, paths)
    st.session_state[_KEY] = state
    return state


def _chosen(folder: Path, theme: Theme, paths: list[Path]) -> State:
    names = {path.name or str(path): path for path in paths}
    name = choose("Run", list(names), key="run")
    index = read_index(names[name])
    versions = _versions(index)
    baseline = _baseline(index)
    level = choose(
        "Interval level",
        [f"{100 * level:g}" for level in LEVELS],
        key="level",
        format_func=lambda text: f"{text} %",
        help="How sure an interval is. Gates and pick go by 95 %.",
    )
    rows = choose(
        "Rows",
        list(_ROWS),
        key="rows",
        format_func=lambda key: _ROWS[key][1],
        help="Every eval set is split in two: checkpoints are chosen on A and reported on B.",
    )
    view = View.of(index, versions, split=_ROWS[rows][0], level=float(level) / 100)
    return State(folder, theme, index, view, baseline)


def _versions(index: RunIndex) -> dict[str, str]:
    """The version of each eval set; asked only where there are several."""
    several = {name: known for name, known in index.versions().items() if len(known) > 1}
    if not several:
        st.selectbox(
            "Eval-set version",
            [_OWN],
            disabled=True,
            key="only_version",
            help="Every eval set of this run was used in one version only.",
        )
        return {}
    chosen = {}
    for name, known in several.items():
        chosen[name] = choose(
            "Eval-set version", known, key=f"version-{name}", format_func=f"{name} @ {{}}".format
        )
    return chosen


def _baseline(index: RunIndex) -> str | None:
    """The checkpoint that others are compared with; at first the earliest evaluated one."""
    known = checkpoints(index)
    names = known[known["evaluated"] & (known["order"] >= 0)]["checkpoint"].tolist()
    if not names:
        return None
    return choose(
        "Baseline checkpoint",
        names,
        key="baseline",
        help=f"Comparisons start from it. {words.plural(len(names), 'checkpoint')} evaluated.",
    )
