"""Models of many families, by plain transformers on one sequence at a time and by the harness."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES
from peft import LoraConfig, PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from harness.adapters import activate, adapter_weights, add_adapter, save_adapter
from harness.engines.local import LocalEngine
from harness.engines.measuring import log_probs
from harness.engines.protocol import Request
from harness.engines.reading import Reader, pad_right
from harness.merging import merge
from harness.models import ModelSpec, backbone, causal_model, load

_PROMPTS, _REPLIES = (5, 40, 17, 33), (30, 4, 9, 21)


@pytest.fixture(scope="module", params=sorted(FAMILIES))
def family(request: Any, family_base: Callable[..., Path]) -> Path:
    """The folder of a family's model."""
    return family_base(request.param)


def adapted(folder: Path, **changes: Any) -> tuple[Any, PeftModel]:
    """The loaded model, and it with a random adapter that computes."""
    loaded = load(ModelSpec(str(folder), **changes))
    lora = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM")
    model = add_adapter(loaded.model, "policy", lora, seed=3)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, weight in adapter_weights(model, "policy").items():
            if "lora_B" in name:
                weight.normal_(std=0.2, generator=generator)
    activate(model, "policy")
    return loaded, model


def tokens(lengths: tuple[int, ...], seed: int) -> list[tuple[int, ...]]:
    numbers = random.Random(seed)
    return [tuple(numbers.randrange(7, 250) for _ in range(length)) for length in lengths]


@torch.no_grad()
def logits(model: PeftModel, ids: list[int]) -> Tensor:
    """Of one sequence without padding, (tokens, words)."""
    found: Tensor = causal_model(model)(input_ids=torch.tensor([ids]), use_cache=False).logits[0]
    return found.float()


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_log_probs_and_hidden_states_are_transformers(family: Path, quantization: str) -> None:
    _, model = adapted(family, quantization=quantization)
    prompts, replies = tokens(_PROMPTS, 1), tokens(_REPLIES, 2)
    found = log_probs(model, prompts, replies, pad_id=0, batch_size=8, temperature=1.0)
    for prompt, reply, own in zip(prompts, replies, found, strict=True):
        whole = logits(model, [*prompt, *reply]).log_softmax(-1)
        rows = whole[len(prompt) - 1 : -1]
        expected = rows.gather(1, torch.tensor(reply)[:, None])[:, 0]
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-4)
    joined = [[*p, *r] for p, r in zip(prompts, replies, strict=True)]
    ends = torch.tensor([len(ids) - 1 for ids in joined])
    states = Reader(model).hidden(pad_right(joined, pad_id=0, device="cpu"), torch.arange(4), ends)
    for ids, own in zip(joined, states, strict=True):
        with torch.no_grad():
            alone = backbone(model)(input_ids=torch.tensor([ids]), use_cache=False)
        torch.testing.assert_close(own, alone.last_hidden_state[0, -1], rtol=1e-4, atol=1e-4)


def greedy(engine: LocalEngine, prompts: list[tuple[int, ...]], **more: Any) -> list[Any]:
    requests = [
        Request(f"r{number}", prompt, 0.0, 12, **({"thread": f"d{number}"} if more else {}), **more)
        for number, prompt in enumerate(prompts)
    ]
    found = dict(engine.sample(requests, seed=1))
    return [found[number].token_ids for number in range(len(prompts))]


def test_greedy_replies_are_those_of_generate(family: Path) -> None:
    loaded, model = adapted(family)
    engine = LocalEngine(model, loaded.tokenizer, batch_size=8, max_new_tokens=12)
    prompts = tokens(_PROMPTS, 1)
    for prompt, own in zip(prompts, greedy(engine, prompts), strict=True):
        ids = list(prompt)
        for token in own:  # step by step, so that a tie is no difference
            last = logits(model, ids)[-1]
            assert last[token] >= last.max() - 1e-3
            ids.append(token)
        stopped = own[-1] in engine.eos_ids
        assert stopped or len(own) == 12


def test_a_dialogues_next_turn_is_the_same_without_memory(family: Path) -> None:
    loaded, model = adapted(family)
    engine = LocalEngine(model, loaded.tokenizer, batch_size=8, max_new_tokens=12)
    prompts, turns = tokens(_PROMPTS, 1), tokens((3, 11, 6, 14), 4)
    with engine.remembering():
        first = greedy(engine, prompts, continues=True)
        longer = [(*p, *r, *t) for p, r, t in zip(prompts, first, turns, strict=True)]
        second = greedy(engine, longer, continues=False)
    for prompt, own, anew in zip(longer, second, greedy(engine, longer), strict=True):
        at = next((n for n, pair in enumerate(zip(own, anew, strict=False)) if len({*pair}) > 1), 0)
        top = logits(model, [*prompt, *anew[:at]])[-1].topk(2).values
        assert own == anew or top[0] - top[1] < 1e-3


def test_an_adapter_is_what_peft_loads_and_merges(family: Path, tmp_path: Path) -> None:
    _, model = adapted(family)
    save_adapter(model, "policy", tmp_path)
    ids = list(tokens((24,), 9)[0])
    expected = logits(model, ids)
    plain = AutoModelForCausalLM.from_pretrained(family)
    with torch.no_grad():
        assert not torch.allclose(plain(torch.tensor([ids])).logits[0], expected, atol=1e-2)
        peft = PeftModel.from_pretrained(plain, tmp_path)
        found = peft(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    merge(ModelSpec(str(family), adapter=tmp_path), tmp_path / "out", dtype="float32")
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    with torch.no_grad():
        found = merged(torch.tensor([ids])).logits[0]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
