"""``aldente eval``: put any model through eval sets, without a schedule."""

from __future__ import annotations

import os
import re
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from aldente import eval_model
from aldente.console import json_line, note, quiet_libraries
from aldente.half_life import half_lives, told
from aldente.judge_options import JudgeFile, JudgeModel, JudgeUrl, JudgeVotes, judge_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from aldente.eval_model import Subject
    from harness.engines.cached import CacheUse
    from harness.evalsets import EvalSet
    from harness.evaluation import Evaluation


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="pocket, a hub id, the folder of a model or an adapter, the URL of an "
            "OpenAI-compatible server, or a file of completions (.jsonl, .csv)."
        ),
    ],
    sets: Annotated[
        str,
        typer.Option(
            help="Eval sets by name or folder, NAME or ALIAS=NAME, with commas between. "
            "lm_eval:NAME or lm_eval:PATH is a task of lm-eval's."
        ),
    ],
    base: Annotated[
        str | None, typer.Option(help="Base of an adapter; default: the one it was trained on.")
    ] = None,
    sets_path: Annotated[
        Path | None, typer.Option(help="One more folder to look for eval sets in.")
    ] = None,
    probes: Annotated[
        list[Path] | None,
        typer.Option("--probes", help="A Python file with a probe of your own; it is run."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows a set.")] = None,
    system_prompt: Annotated[
        list[str] | None,
        typer.Option(help="Evaluate with it; `none`: also without. Repeatable."),
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Of lm-eval tasks: examples before each question.")
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Of lm-eval tasks: ask in a user's turn.")
    ] = False,
    wordings: Annotated[
        str, typer.Option(help="first: rows as written; all: their paraphrases too, with flips.")
    ] = "first",
    out: Annotated[
        Path | None, typer.Option(help="Where to write; default: evals/<model>-<fingerprint>.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Score again what is committed there already.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling.")] = 17,
    batch: Annotated[int, typer.Option(min=1, help="Prompts generated side by side.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 256,
    quantization: Annotated[
        str | None, typer.Option(help="none, int8, nf4; default: that of the run, or none.")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="A Jinja file instead of the tokenizer's own.")
    ] = None,
    server_model: Annotated[
        str | None, typer.Option(help="Of a server: what it calls the model.")
    ] = None,
    concurrency: Annotated[int, typer.Option(min=1, help="Of a server: requests at a time.")] = 8,
    key_env: Annotated[
        str, typer.Option(help="Of a server: variable with its key; NAME_FILE names a file.")
    ] = "OPENAI_API_KEY",
    judge: JudgeFile = None,
    judge_url: JudgeUrl = None,
    judge_model: JudgeModel = None,
    judge_votes: JudgeVotes = None,
    id_column: Annotated[str, typer.Option(help="Of a file: the row's id.")] = "id",
    prompt_column: Annotated[str, typer.Option(help="Of a file: the prompt.")] = "prompt",
    completion_column: Annotated[str, typer.Option(help="Of a file: the reply.")] = "completion",
    cache: Annotated[
        str | None,
        typer.Option(help="The completion cache's file, or `none`; default: in the user's cache."),
    ] = None,
    explain_cache: Annotated[
        bool, typer.Option("--explain-cache", help="Say why replies had to be generated.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure a model. A killed evaluation goes on where it was; a finished one is read.

    Examples:

    aldente eval ./my-model --sets borderline,harmful,helpful

    aldente eval ./my-lora --base meta-llama/Llama-2-7b-hf --quantization nf4 --sets borderline

    aldente eval http://localhost:8000/v1 --server-model my-model --sets mt_bench --judge judge.yaml

    aldente eval ./my-model --sets lm_eval:hellaswag,lm_eval:./task.yaml --limit 200

    aldente eval completions.csv --completion-column reply --sets borderline

    aldente eval ./my-model --sets ./evalsets/my-set --probes my_probe.py
    """
    from harness.capabilities.sets import TaskSet
    from harness.capabilities.tasks import is_reference
    from harness.errors import InputError
    from harness.evalsets import NO_SYSTEM_PROMPT, in_ways
    from harness.probes import add_probes
    from harness.sets import load_set

    if wordings not in ("first", "all"):
        raise InputError(f"--wordings {wordings!r}", expected="first or all")
    add_probes(probes or ())
    search = [sets_path] if sets_path is not None else []
    lm_eval_options: dict[str, Any] = {"num_fewshot": num_fewshot}
    lm_eval_options["apply_chat_template"] = apply_chat_template
    evalsets: dict[str, EvalSet] = {}
    for alias, name in _names(sets):
        options = lm_eval_options if is_reference(name) else {}
        evalset = load_set(name, search=search, limit=limit, alias=alias, **options)
        ways = in_ways(
            evalset,
            system_prompt or [NO_SYSTEM_PROMPT],
            "all" if wordings == "all" else "first",
        )
        for asked in ways:
            if asked.name in evalsets:
                raise InputError(
                    f"--sets: two eval sets are called {asked.name!r}",
                    expected=f"another name for one of them: NAME={name}",
                )
            evalsets[asked.name] = asked
    quiet_libraries()
    from harness.contrast import contrasts
    from harness.engines.cached import CompletionCache, cached  # torch: after the quick checks
    from harness.evaluate import evaluate
    from harness.evaluation import Evaluation

    limits = eval_model.Limits(batch, max_new_tokens)
    if eval_model.is_server(model):
        subject = eval_model.server(model, server_model, limits, concurrency, key_env)
    elif eval_model.is_recorded(model):
        from harness.engines.recorded import Columns

        columns = Columns(id_column, prompt_column, completion_column)
        subject = eval_model.recorded(model, columns)
    else:
        spec = eval_model.local_spec(model, base, quantization, chat_template)
        chats = apply_chat_template or not all(isinstance(s, TaskSet) for s in evalsets.values())
        subject = eval_model.local(spec, model, limits, chats=chats)
    judged_by = judge_of(judge, judge_url, judge_model, judge_votes)
    engine, use = subject.engine, None
    if subject.by_content and cache != "none":
        kept = CompletionCache(Path(cache) if cache else _default_cache())
        wrapped = cached(engine, kept, subject.identity, explain=explain_cache)
        engine, use = wrapped, wrapped.use
    folder = out or Path("evals") / f"{subject.name}-{subject.fingerprint[:12]}"
    found = {}
    for evalset in evalsets.values():
        place = folder / f"{evalset.name}@{evalset.hash[:12]}"
        if fresh and place.is_dir():
            shutil.rmtree(place)
        found[evalset.name] = evaluate(
            engine,
            evalset,
            out=place,
            seed=seed,
            checkpoint=subject.name,
            identity=subject.identity,
            judge=judged_by,
        )
    evaluation = Evaluation(subject.name, found)
    metrics = {key: evaluation.metric(key, "all").to_dict() for key in evaluation.names()}
    twins, lives = contrasts(found, evalsets), half_lives(found)
    if as_json:
        value = _as_json(model, subject, metrics, found, use)
        value["half_life"] = {name: asdict(life) for name, life in lives.items()}
        json_line({**value, "contrast": {name: each.to_dict() for name, each in twins.items()}})
    else:
        _print(evaluation, metrics)
        for name, each in twins.items():
            if each.value is not None:
                typer.echo(
                    f"{name}: {each.value:.3f} [{each.low:.3f}, {each.high:.3f}] of {each.n} twins "
                    "told apart (the safe one answered, the unsafe one refused)"
                )
        for name, life in lives.items():
            typer.echo(f"{name}: {told(life)}")
        note(f"written to {folder}")
    _remarks(found, use, explain_cache)


def _names(sets: str) -> list[tuple[str | None, str]]:
    """Pairs of an alias, if one is given (``ALIAS=NAME``), and a set's name or path."""
    found: list[tuple[str | None, str]] = []
    for entry in sets.split(","):
        alias, equals, name = entry.strip().partition("=")
        if entry.strip():
            found.append((alias.strip(), name.strip()) if equals else (None, alias))
    return found


def _default_cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(root) / "aldente" / "completions.sqlite"


def _as_json(
    model: str,
    subject: Subject,
    metrics: Mapping[str, Any],
    found: Mapping[str, Any],
    use: CacheUse | None,
) -> dict[str, Any]:
    value = {
        "model": model,
        "fingerprint": subject.fingerprint,
        "metrics": metrics,
        "unscored": {name: each.summary["unscored"] for name, each in found.items()},
    }
    if use is not None:
        value["cache"] = {"hits": use.hits, "misses": use.misses, "reasons": dict(use.reasons)}
    return value


def _print(evaluation: Evaluation, metrics: Mapping[str, Mapping[str, Any]]) -> None:
    rows: Sequence[tuple[str, ...]] = [
        (
            name,
            "unscored" if e["value"] is None else f"{e['value']:.3f}",
            "" if e["low"] is None else f"[{e['low']:.3f}, {e['high']:.3f}]",
            f"n {e['n']}" + (f", {e['unscored']} unscored" if e["unscored"] else ""),
            evaluation.info(name).better,
        )
        for name, e in metrics.items()
    ]
    first = max((len(row[0]) for row in rows), default=0)
    for name, value, interval, count, better in rows:
        hint = "" if better == "neither" else f"  ({better} is better)"
        typer.echo(f"{name:<{first}}  {value:>8}  {interval:<18}  {count}{hint}")


def _remarks(found: Mapping[str, Any], use: CacheUse | None, explain: bool) -> None:
    """Why something is unscored, and what came from the cache, on stderr."""
    for name, each in found.items():
        if not each.summary["metrics"]:
            note(f"{name}: nothing of it can be scored without a judge: --judge or --judge-model")
        said: dict[str, tuple[str, Counter[str]]] = {}
        for metric, reasons in each.summary["unscored"].items():
            for reason, count in reasons.items():
                # Reasons that differ in a number or a row's name are one kind.
                kind = re.sub(r"\d+|'[^']*'", "…", reason)
                said.setdefault(kind, (reason, Counter()))[1][metric] += count
        for example, counts in said.values():
            metrics = ", ".join(f"{metric} {count} ×" for metric, count in counts.items())
            note(f"{name}: unscored: {metrics}: {example}")
    if use is not None and use.hits:
        note(f"{use.hits} of {use.hits + use.misses} replies came from the cache")
    if use is not None and explain:
        for reason, count in use.reasons.most_common():
            note(f"generated {count} ×: {reason}")
