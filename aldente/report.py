"""A run's state as data (``status --json``) and as the table that people read.

Both come from the committed files alone. Metrics are those of split A, by which gates and pick
decide; the picked checkpoint is shown on split B too, which decided nothing.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from aldente.console import duration
from aldente.half_life import half_lives, told
from harness.evaluation import Evaluation
from harness.store.run import Run

if TYPE_CHECKING:
    from harness.probes.consistency import HalfLife

MARKS = {"pass": "●", "inconclusive": "▲", "fail": "✕"}
# Heading (two lines), the probe, and its metric: the first set of that probe fills the column.
COLUMNS = (
    ("proxy reward", "reward", "proxy"),
    ("KL nats", "reward", "kl"),
    ("false ref.", "refusal", "false_refusal"),
    ("harm compl.", "refusal", "compliance"),
    ("MT score", "mt_bench", "score"),
    ("gold score", "rubric", "score"),
    ("consist- ency", "consistency", "held"),
    ("halluc- ination", "hallucination", "incorrect"),
)


@dataclass(frozen=True)
class Line:
    """One checkpoint of a run."""

    name: str
    stage: str
    kind: str
    epoch: int
    verdict: str | None  # None: no gate watched it
    evaluation: Evaluation | None
    metrics: Mapping[str, Mapping[str, Any]]  # as recorded in the event ``evaluated``

    def half_lives(self) -> dict[str, HalfLife]:
        """Of each set with a survival curve."""
        return {} if self.evaluation is None else half_lives(self.evaluation.sets)


@dataclass(frozen=True)
class Report:
    """All that is known of a run."""

    run: Run
    state: str
    events: Sequence[Mapping[str, Any]]
    lines: Sequence[Line]

    @classmethod
    def read(cls, run: Run) -> Report:
        events = run.events()
        verdicts = {e["checkpoint"]: e["status"] for e in events if e["event"] == "verdict"}
        metrics = {e["checkpoint"]: e["metrics"] for e in events if e["event"] == "evaluated"}
        lines = [
            Line(
                info.name,
                info.stage,
                info.kind,
                info.epoch,
                verdicts.get(info.name),
                run.evaluation(info.name),
                metrics.get(info.name, {}),
            )
            for info in run.checkpoints()
        ]
        return cls(run, run.state(), events, lines)

    def last(self, event: str) -> Mapping[str, Any] | None:
        return next((e for e in reversed(self.events) if e["event"] == event), None)

    def to_dict(self) -> dict[str, Any]:
        """The object of ``status --json``."""
        started, done, picked = self.last("stage_started"), self.last("done"), self.last("picked")
        stage = started["stage"] if started else None
        epochs = [line.epoch for line in self.lines if line.stage == stage]
        return {
            "run": str(self.run.path),
            "state": self.state,
            "stage": stage,
            "epoch": max(epochs) if epochs else None,
            "picked": picked["picked"] if picked else None,
            "stopped_by": done["stopped_by"] if done else None,
            "checkpoints": [
                {
                    "name": line.name,
                    "stage": line.stage,
                    "epoch": line.epoch,
                    "verdict": line.verdict,
                    "metrics": line.metrics,
                    "half_life": {name: asdict(life) for name, life in line.half_lives().items()},
                }
                for line in self.lines
            ],
        }

    def seconds(self) -> dict[str, tuple[float, float]]:
        """Stage -> seconds of training and of evaluation."""
        stage_of = {line.name: line.stage for line in self.lines}
        total: dict[str, tuple[float, float]] = {}
        for event in self.events:
            if event["event"] in {"epoch_done", "evaluated"} and event["checkpoint"] in stage_of:
                stage = stage_of[event["checkpoint"]]
                trained, evaluated = total.get(stage, (0.0, 0.0))
                if event["event"] == "epoch_done":
                    trained += event["seconds"]
                else:
                    evaluated += event["seconds"]
                total[stage] = (trained, evaluated)
        return total

    def text(self) -> str:
        """The table and what follows from it, for people."""
        picked = self.last("picked")
        name = picked["picked"] if picked else None
        return "\n".join([*_table(self.lines, name), "", *self._below(name)])

    def _below(self, picked: str | None) -> Iterator[str]:
        legend = "  ".join(f"{mark} {word}" for word, mark in MARKS.items())
        yield f"{legend}  → picked   (values: split A; intervals and n: aldente status --json)"
        done, why = self.last("done"), self.last("picked")
        if done and done["stopped_by"]:
            yield f"stopped by a gate: {done['stopped_by']}"
        for event in self.events:
            if event["event"] == "stage_finished" and event["rolled_back_to"]:
                yield f"{event['stage']} rolled back to {event['rolled_back_to']}"
        if why:
            yield f"picked: {picked or 'none'}. {why['reason']}"
        yield from _on_b(next((line for line in self.lines if line.name == picked), None))
        yield from _lasting(self.lines, picked)
        yield from _accuracies(self.lines)
        parts = [
            f"{stage} {duration(trained)} + {duration(evaluated)}"
            for stage, (trained, evaluated) in self.seconds().items()
        ]
        if parts:
            yield f"time (training + evaluation): {', '.join(parts)}"
        yield f"everything: {self.run.path}"
        if picked:
            yield f"the model:  {self.run.checkpoint_folder(picked)}"
        if self.state in {"interrupted", "running"}:
            yield f"state: {self.state}" + (
                f"; go on with: aldente resume {self.run.path}"
                if self.state == "interrupted"
                else ""
            )


def _names(lines: Sequence[Line]) -> list[tuple[str, str]]:
    """Heading and ``set.metric`` of each column that some checkpoint has a value for."""
    found = []
    for heading, probe, metric in COLUMNS:
        name = next(
            (
                f"{evalset.set}.{metric}"
                for line in lines
                if line.evaluation is not None
                for evalset in line.evaluation.sets.values()
                if evalset.summary["probe"] == probe and metric in evalset.names()
            ),
            None,
        )
        if name is not None:
            found.append((heading, name))
    return found


def _value(evaluation: Evaluation | None, name: str, split: Any) -> str:
    if evaluation is None or name not in evaluation.names():
        return "–"
    value = evaluation.metric(name, split).value
    return "–" if value is None else f"{value:.2f}"


def _table(lines: Sequence[Line], picked: str | None) -> Iterator[str]:
    shown = [line for line in lines if line.evaluation is not None]
    if not shown:
        yield "no checkpoint has been evaluated yet"
        return
    columns = _names(shown)
    headings = [heading.split(" ") for heading, _ in columns]
    cells = [[_value(line.evaluation, name, "A") for _, name in columns] for line in shown]
    widths = [
        max(len(text) for text in (*headings[at], *(row[at] for row in cells)))
        for at in range(len(columns))
    ]
    first = max(len("checkpoint"), *(len(line.name) for line in shown))
    wide = first + sum(widths) + 2 * len(widths) + 18 <= shutil.get_terminal_size((120, 40)).columns
    for row in (0, 1):
        words = [heading[row] for heading in headings]
        label = ("", "checkpoint")[row]
        yield _row("  ", label.ljust(first), words, widths, "verdict" if wide and row else "")
    for line, values in zip(shown, cells, strict=True):
        mark = MARKS.get(line.verdict or "", "·")
        verdict = f"{mark} {line.verdict or ''}" if wide else mark
        arrow = "→ " if line.name == picked else "  "
        yield _row(arrow, line.name.ljust(first), values, widths, verdict)


def _row(arrow: str, name: str, cells: Sequence[str], widths: Sequence[int], end: str) -> str:
    middle = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
    return f"{arrow}{name}  {middle}  {end}".rstrip()


def _on_b(line: Line | None) -> Iterator[str]:
    """The picked checkpoint on the rows that had no part in picking it."""
    if line is None or line.evaluation is None:
        return
    parts = []
    for heading, name in _names([line]):
        found = line.evaluation.metric(name, "B")
        if found.value is not None:
            low, high = found.low, found.high
            span = f" [{low:.2f}, {high:.2f}]" if low is not None and high is not None else ""
            label = heading.replace("- ", "")
            parts.append(f"{label} {found.value:.2f}{span} n {found.n}")
    if parts:
        yield f"  {line.name} on split B: {'; '.join(parts)}"


def _lasting(lines: Sequence[Line], picked: str | None) -> Iterator[str]:
    """How long instructions last: at the first checkpoint, the picked one and the last."""
    lives = {line.name: found for line in lines if (found := line.half_lives())}
    names = [*lives]
    for at, name in enumerate(names):
        if at in (0, len(names) - 1) or name == picked:
            for evalset, life in lives[name].items():
                yield f"{evalset}, {name}: {told(life)} (both splits)"


def _accuracies(lines: Sequence[Line]) -> Iterator[str]:
    latest = {
        name: value
        for line in lines
        if line.kind == "reward"
        for name, value in line.metrics.items()
        if value["value"] is not None
    }
    if latest:
        parts = [f"{name} {v['value']:.2f} (n {v['n']})" for name, v in latest.items()]
        yield f"reward models on held-out pairs: {', '.join(parts)}"
