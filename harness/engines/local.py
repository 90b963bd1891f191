"""Generation with transformers, in this process, by a decode loop of our own.

Why not ``model.generate``: its sampling depends on the batch, it cannot hand out replies as they
finish nor drop finished rows, and on small models its bookkeeping costs more than the model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from peft import PeftModel
from torch import Tensor
from torch.nn import functional
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from harness.adapters import active
from harness.chat import Message, Prompts
from harness.engines.folding import Folded, fold
from harness.engines.llama import FusedLlama, fuse
from harness.engines.measuring import log_probs
from harness.engines.protocol import Request
from harness.engines.room import is_plain, joined, roomy_cache
from harness.engines.sampling import choose, uniform
from harness.engines.threads import Threads, seat
from harness.models import (
    TOKENS_AT_ONCE,
    causal_model,
    context_length,
    eval_mode,
    length_sorted_batches,
    pad_left,
)
from harness.positions import goes_by_position_ids
from harness.probes.protocol import Reply

# Dropping finished rows copies the cache of the others: done when a tenth of the rows are over.
_DROP_SHARE = 0.1
# Rows whose prompts are read in one forward, of at most ``TOKENS_AT_ONCE``.
_PART = 64
# Weights of a model that is fused to generate: with adapters it decodes in half of the time, and
# its float32 weights are held twice meanwhile.
_FUSED_BYTES = 512 * 2**20


@dataclass(frozen=True, slots=True)
class Generated:
    """The tokens of one reply as generated, the end token included if there is one."""

    token_ids: tuple[int, ...]
    stopped: bool  # by an end token, which is then the last of token_ids; else by the limit
    # Of each token at the request's temperature, from the logits it was drawn from; None from
    # models whose decoding is not exact enough to train on (anything but float32).
    log_probs: tuple[float, ...] | None = None


class LocalEngine:
    """The model in memory, with the adapter that is active.

    ``batch_size`` prompts are decoded side by side. Generation stops at any of ``eos_ids``: the
    tokenizer's own end token and those of the generation configuration. Dropout is off while the
    engine computes; the model's mode is left as it was found.

    Small float32 models are generated from with folded weights (``folding.py``), so a reply and
    ``log_probs`` come from logits that differ by rounding. With int8 quantisation (LLM.int8) a
    row's outlier columns depend on the other rows, so there replies may depend on the batch.

    ``thread_bytes``: how much of dialogues under way is kept for their next turn (``threads.py``),
    while ``remembering``. ``prompts``: of the same tokenizer, rendered for engines before this one.
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        batch_size: int,
        max_new_tokens: int,
        thread_bytes: int = 2**30,
        prompts: Prompts | None = None,
    ) -> None:
        if batch_size < 1 or max_new_tokens < 1:
            raise ValueError("batch_size and max_new_tokens must be at least 1")
        if prompts is not None and prompts.tokenizer is not tokenizer:
            raise ValueError("another tokenizer's prompts")
        self.model = model
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.max_new_tokens = max_new_tokens
        self._thread_bytes = thread_bytes
        self._threads: Threads | None = None
        self._prompts = prompts or Prompts(tokenizer)
        self.eos_ids = eos_ids(causal_model(model), tokenizer)
        self.context = context_length(model)
        self.identity: dict[str, Any] = {
            "engine": "local",
            "sampling": "inverse-cdf/blake2b-splitmix64/1",
            "max_new_tokens": max_new_tokens,
            "eos_ids": list(self.eos_ids),
            "batch_size": batch_size,
            "device": causal_model(model).device.type,
            "versions": {name: version(name) for name in ("torch", "transformers")},
        }

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Keep the threads' states meanwhile. The model and its active adapter must not change.

        Not of models that count slots: a dialogue's new turn is padded behind what was kept of it.
        """
        before, keeps = self._threads, goes_by_position_ids(self.model)
        self._threads = Threads(self._thread_bytes) if keeps else None
        try:
            yield
        finally:
            self._threads = before

    def tokenize(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The prompt of a conversation, the header of the assistant's next reply included."""
        return self._prompts(messages)

    def generate(self, requests: Sequence[Request], *, seed: int) -> Iterator[tuple[int, Reply]]:
        """Replies as they finish, each with the index of its request; see ``Engine``."""
        for index, made in self.sample(requests, seed=seed):
            if isinstance(made, str):
                yield index, Reply(made, (), "error")
                continue
            ids = made.token_ids[:-1] if made.stopped else made.token_ids
            text = self.tokenizer.decode(list(ids), skip_special_tokens=True)
            yield index, Reply(str(text), ids, "stop" if made.stopped else "length")

    def sample(
        self, requests: Sequence[Request], *, seed: int
    ) -> Iterator[tuple[int, Generated | str]]:
        """As ``generate``, but bare tokens with the end token; a string says why there are none.

        All replies come from the adapter that is active when the first one is asked for. Between
        two replies others may be used (``adapters.using``), but that one must be back for the next:
        ``RuntimeError`` otherwise.
        """
        limits: dict[int, int] = {}
        for index, request in enumerate(requests):
            if not request.prompt_ids:
                raise ValueError(f"request {request.key!r} has an empty prompt")
            if request.max_new_tokens < 1 or request.temperature < 0:
                raise ValueError(f"request {request.key!r}: no tokens or a negative temperature")
            room = self.context - len(request.prompt_ids)
            if room < 1:
                tokens = len(request.prompt_ids)
                yield index, f"a prompt of {tokens} tokens leaves no room in {self.context}"
            else:
                limits[index] = min(request.max_new_tokens, self.max_new_tokens, room)
        served = list(limits)
        fused = fuse(causal_model(self.model), max_bytes=_FUSED_BYTES)
        folded = fold(causal_model(self.model)) if fused is None else Folded({})
        adapter = self._adapter()
        lengths = [len(requests[index].prompt_ids) for index in served]
        for positions in length_sorted_batches(lengths, self.batch_size):
            indices = [served[position] for position in positions]
            batch = _Batch(
                self,
                [requests[index] for index in indices],
                [limits[index] for index in indices],
                seed,
                folded,
                fused,
            )
            while batch.rows:
                if self._adapter() != adapter:
                    raise RuntimeError("another adapter was activated between two replies")
                # No context manager is open here: a mode entered inside a generator would leak
                # into its consumer's code between two replies.
                for row, made in batch.step():
                    yield indices[row], made

    def log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
    ) -> list[Tensor]:
        """Natural-log probabilities of each reply's tokens: float32 on the CPU, (len(reply),).

        By one forward over prompt and reply, whoever wrote it.
        """
        return log_probs(
            self.model,
            prompts,
            replies,
            pad_id=self._pad_id,
            batch_size=self.batch_size,
            temperature=temperature,
        )

    def _adapter(self) -> str | None:
        return active(self.model).name if isinstance(self.model, PeftModel) else None

    @property
    def _pad_id(self) -> int:
        pad = self.tokenizer.pad_token_id
        return int(pad) if pad is not None else 0


