"""``aldente eval``: put any model through eval sets, without a schedule."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from aldente.console import json_line, note, quiet_libraries

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from harness.evaluation import Evaluation
    from harness.models import LoadedModel, ModelSpec


def command(
    model: Annotated[
        str, typer.Argument(help="pocket, a hub id, a model's or an adapter's folder.")
    ],
    sets: Annotated[str, typer.Option(help="Eval sets, by name or folder, with commas between.")],
    base: Annotated[
        str | None, typer.Option(help="Base of an adapter; default: the one it was trained on.")
    ] = None,
    sets_path: Annotated[
        Path | None, typer.Option(help="One more folder to look for eval sets in.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Only so many rows a set.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write; default: evals/<model>-<fingerprint>.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the sampling.")] = 17,
    batch: Annotated[int, typer.Option(min=1, help="Prompts generated side by side.")] = 64,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Longest reply.")] = 256,
    quantization: Annotated[
        str | None, typer.Option(help="none, int8, nf4; default: that of the run, or none.")
    ] = None,
    chat_template: Annotated[
        Path | None, typer.Option(help="A Jinja file instead of the tokenizer's own.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")] = False,
) -> None:
    """Measure a model. A killed evaluation goes on where it was; a finished one is read.

    Example: aldente eval runs/pocket/checkpoints/ppo-e003 --sets pocket/borderline,pocket/gold
    """
    from harness.evalsets import load_evalset

    search = [sets_path] if sets_path is not None else []
    names = [name.strip() for name in sets.split(",") if name.strip()]
    evalsets = [load_evalset(name, search=search, limit=limit) for name in names]
    spec = _spec(model, base, quantization, chat_template)

    quiet_libraries()
    from harness.engines.local import LocalEngine  # torch: after what is quickly checked
    from harness.evaluate import evaluate
    from harness.evaluation import Evaluation
    from harness.models import load

    loaded = load(spec)
    fingerprint = _fingerprint(loaded)
    name = Path(model).name
    folder = out if out is not None else Path("evals") / f"{name}-{fingerprint[:12]}"
    engine = LocalEngine(
        loaded.model, loaded.tokenizer, batch_size=batch, max_new_tokens=max_new_tokens
    )
    found = {
        evalset.name: evaluate(
            engine,
            evalset,
            out=folder / f"{evalset.name}@{evalset.hash[:12]}",
            seed=seed,
            checkpoint=name,
            identity={"model": fingerprint},
        )
        for evalset in evalsets
    }
    evaluation = Evaluation(name, found)
    metrics = {key: evaluation.metric(key, "all").to_dict() for key in evaluation.names()}
    if as_json:
        json_line({"model": model, "fingerprint": fingerprint, "metrics": metrics})
    else:
        _print(evaluation, metrics)
        note(f"written to {folder}")


def _spec(
    model: str, base: str | None, quantization: str | None, chat_template: Path | None
) -> ModelSpec:
    """What to load: a folder with an adapter gets its base from where it was trained."""
    from harness.errors import InputError, nearest
    from harness.models import ModelSpec
    from trainers.validation import base_of

    folder = Path(model)
    known: dict[str, Any] = {}
    if (folder / "adapter_config.json").is_file():
        known = _of_run(folder) | {"adapter": folder}
        if base is not None:
            known["base"] = base_of(base)
        if "base" not in known:
            raise InputError("an adapter needs --base: what it was trained on", path=folder)
    elif base is not None:
        raise InputError("--base is for adapters; this is none", path=model)
    else:
        known["base"] = base_of(model)
    choices = ("none", "int8", "nf4")
    if quantization is not None:
        if quantization not in choices:
            raise InputError(
                f"unknown quantization {quantization!r}",
                expected=", ".join(choices),
                nearest=nearest(quantization, choices),
            )
        known["quantization"] = quantization
    if chat_template is not None:
        if not chat_template.is_file():
            raise InputError("no such file", path=chat_template)
        known["chat_template"] = chat_template.read_text(encoding="utf-8")
    return ModelSpec(**known)


def _of_run(checkpoint: Path) -> dict[str, Any]:
    """How the base of a checkpoint inside a run is loaded; empty for any other folder."""
    from trainers.schedule_file import read_schedule
    from trainers.validation import base_of, locate

    run = checkpoint.resolve().parents[1]
    if not (run / "run.json").is_file():
        return {}
    from harness.store.run import Run

    folder = run / Run.open(run).info()["schedule_folder"]
    schedule = locate(read_schedule(run / "schedule.yaml"), folder)
    template = schedule.chat_template
    return {
        "base": base_of(schedule.model),
        "quantization": schedule.quantization,
        "dtype": schedule.dtype,
        "chat_template": Path(template).read_text(encoding="utf-8") if template else None,
    }


def _fingerprint(loaded: LoadedModel) -> str:
    """sha256 of all that was loaded: the base's, with the adapter's where there is one."""
    if loaded.spec.adapter is None:
        return loaded.base_fingerprint
    from harness.adapters import hash_file

    both = f"{loaded.base_fingerprint} {hash_file(loaded.spec.adapter)}"
    return hashlib.sha256(both.encode()).hexdigest()


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
    first = max(len(row[0]) for row in rows)
    for name, value, interval, count, better in rows:
        hint = "" if better == "neither" else f"  ({better} is better)"
        typer.echo(f"{name:<{first}}  {value:>8}  {interval:<18}  {count}{hint}")
