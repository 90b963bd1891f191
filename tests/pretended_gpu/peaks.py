"""What a schedule's stages hold on the pretended GPU, and what was planned of them, as JSON: a line
for each phase whose moment is known, and for each whole stage.

    python -m tests.pretended_gpu.peaks FOLDER FAMILY QUANTIZATION CHECKPOINTING
"""

# ruff: noqa: E402
from __future__ import annotations

from tests.pretended_gpu import pretend

memory = pretend()

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, LlamaConfig, LlamaForCausalLM
from trl.kernels import chunked_logprob

from harness.models import LoadedModel
from tests.planned_stages import MOMENTS, four_stages, known_tokens, planned, saved, train
from trainers.devices import devices

# Large enough that a step's activations are most of what there is; more words than the tokenizer.
_SIZES = {
    **known_tokens(),
    "vocab_size": 4096,
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 1024,
}


def _base(folder: Path, family: str) -> Path:
    model: Any
    if family == "llama":
        model = LlamaForCausalLM(
            LlamaConfig(intermediate_size=704, num_key_value_heads=2, **_SIZES)
        )
    else:
        model = GPTNeoXForCausalLM(GPTNeoXConfig(intermediate_size=1024, **_SIZES))
    return saved(model.to(torch.bfloat16), folder)


def _watch(owner: Any, name: str, moment: str, peaks: dict[str, int]) -> None:
    call = getattr(owner, name)

    def watched(*args: Any, **kwargs: Any) -> Any:
        memory.reset()
        result = call(*args, **kwargs)
        peaks[moment] = max(peaks.get(moment, 0), memory.peak)
        return result

    setattr(owner, name, watched)


def _one_kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """A GPU has Triton for it, without tensors in between."""

    def counted(*args: Any, **kwargs: Any) -> Any:
        with memory.uncounted():
            return function(*args, **kwargs)

    return counted


def main(folder: Path, family: str, quantization: str, checkpointing: bool) -> None:
    for name in ("_forward_tile", "_backward_tile"):
        setattr(chunked_logprob, name, _one_kernel(getattr(chunked_logprob, name)))
    peaks: dict[str, int] = {}
    for moment, (owner, name) in MOMENTS.items():
        _watch(owner, name, moment, peaks)
    schedule = four_stages(
        folder,
        _base(folder / "base", family),
        quantization,
        checkpointing=checkpointing,
        pairs=48,
        batch=16,
        mini_batch=16,
        micro_batch=8,
        sample_batch=8,
        iterations=2,  # in the second the optimisers are filled
    )
    plans = planned(schedule, devices(["h100"])[0])

    @contextmanager
    def around(loaded: LoadedModel) -> Iterator[None]:
        assert loaded.model.device.type == "cuda"
        peaks.clear()
        memory.reset()
        yield

    def tell(at: int, phase: str, expected: int, measured: int) -> None:
        known = {"stage": schedule.stages[at].kind, "phase": phase}
        print("PEAK", json.dumps({**known, "planned": expected, "measured": measured}), flush=True)

    for at in train(schedule, folder, around):
        bounds = {p.name: p.bytes - p.parts["reserve"] for p in plans[at].phases}
        if schedule.stages[at].kind == "ppo":
            for moment, peak in peaks.items():
                tell(at, moment, bounds[moment], peak)
        tell(at, "all", max(bounds.values()), max(memory.peak, *peaks.values(), 0))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4] == "yes")
