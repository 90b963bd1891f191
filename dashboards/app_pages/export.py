"""Which checkpoint to ship, and why; and the run as files for others."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from dashboards import show, sidebar
from dashboards.charts.theme import DARK, LIGHT, Theme
from dashboards.controls import choose
from dashboards.data.index import View
from dashboards.data.picking import is_recorded, record, selection
from dashboards.data.summaries import problems
from dashboards.report import html, images, tables
from dashboards.report.figures import Figure, figure, sketches, told
from dashboards.sidebar import State
from harness.errors import InputError, IntegrityError
from harness.selection import Selection
from harness.store.lock import LockedError

_WRITTEN = "export-written"


def page() -> None:
    state = sidebar.current()
    show.heading("Pick and export", "Which checkpoint to ship, why, and the run as files.")
    if state.view is None:
        show.no_run(state.folder_argument)
        return
    if not state.view.entries():
        show.empty(
            "No checkpoint of this run is evaluated yet. If it is not running, this goes on:",
            f"aldente resume {state.run_argument}",
        )
        show.problems(problems(state.view))
        return
    _pick(state, state.view)
    st.divider()
    _export(state, state.view)
    show.problems(problems(state.view))


def _pick(state: State, view: View) -> None:
    try:
        chosen = selection(view.index)
    except (InputError, IntegrityError) as error:
        st.error("The pick cannot be made from what is on the disk:")
        show.text(str(error))
        return
    if chosen is None:
        show.empty(
            "The schedule of this run has no pick, so no checkpoint is chosen. A pick in a "
            "schedule looks like this:",
            "pick: {maximize: gold.score, subject_to: [{metric: harmful.compliance, "
            "at_most: 0.1}]}",
        )
        return
    st.subheader("Shortlist", anchor=False)
    show.text(f"{chosen.picked or 'none'}: {chosen.reason}")
    header, rows = html.shortlist(view, chosen)
    names = _distinct(header)
    show.table(pd.DataFrame(rows, columns=names))
    st.caption(
        "Chosen by the estimates on split A. Split B played no part in choosing, so its numbers "
        "are those to report."
    )
    _record(state, view, chosen)


def _distinct(header: list[str]) -> list[str]:
    """The header with its columns "B" named by the metric before them: a frame's must differ."""
    found: list[str] = []
    for name in header:
        found.append(f"{found[-1].removesuffix(': A')}: B" if name == "B" else name)
    return found


def _record(state: State, view: View, chosen: Selection) -> None:
    """The button that writes selection.json, and the command that shows the same."""
    left, right = st.columns([1, 2], vertical_alignment="center")
    running = view.index.state() == "running"
    known = is_recorded(view.index, chosen)
    with left:
        pressed = st.button(
            "Write this pick into the run",
            type="secondary" if known else "primary",
            disabled=running,
            help="Replaces selection.json. A run that is going on picks by itself at its end.",
        )
    with right:
        if running:
            st.caption("The run is going on, and picks by itself at its end.")
        elif known:
            st.caption("selection.json says the same already.")
        else:
            st.caption("selection.json says something else, or is not there.")
    if pressed:
        try:
            made = record(view.index.path)
        except LockedError:
            st.error("The run is being written by somebody else; nothing was changed.")
        except (InputError, IntegrityError, OSError) as error:
            st.error("The pick could not be written. The run's folder must be writable:")
            show.text(str(error))
        else:
            st.session_state[_WRITTEN] = (str(view.index.path), made.picked)
            st.rerun()
    said = st.session_state.pop(_WRITTEN, None)
    if said is not None and said[0] == str(view.index.path):
        st.success("Written.")
        show.line(f"{said[1] or 'none'}: {view.index.path / 'selection.json'}")
    show.command(f"aldente pick {state.run_argument} --explain")


def _export(state: State, view: View) -> None:
    st.subheader("The run as files", anchor=False)
    look = choose(
        "Colours",
        ("light", "dark"),
        key="colours",
        default="light",
        format_func={"light": "Light: for print and mail", "dark": "Dark"}.__getitem__,
    )
    theme = LIGHT if look == "light" else DARK
    name = _file_name(view.index.name)
    command = _command(state, view, look)
    one, two = st.columns(2, gap="large")
    with one:
        st.caption(
            "One page with the pick, every figure, the tables and where they come from. It opens "
            "without a network and fetches nothing."
        )
        st.download_button(
            "Report, HTML",
            lambda: html.report(view, theme, command=command),
            f"{name}.html",
            "text/html",
            key="download-html",
            on_click="ignore",
            type="primary",
        )
    with two:
        st.caption("Every metric of every checkpoint, on split A, split B and all rows.")
        st.download_button(
            "Metrics, CSV",
            lambda: tables.csv(tables.metrics_table(view)),
            f"{name}.csv",
            "text/csv",
            key="download-csv",
            on_click="ignore",
        )
    _figure(view, theme, state.theme, name)
    st.caption("The same from the command line:")
    show.command(command)


def _figure(view: View, theme: Theme, shown: Theme, name: str) -> None:
    """A figure as it will be written; on the screen in the screen's own colours."""
    known = {sketch.name: sketch for sketch in sketches(view)}
    if not known:
        show.empty("There is no figure to export yet.")
        return
    chosen = choose("Figure", list(known), key="figure", format_func=lambda key: told(known[key]))
    left = st.container() if known[chosen].wide else st.columns(2, gap="large")[0]
    with left:
        show.chart(_preview(view, chosen, shown))

    def drawn() -> Figure:
        return figure(view, chosen, theme)

    one, two, three, _ = st.columns([1, 1, 1, 3])
    files = (
        (one, "SVG", "svg", "image/svg+xml", lambda: images.svg(drawn(), theme)),
        (two, "PNG", "png", "image/png", lambda: images.png(drawn(), theme)),
        (three, "Data, CSV", "csv", "text/csv", lambda: tables.csv(known[chosen].data)),
    )
    for column, label, ending, mime, content in files:
        with column:
            st.download_button(
                label,
                content,
                f"{name}-{_file_name(chosen)}.{ending}",
                mime,
                key=f"download-{ending}-figure",
                on_click="ignore",
                width="stretch",
            )


def _preview(view: View, name: str, theme: Theme) -> show.Spec:
    return show.Spec.of(figure(view, name, theme).spec)


def _command(state: State, view: View, look: str) -> str:
    name = _file_name(view.index.name)
    parts = ["aldente export", state.run_argument, f"--html {name}.html"]
    parts += [f"--csv {name}.csv", f"--figures {name}-figures"]
    if view.split != "A":
        parts.append(f"--rows {view.split.lower()}")
    if view.level != 0.95:
        parts.append(f"--level {100 * view.level:g}")
    if look != "light":
        parts.append(f"--theme {look}")
    return " ".join(parts)


def _file_name(name: str) -> str:
    """Letters, digits and dashes: a run may be called anything."""
    kept = "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name)
    return "-".join(filter(None, kept.split("-")))[:80] or "run"


page()
