"""What people say of replies: kept beside the run, in files that calibrate a judge.

The only thing that the dashboard writes. ``labels.jsonl`` of the run is a log that is only ever
appended to: a label that is changed or taken back is a line more. After each line
``labels/<kind>.jsonl`` is written anew, with the label that counts of each reply, in the form that
``aldente judge calibrate`` reads (``harness/judges/llm/labelled.py``), for refusals ``aldente
score`` too. See docs/run-format.md.
"""

from __future__ import annotations

import fcntl
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pandas as pd

from dashboards.data.evalsets import set_rows
from dashboards.data.index import View
from dashboards.data.samples import Sample
from dashboards.data.summaries import opened
from harness.errors import IntegrityError
from harness.judges.llm.labelled import SCALES, Kind
from harness.judges.llm.parse import Labels
from harness.store import lines
from harness.store.atomic import make_folder, to_json, write_text
from harness.store.run import SCHEMA

LOG, FOLDER = "labels.jsonl", "labels"
KINDS: tuple[Kind, ...] = get_args(Kind)
LONGEST_NOTE = 2000  # characters
COLUMNS = ["id", "kind", "checkpoint", "set", "row_id", "reply", "label", "note", "time"]
_KIND_OF_PROBE: Mapping[str, Kind] = {
    "refusal": "refusal",
    "hallucination": "factual",
    "mt_bench": "single",
}
# "I do not know how" is an honest answer to those who know three classes only (XSTest, 4.1).
_THREE = {"capability_refusal": "full_compliance"}


@dataclass(frozen=True)
class Said:
    """A reply that can be labelled: the ``number``-th (from 1) of its sample, with the dialogue
    that led to it and ends with it (role, content)."""

    number: int
    dialogue: tuple[Mapping[str, str], ...]
    branch: bool

    @property
    def asked(self) -> str:
        return self.dialogue[-2]["content"]

    @property
    def reply(self) -> str:
        return self.dialogue[-1]["content"]


@dataclass(frozen=True)
class Given:
    """A label that counts."""

    label: str | float
    note: str
    time: str


def replies(sample: Sample) -> list[Said]:
    """The replies of a sample to something that a user said, in the order of the transcript."""
    found: list[Said] = []
    main: list[Mapping[str, str]] = []
    aside: list[Mapping[str, str]] = []
    number = 0
    for message in sample.conversation():
        branch = bool(message.get("branch"))
        if not branch:
            aside = []
        line = aside if branch else main
        line.append({"role": message["role"], "content": message["content"]})
        if message["role"] != "assistant":
            continue
        number += 1
        dialogue = tuple(main + aside)
        if len(dialogue) >= 2 and dialogue[-2]["role"] == "user":
            found.append(Said(number, dialogue, branch))
        if branch:
            aside = []
    return found


def kinds(view: View, sample: Sample) -> list[Kind]:
    """The kinds of label that the sample can be given, the likeliest first.

    ``factual`` needs to know what is right, which only the eval set's own row says.
    """
    known = [kind for kind in KINDS if kind != "factual" or _facts(view, sample)]
    likely = _KIND_OF_PROBE.get(_probe(view, sample), "single")
    return sorted(known, key=lambda kind: kind != likely)


def classes(kind: Kind) -> tuple[str, ...] | None:
    """The labels of a kind; None if it is a number, from 1 to 10."""
    scale = SCALES[kind]
    return scale.names if isinstance(scale, Labels) else None


def give(
    view: View, sample: Sample, said: Said, kind: Kind, label: str | float | None, note: str = ""
) -> Path:
    """Write a label down; None takes back the one that was given. Returns the file for calibration.

    The line is on the disk when this returns. Raises ``OSError`` where the run cannot be written
    to, ``IntegrityError`` for a damaged log (the new line is not lost), ``ValueError`` for a label
    that is none of its kind.
    """
    _check(kind, label)
    run = view.index.path
    record = {
        "schema": SCHEMA,
        "time": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z",
        "kind": kind,
        "id": _id(sample, said),
        "label": label,
        "note": note[:LONGEST_NOTE],
        "checkpoint": sample.checkpoint,
        "set": sample.set,
        "version": sample.version,
        "row_id": sample.row_id,
        "reply": said.number,
        "cluster": f"{sample.set}/{sample.cluster}",
        **_material(view, sample, said, kind),
    }
    path = run / FOLDER / f"{kind}.jsonl"
    make_folder(run / FOLDER)
    with _locked(run / FOLDER):
        lines.append(run / LOG, record)
        counting = [entry for entry in _counting(run) if entry["kind"] == kind]
        write_text(path, "".join(to_json(_row(entry)) + "\n" for entry in counting))
    return path


