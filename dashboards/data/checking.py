"""Whether eval sets are sound: those of a run, and files that somebody drops to have them checked.

The checks are ``harness.evalset_check``'s own. What is dropped is written to a folder of its own
for as long as the check takes, and is gone afterwards.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.events import AliasEvent

from dashboards.data.evalsets import SetCard, set_folder
from dashboards.data.index import View
from dashboards.data.metrics import catalogue
from dashboards.data.queries import query
from dashboards.data.remembering import remembered
from dashboards.data.schedule import plan
from dashboards.data.summaries import opened
from harness.evalset_check import RATES, Report, check_folder
from harness.evalset_template import OPTIONS
from harness.evalsets import CARD, ROWS
from harness.probes import probe_names
from harness.stats import smallest_detectable_effect

LARGEST = 10  # megabytes of a file that is dropped
MOST = 200  # messages that are shown
_SIZES = "select split, count(distinct cluster) as clusters from samples group by all order by all"
_CARDS, _ROWS = (".yaml", ".yml"), (".jsonl",)
KINDS = (*_CARDS, *_ROWS)


@dataclass(frozen=True)
class Checked:
    """What a check found. ``errors`` make a set unusable, ``warnings`` are worth a look; of each
    the first ``MOST``, the rest is counted in ``more``. ``effects``: split, rate, effect (None: no
    effect could be seen)."""

    errors: tuple[str, ...]
    warnings: tuple[str, ...]
    more: int
    name: str
    hash: str
    rows: int
    by_category: Mapping[str, int]
    by_split: Mapping[str, int]
    effects: pd.DataFrame
    metrics: Mapping[str, tuple[str, ...]]


def check_files(files: Sequence[tuple[str, bytes]], probe: str) -> Checked:
    """Check a card and rows as they were dropped, (name, content) each.

    Rows without a card are checked as those of ``probe``; a card without rows is only read.
    """
    cards = [file for file in files if file[0].lower().endswith(_CARDS)]
    rows = [file for file in files if file[0].lower().endswith(_ROWS)]
    wrong = _unusable(cards, rows, len(files))
    if wrong is not None:
        return _nothing(wrong)
    names: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="aldente-check-") as made:
        folder = Path(made)
        for known, found in ((CARD, cards), (ROWS, rows)):
            if found:
                names[str(folder / known)] = found[0][0]
                (folder / known).write_bytes(found[0][1])
        if not cards:
            (folder / CARD).write_text(_stand_in(probe), encoding="utf-8")
        report = check_folder(folder)
    if not rows:
        absent = f"{folder / ROWS}: no such file"
        report.errors = [e for e in report.errors if not e.startswith(absent)]
    checked = _checked(report, {**names, f"{folder}/": ""})
    return checked if cards else replace(checked, name="", hash="")


@remembered(32, rows=False)
def check_set(view: View, set: str) -> Checked | None:  # noqa: A002
    """The check of a run's set, as it is on this machine; None if it is not here."""
    folder = set_folder(view, set)
    if folder is None:
        return None
    return _checked(check_folder(folder), {f"{folder}/": ""})


def effects(view: View, set: str) -> pd.DataFrame:  # noqa: A002
    """How far beyond a limit a rate must truly be for a gate to see it in 4 of 5 evaluations.

    Columns ``split, clusters, limit, effect, of`` (the gate whose limit it is, or ""); effect is
    NaN where none could be seen. A cluster counts once: its rows are not independent.
    """
    sizes = query(view.entries(set=set)[:1], _SIZES)
    limits = dict.fromkeys(RATES, "")
    for limit in plan(view.index).limits:
        metric = catalogue(view).get(limit.metric)
        if metric is not None and metric.set == set and metric.share and limit.kind != "drop":
            rate = limit.value if limit.kind == "at_most" else 1.0 - limit.value
            if 0.0 <= rate < 1.0:
                limits[rate] = limit.words()
    rows = [
        {
            "split": split,
            "clusters": int(n),
            "limit": rate,
            "effect": smallest_detectable_effect(int(n), rate),
            "of": of,
        }
        for split, n in sizes.itertuples(index=False)
        for rate, of in sorted(limits.items())
    ]
    frame = pd.DataFrame(rows, columns=["split", "clusters", "limit", "effect", "of"])
    return frame.astype({"effect": float})


def hollow(view: View, of: SetCard) -> pd.DataFrame:
    """What of a set could not be scored: metric, reason, rows (over all checkpoints)."""
    counts: dict[tuple[str, str], int] = {}
    for entry in view.entries(set=of.set):
        evaluation = opened(entry)
        found = {} if evaluation is None else evaluation.summary.get("unscored") or {}
        for metric, reasons in found.items():
            for reason, n in reasons.items():
                counts[metric, reason] = counts.get((metric, reason), 0) + int(n)
    rows = [(metric, reason, n) for (metric, reason), n in counts.items()]
    return pd.DataFrame(rows, columns=["metric", "reason", "rows"])


def _unusable(
    cards: Sequence[tuple[str, bytes]], rows: Sequence[tuple[str, bytes]], given: int
) -> str | None:
    if len(cards) > 1 or len(rows) > 1:
        return "drop one set at a time: one card and one file of rows"
    if len(cards) + len(rows) != given or not given:
        return f"an eval set is made of files that end in {', '.join(KINDS)}"
    for name, content in (*cards, *rows):
        if len(content) > LARGEST * 1_000_000:
            return f"{name}: larger than {LARGEST} MB; check it with `aldente evalset check`"
    for name, content in cards:
        # An alias of an alias of an alias: a few lines that unfold to gigabytes.
        try:
            events = YAML().parse(io.BytesIO(content))
            if any(isinstance(event, AliasEvent) for event in events):
                return f"{name}: a card with aliases (`*name`) is not read"
        except (YAMLError, ValueError):
            continue  # said better by the check itself
    return None


def _stand_in(probe: str) -> str:
    """A card for rows that came without one; JSON values are YAML."""
    said = "not said: rows were checked without their card"
    fields = {
        "name": "dropped",
        "version": "0",
        "probe": probe,
        "language": "en",
        **dict.fromkeys(("licence", "source", "high_means", "intended_use"), said),
        "options": dict(OPTIONS.get(probe) or {}),
    }
    return "".join(f"{name}: {json.dumps(value)}\n" for name, value in fields.items())


def probes() -> list[str]:
    """The probes that rows can be checked as."""
    return probe_names()


def _nothing(error: str) -> Checked:
    frame = pd.DataFrame(columns=["split", "rate", "effect"])
    return Checked((error,), (), 0, "", "", 0, {}, {}, frame, {})


def _checked(report: Report, names: Mapping[str, str]) -> Checked:
    def said(message: str) -> str:
        for path, name in names.items():
            message = message.replace(path, name)
        return message

    rows = [
        {"split": split, "rate": rate, "effect": effect}
        for split, found in report.effects.items()
        for rate, effect in found.items()
    ]
    more = max(0, len(report.errors) - MOST) + max(0, len(report.warnings) - MOST)
    return Checked(
        tuple(said(e) for e in report.errors[:MOST]),
        tuple(said(w) for w in report.warnings[:MOST]),
        more,
        report.evalset.name if report.evalset else "",
        report.evalset.hash if report.evalset else "",
        report.rows,
        dict(report.by_category),
        dict(report.by_split),
        pd.DataFrame(rows, columns=["split", "rate", "effect"]).astype({"effect": float}),
        dict(report.metrics),
    )
