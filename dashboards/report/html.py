"""A run as one HTML page that needs nothing else: charts, tables, the pick and where it comes from.

Nothing is fetched and nothing but our own script runs, whatever the run's names and texts hold:
all text is escaped, data are JSON without ``<``, and the page's own policy
(Content-Security-Policy) allows no connection and just the one script that it names by hash. Vega's
expressions are interpreted, not compiled, so that the policy needs no ``unsafe-eval``.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from html import escape
from typing import Any

import pandas as pd
import vl_convert

from dashboards import words
from dashboards.charts.rows import rows_of
from dashboards.charts.theme import Theme
from dashboards.data.evalsets import set_cards
from dashboards.data.index import Split, View
from dashboards.data.metrics import catalogue, checkpoints, metrics, policy_stages
from dashboards.data.picking import selection
from dashboards.data.summaries import problems
from dashboards.report.figures import Figure, figures
from dashboards.report.images import VL_VERSION
from dashboards.report.legend import legend_spec
from dashboards.report.style import style
from harness.errors import InputError, IntegrityError
from harness.selection import Candidate, Selection
from harness.visible import visible

_MARKS = {"pass": "● pass", "inconclusive": "▲ inconclusive", "fail": "✕ fail", "unjudged": "–"}
_STATES = {
    "running": "still running when this was written",
    "finished": "finished",
    "stopped": "stopped by a gate",
    "interrupted": "interrupted",
}
# Runs after Vega in one module: reads each figure's JSON from the page and draws it.
_BOOT = """
for (const holder of document.querySelectorAll("[data-figure]")) {
  const spec = JSON.parse(document.getElementById(holder.dataset.figure).textContent);
  vegaEmbed(holder, spec, {
    ast: true, mode: "vega-lite", renderer: "svg",
    actions: {export: {svg: true, png: true}, source: false, compiled: false, editor: false},
  }).then(
    () => { holder.dataset.drawn = "yes"; },
    (error) => { holder.textContent = `This figure could not be drawn: ${error.message}`; });
}
"""


def report(view: View, theme: Theme, *, command: str = "") -> str:
    """The page. ``command``: what makes it again, for its foot."""
    script = _script()
    drawn = tuple(figures(view, theme))
    body = "".join(
        (
            *_head(view),
            *_pick(view),
            *_figures(view, drawn, theme),
            *_gates(view),
            *_picked_numbers(view),
            *_sets(view),
            *_origin(view),
            *_wrong(view),
            *([f"<footer><p>Made by</p>{_code(command)}</footer>"] if command else []),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_policy(script)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{_text(view.index.name)}: Al Dente</title>\n<style>{style(theme)}</style>\n"
        f"</head>\n<body>\n<main>\n{body}</main>\n"
        f'<script type="module">{script}</script>\n</body>\n</html>\n'
    )


def embedded(value: Any) -> str:
    """JSON that can stand inside a script element: it holds no ``<``, ``>`` or ``&`` at all."""
    text = json.dumps(value, ensure_ascii=True)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


@lru_cache(maxsize=1)
def _script() -> str:
    """Vega, Vega-Lite and Vega-Embed as vl-convert bundles them, and our few lines."""
    bundle = str(vl_convert.javascript_bundle(_BOOT, VL_VERSION))
    # In JavaScript the two are the same wherever they can occur: in strings, and in none elsewhere.
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(script: str) -> str:
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii")
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _text(text: object) -> str:
    return escape(visible(str(text), tabs=True))


def _code(text: str) -> str:
    return f"<pre><code>{_text(text)}</code></pre>\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of texts; those that begin with a digit or a sign stand right."""
    lines = ["".join(f"<th>{_text(name)}</th>" for name in header)]
    lines += ["".join(f"<td>{_text(cell)}</td>" for cell in row) for row in rows]
    inner = "".join(f"<tr>{line}</tr>\n" for line in lines)
    return f'<div class="wide"><table>\n{inner}</table></div>\n'


def _head(view: View) -> Iterator[str]:
    index = view.index
    done = index.last("done") or {}
    state = _STATES[index.state()]
    stopped = f": {done['stopped_by']}" if done.get("stopped_by") else ""
    known = checkpoints(index)
    policies = int((known["order"] >= 0).sum())
    yield f"<header><h1>{_text(index.name)}</h1>\n"
    yield (
        f"<p>The run is {_text(state)}{_text(stopped)}. "
        f"{words.plural(policies, 'policy checkpoint')}; intervals are "
        f"{words.level(view.level)}, over "
        f"{'all rows' if view.split == 'all' else f'split {view.split}'} "
        "unless another is named.</p></header>\n"
    )


def _pick(view: View) -> Iterator[str]:
    yield "<section><h2>The pick</h2>\n"
    try:
        chosen = selection(view.index)
    except (InputError, IntegrityError) as error:
        yield f"<p>The pick cannot be made: {_text(error)}</p></section>\n"
        return
    if chosen is None:
        yield "<p>The schedule of this run has no pick.</p></section>\n"
        return
    yield f"<p><strong>{_text(chosen.picked or 'none')}</strong>: {_text(chosen.reason)}</p>\n"
    header, rows = shortlist(view, chosen)
    yield _table(header, rows)
    yield (
        "<p>Chosen by the estimates on split A; split B played no part in choosing, so it is the "
        "one to report.</p></section>\n"
    )


