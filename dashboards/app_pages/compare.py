"""Compare A and B: what moved between two checkpoints, and the replies that turned."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import streamlit as st

from dashboards import dialogue, show, sidebar, words
from dashboards.charts import compare as charts
from dashboards.charts.rows import rows_of
from dashboards.charts.theme import Theme
from dashboards.controls import choose, choose_many
from dashboards.data import pairs
from dashboards.data.index import View, find_runs, read_index
from dashboards.data.metrics import catalogue, checkpoints
from dashboards.data.pairs import Pair
from dashboards.data.queries import damaged
from dashboards.data.schedule import plan
from dashboards.data.summaries import problems
from dashboards.data.worddiff import MOST, diff_lines
from dashboards.sidebar import State
from harness.compare import Flip
from harness.evaluation import Record
from harness.visible import visible

_WHICH = {"all": "All that turned", "worse": "For the worse", "better": "For the better"}
_TOLD = {1: "for the worse", -1: "for the better", 0: "neither better nor worse"}


def page() -> None:
    state = sidebar.current()
    show.heading("Compare A ↔ B", "The same questions put to two checkpoints: paired, row by row.")
    if state.view is None or state.index is None:
        show.no_run(state.folder_argument)
        return
    pair = None if state.baseline is None else _chosen(state, state.view, state.baseline)
    if pair is None:
        show.empty(
            "It takes two evaluated checkpoints to compare. If the run is not there yet, this "
            "goes on:",
            f"aldente resume {state.run_argument}",
        )
    else:
        _compared(state, pair)
    show.problems([*problems(state.view), *damaged(state.view.entries())])


def _chosen(state: State, view: View, before: str) -> Pair | None:
    """A is the sidebar's baseline; B another checkpoint, of any run of the folder."""
    own = view.index
    paths = {path.name or str(path): path for path in find_runs(state.folder)}
    mine = own.path.name or str(own.path)
    one, two, three = st.columns(3)
    with one:
        st.selectbox(
            "A", [before], disabled=True, help="The baseline, which is chosen in the sidebar."
        )
    with two:
        run = choose("B: its run", list(paths), key="other_run", default=mine)
    other = None if run == mine else _view(paths[run], view)
    names = _evaluated(other or view)
    if other is None:
        names = [name for name in names if name != before]
    if not names:
        return None
    picked = (other or view).index.picked
    with three:
        after = choose(
            "B: the checkpoint",
            names,
            key="after",
            default=picked if picked in names else names[-1],
        )
    shown = (before, after) if other is None else (f"{mine}:{before}", f"{run}:{after}")
    # Nothing here depends on the level: what is compared is compared at 95 %.
    return Pair(
        replace(view, level=0.95),
        before,
        after,
        None if other is None else replace(other, level=0.95),
        shown,
    )


def _view(run: Path, like: View) -> View:
    """Another run, looked at in the same way: the same versions where it has them."""
    index = read_index(run)
    known = index.versions()
    versions = {n: v for n, v in like.versions if v in known.get(n, ())}
    return View.of(index, versions, split=like.split, level=like.level)


def _evaluated(view: View) -> list[str]:
    known = checkpoints(view.index)
    there = {entry.checkpoint for entry in view.entries()}
    names = known[(known["order"] >= 0)]["checkpoint"].tolist()
    return [name for name in names if name in there]


def _compared(state: State, pair: Pair) -> None:
    shared = pairs.shared_metrics(pair.view, pair.before, pair.after, pair.other)
    _mismatches(pair)
    if not shared:
        show.empty(
            "These two have no eval set in common in one version, so nothing can be compared. "
            "Choose another pair above."
        )
        return
    chosen = choose_many(
        "Metrics: p is adjusted for all that are named here",
        shared,
        key="compared",
        default=_defaults(pair.view, shared),
        format_func=_named,
    )
    if chosen:
        _overview(state, pair, tuple(chosen))
    else:
        show.empty("Choose a metric above.")
    st.divider()
    metric = choose(
        "One metric, category by category and row by row",
        shared,
        key="of",
        default=_defaults(pair.view, shared)[0],
        format_func=_named,
    )
    left, right = st.columns([2, 3], gap="large")
    with left:
        if pairs.has_classes(pair.view, pair.before, pair.after, metric, pair.other):
            show.chart(_matrix(pair, metric, state.theme))
        else:
            show.empty(
                "This metric has no classes, and too many values for a matrix: what moved is at "
                "the right, and row by row below."
            )
    with right:
        show.chart(_by_category(pair, metric, state.theme))
    _category_numbers(pair, metric)
    _flips(pair, metric)


def _named(metric: str) -> str:
    return f"{words.label(metric)} ({metric})"


