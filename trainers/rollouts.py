"""Rollouts: prompts with sampled replies, and the forward passes that measure them.

Sequences are right-padded: under causal attention no real token can see padding, so neither
attention mask nor position ids are needed. (Generation must left-pad, and has both.)

Shapes: ``B`` prompts, ``T`` tokens of the longest reply. Per-token tensors are ``(B, T)`` float32,
right-padded, with a boolean ``mask`` of the real tokens, the end token included.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from peft import PeftModel
from torch import Tensor, nn
from torch.nn import functional

from harness.engines.local import LocalEngine
from harness.engines.measuring import log_probs
from harness.engines.protocol import Request
from harness.engines.reading import Reader
from harness.errors import InputError
from harness.models import TOKENS_AT_ONCE, length_sorted_batches
from trainers.learner import Learner

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Replies:
    """Sampled replies to a batch of prompts."""

    prompts: tuple[Tokens, ...]
    replies: tuple[Tokens, ...]  # the end token included where it was generated
    ended: tuple[bool, ...]  # whether the reply ended by itself
    # Of each reply's tokens under the policy that sampled, where the engine knows them exactly.
    log_probs: tuple[tuple[float, ...] | None, ...] = ()

    def __len__(self) -> int:
        return len(self.prompts)

    def sampled_log_probs(self) -> Tensor | None:
        """(B, T) as the engine knew them, zero on padding; None where one reply's are not known."""
        known = [torch.tensor(row) for row in self.log_probs if row is not None]
        if len(known) < len(self):
            return None
        return torch.nn.utils.rnn.pad_sequence(known, batch_first=True)

    def mask(self) -> Tensor:
        """(B, T) bool: true on real tokens."""
        lengths = torch.tensor([len(reply) for reply in self.replies])
        return torch.arange(int(lengths.max()))[None, :] < lengths[:, None]


@dataclass(frozen=True)
class Question:
    """A prompt to train on, rendered."""

    id: str
    tokens: Tokens
    safety: bool


def with_room(questions: Sequence[Question], context: int, source: str) -> list[Question]:
    """Those whose prompts leave room for a reply in ``context`` tokens; ``InputError`` where none
    of the ``source``'s does."""
    found = [question for question in questions if len(question.tokens) < context]
    if not found:
        raise InputError(
            f"no prompt leaves room for a reply: the model reads {context} tokens", path=source
        )
    return found


@dataclass(frozen=True)
class Rollout:
    """A reply as it was rewarded, for people to read."""

    iteration: int
    prompt: str  # its id
    text: str
    ended: bool
    reward: float  # the rule's, a logit
    source: str  # the reward model that spoke
    spread: float  # over its members
    kl: float  # log π − log π_ref, summed over the reply


def roll_out(
    engine: LocalEngine,
    questions: Sequence[Question],
    key: str,
    *,
    seed: int,
    temperature: float,
    max_new_tokens: int,
    accelerator: Accelerator,
) -> Replies:
    """A reply to each question under the active adapter. Each process samples its share; then
    every process holds the whole batch, in order."""
    mine = range(accelerator.process_index, len(questions), accelerator.num_processes)
    part = sample(
        engine,
        [questions[i].tokens for i in mine],
        [f"{key}/{i}/{questions[i].id}" for i in mine],
        seed=seed,
        temperature=temperature,
        max_new_tokens=max_new_tokens,
    )
    if accelerator.num_processes == 1:
        return part
    rows = gather_object(
        list(zip(mine, part.prompts, part.replies, part.ended, part.log_probs, strict=True))
    )
    _, prompts, replies, ended, log_probs = zip(*sorted(rows), strict=True)
    return Replies(prompts, replies, ended, log_probs)


def sample(
    engine: LocalEngine,
    prompts: Sequence[Tokens],
    keys: Sequence[str],
    *,
    seed: int,
    temperature: float,
    max_new_tokens: int,
) -> Replies:
    """One reply to each prompt, a function of (seed, key) only, under the active adapter."""
    requests = [
        Request(key, ids, temperature, max_new_tokens)
        for key, ids in zip(keys, prompts, strict=True)
    ]
    replies: list[Tokens] = [()] * len(requests)
    ended = [False] * len(requests)
    log_probs: list[tuple[float, ...] | None] = [None] * len(requests)
    for index, made in engine.sample(requests, seed=seed):
        if isinstance(made, str):
            raise InputError(f"cannot reply to prompt {keys[index]!r}: {made}")
        replies[index] = made.token_ids
        ended[index] = made.stopped
        log_probs[index] = made.log_probs
    return Replies(tuple(prompts), tuple(replies), tuple(ended), tuple(log_probs))


@dataclass(frozen=True)
class Packed:
    """Right-padded sequences, and where the predictions of their replies' tokens are."""

    input_ids: Tensor  # (b, L)
    first: int  # the smallest position that predicts a reply token
    rows: Tensor  # (n,) row of each reply token
    columns: Tensor  # (n,) position that predicts it
    slots: Tensor  # (n,) its place in the reply
    targets: Tensor  # (n,) the reply token


