"""The way of a GPU, on a machine that has none: see ``tests/pretended_gpu``."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from harness.store.run import Run

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="a C++ compiler is needed"),
]

SAMPLED = {"prompts": "pocket/prompts", "epochs": 1, "max_new_tokens": 12, "learning_rate": 1e-3}
POLICY = {**SAMPLED, "iterations": 1, "batch": 8, "mini_batch": 4, "kl": 0.02}
PAIRS = {"data": "pocket/helpful", "learning_rate": 1e-3, "batch": 8, "max_length": 256}
STAGES: dict[str, dict[str, Any]] = {
    "sft": {"data": "pocket/demonstrations", "limit": 24, "epochs": 1}
    | {"learning_rate": 3e-3, "batch": 8, "max_length": 256},
    "helpfulness": {"kind": "reward", "limit": 24, "members": 2, "margin": "small", **PAIRS},
    "safety": {"kind": "reward", **PAIRS, "data": "pocket/safe", "limit": 24, "members": 1}
    | {"safety_weight": 0.3, "gradient_checkpointing": True},
    "rejection_sampling": {**SAMPLED, "prompts_per_epoch": 8, "samples": 2},
    "context_distillation": {**SAMPLED, "prompts_per_epoch": 16},
    "ghost_attention": {
        "instructions": "pocket/instructions",
        "allow_leaks": True,
        "epochs": 1,
        "dialogues": 4,
        "turns": 3,
        "max_new_tokens": 12,
        "max_length": 256,
        "batch": 4,
    },
    "ppo": {**POLICY, "inner_epochs": 2, "micro_batch": 2, "gradient_checkpointing": True}
    | {"sft_data": "pocket/demonstrations", "sft_weight": 0.1, "entropy_weight": 0.01},
    "rloo": {**POLICY, "samples": 2, "reward": {"kind": "uncertainty"}},
    "dpo": {**PAIRS, "limit": 24, "epochs": 1},
}


def _schedule(folder: Path, **settings: Any) -> Path:
    stages = [{"name": name, "kind": name, **fields} for name, fields in STAGES.items()]
    sets = [{"set": "pocket/reward", "limit": 4}, {"set": "pocket/consistency", "limit": 1}]
    evaluate = {"sets": sets, "batch": 8, "max_new_tokens": 12}
    text = {"name": "t", "model": "pocket", "stages": stages, "evaluate": evaluate, **settings}
    (folder / "schedule.yaml").write_text(json.dumps(text), encoding="utf-8")
    return folder / "schedule.yaml"


def _python(*arguments: str) -> str:
    """What a program prints that succeeds."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def _run(module: str, schedule: Path, name: str) -> Run:
    runs = schedule.parent / "runs"
    _python("-m", module, "run", str(schedule), "--runs", str(runs), "--name", name)
    return Run.open(runs / name)


def _numbers(found: Any, place: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(found, dict | list):
        pairs = found.items() if isinstance(found, dict) else enumerate(found)
        for key, value in pairs:
            yield from _numbers(value, f"{place}.{key}")
    elif isinstance(found, int | float):
        yield place, float(found)


def _training(run: Run) -> dict[str, float]:
    """Every number of every epoch's training."""
    epochs = [event for event in run.events() if event["event"] == "epoch_done"]
    return dict(
        pair for event in epochs for pair in _numbers(event["training"], event["checkpoint"])
    )


def _transcripts(run: Run) -> dict[str, str]:
    """What was asked and answered in all evaluations."""
    files = sorted(run.path.rglob("evals/*/*/samples.parquet"))
    return {
        f"{path.parent.relative_to(run.path)}/{row.row_id}": str(row.transcript)
        for path in files
        for row in pd.read_parquet(path).itertuples()
    }


def test_a_gpu_trains_and_evaluates_as_the_cpu_does(tmp_path: Path) -> None:
    """All stages in float32: other code, the same numbers."""
    schedule = _schedule(tmp_path, quantization="none", dtype="float32")
    there, here = (_run(m, schedule, m) for m in ("tests.pretended_gpu", "aldente"))
    summaries = [json.loads(p.read_text()) for p in there.path.rglob("evals/*/*/summary.json")]
    assert {"cuda"} == {one["engine"]["device"] for one in summaries}
    expected, found = _training(here), _training(there)
    assert expected.keys() == found.keys()
    assert {name.partition("-")[0] for name in expected} == STAGES.keys()
    for name, value in expected.items():
        # At its first step a policy is its reference: which reply it likes better is rounding.
        if not name.endswith("implicit_accuracy"):
            assert math.isclose(found[name], value, rel_tol=1e-3, abs_tol=1e-4), name
    assert _transcripts(there) == _transcripts(here)


def test_a_quantised_run_on_a_gpu_comes_to_its_end(tmp_path: Path) -> None:
    """NF4 and bfloat16, which are the defaults there."""
    run = _run("tests.pretended_gpu", _schedule(tmp_path), "t")
    found = _training(run)
    assert {name.partition("-")[0] for name in found} == STAGES.keys()
    assert all(map(math.isfinite, found.values()))
    assert run.events()[-1]["event"] == "done"


@pytest.mark.parametrize(
    ("family", "quantization", "checkpointing"),
    [("llama", "nf4", "no"), ("gpt_neox", "int8", "yes")],
)
def test_a_gpu_holds_what_was_planned(
    tmp_path: Path, family: str, quantization: str, checkpointing: str
) -> None:
    """By stage, and by phase of PPO: tensors, without a context, fragments and what kernels need
    for themselves."""
    arguments = (str(tmp_path), family, quantization, checkpointing)
    lines = _python("-m", "tests.pretended_gpu.peaks", *arguments).splitlines()
    peaks = [json.loads(line.removeprefix("PEAK ")) for line in lines if line.startswith("PEAK ")]
    assert [one["stage"] for one in peaks if one["phase"] == "all"] == [
        "sft",
        "reward",
        "rejection_sampling",
        "ppo",
    ]
    for one in peaks:
        assert 0.95 * one["measured"] < one["planned"] < 1.1 * one["measured"], one


def test_what_a_gpu_refuses_is_refused() -> None:
    """The pretended one is no use where tensors of both devices could be mixed."""
    program = """
from tests.pretended_gpu import pretend
memory = pretend()
import torch
x = torch.ones(4, 4, device="cuda", requires_grad=True)
assert memory.live == memory.peak == 64
for mixed in (
    lambda: x + torch.ones(4),
    lambda: x @ torch.ones(4, 4),
    lambda: torch.nn.functional.embedding(torch.tensor([0]), x),
    lambda: x.gather(1, torch.zeros(4, 1, dtype=torch.int64)),
):
    try:
        mixed()
    except RuntimeError as error:
        assert "same device" in str(error), error
    else:
        raise AssertionError("mixed")
assert (x * torch.tensor(2.0))[torch.tensor([1])].sum().item() == 8  # as CUDA takes them
(x * x).sum().backward()
assert x.grad.device.type == "cuda" and x.grad.tolist() == [[2.0] * 4] * 4
del x
assert memory.live == 0
"""
    _python("-c", program)
