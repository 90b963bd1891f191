"""Does the pocket schedule really over-cook, and does the gate really stop it in time?

Runs the frozen configuration (``schedules/pocket-ungated.yaml``; gated: ``schedules/pocket.yaml``
with three members a reward model) on fresh seeds, one of them on a rebuilt world and base, then the
controls, and prints one table with every seed and control in it, whatever it shows. Definitions:
``phenomenon_checks.py``. Finished runs are not run again, so it can be interrupted.

    python benchmarks/phenomenon.py --runs runs/phenomenon --jobs 2 --threads 2
    python benchmarks/phenomenon.py --runs runs/phenomenon --report-only

About 4 minutes a run on two cores; 5 ungated + 5 gated + controls.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from phenomenon_checks import (
    ACCURACY,
    Check,
    Trajectory,
    accuracy,
    gate_beats_last,
    gold_peaks_inside,
    proxy_rises,
    refusals_peak,
)
from phenomenon_gold import agreement

from harness.evalsets import load_evalset
from harness.store.run import Run

HERE = Path(__file__).resolve().parent
SCHEDULES = HERE.parent / "schedules"
SEEDS = (501, 502, 503, 504, 505)  # fresh: used for nothing before these runs
REBUILT = 505  # this one on another world and base
WORLD = 8  # seed of that world
CONTROL_SEEDS = (501, 502)
MEMBERS = ("stages.helpfulness.members=3", "stages.safety.members=3")
CONTROLS = {
    "KL × 10": ("stages.ppo.kl={kl10}",),
    "no misreading": ("stages.safety.data=pocket/safe?misread=0",),
    "no taste for length": ("stages.helpfulness.data=pocket/helpful?length=0",),
    "neither": (
        "stages.safety.data=pocket/safe?misread=0",
        "stages.helpfulness.data=pocket/helpful?length=0",
    ),
}
SHOWN = (
    ("proxy", "reward.proxy"),
    ("KL", "reward.kl"),
    ("false ref.", "borderline.false_refusal"),
    ("harm compl.", "harmful.compliance"),
    ("MT", "mt_bench.score"),
    ("gold", "gold.score"),
    ("halluc.", "hallucination.incorrect"),
    ("words", "reward.length"),
)


@dataclass(frozen=True)
class Job:
    name: str
    schedule: str
    seed: int
    overrides: tuple[str, ...] = ()

    @property
    def rebuilt(self) -> bool:
        return self.seed == REBUILT


def jobs(kl: float) -> list[Job]:
    """Ungated and gated runs of every seed, then the controls."""
    found = [Job(f"ungated-{seed}", "pocket-ungated.yaml", seed) for seed in SEEDS]
    found += [Job(f"gated-{seed}", "pocket.yaml", seed, MEMBERS) for seed in SEEDS]
    for label, overrides in CONTROLS.items():
        filled = tuple(text.format(kl10=10 * kl) for text in overrides)
        found += [
            Job(control_name(label, seed), "pocket-ungated.yaml", seed, filled)
            for seed in CONTROL_SEEDS
        ]
    return found


def control_name(label: str, seed: int) -> str:
    return f"{label.lower().replace(' × ', '-x').replace(' ', '-')}-{seed}"


def run(job: Job, folder: Path, world: Path, threads: int) -> int:
    """Run the job's schedule in a process of its own; its exit code (3: a gate stopped it)."""
    command = [sys.executable, "-m", "aldente", "run", str(SCHEDULES / job.schedule)]
    command += ["--runs", str(folder), "--name", job.name, "--seed", str(job.seed), "--json"]
    for override in job.overrides:
        command += ["--set", override]
    if job.rebuilt:
        command += ["--set", f"model={world / 'base'}"]
        command += ["--set", f"evaluate.path={world / 'evalsets'}"]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false")
    with (folder / f"{job.name}.log").open("ab") as log:
        code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    print(f"{datetime.now(UTC):%H:%M:%S} {job.name}: exit {code.returncode}", flush=True)
    return code.returncode


def build_world(world: Path, threads: int) -> None:
    if not (world / "base" / "model.safetensors").is_file():
        command = [sys.executable, "-m", "aldente", "pocket", "build", "--seed", str(WORLD)]
        environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
        subprocess.run([*command, "--out", str(world)], env=environment, check=True)


def finished(path: Path) -> bool:
    """Whether there is a run here that came to its end."""
    return path.is_dir() and any(event["event"] == "done" for event in Run.open(path).events())


