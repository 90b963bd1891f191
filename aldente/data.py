"""``aldente data``: a look at training data before anything is trained; rows made of texts."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aldente import data_self_instruct
from aldente.console import json_line, problem, quiet_libraries
from aldente.exit_codes import BAD_INPUT
from harness.visible import visible

if TYPE_CHECKING:
    from harness.evalsets import EvalSet
    from trainers.data_check import Finding, Looking, SourceReport
    from trainers.data_formats import Kind
    from trainers.data_leaks import Leak
    from trainers.schedule import Schedule

app = typer.Typer(help="Training data.", no_args_is_help=True)
app.command("self-instruct")(data_self_instruct.command)
_SHOWN = 20  # bad rows and leaks printed of a source
_CLOSEST = 3
_WIDTH = 160  # characters of a text
_KINDS: dict[str, Kind] = {
    "demonstrations": "demonstrations",
    "pairs": "pairs",
    "prompts": "prompts",
    "dialogues": "dialogues",
    "instructions": "instructions",
}


@app.callback()
def group() -> None:
    """Training data."""


@app.command("check")
def check(
    target: Annotated[
        str, typer.Argument(help="A schedule (.yaml); or a file, a folder, a pocket/ or hub: name.")
    ],
    eval_sets: Annotated[
        str, typer.Option(help="Eval sets to look for, beside those the schedule evaluates: A,B.")
    ] = "",
    sets_path: Annotated[
        list[Path] | None, typer.Option("--sets-path", help="One more folder of eval sets.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "--tokenizer", help="Whose tokens to count: a folder, a hub id."),
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="A Jinja file, for a tokenizer without a template.")
    ] = None,
    kind: Annotated[
        str | None, typer.Option("--as", help=f"{' | '.join(_KINDS)}; by the columns.")
    ] = None,
    data_format: Annotated[
        str, typer.Option("--format", help="The format's name; by the columns.")
    ] = "auto",
    max_length: Annotated[
        int | None, typer.Option(min=1, help="Longest row of a file, in tokens.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Counts, lengths, repetition, odd characters, and rows that the eval sets have too.

    Exit code 2: rows that cannot be read, or leaks that the schedule does not allow.

    Example: aldente data check schedules/pocket.yaml
    Example: aldente data check pairs.jsonl --eval-sets borderline --model ./my-model
    """
    from harness.errors import InputError, nearest
    from trainers.data_check import check_file, check_schedule

    if kind is not None and kind not in _KINDS:
        raise InputError(
            f"no kind of data {kind!r}",
            field="--as",
            expected=" | ".join(_KINDS),
            nearest=nearest(kind, _KINDS),
        )
    schedule, evalsets = _schedule(target) if target.endswith((".yaml", ".yml")) else (None, [])
    evalsets += _named(eval_sets, sets_path or [])
    looking = _looking(schedule, evalsets, model, chat_template, target)
    if schedule is not None:
        reports = check_schedule(schedule, looking)
    else:
        known = _KINDS[kind] if kind else None
        reports = [
            check_file(target, looking, kind=known, data_format=data_format, max_length=max_length)
        ]
    bad = any(report.bad for report in reports)
    if as_json:
        names = [evalset.name for evalset in evalsets]
        json_line(
            {
                "target": target,
                "ok": not bad,
                "evalsets": names,
                "sources": [_as_json(report) for report in reports],
            }
        )
    else:
        for report in reports:
            _print(report)
    if bad:
        raise typer.Exit(BAD_INPUT)


def _schedule(target: str) -> tuple[Schedule, list[EvalSet]]:
    from trainers.schedule_file import read_with_source
    from trainers.schedule_rules import Problem
    from trainers.validation import evalsets_of, locate

    parsed, source = read_with_source(Path(target))
    located = locate(parsed, Path(target).parent)
    problems: list[Problem] = []
    evalsets = list(evalsets_of(located, problems))
    source.raise_all(problems)
    return located, evalsets


def _named(names: str, search: list[Path]) -> list[EvalSet]:
    from harness.sets import load_set

    return [load_set(name.strip(), search=search) for name in names.split(",") if name.strip()]


def _looking(
    schedule: Schedule | None,
    evalsets: list[EvalSet],
    model: str | None,
    chat_template: Path | None,
    target: str,
) -> Looking:
    from harness.errors import InputError
    from trainers.data_check import Looking
    from trainers.data_leaks import LeakIndex
    from trainers.data_lengths import load_tokenizer
    from trainers.validation import base_of

    named = model or (schedule.model if schedule else None)
    if named is None and target.startswith("pocket/"):
        named = "pocket"
    base = base_of(named or "pocket")
    template = str(chat_template) if chat_template else schedule.chat_template if schedule else None
    tokenizer, why = None, "no --model was given"
    if named is not None:
        quiet_libraries()
        try:
            tokenizer = load_tokenizer(base, template)
        except InputError as error:
            if model is not None:  # asked for by name
                raise
            why = str(error)
    index = LeakIndex(evalsets) if evalsets else None
    seed = schedule.seed if schedule else 17
    return Looking(Path(base), seed, index, tokenizer, why)


# --------------------------------------------------------------------------- telling


