"""A schedule of every main kind of stage with one process and with two: the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

# Every stage has a batch that is not full: 61 = 3 · 16 + 13 rows, 13 = 8 + 5 replies, what is kept
# of distilled ones, 3 · 16 + 1 and 3 · 16 + 3 pairs.
SCHEDULE = """
name: shared
model: pocket
quantization: none
seed: 3
stages:
  - sft: {data: pocket/demonstrations, limit: 61, epochs: 2, learning_rate: 1e-3, batch: 16,
      max_length: 256, packing: false}
  - sft: {name: packed, data: pocket/demonstrations, limit: 61, epochs: 2, learning_rate: 1e-3,
      batch: 6, max_length: 256}
  - reward: {name: helpfulness, members: 1, data: pocket/helpful, limit: 65, held_out: 0.25,
      batch: 16, learning_rate: 1e-4, max_length: 256}
  - reward: {name: safety, members: 1, data: pocket/safe, limit: 68, held_out: 0.25,
      batch: 16, learning_rate: 1e-4, max_length: 256}
  - rejection_sampling: {prompts_per_epoch: 13, samples: 2, batch: 8, max_new_tokens: 12}
  - context_distillation: {prompts_per_epoch: 32, batch: 8, max_new_tokens: 12}
  - ppo: {epochs: 2, iterations: 1, batch: 16, mini_batch: 8, max_new_tokens: 12,
      learning_rate: 1e-4, sft_data: pocket/demonstrations}
evaluate: {sets: [{set: pocket/borderline, limit: 8}], max_new_tokens: 12}
gates:
  - {metric: borderline.false_refusal, at_most: 0.9}
"""
LAUNCHER = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
]


def run(folder: Path, name: str, launcher: list[str], port: int) -> dict[str, Any]:
    """Each checkpoint's training scalars."""
    schedule = folder / "schedule.yaml"
    schedule.write_text(SCHEDULE)
    placed = [*launcher, "--main_process_port", str(port)] if launcher else [sys.executable]
    done = subprocess.run(
        [*placed, "-m", "aldente", "run", str(schedule), "--runs", str(folder), "--name", name],
        capture_output=True,
        text=True,
        timeout=400,
        env=dict(os.environ, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    lines = (folder / name / "events.jsonl").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    assert sum(event["event"] == "done" for event in events) == 1  # one process writes
    assert sum(event["event"] == "verdict" for event in events) == 5
    return {e["checkpoint"]: e["training"] for e in events if e["event"] == "epoch_done"}


def numbers(value: Any, path: str = "") -> Iterator[tuple[str, float]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from numbers(inner, f"{path}.{key}")
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from numbers(inner, f"{path}.{place}")
    elif isinstance(value, int | float):
        yield path, float(value)


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    port = 20000 + os.getpid() % 20000
    alone = run(tmp_path, "alone", [], port)
    shared = run(tmp_path, "shared", LAUNCHER, port)
    assert list(alone) == list(shared)
    for checkpoint, scalars in alone.items():
        expected, found = dict(numbers(scalars)), dict(numbers(shared[checkpoint]))
        assert expected.keys() == found.keys()
        for name, value in expected.items():
            assert found[name] == pytest.approx(value, rel=1e-3, abs=1e-4), (checkpoint, name)
        if "loss" in expected:
            assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    for stage, pairs in (("helpfulness", 49), ("safety", 51)):
        assert alone[f"{stage}-e001"]["pairs"] == pairs
        member = f"checkpoints/{stage}-e001/members/0/adapter_model.safetensors"
        ours, theirs = (load_file(tmp_path / name / member) for name in ("shared", "alone"))
        for key, weight in theirs.items():
            torch.testing.assert_close(ours[key], weight, rtol=0, atol=1e-6)
    states = {p.name for p in (tmp_path / "shared/checkpoints/sft-e001/trainer").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= states  # it was trained by two
