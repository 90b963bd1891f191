"""PPO's samples a second and peak memory, beside trl 1.12's ``PPOTrainer`` (removed since).

Same base, prompts, batch, response length, PPO epochs, mini-batches, precision and policy LoRA;
each run is a process of its own and the runs alternate. trl has one reward model; we score with two
of three members each. Peak memory is the process's, above what it had when everything was imported.

    pip download --no-deps trl==1.12.0 && unzip trl-1.12.0-*.whl -d trl112
    OMP_NUM_THREADS=2 python benchmarks/ppo_speed.py --trl trl112
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import torch

PROMPT = 24
RANK, ALPHA = 16, 32
OURS, ALIKE = "ours", "ours, one reward model"
FORMS = (OURS, ALIKE, "trl LoRA", "trl full")


@dataclass(frozen=True)
class Shape:
    """A base, and how much of it is asked."""

    name: str
    batch: int
    mini: int
    reply: int
    iterations: int
    config: dict[str, Any] | None  # None: the shipped pocket base


SHAPES = {
    "pocket": Shape("pocket", 128, 64, 32, 6, None),
    "llama-110m": Shape(
        "llama-110m",
        16,
        8,
        32,
        3,
        {
            "vocab_size": 32000,
            "hidden_size": 768,
            "intermediate_size": 2048,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "num_key_value_heads": 12,
            "max_position_embeddings": 512,
            "tie_word_embeddings": True,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
    ),
}


def base_folder(shape: Shape, folder: Path) -> Path:
    """The base as a folder; a random one is made."""
    from trainers.pocket.base import SHIPPED

    if shape.config is None:
        return Path(SHIPPED)
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    target = folder / shape.name
    if not target.exists():
        torch.manual_seed(0)
        LlamaForCausalLM(LlamaConfig(**shape.config)).save_pretrained(target)
        # Any tokenizer will do: prompts are token ids.
        AutoTokenizer.from_pretrained(SHIPPED).save_pretrained(target)
    return target


def questions(count: int, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(10, 1000, (count, PROMPT), generator=generator).tolist()


def resident() -> int:
    return int(psutil.Process().memory_info().rss)


# --------------------------------------------------------------------------- the runs


def run_ours(shape: Shape, base: Path, folder: Path, *, alike: bool) -> dict[str, Any]:
    """``trainers.ppo.iterate`` as a stage calls it. ``alike``: with one reward model of one member,
    as trl has it, else with two of three members each under Llama 2's rule."""
    from accelerate import Accelerator

    from harness.adapters import adapter_weights, add_adapter, copy_adapter
    from harness.engines.local import LocalEngine
    from harness.models import ModelSpec, load
    from harness.reward_models import RewardModel, RewardScorer, Rule, save_member
    from trainers import ppo
    from trainers.actor import Actor
    from trainers.lora import lora_config
    from trainers.ppo_losses import KlController
    from trainers.rollouts import Question
    from trainers.schedule_stages import Lora, PpoStage

    before = resident()
    stage = PpoStage(
        name="ppo",
        batch=shape.batch,
        mini_batch=shape.mini,
        max_new_tokens=shape.reply,
        learning_rate=1e-5,
        no_eos_penalty=None,
        lora=Lora(r=RANK, alpha=ALPHA),
    )
    loaded = load(ModelSpec(base=str(base), quantization="none", dtype="float32"))
    model = add_adapter(loaded.model, "policy", lora_config(stage.lora), seed=1)
    loaded.model = model
    models = []
    hidden = int(model.config.hidden_size)
    for name in ("helpfulness",) if alike else ("helpfulness", "safety"):
        members = []
        for number in range(1 if alike else 3):
            member = folder / f"{shape.name}-{name}-{number}"
            if not member.exists():
                member.mkdir()
                generator = torch.Generator().manual_seed(number)
                save_member(model, "policy", torch.randn(1, hidden, generator=generator), member)
            members.append(member)
        models.append(RewardModel(name, tuple(members)))
    copy_adapter(model, "policy", "reference")
    copy_adapter(model, "policy", "value")
    head = torch.nn.Linear(hidden, 1)
    model.eval()
    values = [*head.parameters(), *adapter_weights(model, "value").values()]
    actor = Actor(
        model=model,
        head=head,
        pad=0,
        policy_optimizer=torch.optim.AdamW(
            adapter_weights(model, "policy").values(), lr=1e-5, fused=True
        ),
        value_optimizer=torch.optim.AdamW(values, lr=1e-5, fused=True),
        reference="reference",
        value="value",
    )
    engine = LocalEngine(
        model, loaded.tokenizer, batch_size=shape.batch, max_new_tokens=shape.reply
    )
    engine.eos_ids = ()  # every reply has the same length
    asked = [Question(str(i), tuple(q), i % 2 == 0) for i, q in enumerate(questions(shape.batch))]
    parts: dict[str, float] = {}

    def timed(owner: Any, name: str, part: str) -> None:
        call: Callable[..., Any] = getattr(owner, name)

        def measured(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                parts[part] = parts.get(part, 0.0) + time.perf_counter() - started

        setattr(owner, name, measured)

    timed(ppo, "roll_out", "rollout")
    timed(RewardScorer, "rewards", "score")
    timed(Actor, "measured_log_probs", "measure")
    timed(Actor, "reference_log_probs", "measure")
    timed(Actor, "measured_values", "measure")
    timed(ppo, "update", "update")
    seconds = []
    controller, accelerator = KlController(stage.kl), Accelerator(cpu=True)
    rule = Rule("mean") if alike else Rule()
    with RewardScorer(model, loaded.tokenizer, models, rule, batch_size=shape.batch) as scorer:
        for iteration in range(shape.iterations + 1):
            if iteration == 1:
                parts.clear()
            started = time.perf_counter()
            ppo.iterate(
                actor,
                engine,
                scorer,
                asked,
                stage,
                controller,
                iteration=iteration,
                seed=0,
                accelerator=accelerator,
            )
            seconds.append(time.perf_counter() - started)
    shares = {name: value / sum(seconds[1:]) for name, value in parts.items()}
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    work = arithmetic(shape, model.config, scored=1.0 if alike else 4.5)
    return {
        "seconds": seconds[1:],
        "before": before,
        "parts": shares,
        "peak": peak - before,
        "work": work,
        "rate": rate(shape, model.config),
    }


def arithmetic(shape: Shape, config: Any, *, scored: float) -> float:
    """Floating-point operations of an iteration's matrix products, adapters' and attention's left
    out but for what the adapters' gradients need. ``scored``: forwards of reward members (under
    Llama 2's rule three read everything, and three the half that are no safety prompts)."""
    hidden, inner = int(config.hidden_size), int(config.intermediate_size)
    keys = int(config.num_key_value_heads) * hidden // int(config.num_attention_heads)
    shapes = [(hidden, hidden), (hidden, keys), (hidden, keys), (hidden, hidden)]
    shapes += [(hidden, inner), (hidden, inner), (inner, hidden)]
    layer = sum(one * two for one, two in shapes)
    thin = sum(RANK * (one + two) for one, two in shapes)
    depth, words = int(config.num_hidden_layers), int(config.vocab_size)
    replies = shape.batch * shape.reply
    tokens = shape.batch * (PROMPT + shape.reply)

    def forward(asked: int) -> float:  # of the last layer's matrices only what is asked
        last = tokens * 2 * hidden * keys + asked * (layer - 2 * hidden * keys)
        return tokens * layer * (depth - 1) + last

    head = replies * words * hidden
    rollout = tokens * layer * depth + head
    score = scored * forward(shape.batch)
    measure = 2 * forward(replies) + head
    update = 2 * (2 * forward(replies) + 2 * tokens * thin * depth) + 2 * head
    return 2.0 * (rollout + score + measure + update)


def rate(shape: Shape, config: Any) -> float:
    """Operations a second of a bare product: a mini-batch's tokens by a matrix of the layers."""
    x = torch.randn(shape.mini * (PROMPT + shape.reply), int(config.hidden_size))
    weight = torch.randn(int(config.hidden_size), int(config.intermediate_size))
    seconds = []
    for _ in range(30):
        started = time.perf_counter()
        x @ weight
        seconds.append(time.perf_counter() - started)
    return 2.0 * x.numel() * weight.shape[1] / statistics.median(seconds)


def run_trl(shape: Shape, base: Path, *, lora: bool) -> dict[str, Any]:
    """trl's trainer with the same settings."""
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl.experimental.ppo import PPOConfig, PPOTrainer

    before = resident()
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")

    def scorer() -> Any:
        return AutoModelForSequenceClassification.from_pretrained(
            base, num_labels=1, dtype=torch.float32
        )

    rows = Dataset.from_dict({"input_ids": questions(shape.batch)})
    stamps: list[float] = []

    class Timed(PPOTrainer):
        def log(self, *args: Any, **kwargs: Any) -> None:
            stamps.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder:
        trainer = Timed(
            args=PPOConfig(
                output_dir=folder,
                learning_rate=1e-5,
                per_device_train_batch_size=shape.batch,
                gradient_accumulation_steps=1,
                num_mini_batches=shape.batch // shape.mini,
                num_ppo_epochs=1,
                total_episodes=shape.batch * (shape.iterations + 1),
                response_length=shape.reply,
                local_rollout_forward_batch_size=shape.batch,
                temperature=1.0,
                num_sample_generations=0,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            processing_class=tokenizer,
            model=AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32),
            ref_model=None,
            reward_model=scorer(),
            value_model=scorer(),
            train_dataset=rows,
            eval_dataset=rows,
            peft_config=LoraConfig(
                r=RANK, lora_alpha=ALPHA, target_modules="all-linear", task_type="CAUSAL_LM"
            )
            if lora
            else None,
        )
        trainer.train()
    return {"seconds": [b - a for a, b in itertools.pairwise(stamps)], "before": before}


def worker(form: str, shape: Shape, folder: Path) -> None:
    import peft
    import transformers
    import trl

    import harness.engines.local
    import trainers.ppo

    _ = (peft, transformers, trl, harness.engines.local, trainers.ppo)
    base = base_folder(shape, folder)
    if form in (OURS, ALIKE):
        found = run_ours(shape, base, folder, alike=form == ALIKE)
    else:
        found = run_trl(shape, base, lora=form == "trl LoRA")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - found["before"]
    print("RESULT " + json.dumps({"peak": peak, **found}))


# --------------------------------------------------------------------------- the table


def processor() -> str:
    """What the machine runs on: both sides' products depend on it, and not alike."""
    cpus = Path("/proc/cpuinfo")
    text = cpus.read_text(encoding="utf-8", errors="replace") if cpus.is_file() else ""
    known = dict(re.findall(r"^(model name|cpu family|model)\s*: (.+)$", text, re.MULTILINE))
    if "model name" not in known:
        return f"{platform.machine()} CPU"
    number = f"family {known.get('cpu family', '?')}, model {known.get('model', '?')}"
    return f"{known['model name']} ({number}; {platform.machine()})"


def once(form: str, shape: str, trl: Path, folder: Path) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--worker",
        form,
        "--shape",
        shape,
        "--folder",
        str(folder),
    ]
    return result_of(command, PYTHONPATH=str(trl), TRL_EXPERIMENTAL_SILENCE="1")