def _as_json(report: SourceReport) -> dict[str, Any]:
    found = dataclasses.asdict(report)
    comparison = report.comparison
    if comparison is not None:
        found["comparison"] = {
            "leaks": [_leak(leak) for leak in comparison.leaks],
            "closest": [_leak(leak) for leak in comparison.closest[:_CLOSEST]],
            "seen": {name: dataclasses.asdict(seen) for name, seen in comparison.seen.items()},
            "not_compared": list(comparison.not_compared),
        }
    return {**found, "allow_leaks": report.allow_leaks, "bad": report.bad}


def _leak(leak: Leak) -> dict[str, Any]:
    return {
        "place": str(leak.place),
        "side": leak.side,
        "exact": leak.exact,
        "share": leak.share,
        "refused": not leak.evaluated.reference,
        "set": leak.evaluated.evalset,
        "row": leak.evaluated.row,
        "field": leak.evaluated.field,
        "training_text": leak.trained,
        "eval_text": leak.evaluated.text,
    }


def _print(report: SourceReport) -> None:
    for error in report.errors[:_SHOWN]:
        problem(error)
    if len(report.errors) > _SHOWN:
        problem(f"and {len(report.errors) - _SHOWN} more bad rows in {report.source}")
    stages = ", ".join(use.stage for use in report.uses if use.stage)
    used = f", for {stages}" if stages else ""
    if report.report is None:
        typer.echo(f"{report.source}: {report.kind}{used}: cannot be read")
        return
    counts = report.report
    typer.echo(
        f"{report.source}: {report.kind} ({counts.format}){used}: {counts.read} rows read, "
        f"{counts.kept} to train on"
    )
    for what, found in (("read all the same", counts.notes), ("dropped", counts.dropped)):
        if found:
            typer.echo(f"  {what}: " + _counts(found))
    if not counts.kept:  # there was nothing to look at
        return
    if report.turns:
        typer.echo("  messages a row: " + _counts({f"{n}": c for n, c in report.turns.items()}))
    _print_lengths(report)
    for title, table in (("ratings", report.ratings), ("safety", report.safety)):
        if table:
            typer.echo(f"  {title}: " + _counts(table))
    _print_findings(report)
    _print_comparison(report)


def _print_lengths(report: SourceReport) -> None:
    if report.no_lengths:
        typer.echo(f"  tokens: not counted: {_line(report.no_lengths)}")
    for stage, found in report.lengths.items():
        limit = next((use.max_length for use in report.uses if use.stage == stage), None)
        told = "" if limit is None else f"; none longer than {limit}"
        if found.over:
            told = f"; {found.over} longer than {limit}: {found.then}"
        typer.echo(
            f"  tokens{f' ({stage})' if stage else ''}: median {found.median:g}, 95 % up to "
            f"{found.percentile_95}, longest {found.longest}, {found.total} in all{told}"
        )


def _print_findings(report: SourceReport) -> None:
    findings: list[tuple[str, Finding | None]] = [
        ("rows that stood before", report.repeated),
        ("rows that stood before but for case and punctuation", report.repeated_words),
        ("prompts much like an earlier one", report.near_repeated),
        ("pairs whose replies have the same words", report.identical_sides),
        ("pairs that contradict an earlier one", report.contradictions),
        ("rows with characters that are not seen", report.unseen),
        ("rows with the tokenizer's special tokens written out", report.special),
    ]
    for title, finding in findings:
        if finding is None:
            typer.echo(f"  {title}: not looked for, too many prompts")
        elif finding.count:
            shown = [text.replace(f"{report.source}:", "line ") for text in finding.examples]
            more = " …" if finding.count > len(shown) else ""
            typer.echo(f"  {title}: {finding.count}: {', '.join(shown)}{more}")


def _print_comparison(report: SourceReport) -> None:
    found = report.comparison
    if found is None:
        typer.echo("  eval sets: none to compare with (--eval-sets A,B)")
        return
    for name, seen in found.seen.items():
        typer.echo(
            f"  {name}: of {seen.rows} rows {seen.leaked} leak, {seen.long} share a 13-gram, "
            f"{seen.short} an 8-gram ({seen.short_share:.0%} of its 8-grams)"
        )
    for name in found.not_compared:
        typer.echo(f"  {name}: not compared: its texts are lm-eval's own")
    refused = found.refused()
    allowed = " (allowed by the schedule)" if report.allow_leaks else ""
    if refused:
        typer.echo(f"  LEAKS{allowed}: {len(refused)}")
    answers = [leak for leak in found.leaks if leak.evaluated.reference]
    _print_leaks(refused, _SHOWN)
    if answers:
        typer.echo(f"  reference answers in the training rows: {len(answers)}")
        _print_leaks(answers, _SHOWN)
    if found.closest:
        typer.echo("  closest that are no leaks:")
        _print_leaks(found.closest, _CLOSEST)


def _print_leaks(leaks: list[Leak], shown: int) -> None:
    for leak in leaks[:shown]:
        typer.echo(f"    {leak.place}: {leak.told()}")
        typer.echo(f"      training: {_line(leak.trained)}")
        typer.echo(f"      eval:     {_line(leak.evaluated.text)}")
    if len(leaks) > shown:
        typer.echo(f"    and {len(leaks) - shown} more (--json lists all leaks)")


def _line(text: str) -> str:
    line = " ".join(text.split())
    return visible(line if len(line) <= _WIDTH else line[: _WIDTH - 1] + "…")


def _counts(table: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in table.items())