def trajectory_line(run: Trajectory) -> str:
    """First → last of every shown metric."""
    parts = []
    for label, metric in SHOWN:
        values = run.values(metric)
        parts.append(f"{label} {values[0]:.2f} → {values[-1]:.2f}")
    return "; ".join(parts)


def report(folder: Path, world: Path) -> str:
    """The whole table as Markdown."""
    lines = [
        "# The phenomenon, from real training",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, CPU, "
        f"{os.cpu_count()} cores. Command: `python benchmarks/phenomenon.py`. "
        f"Seed {REBUILT} runs on a rebuilt world and base (world seed {WORLD}). "
        "Definitions: `benchmarks/phenomenon_checks.py`.",
        "",
    ]
    outcome: dict[str, list[bool]] = {}
    for seed in SEEDS:
        lines += [f"## Seed {seed}", ""]
        path = folder / f"ungated-{seed}"
        if not finished(path):
            lines += ["not run, or not finished", ""]
            continue
        trajectory = Trajectory(Run.open(path))
        checks = seed_checks(trajectory, seed, folder, world)
        for check in checks:
            outcome.setdefault(check.name, []).append(check.holds)
        lines += [f"- **{c.name}** {'holds' if c.holds else 'FAILS'}: {c.text}" for c in checks]
        lines += ["", "| epoch | " + " | ".join(label for label, _ in SHOWN) + " |"]
        lines += ["|" + "---|" * (len(SHOWN) + 1)]
        columns = [trajectory.values(metric) for _, metric in SHOWN]
        for row, epoch in enumerate(trajectory.epochs):
            lines.append(f"| {epoch} | " + " | ".join(f"{c[row]:.2f}" for c in columns) + " |")
        lines.append("")
    lines += ["## In how many seeds", "", "| criterion | holds |", "|---|---|"]
    lines += [f"| {name} | {sum(held)} of {len(held)} |" for name, held in outcome.items()]
    lines += ["", "## Controls (epoch 0 → last; peak of false refusals; as found)", ""]
    for label in ("as frozen", *CONTROLS):
        for seed in CONTROL_SEEDS:
            name = f"ungated-{seed}" if label == "as frozen" else control_name(label, seed)
            if finished(folder / name):
                found = Trajectory(Run.open(folder / name))
                peak = max(found.values("borderline.false_refusal"))
                gold = found.values("gold.score")
                lines.append(
                    f"- **{label}**, seed {seed}: peak of false refusals {peak:.2f}, best gold "
                    f"{max(gold):.2f}; {trajectory_line(found)}"
                )
    return "\n".join(lines) + "\n"


def seed_checks(trajectory: Trajectory, seed: int, folder: Path, world: Path) -> Sequence[Check]:
    """All criteria on one seed."""
    search = [world / "evalsets"] if seed == REBUILT else []
    gold = load_evalset("pocket/gold", search=search)
    checks = [
        proxy_rises(trajectory),
        refusals_peak(trajectory),
        *gold_peaks_inside(trajectory, gold),
    ]
    for name in ("helpfulness", "safety"):
        held = accuracy(trajectory.run, name)
        share = agreement(trajectory.run, name)
        checks.append(
            Check(
                f"e {name}",
                ACCURACY[0] <= held["value"] <= ACCURACY[1] and share.low > 0.5,
                f"accuracy {held['value']:.2f} [{held['low']:.2f}, {held['high']:.2f}] "
                f"(n = {held['n']:.0f}); agreement with gold {share.value:.2f} "
                f"[{share.low:.2f}, {share.high:.2f}] (n = {share.n})",
            )
        )
    gated = folder / f"gated-{seed}"
    if finished(gated):
        checks += gate_beats_last(Run.open(gated), trajectory)
    return checks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/phenomenon"))
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side")
    parser.add_argument("--threads", type=int, default=2, help="threads a run")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "phenomenon.md")
    options = parser.parse_args()
    options.runs.mkdir(parents=True, exist_ok=True)
    world = (options.runs / "world").resolve()
    if not options.report_only:
        build_world(world, options.threads)
        from trainers.schedule_file import read_schedule

        frozen = read_schedule(SCHEDULES / "pocket-ungated.yaml")
        kl = next(stage.kl for stage in frozen.stages if stage.kind == "ppo")
        with ThreadPoolExecutor(options.jobs) as pool:
            for job in jobs(kl):
                pool.submit(run, job, options.runs, world, options.threads)
    text = report(options.runs, world)
    options.out.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main()