def eos_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokenizer's end token, then those of the generation configuration (``<|eot_id|>``…)."""
    found = [tokenizer.eos_token_id]
    configured = model.generation_config.eos_token_id if model.generation_config else None
    found += configured if isinstance(configured, list) else [configured]
    return tuple(dict.fromkeys(int(token) for token in found if token is not None))


class _Batch:
    """Rows decoded side by side, and their key-value cache.

    ``rows`` are the numbers of those still in the tensors (finished ones linger until enough of
    them are to be dropped); ``done`` marks the finished.
    """

    def __init__(
        self,
        engine: LocalEngine,
        requests: list[Request],
        limits: list[int],
        seed: int,
        folded: Folded,
        fused: FusedLlama | None,
    ) -> None:
        self.model = causal_model(engine.model)
        self.device = self.model.device
        self.pad_id = engine._pad_id
        self.requests = requests
        self.limits = limits
        self.folded = folded
        self.fused = fused
        self.threads = engine._threads
        self.eos = frozenset(engine.eos_ids)
        self.rows = list(range(len(requests)))
        self.done = [False] * len(requests)
        self.tokens: list[list[int]] = [[] for _ in requests]
        self.log_probs: list[list[float]] = [[] for _ in requests]
        self.temperatures = torch.tensor(
            [request.temperature for request in requests], dtype=torch.float32, device=self.device
        )
        self.greedy = not any(request.temperature for request in requests)
        tokens = np.arange(0 if self.greedy else max(limits))
        self.numbers = torch.from_numpy(
            np.stack([uniform(seed, r.key, tokens) for r in requests])
        ).to(self.device)
        self.room = max(len(request.prompt_ids) for request in requests) + max(limits)
        self.position = 0  # of the token to be generated next
        self.cache: DynamicCache | None = None
        self.mask = torch.empty(0)
        self.next_ids = torch.empty(0)
        self.next_positions = torch.empty(0)

    @torch.inference_mode()
    def step(self) -> list[tuple[int, Generated]]:
        """Generate one token for every row; the rows that finished with it."""
        with eval_mode(self.model), self.folded:
            logits = self._prefill() if self.cache is None else self._decode()
        if self.greedy:
            chosen, share = logits.argmax(dim=-1), None
        else:
            chosen, share = choose(logits, self.temperatures, self.numbers[:, self.position])
        self.position += 1
        known = None if share is None or self.fused is None else share.log().tolist()
        finished = self._book(chosen.tolist(), known)
        self._drop(chosen)
        return finished

    def _prefill(self) -> Tensor:
        """Logits (rows, vocabulary) after the prompts. Equal prompts are computed once, and of a
        dialogue only what is new since its last turn."""
        first: dict[tuple[int, ...], Request] = {}
        for request in self.requests:
            first.setdefault(request.prompt_ids, request)
        number = {prompt: index for index, prompt in enumerate(first)}
        kept = [
            self.threads.find(request.thread, prompt) if self.threads is not None else (None, 0)
            for prompt, request in first.items()
        ]
        new = [prompt[tokens:] for prompt, (_, tokens) in zip(first, kept, strict=True)]
        self.cache = roomy_cache(self.model.config, most=self.room)
        if any(tokens for _, tokens in kept):
            batch = pad_left(new, pad_id=self.pad_id, device=self.device)
            seen = seat(kept, self.cache, self.device)
            self.mask = torch.cat([seen, batch.attention_mask], dim=1)
            positions = batch.position_ids + seen.sum(dim=1, keepdim=True)
            logits = self._forward(batch.input_ids, self.mask, positions)
            self.next_positions = positions[:, -1:] + 1
        else:
            logits = self._read(new)
        if not is_plain(self.cache):
            self.threads = None
        if len(first) < len(self.requests):
            order = torch.tensor([number[r.prompt_ids] for r in self.requests], device=self.device)
            self.cache.batch_select_indices(order)
            logits = logits[order]
            self.mask = self.mask[order]
            self.next_positions = self.next_positions[order]
        return logits

    def _read(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Logits (rows, vocabulary) after prompts of which nothing is known, and which come longest
        first: a part of the rows at a time, so that a batch of many lengths is hardly padded."""
        assert self.cache is not None
        parts: Iterable[list[int]] = [list(range(len(prompts)))]
        if is_plain(self.cache):  # in the order that they have
            lengths = [len(prompt) for prompt in prompts]
            parts = length_sorted_batches(lengths, _PART, tokens=TOKENS_AT_ONCE)
        caches, masks, found = [], [], []
        for part in parts:
            batch = pad_left([prompts[i] for i in part], pad_id=self.pad_id, device=self.device)
            found.append(self._forward(batch.input_ids, batch.attention_mask, batch.position_ids))
            masks.append(batch.attention_mask)
            caches.append(self.cache)
            self.cache = roomy_cache(self.model.config, most=self.room)
        self.cache = joined(caches)
        longest = max(mask.shape[1] for mask in masks)
        self.mask = torch.cat([functional.pad(m, (longest - m.shape[1], 0)) for m in masks])
        self.next_positions = self.mask.sum(dim=1, keepdim=True)
        return torch.cat(found)

    def _decode(self) -> Tensor:
        """Logits (rows, vocabulary) after the tokens generated last."""
        logits = self._forward(self.next_ids, self.mask, self.next_positions)
        self.next_positions = self.next_positions + 1
        return logits

    def _forward(self, input_ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        """Logits (rows, vocabulary) of the last position."""
        assert self.cache is not None
        if self.fused is not None:
            return self.fused(input_ids, mask, positions, self.cache)
        logits: Tensor = self.model(
            input_ids=input_ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits
        return logits[:, -1]

    def _book(
        self, chosen: list[int], log_probs: list[float] | None
    ) -> list[tuple[int, Generated]]:
        finished = []
        for place, (row, token) in enumerate(zip(self.rows, chosen, strict=True)):
            if self.done[row]:
                continue
            self.tokens[row].append(token)
            if log_probs is not None:
                self.log_probs[row].append(log_probs[place])
            stopped = token in self.eos
            if stopped or len(self.tokens[row]) == self.limits[row]:
                self.done[row] = True
                self._note(place, row)
                known = None if log_probs is None else tuple(self.log_probs[row])
                finished.append((row, Generated(tuple(self.tokens[row]), stopped, known)))
        return finished

    def _note(self, place: int, row: int) -> None:
        """Keep a finished row's state for its dialogue's next turn, or let go of the last one's."""
        request = self.requests[row]
        if self.threads is None or not request.thread:
            return
        if request.continues:
            ids = (*request.prompt_ids, *self.tokens[row][:-1])  # the last one was never read
            assert self.cache is not None
            self.threads.keep(request.thread, ids, self.cache, place, self.mask[place])
        elif not request.branch:
            self.threads.drop(request.thread)

    def _drop(self, chosen: Tensor) -> None:
        """Make the next input, leaving out finished rows when there are enough of them."""
        kept = [index for index, row in enumerate(self.rows) if not self.done[row]]
        if not kept:
            self.rows = []
            self.cache = None
            return
        if len(self.rows) - len(kept) >= max(1, _DROP_SHARE * len(self.rows)):
            order = torch.tensor(kept, device=self.device)
            self.rows = [self.rows[index] for index in kept]
            assert self.cache is not None
            self.cache.batch_select_indices(order)
            self.mask = self.mask[order]
            self.next_positions = self.next_positions[order]
            self.numbers = self.numbers[order]
            self.temperatures = self.temperatures[order]
            chosen = chosen[order]
        self.next_ids = chosen.unsqueeze(-1)
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.rows), 1)], dim=-1)
