"""What does each element of the recipe do on the pocket model? One thing is changed at a time.

Six elements: the margin of the ranking loss, the ensemble rule, keeping earlier rounds' samples in
rejection sampling, Ghost Attention, demonstrations' loss beside PPO's, and the KL penalty. Arms,
outcomes, the claim about each element's first outcome, and the seeds are in ``ablations_plan.py``,
the rule for a verdict in ``ablations_verdicts.py``; both were written before the runs, and this
program alone writes the table. What the arms of a seed have in common is trained once.

Arms of one seed differ in nothing but the element, so the differences are paired by seed. Their
intervals are t intervals over three seeds, 4.3 standard errors to either side: only large or very
steady effects can be seen. "Shows nothing" is not "does nothing".

Settings that are not the schedules': PPO has 12 epochs instead of 16 (over-cooking shows by 10),
and rejection sampling in its ablation five rounds, K = 8 and a larger learning rate, chosen on seed
1.

Finished arms are not done again, so it can be interrupted.

    python benchmarks/ablations.py --runs runs/ablations --jobs 2
    python benchmarks/ablations.py --runs runs/ablations --report-only
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import zip_longest
from pathlib import Path

from ablations_plan import (
    ELEMENTS,
    MEANING,
    OVERRIDES,
    SEEDS,
    Element,
    Variant,
    outcome_file,
)
from ablations_verdicts import CONFIDENCE, Difference, difference, verdict

from harness.store.atomic import write_text

HERE = Path(__file__).resolve().parent
SHARED = "shared"  # the part of a seed that comes before its arms
Values = dict[int, dict[str, dict[str, float]]]  # seed -> arm -> outcome -> value


# --------------------------------------------------------------------------- running


def work(runs: Path, seed: int, arm: str) -> None:
    """One arm of one seed, in this process."""
    import torch
    from ablations_outcomes import Seed

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    if arm == SHARED:
        Seed(runs, seed).train_shared()
    else:
        Seed(runs, seed).run(arm)


def start(runs: Path, seed: int, arm: str, threads: int) -> int:
    """The same in a process of its own; its exit code."""
    command = [sys.executable, str(Path(__file__).resolve()), "--runs", str(runs)]
    command += ["--work", str(seed), arm]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads), TOKENIZERS_PARALLELISM="false")
    with (runs / f"{seed}-{arm}.log").open("ab") as log:
        code = subprocess.run(command, env=environment, stdout=log, stderr=log, check=False)
    print(f"{datetime.now(UTC):%H:%M:%S} {seed} {arm}: exit {code.returncode}", flush=True)
    return code.returncode


def run(runs: Path, seeds: Sequence[int], elements: Sequence[str], jobs: int, threads: int) -> None:
    """Every seed's shared part, then every arm of the elements on every seed, an arm at a time."""
    chosen = [element.arms for element in ELEMENTS if element.name in elements]
    # Every element's first variant before any second one.
    arms = dict.fromkeys(arm for turn in zip_longest(*chosen) for arm in turn if arm is not None)
    missing = [
        (seed, arm) for arm in arms for seed in seeds if not outcome_file(runs, seed, arm).is_file()
    ]
    with ThreadPoolExecutor(jobs) as pool:
        shared = {
            seed: pool.submit(start, runs, seed, SHARED, threads)
            for seed in dict.fromkeys(seed for seed, _ in missing)
        }

        def after_shared(seed: int, arm: str) -> int:
            shared[seed].result()  # submitted before, so it is running or done
            return start(runs, seed, arm, threads)

        for seed, arm in missing:
            pool.submit(after_shared, seed, arm)


# --------------------------------------------------------------------------- the table


def read(runs: Path, seeds: Sequence[int]) -> Values:
    """What has been measured so far."""
    found: Values = {}
    for seed in seeds:
        found[seed] = {}
        for element in ELEMENTS:
            for arm in element.arms:
                path = outcome_file(runs, seed, arm)
                if path.is_file():
                    found[seed][arm] = json.loads(path.read_text(encoding="utf-8"))
    return found


def of_arm(values: Values, arm: str, outcome: str) -> list[float]:
    """An outcome of an arm, a value a seed; nan where there is none."""
    return [arms.get(arm, {}).get(outcome, math.nan) for arms in values.values()]


def compare(
    values: Values, element: Element, variant: Variant, outcome: str
) -> tuple[Difference, str]:
    """Variant − baseline, and the verdict; the claim is about the first outcome alone."""
    found = difference(
        of_arm(values, variant.arm, outcome), of_arm(values, element.baseline.arm, outcome)
    )
    claim = variant.claim if outcome == element.outcomes[0] else 0
    return found, verdict(found, claim)


def comparisons(values: Values) -> Iterator[tuple[Element, Variant, str, Difference, str]]:
    for element in ELEMENTS:
        for variant in element.variants:
            for outcome in element.outcomes:
                found, says = compare(values, element, variant, outcome)
                yield element, variant, outcome, found, says


