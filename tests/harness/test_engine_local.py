"""Generation in this process: the same text whatever the batch, and the right probabilities."""

from __future__ import annotations

import hashlib
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_engine import NEW, engine, loaded

from harness.adapters import activate, adapter_weights, using
from harness.chat import user
from harness.engines import local
from harness.engines.folding import Folded
from harness.engines.local import Generated, LocalEngine, eos_ids
from harness.engines.protocol import Request
from harness.engines.room import roomy_cache
from harness.engines.sampling import choose, uniform
from harness.models import LoadedModel, ModelSpec, load
from harness.probes.protocol import Reply

FORWARDS = ["fused", "folded", "the model's"]


def compute(by: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have engines compute by one of the ``FORWARDS``."""
    if by != "fused":
        monkeypatch.setattr(local, "fuse", lambda _, **__: None)
    if by == "the model's":
        monkeypatch.setattr(local, "fold", lambda _: Folded({}))


@pytest.fixture(scope="module")
def tiny(tiny_llama: Path) -> LoadedModel:
    return loaded(tiny_llama)


def requests(made_by: LocalEngine, number: int = 20) -> list[Request]:
    """Prompts of all lengths; every other one sampled; some equal but for their key."""
    texts = [f"{index % 7} " + "why " * (index * 5 % 9) for index in range(number)]
    return [
        Request(f"row{index}/0", made_by.tokenize([user(text)]), float(index % 2), NEW)
        for index, text in enumerate(texts)
    ]


def replies(made_by: LocalEngine, asked: list[Request], seed: int = 5) -> dict[int, Reply]:
    pairs = list(made_by.generate(asked, seed=seed))
    assert sorted(index for index, _ in pairs) == list(range(len(asked)))
    return dict(pairs)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("by", FORWARDS)
def test_a_reply_does_not_depend_on_its_batch(
    tiny_llama: Path, quantization: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(by, monkeypatch)
    found = loaded(tiny_llama, quantization)
    asked = requests(engine(found))
    together = replies(engine(found, batch_size=20), asked)
    assert len({reply.text for reply in together.values()}) > 10
    assert replies(engine(found, batch_size=7), asked) == together
    alone = {
        index: next(iter(engine(found, batch_size=1).generate([request], seed=5)))[1]
        for index, request in enumerate(asked)
    }
    assert alone == together
    backwards = replies(engine(found), asked[::-1])
    assert {len(asked) - 1 - index: reply for index, reply in backwards.items()} == together


@pytest.mark.parametrize("by", FORWARDS)
def test_prompts_are_read_so_many_tokens_at_a_time(
    tiny: LoadedModel, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(by, monkeypatch)
    asked = requests(engine(tiny))
    together = replies(engine(tiny, batch_size=20), asked)
    shapes: list[tuple[int, ...]] = []
    forward = local._Batch._forward

    def noted(self: Any, ids: torch.Tensor, *rest: Any) -> torch.Tensor:
        shapes.append(tuple(ids.shape))
        return forward(self, ids, *rest)

    monkeypatch.setattr(local._Batch, "_forward", noted)
    monkeypatch.setattr(local, "TOKENS_AT_ONCE", 60)
    assert replies(engine(tiny, batch_size=20), asked) == together
    read = [shape for shape in shapes if shape[1] > 1]
    assert len(read) > 3
    assert all(rows * length <= 60 or rows == 1 for rows, length in read)


@pytest.mark.parametrize("by", FORWARDS)
def test_the_cache_has_no_room_for_more_than_can_come(
    tiny: LoadedModel, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(by, monkeypatch)
    made_by = engine(tiny)
    asked = requests(made_by)
    caches: list[Any] = []

    def noted(*args: Any, **kwargs: Any) -> Any:
        caches.append(roomy_cache(*args, **kwargs))
        return caches[-1]

    monkeypatch.setattr(local, "roomy_cache", noted)
    slots: list[int] = []
    for _ in made_by.sample(asked, seed=5):
        slots += [len(kept[0, 0]) for x in caches for layer in x.layers for kept in layer.whole]
    assert 0 < max(slots) <= max(len(request.prompt_ids) for request in asked) + NEW


@pytest.mark.parametrize("quantization", ["none", "nf4"])
@pytest.mark.parametrize("by", FORWARDS)
def test_greedy_replies_are_those_of_transformers(
    tiny_llama: Path, quantization: str, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute(by, monkeypatch)
    found = loaded(tiny_llama, quantization)
    made_by = engine(found)
    asked = [Request(r.key, r.prompt_ids, 0.0, NEW) for r in requests(made_by)]
    for index, made in made_by.sample(asked, seed=0):
        assert isinstance(made, Generated)
        prompt = torch.tensor([asked[index].prompt_ids])
        theirs = found.model.generate(
            input_ids=prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=NEW,
            eos_token_id=list(made_by.eos_ids),
            pad_token_id=0,
        )
        assert theirs[0, prompt.shape[1] :].tolist() == list(made.token_ids)


def test_sampling_is_a_function_of_seed_and_key(tiny: LoadedModel) -> None:
    made_by = engine(tiny)
    prompt = made_by.tokenize([user("why?")])
    asked = [Request(key, prompt, 1.0, NEW) for key in ("a", "b", "a", "c")]
    first = replies(made_by, asked)
    assert first[0] == first[2]
    assert len({first[0], first[1], first[3]}) == 3
    assert replies(made_by, asked, seed=6)[0] != first[0]
    state = torch.get_rng_state()
    torch.manual_seed(1)
    assert replies(made_by, asked) == first
    torch.set_rng_state(state)


def test_sampled_tokens_follow_the_softmax(tiny: LoadedModel) -> None:
    """Chi-square over the commonest tokens: 3,000 draws of one token at a temperature of 2."""
    made_by = engine(tiny, batch_size=500)
    prompt, draws = made_by.tokenize([user("who?")]), 3000
    asked = [Request(f"{number}", prompt, 2.0, 1) for number in range(draws)]
    counts: Counter[int] = Counter()
    for _, made in made_by.sample(asked, seed=1):
        assert isinstance(made, Generated)
        counts[made.token_ids[0]] += 1
    with torch.no_grad():
        logits = tiny.model(torch.tensor([prompt])).logits[0, -1]
    shares = torch.softmax(logits.double() / 2.0, dim=-1)
    common = [token for token in range(len(shares)) if shares[token] * draws > 10]
    observed = np.array([counts[token] for token in common])
    expected = np.array([float(shares[token]) * draws for token in common])
    square = ((observed - expected) ** 2 / expected).sum()
    freedom = len(common)
    assert freedom > 10
    assert abs(square - freedom) < 4 * (2 * freedom) ** 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_a_sampled_reply_knows_its_log_probs(tiny: LoadedModel, temperature: float) -> None:
    """As one forward over prompt and reply gives them; with rows that end at different times."""
    made_by = engine(tiny)
    texts = ("why?", "tell me a story", "hm", "a b c d e f")
    asked = [
        Request(text, made_by.tokenize([user(text)]), temperature, NEW - 3 * number)
        for number, text in enumerate(texts)
    ]
    replies: dict[int, Generated] = {}
    for index, reply in made_by.sample(asked, seed=5):
        assert isinstance(reply, Generated)
        replies[index] = reply
    measured = made_by.log_probs(
        [request.prompt_ids for request in asked],
        [replies[i].token_ids for i in range(len(asked))],
        temperature=temperature,
    )
    for index, expected in enumerate(measured):
        found = replies[index].log_probs
        assert found is not None
        torch.testing.assert_close(torch.tensor(found), expected, rtol=0, atol=2e-5)


def test_log_probs_that_are_not_exact_are_not_known(tiny_llama: Path, tiny: LoadedModel) -> None:
    half = engine(load(ModelSpec(str(tiny_llama), dtype="bfloat16")))
    for made_by, temperature in ((half, 1.0), (engine(tiny), 0.0)):
        asked = [Request("a", made_by.tokenize([user("why?")]), temperature, 4)]
        [(_, reply)] = made_by.sample(asked, seed=5)
        assert isinstance(reply, Generated)
        assert reply.log_probs is None


def test_any_end_token_ends_a_reply(tiny: LoadedModel) -> None:
    made_by = engine(tiny)
    asked = [Request("a", made_by.tokenize([user("why?")]), 1.0, NEW)]
    [(_, full)] = made_by.sample(asked, seed=5)
    assert isinstance(full, Generated)
    assert not full.stopped
    assert len(full.token_ids) == NEW
    made_by.eos_ids = (*made_by.eos_ids, full.token_ids[4])
    [(_, cut)] = made_by.sample(asked, seed=5)
    first = full.token_ids.index(full.token_ids[4])
    assert full.log_probs is not None
    assert cut == Generated(full.token_ids[: first + 1], True, full.log_probs[: first + 1])
    [(_, reply)] = made_by.generate(asked, seed=5)
    assert reply.finish_reason == "stop"
    assert reply.token_ids == full.token_ids[:first]  # without the end token


def test_the_set_of_end_tokens(tiny_llama: Path) -> None:
    found = load(ModelSpec(str(tiny_llama)))
    model = found.model
    assert eos_ids(model, found.tokenizer) == (2,)
    model.generation_config.eos_token_id = [5, 2, 7]
    assert eos_ids(model, found.tokenizer) == (2, 5, 7)
    found.tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    assert eos_ids(model, found.tokenizer) == ()


def test_replies_end_at_the_smallest_limit(tiny: LoadedModel) -> None:
    made_by = engine(tiny, max_new_tokens=9)
    prompt = made_by.tokenize([user("why?")])
    almost_full = tuple([1] + [40] * 507)  # the context is 512
    asked = [
        Request("request", prompt, 1.0, 3),
        Request("engine", prompt, 1.0, 1000),
        Request("context", almost_full, 1.0, 1000),
        Request("none", (*almost_full, 1, 2, 3, 4), 1.0, 5),
        Request("none of it", (*almost_full, 1, 2, 3, 4, 5), 1.0, 5),
    ]
    found = replies(made_by, asked)
    assert [len(found[index].token_ids) for index in range(3)] == [3, 9, 4]
    for index, tokens in ((3, 512), (4, 513)):
        reason = f"a prompt of {tokens} tokens leaves no room in 512"
        assert found[index] == Reply(reason, (), "error")


def test_requests_that_make_no_sense(tiny: LoadedModel) -> None:
    for broken in (Request("a", (), 0.0, 5), Request("a", (1,), 0.0, 0), Request("a", (1,), -1, 5)):
        with pytest.raises(ValueError, match="request 'a'"):
            list(engine(tiny).generate([broken], seed=1))
    assert list(engine(tiny).generate([], seed=1)) == []


def test_short_replies_come_before_long_ones(tiny: LoadedModel) -> None:
    made_by = engine(tiny)
    prompt = made_by.tokenize([user("why?")])
    asked = [Request(str(limit), prompt, 1.0, limit) for limit in (20, 3, 11, 1)]
    assert [index for index, _ in made_by.generate(asked, seed=1)] == [3, 1, 2, 0]


def test_no_mode_leaks_to_the_consumer(tiny: LoadedModel) -> None:
    """``with torch.inference_mode()`` around a ``yield`` would stay on between two replies."""
    for _ in engine(tiny).generate(requests(engine(tiny)), seed=1):
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
        with torch.no_grad():
            assert tiny.model(torch.tensor([[1, 2]])).logits.isfinite().all()


def test_the_model_is_left_as_it_was(tiny_llama: Path) -> None:
    found = loaded(tiny_llama, "nf4", lora_dropout=0.5)
    made_by = engine(found)
    asked = requests(made_by)
    evaluated = replies(made_by, asked)
    found.model.train()
    activate(found.model, "policy", train=True)
    assert replies(made_by, asked) == evaluated
    expected = [made_by.log_probs([[1, 20]], [[30, 40]])[0].tolist() for _ in range(2)]
    assert expected[0] == expected[1]  # no dropout here either
    assert found.model.training
    found.model(torch.tensor([[1, 20, 30]])).logits.sum().backward()
    weights = adapter_weights(found.model, "policy").values()
    assert all(weight.grad is not None and not weight.grad.is_inference() for weight in weights)


def test_other_adapters_between_two_replies(tiny_llama: Path) -> None:
    found = loaded(tiny_llama)
    made_by = engine(found)
    asked = requests(made_by)
    expected = replies(made_by, asked)
    with_others = {}
    for index, reply in made_by.generate(asked, seed=5):
        with_others[index] = reply
        with using(found.model, None):
            made_by.log_probs([[1, 2]], [[3]])
    assert with_others == expected

    pending = made_by.generate(asked, seed=5)
    next(pending)
    activate(found.model, None)
    with pytest.raises(RuntimeError, match="another adapter was activated"):
        list(pending)
    assert replies(made_by, asked) != expected  # the base alone


def test_the_identity_is_json_and_names_the_limits(tiny: LoadedModel) -> None:
    assert engine(tiny).identity == {
        "engine": "local",
        "sampling": "inverse-cdf/blake2b-splitmix64/1",
        "max_new_tokens": NEW,
        "eos_ids": [2],
        "batch_size": 8,
        "device": "cpu",
        "versions": {"torch": version("torch"), "transformers": version("transformers")},
    }


def splitmix64(seed: int, key: str, position: int) -> float:
    """The definition in plain integers."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    z = int.from_bytes(digest, "little") + (position + 1) * 0x9E3779B97F4A7C15
    z %= 2**64
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % 2**64
    return ((z ^ (z >> 31)) >> 11) * 2.0**-53


def test_uniform_numbers_are_fixed_for_ever() -> None:
    """Stored evaluations depend on them: a change of these values breaks resuming."""
    assert float(uniform(17, "row1/0", 0)) == 0.5681525442464006
    for position in (0, 1, 2, 1000, 2**40):
        assert float(uniform(3, "é", position)) == splitmix64(3, "é", position)


def test_uniform_numbers_are_uniform() -> None:
    positions = np.arange(100_000)
    numbers = uniform(17, "row1/0", positions)
    assert numbers.shape == positions.shape
    assert numbers[77] == uniform(17, "row1/0", 77)
    assert numbers.min() >= 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 4 / (12 * len(numbers)) ** 0.5
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.015
    across = np.array([float(uniform(17, f"row{row}/0", 0)) for row in range(20_000)])
    assert abs(across.mean() - 0.5) < 4 / (12 * len(across)) ** 0.5
    histogram, _ = np.histogram(across, bins=20, range=(0, 1))
    assert ((histogram - 1000) ** 2 / 1000).sum() < 45  # chi-square, 19 degrees of freedom
    assert uniform(18, "row1/0", 0) != uniform(17, "row1/0", 0)
    # seed and key are kept apart: "1" + "7x" is not "17" + "x"
    assert uniform(1, "7x", 0) != uniform(17, "x", 0)


def test_choosing_by_hand() -> None:
    logits = torch.tensor([0.5, 0.25, 0.25, 0.0]).log().repeat(6, 1)
    numbers = torch.tensor([0.0, 0.4999, 0.5, 0.75, 0.999999999, 0.6], dtype=torch.float64)
    temperatures = torch.tensor([1.0, 1.0, 1.0, 1.0, 1.0, 0.0])
    drawn, shares = choose(logits, temperatures, numbers)
    assert drawn.tolist() == [0, 0, 1, 2, 2, 0]
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.5, 0.25, 0.25, 0.25, 1.0]))
    # at a temperature of 1/2 the shares are 4/6, 1/6, 1/6
    halves = torch.full((6,), 0.5)
    numbers = torch.tensor([0.6, 0.67, 0.83, 0.84, 0.999999999, 0.0], dtype=torch.float64)
    drawn, shares = choose(logits, halves, numbers)
    assert drawn.tolist() == [0, 1, 1, 2, 2, 0]
    torch.testing.assert_close(shares, torch.tensor([4, 1, 1, 1, 1, 4]) / 6)


def test_a_token_of_probability_zero_is_never_taken() -> None:
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf]]).repeat(3, 1)
    numbers = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert choose(logits, torch.ones(3), numbers)[0].tolist() == [1, 1, 1]
