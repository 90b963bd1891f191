"""What ``aldente data self-instruct`` tells of what it did."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from aldente.console import note
from harness.visible import visible

if TYPE_CHECKING:
    from trainers.self_instruct import Report


def print_report(report: Report) -> None:
    """What became of windows, replies and questions, on stdout."""
    typer.echo(
        f"{report.documents} texts, {report.windows} windows: {report.asked} asked about, "
        f"{report.read} replies read"
    )
    _table("not asked about", report.not_asked)
    _table("replies that gave nothing", report.unread)
    typer.echo(
        f"{report.items} questions: {report.kept} kept ({report.answered} with an answer, "
        f"{report.unanswered} without)"
    )
    _table("dropped", report.dropped)
    typer.echo(f"{report.rows} rows")
    _table("", report.categories)


def _table(title: str, counts: Mapping[str, int]) -> None:
    if title and counts:
        typer.echo(f"  {title}: {sum(counts.values())}")
    for name, count in counts.items():
        typer.echo(f"{'    ' if title else '  '}{count:>6}  {visible(name)}")


def nothing(report: Report) -> str:
    """Why there is no row, in one line."""
    reasons = {**report.unread, **report.dropped}
    if not report.asked:
        return f"no window was asked about: {_counts(report.not_asked)}; nothing is written"
    told = _counts(reasons) or "the lists were empty"
    return f"no row is left of {report.asked} windows ({told}); nothing is written"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{visible(name)} {count} ×" for name, count in counts.items())


def print_remarks(report: Report, out: Path, replies: Path) -> None:
    """What else one should know, on stderr."""
    for name, other in report.same_text.items():
        note(f"{visible(name)}: the same text as {other}, read once")
    for name in report.empty:
        note(f"{visible(name)}: empty")
    if report.long_sentences:
        note(f"{report.long_sentences} sentences are longer than a window, and were one each")
    made = sum(report.categories.get(name, 0) for name in report.possible)
    if made < report.refusals_wanted:
        note(
            f"{made} refusals where their share asks for {report.refusals_wanted}: more texts, or "
            "more --unanswerable, would give more"
        )
    failed = sum(n for reason, n in report.unread.items() if reason.startswith("the generator f"))
    if failed:
        note(f"{failed} windows failed; the same command asks about them again")
    if report.replies_known:
        note(f"{report.replies_known} replies were there already")
    note(f"written to {out}; the replies behind it are kept in {replies}")