def _defaults(view: View, shared: list[str]) -> list[str]:
    """What gates and the pick name, then the first metric of each other set."""
    stated = plan(view.index)
    named = [name for name in shared if name in {limit.metric for limit in stated.limits}]
    named += [name for name in shared if name == stated.goal and name not in named]
    sets = {name.partition(".")[0] for name in named}
    for name in shared:
        of_set = name.partition(".")[0]
        if of_set not in sets:
            sets.add(of_set)
            named.append(name)
    return named


def _mismatches(pair: Pair) -> None:
    """Say plainly which sets are not compared, and what would compare them."""
    found = pairs.mismatches(pair.view, pair.before, pair.after, pair.other)
    if not found:
        return
    st.warning(
        f"{words.plural(len(found), 'eval set')} cannot be compared: A and B were not asked the "
        "same version. A number from one version says nothing beside one from another."
    )
    lines = []
    for of in found:
        sides = [", ".join(versions) or "not evaluated" for versions in (of.before, of.after)]
        line = f"{of.set}: A {sides[0]}; B {sides[1]}"
        if of.elsewhere:
            line += f". Both have {', '.join(of.elsewhere)}: choose it in the sidebar"
        lines.append(line)
    show.text("\n".join(lines))
    if any(of.before and of.after and not of.elsewhere for of in found):
        st.caption("This compares the rows whose questions are the same in both versions:")
        sides = [
            shlex.quote(f"{view.index.path}:{name}")
            for view, name in ((pair.view, pair.before), (pair.of_after, pair.after))
        ]
        show.command(f"aldente compare {sides[0]} {sides[1]} --across-versions")


@show.drawn
def _dumbbells(pair: Pair, metrics: tuple[str, ...], unit: str, theme: Theme, wrap: int) -> Any:
    found = pairs.comparison(pair.view, pair.before, pair.after, metrics, pair.other, flips=False)
    moves = pairs.moves(found)
    kept = moves[[_unit(pair.view, name) == unit for name in moves["metric"]]]
    known = [catalogue(pair.view)[name] for name in kept["metric"]]
    lows = [of.low for of in known if of.low is not None]
    highs = [of.high for of in known if of.high is not None]
    return charts.dumbbells(
        kept.dropna(subset=["a", "b"]),
        theme,
        *pair.names,
        share=unit == "share",
        bounds=(min(lows), max(highs)) if lows and highs else None,
        of=int(moves["p"].notna().sum()),
        wrap=wrap,
    )


def _unit(view: View, metric: str) -> str:
    """Metrics of one unit share an axis."""
    if catalogue(view)[metric].share:
        return "share"
    return "grade" if pairs.is_grade(view, metric) else ""


def _overview(state: State, pair: Pair, chosen: tuple[str, ...]) -> None:
    found = pairs.comparison(pair.view, pair.before, pair.after, chosen, pair.other, flips=False)
    known = catalogue(pair.view)
    there = {_unit(pair.view, name) for name in chosen}
    units = [unit for unit in ("share", "grade") if unit in there]
    if units:
        columns = st.columns([3, 2][: len(units)], gap="large")
        wraps = (98,) if len(units) == 1 else (56, 36)
        for column, unit, wrap in zip(columns, units, wraps, strict=True):
            with column:
                show.chart(_dumbbells(pair, chosen, unit, state.theme, wrap))
    moves = pairs.moves(found)
    frame = pd.DataFrame({"metric": moves["metric"]})
    for side in ("a", "b"):
        frame[side.upper()] = [
            words.estimate(
                row[side], row[f"{side}_low"], row[f"{side}_high"], row["n"], share=_share(row)
            )
            for row in rows_of(moves.assign(share=[known[m].share for m in moves["metric"]]))
        ]
    frame["B − A"] = [
        _difference(row["difference"], row["low"], row["high"], share=known[row["metric"]].share)
        for row in rows_of(moves)
    ]
    for name, title in (("p", "p"), ("p_holm", "p, Holm")):
        frame[title] = [_p(value) for value in moves[name]]
    frame["test"] = moves["test"].fillna("").str.replace("_", " ")
    frame["rose"], frame["fell"] = moves["rose"], moves["fell"]
    show.table(frame)
    st.caption(
        "Differences are paired, with 95 % intervals; rose and fell count rows; p, Holm: adjusted "
        "for all metrics of this table."
    )
    if found.notes and (part := show.folded("What else is different between the two")):
        with part:
            show.text("\n".join(found.notes))


def _share(row: dict[str, Any]) -> bool:
    return bool(row["share"])


def _difference(value: float, low: float, high: float, *, share: bool) -> str:
    if value != value:
        return "–"
    text = ("+" if value > 0 else "") + words.number(value, share=share)
    if low != low or high != high:
        text += " [no interval]"
    else:
        text += f" [{words.number(low, share=share)}, {words.number(high, share=share)}]"
    return text.replace("-", "−")


