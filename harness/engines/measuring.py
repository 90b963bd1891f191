"""Log-probabilities of replies that are there already, whoever wrote them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from harness.engines.operators import log_probs_at
from harness.engines.reading import Reader, pad_right
from harness.models import TOKENS_AT_ONCE, causal_model, length_sorted_batches

# Logits of one forward are kept under this many numbers (512 MiB in float32).
_MAX_LOGITS = 2**27


def log_probs(
    model: PreTrainedModel | PeftModel,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    *,
    pad_id: int,
    batch_size: int,
    temperature: float,
    reader: Reader | None = None,
) -> list[Tensor]:
    """Natural-log probabilities of each reply's tokens after its prompt, float32 on the CPU,
    (len(reply),); of the model with the adapter that is active, its logits divided by the
    temperature. ``reader``: of that adapter, if one was made already. ValueError for an empty
    prompt, or not as many prompts as replies."""
    if len(prompts) != len(replies):
        raise ValueError(f"{len(prompts)} prompts for {len(replies)} replies")
    if any(not prompt for prompt in prompts):
        raise ValueError("an empty prompt")
    results = [torch.empty(0) for _ in replies]
    wanted = [index for index, reply in enumerate(replies) if len(reply)]
    lengths = [len(prompts[index]) + len(replies[index]) for index in wanted]
    words = int(causal_model(model).config.get_text_config().vocab_size)
    reader = reader or Reader(model)
    for places in length_sorted_batches(lengths, batch_size, tokens=TOKENS_AT_ONCE):
        # Some models compute logits from the first reply's beginning on, in all rows.
        first = min(len(prompts[wanted[place]]) for place in places)
        span = max(lengths[place] for place in places) - first + 1
        size = max(1, _MAX_LOGITS // (words * span))
        for at in range(0, len(places), size):
            indices = [wanted[place] for place in places[at : at + size]]
            some = [prompts[index] for index in indices], [replies[index] for index in indices]
            values = _of_batch(reader, *some, pad_id, causal_model(model).device, temperature)
            for index, row in zip(indices, values, strict=True):
                results[index] = row.cpu()
    return results


@torch.no_grad()
def _of_batch(
    reader: Reader,
    prompts: Sequence[Sequence[int]],
    replies: Sequence[Sequence[int]],
    pad_id: int,
    device: torch.device,
    temperature: float,
) -> Sequence[Tensor]:
    """A function of its own: logits must not outlive their batch."""
    joined = [[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)]
    ids = pad_right(joined, pad_id=pad_id, device=device)
    counts = torch.tensor([len(reply) for reply in replies])
    starts = torch.tensor([len(prompt) for prompt in prompts])
    rows = torch.arange(len(prompts)).repeat_interleave(counts)
    columns = torch.arange(len(rows)) - (counts.cumsum(0) - counts - starts)[rows]
    rows, columns = rows.to(device), columns.to(device)
    logits = reader.logits(ids, rows, columns - 1).float()
    return log_probs_at(logits, ids[rows, columns], temperature).split(counts.tolist())
