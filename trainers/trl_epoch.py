"""One epoch of a trl trainer on the shared base, and what the next one needs on disk.

trl owns the loop, so an epoch is a ``train()`` of its own: stopped at the epoch's end by a
callback, its optimiser, schedule, random state and step written beside the weights, and resumed
from there for the next. Every epoch but the first is resumed, in a fresh trainer, whether or not
the process was killed in between: there is one path, and it is tested to give the bits of a
straight run.

The base belongs to the run, not to trl, which patches its forward and edits its configurations:
``borrowed`` takes all of that back.
"""

from __future__ import annotations

import copy
import logging
import math
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

# trl reports each trainer that is made to its makers unless told not to.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback

from harness.errors import InputError
from harness.models import causal_model

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from trainers.schedule_stages import Optimizer

# A forward of this many tokens fits in memory easily where a small model is trained, and is large
# enough to keep a GPU busy; `micro_batch` in the schedule overrides what follows from it.
_TOKENS_A_FORWARD = 16_384


def micro_batch(batch: int, given: int | None, longest: int, rows_a_sequence: int = 1) -> int:
    """Sequences a forward: ``given``, or the largest divisor of ``batch`` that keeps a forward
    within the token budget. ``longest``: tokens of the longest sequence; a pair counts as two."""
    if given is not None:
        if batch % given:
            raise InputError(f"{given} does not divide batch {batch}", field="micro_batch")
        return given
    fits = max(1, _TOKENS_A_FORWARD // max(1, longest * rows_a_sequence))
    return max(size for size in range(1, min(batch, fits) + 1) if batch % size == 0)


@dataclass(frozen=True)
class Plan:
    """The settings that SFT and reward training share."""

    seed: int
    epochs: int
    sequences: int  # a pass over the data
    batch: int
    micro_batch: int
    learning_rate: float
    lr_schedule: Literal["cosine", "linear", "constant"]
    min_lr_ratio: float
    warmup_ratio: float
    min_warmup_steps: int
    optimizer: Optimizer
    passes: int = 1  # over the data in one of our epochs
    processes: int = 1

    @property
    def steps_an_epoch(self) -> int:
        return math.ceil(self.sequences / self.batch)

    @property
    def accumulation(self) -> int:
        return self.batch // (self.micro_batch * self.processes)

    def among(self, processes: int) -> Plan:
        """The same steps shared by several processes: each takes its part of every batch, and what
        all read at once can be cut into micro-batches of one process.

        Raises ``InputError`` where the batch cannot be shared evenly.
        """
        if self.batch % processes:
            raise InputError(
                f"{processes} processes cannot share a batch of {self.batch}",
                field="batch",
                expected=f"a multiple of {processes}",
            )
        share = self.batch // processes
        fits = [
            size
            for size in range(1, self.micro_batch + 1)
            if share % size == 0 and size * processes % self.micro_batch == 0
        ]
        return replace(self, micro_batch=fits[-1], processes=processes)

    def arguments(self, output: Path, *, on_cpu: bool) -> dict[str, Any]:
        """What trl's configurations take. ``output`` gets no checkpoint of trl's own."""
        passes = self.epochs * self.passes
        steps = self.steps_an_epoch * passes
        warmup = max(math.ceil(self.warmup_ratio * steps), self.min_warmup_steps)
        kinds: dict[str, tuple[str, dict[str, Any]]] = {
            "cosine": ("cosine_with_min_lr", {"min_lr_rate": self.min_lr_ratio}),
            "linear": ("linear", {}),
            "constant": ("constant_with_warmup", {}),
        }
        kind, options = kinds[self.lr_schedule]
        return {
            "output_dir": str(output),
            "seed": self.seed,
            "num_train_epochs": passes,
            "per_device_train_batch_size": self.micro_batch,
            "gradient_accumulation_steps": self.accumulation,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": kind,
            "lr_scheduler_kwargs": options,
            "warmup_steps": min(warmup, steps),
            "optim": "adamw_torch",
            "adam_beta1": self.optimizer.betas[0],
            "adam_beta2": self.optimizer.betas[1],
            "adam_epsilon": self.optimizer.eps,
            "weight_decay": self.optimizer.weight_decay,
            "max_grad_norm": self.optimizer.max_grad_norm,
            "logging_steps": max(1, self.steps_an_epoch // 10),
            "save_strategy": "no",
            "eval_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            # No autocast: weights that train are float32, the base computes in its own type.
            "bf16": False,
            "use_cpu": on_cpu,
            "gradient_checkpointing": False,  # ``borrowed`` sees to it
            "max_length": None,  # too long rows are dropped, and counted, before
            "dataloader_pin_memory": not on_cpu,
            # All trained weights, and only they, are in every forward.
            "ddp_find_unused_parameters": False,
        }


class WeightsInPlace:
    """Mixed into a trl trainer: a resume restores optimiser, schedule, step and random state; the
    weights are on the base already."""

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        return None


class RowsWeighed:
    """Mixed into a trl trainer whose loss is a mean over a micro-batch's rows: a batch's gradient
    is the mean over all of its rows, where transformers takes the mean over micro-batches, to which
    a short last one counts as much as the others."""

    model: Any
    _rows_a_forward: float | None = None  # mean over the step's micro-batches, once there are some

    def get_batch_samples(self, *args: Any, **settings: Any) -> tuple[list[Any], Any]:
        """The micro-batches of the next optimiser step."""
        above: Any = super()
        samples, items = above.get_batch_samples(*args, **settings)
        self._rows_a_forward = sum(self.rows_of(samples)) / max(1, len(samples))
        return samples, items

    def rows_of(self, samples: Sequence[dict[str, Any]]) -> list[int]:
        """Rows in each of the step's micro-batches."""
        return [_rows(batch) for batch in samples]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a micro-batch, or (loss, outputs), such that the mean over the step's
        micro-batches is the mean over its rows."""
        weight = self.row_weight(inputs)
        above: Any = super()
        found = above.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        return (weight * found[0], *found[1:]) if return_outputs else weight * found

    def row_weight(self, inputs: dict[str, Any]) -> float:
        """What a mean over these rows counts beside those of the step's other micro-batches."""
        usual = self._rows_a_forward
        return _rows(inputs) / usual if usual is not None and self.model.training else 1.0


def _rows(batch: dict[str, Any]) -> int:
    """Sequences in a micro-batch: packed ones by their ends."""
    return len(batch["ends"] if "ends" in batch else batch["attention_mask"])


class _Stoppable(Protocol):
    should_training_stop: bool


class _StopAfter(TrainerCallback):
    """Stop at the end of the last of ``passes`` over the data."""

    def __init__(self, passes: int) -> None:
        self._left = passes

    def on_epoch_end(self, args: Any, state: Any, control: _Stoppable, **_: Any) -> None:
        self._left -= 1
        control.should_training_stop = self._left == 0


class _Report(TrainerCallback):
    def __init__(self, log: Callable[[dict[str, Any]], None]) -> None:
        self._log = log

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        if logs and "loss" in logs:
            self._log({"step": state.global_step, **_scalars(logs)})


def _scalars(logs: dict[str, Any]) -> dict[str, float]:
    return {key: float(value) for key, value in logs.items() if isinstance(value, int | float)}


@contextmanager
def borrowed(model: PeftModel, *, gradient_checkpointing: bool) -> Iterator[None]:
    """Lend the base to a trainer; afterwards it is in eval mode and otherwise as it was.

    Non-reentrant checkpointing, which needs no gradient into the embeddings.
    """
    inner = causal_model(model)
    forward = vars(inner).get("forward")
    # All fields: which ones trl edits depends on the model (a mixture's router losses, say).
    configs = [inner.config, inner.config.get_text_config()]
    fields = [(config, dict(vars(config))) for config in configs]
    generation = copy.deepcopy(inner.generation_config)
    verbosity = logging.getLogger("transformers").level
    with warnings.catch_warnings():
        # Names that trl and peft use and transformers will change in version 6.
        warnings.filterwarnings("ignore", ".*gradient_checkpointing.* is deprec", FutureWarning)
        if gradient_checkpointing:
            inner.gradient_checkpointing_enable({"use_reentrant": False})
        try:
            yield
        finally:
            if gradient_checkpointing:
                inner.gradient_checkpointing_disable()
            _restore(inner, forward, fields, generation)
            logging.getLogger("transformers").setLevel(verbosity)
            model.eval()
            model.zero_grad(set_to_none=True)


def _restore(
    inner: PreTrainedModel,
    forward: Any,
    fields: Sequence[tuple[Any, dict[str, Any]]],
    generation: Any,
) -> None:
    if forward is None:
        vars(inner).pop("forward", None)
    else:
        vars(inner)["forward"] = forward
    for config, before in fields:
        vars(config).clear()
        vars(config).update(before)
    inner.generation_config = generation


def run_epoch(
    trainer: Trainer,
    *,
    passes: int,
    start_training: Callable[[], None],
    resume: Path | None,
    log: Callable[[dict[str, Any]], None],
) -> dict[str, float]:
    """Train one epoch, ``passes`` over the data, and return its scalars.

    ``resume``: the state folder of the epoch before.

    ``start_training`` makes the weights trainable. It is called only now because trl's
    constructors round trainable weights on a 4-bit base to bfloat16, in which most entries do not
    move at the learning rates of RLHF; frozen ones they leave alone.
    """
    trainer.remove_callback(PrinterCallback)  # it prints to stdout, which is the caller's
    trainer.add_callback(_StopAfter(passes))
    trainer.add_callback(_Report(log))
    start_training()
    output = trainer.train(resume_from_checkpoint=None if resume is None else str(resume))
    entries = [_scalars(entry) for entry in trainer.state.log_history if "loss" in entry]
    result = {"loss": float(output.training_loss), "step": float(trainer.state.global_step)}
    left_out = {"loss", "epoch", "step", "num_tokens"}  # known, or miscounted by trl when packed
    for key in sorted({key for entry in entries for key in entry} - left_out):
        values = [entry[key] for entry in entries if key in entry]
        result[key] = values[-1] if key == "learning_rate" else sum(values) / len(values)
    return result


def save_state(trainer: Trainer, folder: Path) -> None:
    """What the next epoch resumes from: optimiser, schedule, random state, step. No times."""
    folder.mkdir()
    trainer._save_optimizer_and_scheduler(str(folder))
    trainer._save_rng_state(str(folder))
    if trainer.args.world_size > 1:  # each process has random numbers of its own
        states: list[Any] = [None] * trainer.args.world_size
        own = [(path.name, path.read_bytes()) for path in folder.glob("rng_state_*.pth")]
        torch.distributed.all_gather_object(states, own)
        for name, content in (entry for state in states for entry in state):
            (folder / name).write_bytes(content)
    trainer.state.log_history = []
    trainer.state.save_to_json(str(folder / "trainer_state.json"))