def report(values: Values) -> str:
    """The whole table as Markdown."""
    numbers = ", ".join(str(seed) for seed in values)
    return "\n".join(
        [
            "# What each element of the recipe does on the pocket model",
            "",
            f"{datetime.now(UTC):%Y-%m-%d}, {platform.machine()}, CPU; seeds {numbers}. "
            "Command: `python benchmarks/ablations.py`.",
            "",
            *_about(),
            "",
            "## The claims",
            "",
            *_claims(values),
            *_counts(values),
            "",
            *(line for element in ELEMENTS for line in _details(values, element)),
            "## What the outcomes are",
            "",
            *(f"- **{_name(outcome)}**: {text}" for outcome, text in MEANING.items()),
            "",
        ]
    )


def _about() -> list[str]:
    text = (__doc__ or "").partition("\n\n")[2].partition("Finished arms")[0]
    return text.strip().replace("``", "`").split("\n")


def _claims(values: Values) -> list[str]:
    lines = [
        "| element | variant | outcome claimed to change | claimed | variant − baseline | "
        + " | ".join(f"{seed}" for seed in values)
        + " | verdict |",
        "|---" * (6 + len(values)) + "|",
    ]
    for element in ELEMENTS:
        for variant in element.variants:
            outcome = element.outcomes[0]
            found, says = compare(values, element, variant, outcome)
            claimed = {1: "higher", -1: "lower", 0: "no claim"}[variant.claim]
            lines.append(
                f"| {element.title} | {variant.label} | {_name(outcome)} | {claimed} "
                f"| {_interval(found)} | {_each(found)} | **{says}** |"
            )
    return [*lines, ""]


def _counts(values: Values) -> list[str]:
    every = list(comparisons(values))
    with_interval = [found for *_, found, _ in every if not math.isnan(found.low)]
    shown = [says for *_, says in every if says.startswith("shows") and says != "shows nothing"]
    tested = [found for found in with_interval if found.low < found.high]
    return [
        f"Of {len(every)} comparisons (below, these included) {len(with_interval)} have an "
        f"interval, and {len(shown)} of these exclude 0. If nothing had any effect, about "
        f"{(1 - CONFIDENCE) * len(tested):.0f} of the {len(tested)} that are not 0 in every seed "
        "would exclude it by chance. They are not independent of each other, and "
        "nothing is corrected for their number.",
    ]


def _details(values: Values, element: Element) -> list[str]:
    lines = [f"## {element.title}", "", element.claim, ""]
    lines += [f"- {_sets(element.baseline)}", *(f"- {_sets(v, element)}" for v in element.variants)]
    lines += [
        "",
        "Means over seeds, the baseline first:",
        "",
        "| outcome | " + " | ".join(v.label for v in (element.baseline, *element.variants)) + " |",
        "|---" * (2 + len(element.variants)) + "|",
    ]
    for outcome in element.outcomes:
        cells = " | ".join(_mean(of_arm(values, arm, outcome)) for arm in element.arms)
        lines.append(f"| {_name(outcome)} | {cells} |")
    lines += [
        "",
        "| variant | outcome | variant − baseline | "
        + " | ".join(f"{seed}" for seed in values)
        + " | verdict |",
        "|---" * (4 + len(values)) + "|",
    ]
    for variant in element.variants:
        for outcome in element.outcomes:
            found, says = compare(values, element, variant, outcome)
            shown = says if says in ("shows nothing", "not measured") else f"**{says}**"
            lines.append(
                f"| {variant.label} | {_name(outcome)} | {_interval(found)} | {_each(found)} "
                f"| {shown} |"
            )
    return [*lines, ""]


def _sets(variant: Variant, element: Element | None = None) -> str:
    """What an arm sets in the schedule; of a variant only what its baseline does not."""
    known = OVERRIDES.get(element.baseline.arm, ()) if element is not None else ()
    own = [text for text in OVERRIDES.get(variant.arm, ()) if text not in known]
    shown = ", ".join(f"`{text}`" for text in own)
    role = "baseline, " if element is None else ""
    return f"{role}{variant.label}" + (f": {shown}" if shown else "")


def _name(outcome: str) -> str:
    name = outcome.replace("_", " ")
    return f"accuracy, {name}" if name.endswith("better") else name


def _interval(found: Difference) -> str:
    if math.isnan(found.mean):
        return "-"
    if math.isnan(found.low):
        return f"{found.mean:+.3f}"
    return f"{found.mean:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"


def _each(found: Difference) -> str:
    return " | ".join("-" if math.isnan(value) else f"{value:+.3f}" for value in found.values)


def _mean(values: Sequence[float]) -> str:
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return "-"
    shown = f"{math.fsum(known) / len(known):.3f}"
    return shown if len(known) == len(values) else f"{shown} ({len(known)} seeds)"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    names = [element.name for element in ELEMENTS]
    parser.add_argument("--elements", nargs="+", choices=names, default=names)
    parser.add_argument("--jobs", type=int, default=1, help="processes side by side")
    parser.add_argument("--threads", type=int, default=1, help="threads a process")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--out", type=Path, default=HERE / "results" / "ablations.md")
    parser.add_argument("--work", nargs=2, metavar=("SEED", "ARM"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    runs = options.runs.resolve()
    runs.mkdir(parents=True, exist_ok=True)
    if options.work:
        seed, arm = options.work
        work(runs, int(seed), arm)
        return
    if not options.report_only:
        run(runs, options.seeds, options.elements, options.jobs, options.threads)
    write_text(options.out, report(read(runs, options.seeds)))


if __name__ == "__main__":
    main()
