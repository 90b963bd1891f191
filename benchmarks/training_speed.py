"""Speed and memory of SFT, reward training and DPO: our layers against trl's own forward, in one
run.

Both train a LoRA adapter with the same data, batches and precision, by the stages themselves; with
``transformers`` the layers that are written out (``trainers/trunk_forward.py``) are left out, so
that the model runs through transformers, peft and bitsandbytes: SFT's rows packed, a pair's prompt
computed once by a reward model (as ours by both), DPO's rows padded. Processes alternate; a figure
is the median over processes.

    OMP_NUM_THREADS=2 python benchmarks/training_speed.py --rounds 3 --out FILE
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from ppo_speed import SHAPES, base_folder, processor, result_of

from trainers.validation import POCKET_BASE

KINDS = ("sft", "reward", "dpo")
FORMS = ("ours", "transformers")
# Rows or pairs of an epoch, and how the base is held.
BASES = {"pocket, nf4": (1024, "nf4"), "pocket": (1024, "none"), "llama-110m": (32, "none")}


def base_of(name: str, folder: Path) -> str:
    """The shipped base, or a random one of 110 million weights."""
    if name not in SHAPES or SHAPES[name].config is None:
        return "pocket"
    target = base_folder(SHAPES[name], folder)
    shutil.copy(POCKET_BASE / "world.json", target)  # of the data
    return str(target)


def worker(form: str, kind: str, base: str, rows: int, quantization: str, run: Path) -> None:
    """Train an epoch and print its seconds, loss, and peak memory beyond the loaded base."""
    from trainers import dpo, reward, sft, trunk_forward
    from trainers.schedule import Schedule
    from trainers.stage import StageContext

    if form == "transformers":
        trunk_forward.Learners.suit = lambda _: False  # type: ignore[method-assign]
        trunk_forward.Learners.current = lambda _: None  # type: ignore[method-assign]
    from harness.store.run import Run

    settings: dict[str, Any] = {"name": "timed", "kind": kind, "epochs": 1, "max_length": 256}
    if kind == "sft":
        settings |= {"data": f"pocket/demonstrations?n={rows}", "batch": 32}
    else:
        settings |= {"data": f"pocket/helpful?n={rows}", "batch": 32, "held_out": 0.0}
    schedule = Schedule.model_validate_json(
        json.dumps(
            {
                "name": "timed",
                "model": base,
                "quantization": quantization,
                "seed": 1,
                "stages": [settings],
                "evaluate": {"sets": []},
            }
        )
    )
    ctx = StageContext(
        run=Run.create(run, schedule_yaml="", info={}),
        schedule=schedule,
        stage=schedule.stages[0],
        start=None,
        base_folder=str(POCKET_BASE) if base == "pocket" else base,
        reward_models=(),
    )
    ctx.base()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    module: Any = {"sft": sft, "reward": reward, "dpo": dpo}[kind]
    trained = module.run_epoch
    seconds: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        found = trained(*args, **kwargs)
        seconds.append(time.perf_counter() - started)
        return found

    module.run_epoch = timed
    *_, last = module.checkpoints(ctx)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    training = last.training
    loss = training["members"][0]["loss"] if kind == "reward" else training["loss"]
    print("RESULT " + json.dumps({"seconds": seconds[0], "loss": loss, "peak": peak}))


def once(form: str, kind: str, name: str, folder: Path, number: int) -> dict[str, Any]:
    rows, quantization = BASES[name]
    run = folder / f"{form}-{kind}-{number}-{name.replace(', ', '-')}"
    command = [sys.executable, __file__, "--worker", form, kind, base_of(name, folder)]
    command += [str(rows), quantization, str(run)]
    return result_of(command)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--base", choices=[*BASES], action="append")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", nargs=6, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        form, kind, base, rows, quantization, run = options.worker
        worker(form, kind, base, int(rows), quantization, Path(run))
        return
    lines = [
        "# SFT, reward training and DPO: our layers beside trl's forward through transformers",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads, torch {torch.__version__}; an epoch "
        f"of LoRA r 16 in float32, batch 32; medians of {options.rounds} alternating processes.",
        "",
        "| base | stage | who | rows/s | ours over it | loss | peak memory, MiB | ours of it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for base in options.base or BASES:
            for kind in KINDS:
                found: dict[str, list[dict[str, Any]]] = {form: [] for form in FORMS}
                for number in range(options.rounds):
                    for form in FORMS:
                        found[form].append(once(form, kind, base, folder, number))
                rate = {
                    form: BASES[base][0] / statistics.median(one["seconds"] for one in runs)
                    for form, runs in found.items()
                }
                peak = {
                    form: statistics.median(one["peak"] for one in runs) / 2**20
                    for form, runs in found.items()
                }
                for form in FORMS:
                    lines.append(
                        f"| {base} | {kind} | {form} | {rate[form]:.2f} | "
                        f"{rate['ours'] / rate[form]:.2f} | {found[form][0]['loss']:.5f} | "
                        f"{peak[form]:.0f} | {peak['ours'] / peak[form]:.2f} |"
                    )
                print("\n".join(lines[-2:]), flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
