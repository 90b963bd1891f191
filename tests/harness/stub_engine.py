"""An engine whose replies are given by a function, for testing probes without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import torch

from harness.chat import Conversation, Message
from harness.engines.protocol import Request
from harness.probes.protocol import Reply


class StubEngine:
    """``answer(messages)`` gives the text, or a whole ``Reply``; one token a word."""

    def __init__(self, answer: Callable[[Conversation], str | Reply]) -> None:
        self.answer = answer
        self.identity: dict[str, Any] = {"engine": "stub"}
        self.max_new_tokens = 64
        self.eos_ids = (2,)
        self.asked: list[Request] = []
        self.calls: list[int] = []  # requests of each call
        self.crash_after: int | None = None  # replies
        self.policy = -1.0  # log-probability of every token
        self._conversations: list[Conversation] = []

    def tokenize(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """The number of the conversation, by which ``generate`` finds it again."""
        self._conversations.append(tuple(messages))
        return (1, len(self._conversations) - 1)

    def generate(self, requests: Sequence[Request], *, seed: int) -> Iterator[tuple[int, Reply]]:
        self.calls.append(len(requests))
        for index, request in reversed(list(enumerate(requests))):  # not in the order asked
            if self.crash_after is not None and len(self.asked) >= self.crash_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            found = self.answer(self._conversations[request.prompt_ids[1]])
            if isinstance(found, str):
                found = Reply(found, tuple(range(10, 10 + len(found.split()))), "stop")
            yield index, found

    def log_probs(
        self,
        prompts: Sequence[Sequence[int]],
        replies: Sequence[Sequence[int]],
        *,
        temperature: float = 1.0,
    ) -> list[torch.Tensor]:
        return [torch.full((len(reply),), self.policy) for reply in replies]


class StubScorer:
    """Reward models of two members each, whose scores are given by name."""

    def __init__(self, scores: Mapping[str, tuple[float, ...]]) -> None:
        self.scores = scores
        self.sequences: list[tuple[int, ...]] = []

    def score_tokens(self, input_ids: Sequence[Sequence[int]]) -> dict[str, torch.Tensor]:
        self.sequences += [tuple(ids) for ids in input_ids]
        return {
            name: torch.tensor(members).unsqueeze(1).expand(len(members), len(input_ids))
            for name, members in self.scores.items()
        }

    def combined(self, scores: Mapping[str, torch.Tensor], safety: Sequence[bool]) -> Any:
        chosen = [
            scores["safety" if safe else "helpfulness"][:, i] for i, safe in enumerate(safety)
        ]
        return SimpleNamespace(
            reward=torch.stack([c.mean() for c in chosen]),
            spread=torch.stack([c.std(correction=0) for c in chosen]),
        )