def shortlist(view: View, chosen: Selection) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every candidate with the pick's metrics on both splits, and why not."""
    known = catalogue(view)
    names = list(dict.fromkeys(name for c in chosen.candidates for name in c.a))
    header = ["checkpoint", "is"]
    for name in names:
        header += [f"{words.label(name)}: A", "B"]
    rows = []
    for candidate in chosen.candidates:
        row = [candidate.checkpoint, _standing(candidate, chosen)]
        for name in names:
            share = name in known and known[name].share
            for half in (candidate.a, candidate.b):
                found = half.get(name)
                row.append(
                    "–"
                    if found is None
                    else words.estimate(
                        found.value,
                        found.low,
                        found.high,
                        found.n,
                        share=share,
                        unscored=found.unscored,
                    )
                )
        rows.append([*row, "; ".join(candidate.violated)])
    return [*header, "why not"], rows


def _standing(candidate: Candidate, chosen: Selection) -> str:
    if candidate.checkpoint == chosen.picked:
        return "picked"
    said = "eligible" if candidate.eligible else "not eligible"
    if candidate.checkpoint in chosen.nearest:
        said = "nearest miss"
    return f"{said}, on the Pareto front" if candidate.on_pareto_front else said


def _figures(view: View, drawn: Sequence[Figure], theme: Theme) -> Iterator[str]:
    chapter = ""
    if drawn:
        yield _figure("legend", "", "legend", legend_spec(policy_stages(view.index), theme))
    for number, figure in enumerate(drawn):
        if figure.chapter != chapter:
            if chapter:
                yield "</div></section>\n"
            chapter = figure.chapter
            yield f'<section><h2>{_text(chapter)}</h2>\n<div class="figures">\n'
        name = f"figure-{number}"
        yield f'<figure class="{"broad" if figure.wide else "half"}">\n'
        yield _figure(name, figure.description, "chart", figure.spec)
        yield f"<details><summary>The numbers</summary>\n{_data(figure.data)}</details></figure>\n"
    if chapter:
        yield "</div></section>\n"


def _figure(name: str, description: str, kind: str, spec: dict[str, Any]) -> str:
    label = f' role="img" aria-label="{_text(description)}"' if description else ""
    return (
        f'<div class="{kind}" data-figure="{name}"{label}></div>\n'
        f'<script type="application/json" id="{name}">{embedded(spec)}</script>\n'
    )


def _data(frame: pd.DataFrame) -> str:
    header = [str(column).replace("_", " ") for column in frame.columns]
    rows = [[_cell(value) for value in row.values()] for row in rows_of(frame)]
    return _table(header, rows)


def _cell(value: Any) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:.4g}".replace("-", "−")
    return "yes" if value is True else "" if value is False else str(value)


def _gates(view: View) -> Iterator[str]:
    known = checkpoints(view.index)
    watched = known[known["verdict"] != "unjudged"]
    if watched.empty:
        return
    rows = [
        [r["checkpoint"], _MARKS.get(r["verdict"], r["verdict"]), r["action"], r["reason"]]
        for r in rows_of(watched)
    ]
    yield "<section><h2>Gates</h2>\n"
    yield _table(["checkpoint", "verdict", "action", "what the gates say"], rows) + "</section>\n"


def _picked_numbers(view: View) -> Iterator[str]:
    """Every metric of the picked checkpoint on both halves."""
    name = view.index.picked
    if name is None:
        return
    known = catalogue(view)
    halves: dict[str, dict[str, str]] = {}
    splits: tuple[Split, ...] = ("A", "B")
    for split in splits:
        of = View(view.index, view.versions, split, view.level)
        found = metrics(of, tuple(known))
        halves[split] = {
            r["metric"]: words.estimate(
                r["value"],
                r["low"],
                r["high"],
                int(r["n"]),
                share=known[r["metric"]].share,
                unscored=int(r["unscored"]),
            )
            for r in rows_of(found[found["checkpoint"] == name])
        }
    rows = [
        [metric, halves["A"][metric], halves["B"].get(metric, "–"), known[metric].better]
        for metric in known
        if metric in halves["A"]
    ]
    if rows:
        yield f"<section><h2>All metrics of {_text(name)}</h2>\n"
        yield _table(["metric", "split A", "split B", "better"], rows) + "</section>\n"


def _sets(view: View) -> Iterator[str]:
    rows = [
        [
            card.set,
            card.probe,
            card.card_version,
            card.hash,
            str(card.rows),
            card.card.licence if card.card and card.match == "same" else "–",
        ]
        for card in set_cards(view)
    ]
    if rows:
        yield "<section><h2>Eval sets</h2>\n"
        header = ["set", "probe", "version", "sha256", "rows", "licence"]
        yield _table(header, rows) + "</section>\n"


def _origin(view: View) -> Iterator[str]:
    """What the run was made with; nothing that names a folder of the machine it ran on."""
    info = view.index.info
    said = [
        (title, info.get(name))
        for title, name in (
            ("created", "created"),
            ("seed", "seed"),
            ("schedule, sha256", "schedule_hash"),
            ("commit", "commit"),
            ("Python", "python"),
            ("machine", "machine"),
        )
    ]
    packages = info.get("packages")
    if isinstance(packages, dict):
        said += [(str(name), version) for name, version in packages.items()]
    rows = [[title, str(value)] for title, value in said if value not in (None, "")]
    if rows:
        yield "<section><h2>Where it comes from</h2>\n"
        yield _table(["", ""], rows) + "</section>\n"


def _wrong(view: View) -> Iterator[str]:
    found = problems(view)
    if found:
        lines = [f"{p.path.relative_to(view.index.path)}: {p.message}" for p in found]
        yield "<section><h2>What could not be read</h2>\n<p>All of this is without it:</p>\n"
        yield _code("\n".join(lines)) + "</section>\n"