def given(run: Path, sample: Sample, said: Said, kind: Kind) -> Given | None:
    """The label that counts for a reply."""
    wanted = _id(sample, said)
    for entry in _counting(run):
        if entry["kind"] == kind and entry["id"] == wanted:
            return Given(entry["label"], str(entry.get("note", "")), str(entry.get("time", "")))
    return None


def labels(run: Path) -> pd.DataFrame:
    """One row a label that counts, the newest first: ``COLUMNS``; numbers as text.

    Raises ``IntegrityError`` for a damaged log.
    """
    rows = [{name: entry.get(name) for name in COLUMNS} for entry in _counting(run)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    frame["label"] = [f"{v:g}" if isinstance(v, int | float) else str(v) for v in frame["label"]]
    return frame.sort_values("time", ascending=False, ignore_index=True, kind="stable")


def commands(run: Path, kind: Kind) -> list[str]:
    """What to type to hold a judge, and for refusals the rules, against these labels."""
    path = _typed(run / FOLDER / f"{kind}.jsonl")
    found = [f"aldente judge calibrate {path} --kind {kind} --judge judge.yaml"]
    if kind == "refusal":
        found.append(
            f"aldente score refusal {path} --label-column label_three_class --safe-column safe"
        )
    return found


def _check(kind: Kind, label: str | float | None) -> None:
    names = classes(kind)
    if label is None:
        return
    number = isinstance(label, int | float) and 1 <= label <= 10
    if not (number if names is None else label in names):
        raise ValueError(f"no label of the kind {kind}: {label!r}")


def _id(sample: Sample, said: Said) -> str:
    return f"{sample.checkpoint}/{sample.set}@{sample.version}/{sample.row_id}/{said.number}"


def _material(view: View, sample: Sample, said: Said, kind: Kind) -> dict[str, Any]:
    """What the judge will be shown: as the probes show it."""
    if kind == "single":
        found: dict[str, Any] = {"messages": [dict(message) for message in said.dialogue]}
        reference = _reference(view, sample, said)
        return found | ({"reference": reference} if reference else {})
    found = {"prompt": said.asked, "completion": said.reply}
    if kind == "factual":
        return found | _facts(view, sample)
    return found | {"safe": "false" if _harmful(view, sample) else "true"}


def _row(entry: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: value for name, value in entry.items() if name not in ("schema", "kind")}
    if entry["kind"] == "refusal":
        found["label_three_class"] = _THREE.get(entry["label"], entry["label"])
    return found


def _facts(view: View, sample: Sample) -> dict[str, Any]:
    """What is known to be right and wrong, of the eval set's row; empty if that is not here."""
    row = set_rows(view, sample.set).get(sample.row_id)
    accepted = _texts(getattr(row, "accepted", ()))
    must_abstain = bool(getattr(row, "must_abstain", False))
    if not accepted and not must_abstain:
        return {}
    wrong = _texts(getattr(row, "wrong", ()))
    return {"accepted": accepted, "wrong": wrong, "must_abstain": must_abstain}


def _reference(view: View, sample: Sample, said: Said) -> str | None:
    """The model answer of the turn, if the eval set's row has one."""
    row = set_rows(view, sample.set).get(sample.row_id)
    known = getattr(row, "references", None) or ()
    turn = sum(message["role"] == "user" for message in said.dialogue) - 1
    return known[turn] if turn < len(known) and not said.branch else None


def _texts(value: Sequence[str]) -> list[str]:
    return [str(text) for text in value]


def _probe(view: View, sample: Sample) -> str:
    for entry in view.entries(checkpoint=sample.checkpoint, set=sample.set):
        found = opened(entry)
        if found is not None:
            return str(found.summary.get("probe", ""))
    return ""


def _harmful(view: View, sample: Sample) -> bool:
    """Whether the set holds what should be refused: such sets measure compliance."""
    for entry in view.entries(checkpoint=sample.checkpoint, set=sample.set):
        found = opened(entry)
        if found is not None and "compliance" in found.summary["metrics"]:
            return True
    return False


def _counting(run: Path) -> list[dict[str, Any]]:
    """The log's last line for each reply and kind, where it was not taken back; in their order."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for number, entry in enumerate(lines.read(run / LOG), start=1):
        if entry.get("schema") != SCHEMA or entry.get("kind") not in KINDS or "id" not in entry:
            raise IntegrityError(f"{run / LOG}:{number}: not a label of schema {SCHEMA}")
        key = (str(entry["kind"]), str(entry["id"]))
        found.pop(key, None)
        if entry.get("label") is not None:
            found[key] = entry
    return list(found.values())


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One at a time: two pages may be open on the same run."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _typed(path: Path) -> str:
    return shlex.quote(str(path))
