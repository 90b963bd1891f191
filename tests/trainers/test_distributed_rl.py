"""RLOO and DPO with one process and with two: the same prompts, replies, rewards and losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

# DPO has 4 · 8 + 1 pairs. RLOO's batches of rollouts are shuffled and cut into mini-batches.
SCHEDULE = """
name: shared
model: pocket
quantization: none
seed: 3
stages:
  - reward: {name: helpfulness, members: 1, data: pocket/helpful, limit: 32, held_out: 0.25,
      batch: 8, learning_rate: 1e-4, max_length: 256}
  - rloo: {epochs: 2, iterations: 2, batch: 16, mini_batch: 8, samples: 4, max_new_tokens: 12,
      learning_rate: 1e-3, kl: 0.1, kl_target: 0.5, kl_horizon: 100, whiten: joint,
      sft_data: pocket/demonstrations, sft_batch: 6, sft_weight: 2.0, reward: {kind: mean}}
  - dpo: {data: pocket/helpful, limit: 41, held_out: 0.2, epochs: 2, batch: 8, max_length: 256,
      learning_rate: 1e-3}
evaluate: {sets: [{set: pocket/borderline, limit: 4}], max_new_tokens: 12}
gates:
  - {metric: borderline.false_refusal, at_most: 0.99, on_fail: warn}
"""
LAUNCHER = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
    *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
]


def run(folder: Path, name: str, launcher: list[str]) -> Path:
    schedule = folder / "schedule.yaml"
    schedule.write_text(SCHEDULE)
    done = subprocess.run(
        [*launcher, "-m", "aldente", "run", str(schedule), "--runs", str(folder), "--name", name],
        capture_output=True,
        text=True,
        timeout=500,
        env=dict(os.environ, OMP_NUM_THREADS="1", ACCELERATE_USE_CPU="true"),
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / name / "checkpoints"


def training(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "checkpoint.json").read_text(encoding="utf-8"))
    found: dict[str, Any] = content["training"]
    return found


def scalars(folder: Path) -> dict[str, Any]:
    return {name: value for name, value in training(folder).items() if isinstance(value, float)}


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path: Path) -> None:
    port = 20000 + os.getpid() % 20000
    alone = run(tmp_path, "alone", [sys.executable])
    shared = run(tmp_path, "shared", [*LAUNCHER, "--main_process_port", str(port)])
    for name in ("rloo-e001", "rloo-e002", "dpo-e001", "dpo-e002"):
        expected, found = scalars(alone / name), scalars(shared / name)
        assert expected.keys() == found.keys()
        for key, value in expected.items():
            # At the first of DPO's 5 steps the policy is the reference: who wins is rounding.
            ties = 1 / 5 if (name, key) == ("dpo-e001", "implicit_accuracy") else 1e-4
            assert found[key] == pytest.approx(value, rel=1e-3, abs=ties), (name, key)
    for name in ("dpo-e001", "dpo-e002"):
        assert training(alone / name)["pairs"] == 33
        ours, theirs = (load_file(f / name / "adapter_model.safetensors") for f in (shared, alone))
        for key, weight in theirs.items():
            torch.testing.assert_close(ours[key], weight, rtol=0, atol=1e-5)
    for name in ("rloo-e001", "rloo-e002"):  # the last iteration: every prompt and every reply
        rows = [
            [json.loads(line) for line in (f / name / "rollouts.jsonl").read_text().splitlines()]
            for f in (alone, shared)
        ]
        assert len(rows[0]) == 16
        said = [[(row["prompt"], row["text"]) for row in part] for part in rows]
        assert said[0] == said[1]
    states = {path.name for path in (shared / "rloo-e001" / "trainer").iterdir()}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= states  # it was trained by two
