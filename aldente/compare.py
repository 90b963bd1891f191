"""``aldente compare``: two evaluations on the same rows."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from aldente.console import json_line, note
from aldente.half_life import half_lives, told
from harness.visible import visible

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from harness.compare import Change, Comparison, Flip, Moves, Share
    from harness.evaluation import Record

_LONGEST = 600  # characters of a reply that are printed; --out has all
_CHANGE = {1: "worse", -1: "better", 0: "neither better nor worse"}
_COLUMNS = [
    *("set", "row", "category", "change", "metric"),
    *("a", "b", "label_a", "label_b", "asked", "reply_a", "reply_b"),
]


def command(
    a: Annotated[
        str, typer.Argument(help="RUN:CHECKPOINT, a folder of `aldente eval`, or one set's folder.")
    ],
    b: Annotated[str, typer.Argument(help="What is compared with it, named in the same way.")],
    sets: Annotated[
        str | None, typer.Option(help="Only these eval sets, with commas between.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Only this one, `set.metric`. Repeatable.")
    ] = None,
    split: Annotated[str, typer.Option(help="all, A or B.")] = "all",
    flips: Annotated[int, typer.Option(min=0, help="Print so many of the rows that turned.")] = 5,
    across_versions: Annotated[
        bool,
        typer.Option(
            "--across-versions",
            help="Where the eval set has changed, compare the rows that both versions hold.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(help="Write all rows that turned: .jsonl (whole transcripts) or .csv."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Paired differences with intervals and p-values, and the replies that turned.

    b - a, on the rows that both scored: the exact McNemar test where a row is 0 or 1, else a paired
    bootstrap; p is adjusted over the compared metrics (Holm).

    Examples:

    aldente compare runs/pocket:ppo-e000 runs/pocket:ppo-e005 --flips 10

    aldente compare evals/old-1a2b3c evals/new-4d5e6f --sets borderline --out flips.csv

    aldente compare runs/a:ppo-e003 runs/b:ppo-e003 --metric gold.score --split B --json
    """
    from harness.compare import compare
    from harness.compare_open import open_pair
    from harness.errors import InputError
    from harness.evaluation import Split
    from harness.store.atomic import write_text

    if split not in get_args(Split):
        raise InputError(f"--split {split!r}", expected="all, A or B")
    if out is not None and out.suffix not in (".jsonl", ".csv"):
        raise InputError("--out is neither .jsonl nor .csv", path=out)
    if out is not None and not out.parent.is_dir():
        raise InputError("no such folder", path=out.parent)
    names = [name.strip() for name in sets.split(",") if name.strip()] if sets else []
    pair = open_pair(a, b, names)
    found = compare(
        *pair,
        metrics=metric or (),
        split=cast(Split, split),
        across_versions=across_versions,
    )
    if out is not None:
        write_text(out, _csv(found.flips) if out.suffix == ".csv" else _jsonl(found.flips))
    first, second = (half_lives({name: side.sets[name] for name in found.rows}) for side in pair)
    lives = {name: {"a": first[name], "b": second[name]} for name in first if name in second}
    if as_json:
        half_life = {
            name: {side: asdict(life) for side, life in both.items()}
            for name, both in lives.items()
        }
        json_line({**_as_json(found), "half_life": half_life})
    else:
        for line in _table(found):
            typer.echo(line)
        for name, both in lives.items():
            for side, life in both.items():
                typer.echo(f"{name}, {side}: {told(life)}")
        for flip in found.flips[:flips]:
            for line in _readable(flip):
                typer.echo(line)
    for text in found.notes:
        note(visible(text))
    if out is not None:
        note(f"{len(found.flips)} rows that turned written to {out}")


def _table(found: Comparison) -> Iterator[str]:
    yield f"a: {visible(found.names[0])}"
    yield f"b: {visible(found.names[1])}"
    rows = ", ".join(f"{name} {count}" for name, count in found.rows.items())
    yield f"rows: {rows}" + (f" (split {found.split})" if found.split != "all" else "")
    yield ""
    width = max(len(change.metric) for change in found.changes)
    yield (
        f"{'':<{width}}  {'a':>7} {'b':>7}  {'b - a (95 %)':<25} {'p':>8} {'p, Holm':>8} {'n':>5}"
    )
    for change in found.changes:
        moves = change.moves
        unscored = change.a.unscored, change.b.unscored
        remarks = [f"unscored {unscored[0]} and {unscored[1]}"] if any(unscored) else []
        if change.better != "neither":
            remarks.append(f"{change.better} is better")
        if change.noise is not None:
            remarks.append(f"noise floor {change.noise.floor:.3f}")
        yield (
            f"{change.metric:<{width}}  {_number(change.a.value)} {_number(change.b.value)}  "
            f"{_interval(moves):<25} {_p(moves.p)} {_p(change.p_holm)} {moves.n:>5}  "
            f"{'; '.join(remarks)}"
        ).rstrip()
    for change in found.changes:
        if change.listed:
            yield from _categories(change)
    yield ""
    worse = sum(flip.worse > 0 for flip in found.flips)
    better = sum(flip.worse < 0 for flip in found.flips)
    yield f"{len(found.flips)} rows turned: {worse} for the worse, {better} for the better"


