"""A schedule of four stages with data as long as it allows, run stage by stage: what is planned of
their memory is held against what they take."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

from harness.chat import render, user
from harness.models import LoadedModel
from harness.reward_models import RewardModel, RewardScorer
from harness.store.run import Run
from tests.conftest import byte_tokenizer
from trainers import ppo, rejection_sampling, reward, sft
from trainers.actor import Actor
from trainers.devices import Device
from trainers.memory import StagePlan, plan_stages
from trainers.model_shapes import find_shape
from trainers.schedule import Schedule
from trainers.stage import StageContext

PROMPT = 80  # characters: as many tokens
# What a phase of PPO is, and the function that it is.
MOMENTS = {
    "rollout": (ppo, "roll_out"),
    "scoring": (RewardScorer, "rewards"),
    "measuring": (Actor, "measured_log_probs"),
    "measuring values": (Actor, "measured_values"),
    "update": (ppo, "update"),
}
_TRAINERS: Any = {
    "sft": sft.checkpoints,
    "reward": reward.checkpoints,
    "rejection_sampling": rejection_sampling.checkpoints,
    "ppo": ppo.checkpoints,
}


def known_tokens() -> dict[str, int]:
    """Of the byte tokenizer, as a model's configuration wants them."""
    tokenizer = byte_tokenizer()
    return {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def saved(model: PreTrainedModel, folder: Path) -> Path:
    """The model in a folder, with the byte tokenizer."""
    model.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    return folder


def small_llama(folder: Path) -> Path:
    """A random Llama."""
    config: PreTrainedConfig = LlamaConfig(
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        **known_tokens(),
    )
    return saved(LlamaForCausalLM(config), folder)


def four_stages(
    folder: Path,
    model: Path,
    quantization: str,
    dtype: str = "auto",
    checkpointing: bool = False,
    pairs: int = 286,
    **ppo: Any,
) -> Schedule:
    """Its rows have 256 tokens, and its settings are small enough for a test."""
    draw = random.Random(0)

    def text(length: int) -> str:
        return "".join(draw.choice("abcdefgh ") for _ in range(length))

    rows: dict[str, list[dict[str, Any]]] = {
        "shown": [{"prompt": text(60), "completion": text(188)} for _ in range(16)],
        "pairs": [
            {"prompt": letter, "chosen": text(248), "rejected": text(248)}
            for letter in islice(cycle("abcdefghijklmnopqrstuvwxyz"), pairs)
        ],
        "asked": [{"prompt": text(PROMPT), "safety": False} for _ in range(32)],
    }
    for name, content in rows.items():
        lines = "".join(json.dumps(row) + "\n" for row in content)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    common = {"batch": 8, "micro_batch": 4, "epochs": 1, "gradient_checkpointing": checkpointing}
    sampled = {"prompts": str(folder / "asked.jsonl"), "max_new_tokens": 64}
    sampled |= {"reward": {"kind": "mean"}}
    stages = [
        {"kind": "sft", "data": str(folder / "shown.jsonl"), "max_length": 256},
        {"kind": "reward", "data": str(folder / "pairs.jsonl"), "max_length": 256}
        | {"members": 2, "held_out": 0.5},
        {"kind": "rejection_sampling", "prompts_per_epoch": 16, "samples": 4, **sampled},
        {"kind": "ppo", "iterations": 1, "mini_batch": 8, **sampled},
    ]
    named = [{"name": stage["kind"], **common, **stage} for stage in stages]
    named[-1] |= ppo
    text_of = {"name": "t", "model": str(model), "quantization": quantization}
    text_of["dtype"] = dtype
    return Schedule.model_validate_json(
        json.dumps({**text_of, "stages": named, "evaluate": {"sets": []}})
    )


def planned(schedule: Schedule, device: Device) -> list[StagePlan]:
    prompt = len(render(byte_tokenizer(), [user("a" * PROMPT)], reply_next=True))
    return list(plan_stages(schedule, find_shape(schedule.model), device, prompt))


def train(
    schedule: Schedule,
    folder: Path,
    around: Callable[[LoadedModel], AbstractContextManager[object]],
) -> Iterator[int]:
    """Train stage after stage, inside of what ``around`` makes of the loaded base; each stage's
    place, when it is done."""
    run = Run.create(folder / "run", schedule_yaml="", info={})
    loaded, start = None, None
    members: tuple[RewardModel, ...] = ()
    for at, stage in enumerate(schedule.stages):
        ctx = StageContext(
            run=run,
            schedule=schedule,
            stage=stage,
            start=start,
            base_folder=schedule.model,
            reward_models=members,
            loaded=loaded,
        )
        loaded = ctx.base()
        with around(loaded):
            *_, last = _TRAINERS[stage.kind](ctx)
        yield at
        if stage.kind == "reward":
            members = (RewardModel(stage.name, reward.member_folders(last.folder)),)
        else:
            start = last.folder