def _p(value: float) -> str:
    return "–" if value != value else "< 0.001" if value < 0.001 else f"{value:.3f}"


@show.drawn
def _matrix(pair: Pair, metric: str, theme: Theme) -> Any:
    found = pairs.flip_matrix(pair.view, pair.before, pair.after, metric, pair.other)
    return charts.matrix(found, theme, *pair.names, metric, wrap=36)


@show.drawn
def _by_category(pair: Pair, metric: str, theme: Theme) -> Any:
    rows = pairs.sides_by_category(pair.view, pair.before, pair.after, metric, pair.other)
    of = catalogue(pair.view)[metric]
    bounds = None if of.low is None or of.high is None else (of.low, of.high)
    return charts.category_dumbbells(
        rows, theme, *pair.names, metric, share=of.share, bounds=bounds, wrap=56
    )


def _category_numbers(pair: Pair, metric: str) -> None:
    part = show.folded("The numbers: categories")
    if part is None:
        return
    rows = pairs.sides_by_category(pair.view, pair.before, pair.after, metric, pair.other)
    share = catalogue(pair.view)[metric].share
    frame = pd.DataFrame({"category": rows["category"], "n": rows["n"]})
    for side in ("a", "b"):
        frame[side.upper()] = [words.number(value, share=share) for value in rows[side]]
    frame["B − A"] = [
        _difference(row["difference"], row["low"], row["high"], share=share)
        for row in rows_of(rows)
    ]
    for name, title in (("p", "p"), ("p_holm", "p, Holm over categories")):
        frame[title] = [_p(value) for value in rows[name]]
    frame["rose"], frame["fell"] = rows["rose"], rows["fell"]
    with part:
        show.table(frame)


def _flips(pair: Pair, metric: str) -> None:
    st.subheader("The rows that turned", anchor=False)
    found = pairs.comparison(pair.view, pair.before, pair.after, (metric,), pair.other)
    left, right = st.columns([1, 2], vertical_alignment="bottom")
    with left:
        which = choose("Show", list(_WHICH), key="turned", format_func=_WHICH.__getitem__)
    flips = pairs.flip_list(found, which)
    total = sum(found.rows.values())
    if not flips:
        show.empty(f"No row of {total} turned in this way between these two.")
        return
    with right:
        at = st.pagination(len(flips), key="flip", bind="query-params")
    st.caption(f"Row {at} of {len(flips)} that turned, of {total} compared; the worst first")
    _flip(pair, flips[at - 1])


def _flip(pair: Pair, flip: Flip) -> None:
    lines = [f"{flip.row_id} · {flip.category or 'no category'} · {_TOLD[flip.worse]}"]
    for turn in flip.turns:
        sides = [turn.label_a or f"{turn.a:g}", turn.label_b or f"{turn.b:g}"]
        lines.append(f"{words.label(turn.metric)}: {sides[0]} → {sides[1]}")
    show.line("\n".join(lines))
    for question, a, b, number, of in _exchanges(flip):
        told = "The question" if of == 1 else f"Question {number} of {of}"
        st.caption(told)
        show.text(question)
        left, right = st.columns(2, gap="medium")
        for column, side, reply in zip((left, right), "AB", (a, b), strict=True):
            with column:
                st.caption(f"{side} replied")
                show.text(reply)
        st.caption("From A to B, word by word: − only A, + only B")
        # Before they are compared: what cannot be seen counts as blanks there. No colours: those
        # that Streamlit has are too faint to read.
        show.text(diff_lines(visible(a, tabs=True), visible(b, tabs=True)))
        if max(len(a.split()), len(b.split())) > MOST:
            st.caption(f"Only the first {MOST:,} words of each were held against each other.")
    if part := show.folded("Both transcripts in full"):
        with part:
            left, right = st.columns(2, gap="medium")
            for column, side, record in zip((left, right), "AB", (flip.a, flip.b), strict=True):
                with column:
                    st.caption(side)
                    dialogue.messages(_said(record))
    dialogue.link(pair.before, flip.set, flip.row_id)


def _exchanges(flip: Flip) -> list[tuple[str, str, str, int, int]]:
    """(question, A's reply, B's, number, of) where the replies differ; the first if none does.

    Questions are the same by definition of a row; a dialogue that broke off has fewer.
    """
    a, b = flip.a.exchanges(), flip.b.exchanges()
    of = max(len(a), len(b))
    found = []
    for i in range(of):
        question = (a if i < len(a) else b)[i][0]
        replies = [side[i][1] if i < len(side) else "" for side in (a, b)]
        found.append((question, replies[0], replies[1], i + 1, of))
    return [entry for entry in found if entry[1] != entry[2]] or found[:1]


def _said(record: Record) -> list[dict[str, Any]]:
    return [message for message in record.transcript if not message.get("judge")]


page()