def pack(
    prompts: Sequence[Tokens], replies: Sequence[Tokens], pad: int, device: torch.device
) -> Packed:
    """Join each prompt with its reply, pad on the right, index the reply tokens."""
    joined = [len(p) + len(r) for p, r in zip(prompts, replies, strict=True)]
    asked = torch.tensor([len(prompt) for prompt in prompts])
    answered = torch.tensor([len(reply) for reply in replies])
    # A list of lists would be read number by number, ten times as slowly.
    tokens = array(
        "q", chain.from_iterable(chain.from_iterable(zip(prompts, replies, strict=True)))
    )
    input_ids = torch.full((len(prompts), max(joined)), pad)
    real = torch.arange(max(joined)) < (asked + answered)[:, None]
    input_ids[real] = torch.frombuffer(tokens, dtype=torch.int64)
    rows = torch.arange(len(prompts)).repeat_interleave(answered)
    slots = torch.arange(len(rows)) - (answered.cumsum(0) - answered)[rows]
    columns = asked[rows] + slots
    targets = input_ids[rows, columns]
    index = torch.stack([rows, columns - 1, slots, targets]).to(device)
    first = int(asked.min()) - 1
    return Packed(input_ids.to(device), first, index[0], index[1], index[2], index[3])


def policy_log_probs(
    net: Learner,
    prompts: Sequence[Tokens],
    replies: Sequence[Tokens],
    *,
    pad: int,
    temperature: float,
    width: int,
    entropy_grad: bool = False,
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of the replies' tokens, and the entropy there.

    Both (b, ``width``), zero on padding. The logits are divided by the temperature that the
    replies were sampled at: the policy that is improved is the one that acted.
    """
    packed = pack(prompts, replies, pad, net.device)
    chosen, entropy = net.log_probs(
        packed.input_ids,
        packed.rows,
        packed.columns,
        packed.targets,
        temperature=temperature,
        entropy_grad=entropy_grad,
    )
    place = (packed.rows, packed.slots)
    empty = torch.zeros(len(prompts), width, device=chosen.device)
    return empty.index_put(place, chosen), empty.index_put(place, entropy)


def reply_values(
    net: Learner,
    head: nn.Linear,
    prompts: Sequence[Tokens],
    replies: Sequence[Tokens],
    *,
    pad: int,
    width: int,
) -> Tensor:
    """V of the state before each reply token, (b, ``width``)."""
    packed = pack(prompts, replies, pad, net.device)
    hidden = net.hidden(packed.input_ids, packed.rows, packed.columns)
    values = head(hidden.float()).squeeze(-1)
    empty = torch.zeros(len(prompts), width, device=values.device)
    return empty.index_put((packed.rows, packed.slots), values)


def device_of(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def measured_log_probs(
    model: PeftModel,
    batch: Replies,
    *,
    pad: int,
    temperature: float,
    reader: Reader | None = None,
) -> Tensor:
    """As ``policy_log_probs`` of the whole batch, (B, T), without gradients, a part at a time. From
    weights with the adapter folded in: they differ by rounding from those with gradients, so that
    the ratio of a policy to itself is one to about 1e-6. ``reader``: of the active adapter, if one
    was made already."""
    found = log_probs(
        model,
        batch.prompts,
        batch.replies,
        pad_id=pad,
        batch_size=len(batch),
        temperature=temperature,
        reader=reader,
    )
    return nn.utils.rnn.pad_sequence(found, batch_first=True)


def measured_values(model: PeftModel, head: nn.Linear, batch: Replies, *, pad: int) -> Tensor:
    """As ``reply_values`` of the whole batch, (B, T), without gradients, ``TOKENS_AT_ONCE``."""
    reader = Reader(model)
    result = torch.zeros(batch.mask().shape)
    for rows, packed in _packed(batch, pad, device_of(model)):
        hidden = reader.hidden(packed.input_ids, packed.rows, packed.columns).float()
        values = functional.linear(hidden, head.weight.detach(), head.bias.detach()).squeeze(-1)
        result[rows[packed.rows.cpu()], packed.slots.cpu()] = values.cpu()
    return result


def _packed(batch: Replies, pad: int, device: torch.device) -> Iterator[tuple[Tensor, Packed]]:
    """Rows of the batch, ``TOKENS_AT_ONCE``, of similar lengths and so with little padding."""
    lengths = [len(p) + len(r) for p, r in zip(batch.prompts, batch.replies, strict=True)]
    for chosen in length_sorted_batches(lengths, tokens=TOKENS_AT_ONCE):
        prompts = [batch.prompts[i] for i in chosen]
        replies = [batch.replies[i] for i in chosen]
        yield torch.tensor(chosen), pack(prompts, replies, pad, device)
