"""What a run is doing now: looked at again every two seconds while it goes on."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboards import show, sidebar, words
from dashboards.charts import live as charts
from dashboards.charts.theme import Theme
from dashboards.data.index import RunIndex, View, read_index
from dashboards.data.live import FRESH, Live, Progress, StageProgress, live
from dashboards.data.metrics import catalogue, checkpoints, metrics, policy_stages
from dashboards.data.pace import (
    Disk,
    LastSample,
    age,
    disk,
    last_samples,
    throughput,
    time_left,
)
from dashboards.data.samples import sample_page
from dashboards.data.schedule import plan
from dashboards.data.summaries import problems

_EVERY = 2.0  # seconds between two looks
_ROWS, _EVENTS, _SAMPLES = 8, 12, 5
_LONGEST = 300
_MARKS = {"pass": "● pass", "inconclusive": "▲ inconclusive", "fail": "✕ fail", "unjudged": "–"}
_STATES = {
    "running": "running",
    "finished": "finished",
    "stopped": "stopped",
    "interrupted": "interrupted",
}


def page() -> None:
    state = sidebar.current()
    show.heading("Live", "Where the run is, how fast it goes, and what it just said.")
    if state.index is None or state.view is None:
        show.no_run(state.folder_argument)
        return
    running = state.index.state() == "running"
    look = st.fragment(_look, run_every=_EVERY if running else None)
    look(state.index.path, state.theme, running)
    show.problems(problems(state.view))


def _look(run: Path, theme: Theme, was_running: bool) -> None:
    """One look; the run is read anew, whatever the page knew."""
    index = read_index(run)
    now = live(run, events=_EVENTS)
    if (now.state == "running") != was_running:
        st.rerun()  # the whole page: this fragment begins, or ceases, to tick
    view = View.of(index)
    _numbers(index, now)
    if now.stages:
        show.chart(_stepper(now.stages, theme, now.state, tuple(policy_stages(index))))
    if now.state == "interrupted":
        show.empty(
            "The run did not come to its end. This goes on:",
            f"aldente resume {shlex.quote(str(run))}",
        )
    _evaluating(now.under_way)
    left, right = st.columns([3, 2], gap="large")
    with left:
        st.subheader("The newest checkpoints", anchor=False)
        _checkpoints(index, view, run)
    with right:
        st.subheader("What happened", anchor=False)
        _events(now.events)
    st.subheader("The last samples", anchor=False)
    _samples(view, run, now.under_way)


@show.drawn
def _stepper(
    stages: tuple[StageProgress, ...], theme: Theme, state: str, names: tuple[str, ...]
) -> Any:
    return charts.stepper(stages, theme, state=state, names=names)


def _numbers(index: RunIndex, now: Live) -> None:
    """A row of numbers; labels and values are our own words."""
    one, two, three, four = st.columns(4)
    with one:
        st.metric("State", _STATES[now.state])
        by = "By a gate. " if now.state == "stopped" else ""
        st.caption(by + _heartbeat(now))
    with two:
        left = time_left(index, now)
        if now.state != "running":
            st.metric("Time left", "–")
        elif left is None:
            st.metric("Time left", "not known")
            st.caption("The schedule does not say how many epochs are to come.")
        elif left.unknown and not left.high:
            st.metric("Time left", "not known")
            st.caption("No epoch of what is to come is done yet, so there is none to go by.")
        else:
            label = "Time left, at least" if left.unknown else "Time left, about"
            st.metric(label, _duration(left.seconds))
            told = f"{_duration(left.low)} to {_duration(left.high)} by the epochs so far"
            if left.unknown:
                count = words.plural(len(left.unknown), "stage")
                told += f"; {count} without an epoch to go by not counted"
            st.caption(told)
    with three:
        speed = throughput(index)
        if speed is None:
            st.metric("Evaluation speed", "–")
            st.caption("Nothing is evaluated yet.")
        else:
            what, rate = "tokens", speed.tokens / speed.seconds
            if not speed.tokens:  # an evaluator that does not count them
                what, rate = "rows", speed.rows / speed.seconds
            st.metric(f"Evaluation, {what} a second", f"{rate:,.0f}")
            st.caption(
                f"{speed.rows:,} rows in {_duration(speed.seconds)}, at the last checkpoint that "
                "was evaluated"
            )
    with four:
        _disk(disk(index, now))


def _heartbeat(now: Live) -> str:
    if now.heartbeat_age is None:
        return "No heartbeat: nobody writes this run."
    stale = "; too old to mean anything" if now.heartbeat_age > FRESH else ""
    return f"Heartbeat {_duration(now.heartbeat_age)} ago{stale}"


def _disk(found: Disk) -> None:
    st.metric("Disk free", _bytes(found.free))
    told = f"The run takes {_bytes(found.run)}"
    if found.checkpoint is not None:
        told += f", {_bytes(found.checkpoint)} a checkpoint"
    if found.needed:
        told += f"; what is planned needs about {_bytes(found.needed)} more"
    st.caption(told)
    if found.needed is not None and found.needed > found.free:
        st.warning("The disk will be full before the run is done.")


def _evaluating(under_way: Sequence[Progress]) -> None:
    """A bar for each evaluation that is not whole yet, with the rows a second between looks."""
    seen: dict[tuple[str, str], tuple[float, int]] = st.session_state.setdefault("live-rows", {})
    for progress in under_way:
        key = (progress.checkpoint, progress.set)
        began, rows = seen.setdefault(key, (time.monotonic(), progress.rows))
        passed = time.monotonic() - began
        told = f"{progress.checkpoint} on {progress.set}: {progress.rows:,}"
        told += f" of {progress.of:,} rows" if progress.of else " rows"
        if passed >= _EVERY and progress.rows > rows:
            speed = (progress.rows - rows) / passed
            told += f", {words.number(speed)} rows/s"
            if progress.of:
                told += f", {_duration((progress.of - progress.rows) / speed)} left"
        show.line(told)
        if progress.of:
            st.progress(min(1.0, progress.rows / progress.of))


def _checkpoints(index: RunIndex, view: View, run: Path) -> None:
    known = checkpoints(index)
    if known.empty:
        show.empty(
            "No checkpoint is committed yet; the first appears when its epoch is done.",
            f"aldente status {shlex.quote(str(run))} --follow",
        )
        return
    frame = known.iloc[::-1].head(_ROWS)[["checkpoint", "verdict"]].reset_index(drop=True)
    frame["verdict"] = frame["verdict"].map(lambda status: _MARKS.get(status, status))
    found = catalogue(view)
    names = tuple(dict.fromkeys(li.metric for li in plan(index).limits if li.metric in found))
    if names:
        values = metrics(view, names)
        for name in names:
            said = {
                row["checkpoint"]: words.estimate(
                    row["value"],
                    row["low"],
                    row["high"],
                    int(row["n"]),
                    share=found[name].share,
                    unscored=int(row["unscored"]),
                )
                for row in values[values["metric"] == name].to_dict("records")
            }
            frame[words.label(name)] = [said.get(c, "–") for c in frame["checkpoint"]]
    show.table(frame)
    count = words.plural(len(known), "checkpoint")
    st.caption(f"{count} in all; the newest first, with what gates and pick read on split A")


def _events(events: Sequence[Mapping[str, Any]]) -> None:
    if not events:
        show.empty("Nothing is recorded yet.")
        return
    rows = [
        {"ago": _duration(age(event)), "event": str(event["event"]), "what": _what(event)}
        for event in events
    ]
    frame = pd.DataFrame(rows)
    frame["event"] = frame["event"].str.replace("_", " ")
    show.table(frame)


def _what(event: Mapping[str, Any]) -> str:
    """The part of an event that people look for."""
    of = str(event.get("checkpoint") or event.get("stage") or event.get("picked") or "")
    if event["event"] == "verdict":
        return f"{of}: {_MARKS.get(str(event.get('status')), '–')}, {event.get('action') or ''}"
    if event["event"] == "error":
        return f"{event.get('kind')}: {event.get('message')}"[:_LONGEST]
    if event["event"] == "done":
        stopped = event.get("stopped_by")
        return f"stopped by {stopped}" if stopped else "to its end"
    seconds = event.get("seconds")
    return f"{of}, {_duration(float(seconds))}" if isinstance(seconds, int | float) else of


def _samples(view: View, run: Path, under_way: tuple[Progress, ...]) -> None:
    found = last_samples(run, under_way, _SAMPLES)
    if not found and view.index.evaluations:
        newest = view.entries()[-1]
        page = sample_page(view, newest.set, "", checkpoint=newest.checkpoint)
        st.caption("No evaluation is under way; these are of the newest that is whole.")
        found = [
            LastSample(
                newest.set,
                str(row.row_id),
                str(row.prompt),
                str(row.reply),
                str(row.label or ""),
            )
            for row in page.rows.head(_SAMPLES).itertuples(index=False)
        ]
    if not found:
        show.empty("No sample is finished yet.")
        return
    frame = pd.DataFrame([vars(sample) for sample in found])
    for column in frame.columns:
        frame[column] = [text[:_LONGEST] for text in frame[column]]
    show.table(frame, names={"row_id": "row", "labels": "class seen"})


def _duration(seconds: float) -> str:
    """``42 s``, ``7 min``, ``3 h 20 min``, ``2 d 4 h``."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def _bytes(size: float) -> str:
    for unit, scale in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size >= scale:
            return f"{words.number(size / scale)} {unit}"
    return f"{size:.0f} B"


page()