def _categories(change: Change) -> Iterator[str]:
    """Where the rows moved, a line a category in which some did."""
    moved = {
        name: moves
        for name, moves in change.by_category.items()
        if moves.rose is not None and moves.fell is not None and moves.rose.rows + moves.fell.rows
    }
    if not moved:
        return
    yield ""
    width = max(len(visible(name)) for name in moved)
    yield f"{change.metric} by category: rows that rose and fell, b - a"
    for name, moves in moved.items():
        yield (
            f"  {visible(name):<{width}}  {_share('+', moves.rose)}  {_share('-', moves.fell)}  "
            f"{_interval(moves):<25} n {moves.n}"
        )


def _share(sign: str, share: Share | None) -> str:
    if share is None:
        return ""
    bounds = "" if share.low is None else f" [{share.low:.2f}, {share.high:.2f}]"
    return f"{sign}{share.rows:<3} {share.value:.2f}{bounds:<13}"


def _number(value: float | None) -> str:
    return f"{'-':>7}" if value is None else f"{value:7.3f}"


def _interval(moves: Moves) -> str:
    if moves.difference is None:
        return "not scored on both sides"
    if moves.low is not None:
        return f"{moves.difference:+.3f} [{moves.low:+.3f}, {moves.high:+.3f}]"
    return f"{moves.difference:+.3f} " + ("too few rows" if moves.p is None else "no row moved")


def _p(value: float | None) -> str:
    return f"{'-':>8}" if value is None else f"{value:8.2g}"


def _readable(flip: Flip) -> Iterator[str]:
    """A row that turned, as plain text: nothing in it is markup, nothing moves the cursor."""
    yield ""
    category = f" ({visible(flip.category)})" if flip.category else ""
    yield f"--- {flip.set} {visible(flip.row_id)}{category}: {_CHANGE[flip.worse]}"
    for turn in flip.turns:
        labels = f"  {turn.label_a} -> {turn.label_b}" if turn.label_a or turn.label_b else ""
        yield f"    {turn.metric.partition('.')[2]} {turn.a:g} -> {turn.b:g}{visible(labels)}"
    ours, theirs = flip.a.exchanges(), flip.b.exchanges()
    if [question for question, _ in ours] != [question for question, _ in theirs]:
        for name, exchanges in (("a", ours), ("b", theirs)):
            for question, reply in exchanges:
                yield from _said(f"{name} was asked", question)
                yield from _said(f"{name} replied", reply)
        return
    alike = 0
    for (question, reply_a), (_, reply_b) in zip(ours, theirs, strict=True):
        if reply_a == reply_b:
            alike += 1
            continue
        yield from _said("asked", question)
        yield from _said("a", reply_a)
        yield from _said("b", reply_b)
    if alike:
        yield f"    ({alike} of {len(ours)} replies are the same)"


def _said(who: str, text: str) -> Iterator[str]:
    rest = len(text) - _LONGEST
    shown = visible(text[:_LONGEST]) + (f" … ({rest} more characters)" if rest > 0 else "")
    first, *others = shown.split("\n")
    yield f"    {who}: {first}"
    for line in others:
        yield f"    {' ' * len(who)}| {line}"


def _as_json(found: Comparison) -> dict[str, Any]:
    return {
        "a": found.names[0],
        "b": found.names[1],
        "split": found.split,
        "rows": dict(found.rows),
        "metrics": {
            change.metric: {
                "a": change.a.to_dict(),
                "b": change.b.to_dict(),
                **_moves(change.moves),
                "p_holm": change.p_holm,
                "better": change.better,
                "noise_floor": None if change.noise is None else change.noise.floor,
                "by_category": {name: _moves(m) for name, m in change.by_category.items()},
            }
            for change in found.changes
        },
        "flips": [_flip(flip) for flip in found.flips],
        "notes": list(found.notes),
    }


def _moves(moves: Moves) -> dict[str, Any]:
    return {
        "difference": moves.difference,
        "low": moves.low,
        "high": moves.high,
        "p": moves.p,
        "test": moves.test,
        "n": moves.n,
        "rose": _counted(moves.rose),
        "fell": _counted(moves.fell),
    }


def _counted(share: Share | None) -> dict[str, Any] | None:
    if share is None:
        return None
    return {"rows": share.rows, "value": share.value, "low": share.low, "high": share.high}


def _flip(flip: Flip) -> dict[str, Any]:
    return {
        "set": flip.set,
        "row": flip.row_id,
        "category": flip.category,
        "change": _CHANGE[flip.worse],
        "metrics": {
            turn.metric: {
                "a": turn.a,
                "b": turn.b,
                "label_a": turn.label_a,
                "label_b": turn.label_b,
            }
            for turn in flip.turns
        },
        "transcript_a": flip.a.transcript,
        "transcript_b": flip.b.transcript,
    }


def _jsonl(flips: Sequence[Flip]) -> str:
    return "".join(json.dumps(_flip(flip), ensure_ascii=False) + "\n" for flip in flips)


def _csv(flips: Sequence[Flip]) -> str:
    """A line a row and metric that turned; the turns of a dialogue with an empty line between."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(_COLUMNS)
    for flip in flips:
        asked, reply_a = ("\n\n".join(part) for part in _parts(flip.a))
        _, reply_b = ("\n\n".join(part) for part in _parts(flip.b))
        row = (flip.set, flip.row_id, flip.category, _CHANGE[flip.worse])
        for turn in flip.turns:
            labels = (turn.label_a or "", turn.label_b or "")
            table.writerow((*row, turn.metric, turn.a, turn.b, *labels, asked, reply_a, reply_b))
    return text.getvalue()


def _parts(record: Record) -> tuple[list[str], list[str]]:
    exchanges = record.exchanges()
    return [question for question, _ in exchanges], [reply for _, reply in exchanges]