def result_of(command: list[str], **environment: str) -> dict[str, Any]:
    """What a worker prints."""
    settings = {**os.environ, "HF_HUB_OFFLINE": "1", **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=settings)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT "))
    raise RuntimeError(done.stdout + done.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", type=Path, help="folder that holds trl 1.12's trl/")
    parser.add_argument("--shape", choices=[*SHAPES], action="append")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", choices=FORMS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        worker(options.worker, SHAPES[options.shape[0]], options.folder)
        return
    if options.trl is None:
        parser.error("--trl is needed")
    lines = [
        "# PPO: samples a second and memory, beside trl 1.12's PPOTrainer",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {processor()}, "
        f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads, torch {torch.__version__}; "
        f"{PROMPT} prompt tokens, float32, LoRA r {RANK}; medians of {options.rounds} alternating "
        "processes. Ours scores with two reward models of three members each under Llama 2's rule, "
        "trl with one model; once with one as well.",
        "",
        "| base | who | samples/s | ours over it | with one reward model | peak memory, MiB | "
        "ours of it |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for shape in options.shape or SHAPES:
            forms = [f for f in FORMS if shape == "pocket" or f != "trl full"]
            found: dict[str, list[dict[str, Any]]] = {form: [] for form in forms}
            base_folder(SHAPES[shape], folder)
            for _ in range(options.rounds):
                for form in forms:
                    found[form].append(once(form, shape, options.trl.resolve(), folder))
            rates = {
                form: SHAPES[shape].batch
                / statistics.median(statistics.median(run["seconds"]) for run in runs)
                for form, runs in found.items()
            }
            peaks = {
                form: statistics.median(run["peak"] for run in runs) for form, runs in found.items()
            }
            for form in forms:
                lines.append(
                    f"| {shape}, batch {SHAPES[shape].batch} | {form} | {rates[form]:.2f} | "
                    f"{rates[OURS] / rates[form]:.2f} | {rates[ALIKE] / rates[form]:.2f} | "
                    f"{peaks[form] / 2**20:.0f} | {peaks[OURS] / peaks[form]:.2f} |"
                )
            parts = found[OURS][-1]["parts"]
            shares = ", ".join(f"{name} {share:.0%}" for name, share in parts.items())
            lines.append(f"| {shape} | our time: {shares} | | | | | |")
            for form in (OURS, ALIKE):
                run = found[form][-1]
                speed = statistics.median(one["rate"] for one in found[form])
                limit = SHAPES[shape].batch * speed / run["work"]
                work = f"{run['work'] / 1e9:.0f} GFLOP an iteration"
                lines.append(
                    f"| {shape} | limit of {form}: {work} at the {speed / 1e9:.0f} GFLOP/s of "
                    f"torch's bare product: {limit:.1f} samples/s, of which we reach "
                    f"{rates[form] / limit:.0%} | | | | | |"
                )
            print("\n".join(lines[-len(forms) - 3 :]), flush=True)
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
