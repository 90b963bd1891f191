"""Fixtures for tests of stages: a run on the tiny Llama, and what it left on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from harness.adapters import adapter_weights, add_adapter, save_adapter
from harness.models import ModelSpec, load
from harness.reward_models import RewardModel, save_member
from harness.store.run import Run
from trainers.lora import lora_config
from trainers.schedule import Schedule
from trainers.schedule_stages import Lora
from trainers.stage import StageContext

Context = Callable[..., StageContext]


@pytest.fixture
def tokenizer(tiny_llama: Path) -> PreTrainedTokenizerBase:
    """The tiny Llama's: one token a byte; eos is 2, pad is 0."""
    return AutoTokenizer.from_pretrained(tiny_llama)


@pytest.fixture
def context(tiny_llama: Path) -> Context:
    """``context(path, stages, index)``: a stage of a new or an existing run at ``path``."""

    def make(
        path: Path,
        stages: Sequence[dict[str, Any]],
        index: int = 0,
        *,
        start: Path | None = None,
        reward_models: tuple[RewardModel, ...] = (),
        quantization: str = "nf4",
        log: Callable[[dict[str, Any]], None] = lambda _: None,
    ) -> StageContext:
        named = [{"name": stage["kind"], **stage} for stage in stages]
        schedule = Schedule.model_validate_json(
            json.dumps(
                {
                    "name": "test",
                    "model": str(tiny_llama),
                    "quantization": quantization,
                    "seed": 3,
                    "stages": named,
                    "evaluate": {"sets": []},
                }
            )
        )
        if not (path / "run.json").exists():
            Run.create(path, schedule_yaml="", info={})
        return StageContext(
            run=Run.open(path),
            schedule=schedule,
            stage=schedule.stages[index],
            start=start,
            base_folder=str(tiny_llama),
            reward_models=reward_models,
            log=log,
        )

    return make


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    """What is opened on it is closed when the test ends."""
    with ExitStack() as found:
        yield found


@pytest.fixture
def digest() -> Callable[[Path], dict[str, str]]:
    """Every file below a folder, with the hash of its bytes."""

    def make(folder: Path) -> dict[str, str]:
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    return make


@pytest.fixture(scope="session")
def models(
    tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, tuple[RewardModel, ...]]:
    """A start policy and two reward models, one of two members, all random."""
    folder = tmp_path_factory.mktemp("rs")
    model: Any = load(ModelSpec(str(tiny_llama), quantization="nf4")).model

    def perturbed(name: str, seed: int) -> None:
        nonlocal model
        model = add_adapter(model, name, lora_config(Lora(r=4)), seed=seed)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for key, weight in adapter_weights(model, name).items():
                if "lora_B" in key:
                    weight.normal_(std=0.05, generator=generator)

    (folder / "start").mkdir()
    perturbed("start", 1)
    save_adapter(model, "start", folder / "start")
    made = []
    for name, count in (("helpfulness", 2), ("safety", 1)):
        members = []
        for number in range(count):
            seed = 10 * len(name) + number
            perturbed(f"{name}{number}", seed)
            target = folder / name / str(number)
            target.mkdir(parents=True)
            head = torch.randn(1, 64, generator=torch.Generator().manual_seed(seed))
            save_member(model, f"{name}{number}", head, target)
            members.append(target)
        made.append(RewardModel(name, tuple(members)))
    return folder / "start", tuple(made)
