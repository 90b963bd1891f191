"""Dialogues kept in memory between turns: the same replies for a fraction of the tokens."""

from __future__ import annotations

from contextlib import nullcontext
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from harness.engines import local
from harness.engines.local import LocalEngine
from harness.engines.protocol import Request
from harness.engines.threads import Threads
from harness.models import LoadedModel, ModelSpec, load

TURNS, NEW = 8, 6


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> LoadedModel:
    return load(ModelSpec(str(tiny_llama)))


@pytest.fixture(params=[True, False], ids=["fused", "plain"])
def read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Tokens that go through the model, padding aside; by our own forward and by the model's."""
    if not request.param:
        monkeypatch.setattr(local, "fuse", lambda _, **__: None)
    seen: list[int] = []
    forward = local._Batch._forward

    def counted(self: Any, input_ids: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        seen.append(int(mask[:, -input_ids.shape[1] :].sum()))
        return forward(self, input_ids, mask, positions)

    monkeypatch.setattr(local._Batch, "_forward", counted)
    return seen


def dialogue(
    found: LoadedModel,
    seen: list[int],
    *,
    remember: bool,
    edit: bool = False,
    budget: int = 2**30,
) -> tuple[list[tuple[int, ...]], list[int]]:
    """All replies of three dialogues with a branch a turn, and the tokens read at each turn.

    ``edit``: each reply's second token is another one in the history, as when a tokenizer reads
    its text back otherwise.
    """
    engine = LocalEngine(
        found.model, found.tokenizer, batch_size=8, max_new_tokens=NEW, thread_bytes=budget
    )
    histories = [tuple(range(5 + i, 12 + 3 * i)) for i in range(3)]
    said: list[tuple[int, ...]] = []
    read: list[int] = []
    with engine.remembering() if remember else nullcontext():
        for turn in range(TURNS):
            trunks = [(*history, 20 + turn, 21) for history in histories]
            asked = [
                Request(
                    f"{i}/{turn}",
                    trunk,
                    float(i % 2),
                    NEW,
                    thread=f"{i}",
                    continues=turn + 1 < TURNS,
                )
                for i, trunk in enumerate(trunks)
            ]
            asked += [
                Request(f"{i}/b{turn}", (*h, 40 + turn, 3, 4), 0.0, NEW, thread=f"{i}", branch=True)
                for i, h in enumerate(histories)
            ]
            seen.clear()
            replies = dict(engine.generate(asked, seed=1))
            read.append(sum(seen))
            said += [replies[i].token_ids for i in range(len(asked))]
            for i, trunk in enumerate(trunks):
                ids = list(replies[i].token_ids)
                if edit and len(ids) > 1:
                    ids[1] = 50 + turn
                histories[i] = (*trunk, *ids)
        if remember:
            assert engine._threads is not None
            assert engine._threads._used == 0  # the last turn lets go
    return said, read


@pytest.mark.parametrize("edit", [False, True])
def test_replies_are_the_same_and_the_cost_is_linear(
    tiny: LoadedModel, read: list[int], edit: bool
) -> None:
    plain, quadratic = dialogue(tiny, read, remember=False, edit=edit)
    said, linear = dialogue(tiny, read, remember=True, edit=edit)
    assert said == plain
    growth = [later - first for first, later in pairwise(quadratic)]
    assert min(growth) >= 3  # without memory every turn reads all that was said before
    # With it, a turn reads what is new in it: trunks and branches, whatever came before.
    assert max(linear[1:]) <= min(linear[1:]) + 3 * NEW
    assert sum(linear) < 0.6 * sum(quadratic)


def test_what_does_not_fit_is_computed_anew(tiny: LoadedModel, read: list[int]) -> None:
    plain, quadratic = dialogue(tiny, read, remember=False)
    said, again = dialogue(tiny, read, remember=True, budget=0)
    assert (said, again) == (plain, quadratic)


def test_find_gives_the_common_prefix_and_leaves_one_token() -> None:
    cache = DynamicCache()
    keys = torch.arange(24.0).reshape(1, 2, 4, 3)
    cache.update(keys, -keys, 0)
    threads = Threads(10**6)
    threads.keep("a", (7, 8, 9), cache, 0, torch.tensor([0, 1, 1, 1]))
    state, tokens = threads.find("a", (7, 8, 9, 1))
    assert state is not None
    assert tokens == 3
    assert torch.equal(state.layers[0][0], keys[0, :, 1:])
    assert threads.find("a", (7, 8, 1))[1] == 2
    assert threads.find("a", (7, 8, 9))[1] == 2
    assert threads.find("a", (1, 8, 9)) == (None, 0)
    assert threads.find("b", (7, 8, 9)) == (None, 0)
    threads.drop("a")
    assert threads.find("a", (7, 8, 9, 1)) == (None, 0)
