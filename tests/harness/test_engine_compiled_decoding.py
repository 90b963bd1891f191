"""The compiled functions of one more token against torch in float64, on vectors of three widths."""

from __future__ import annotations

import pytest
import torch
from compiled_functions import close, functions, normal
from torch import Tensor
from torch.nn import functional

from harness.engines.compiled import Compiled, Heads
from harness.engines.compiled_decoding import Decoding, Rows, Small
from harness.engines.compiled_layers import Layers

__all__ = ["functions"]  # the fixture

EPS = 1e-5
SHAPES = [(4, 4, 32), (4, 2, 16), (3, 1, 80)]  # query heads, key-value heads, width


@pytest.fixture
def decoding(functions: Compiled) -> Decoding:
    return Decoding(functions)


def some_rows(count: int, used: int, width: int) -> tuple[Rows, Tensor]:
    """Rows of a cache of ``used`` slots with holes, and the rotations as complex numbers."""
    angles = torch.outer(torch.arange(40.0), 0.3 ** torch.arange(width // 2))
    turns = torch.polar(torch.ones_like(angles), angles)
    mask = torch.ones(count, used + 1, dtype=torch.int64)
    mask[1 % count, : used - 3] = 0
    mask[3 % count, :used] = 0  # all but the new one
    mask[4 % count] = 0  # this one lingers: it reads itself
    positions = torch.tensor([used, 3, 30, 0, 39] * count)[:count]
    return Rows(torch.view_as_real(turns).flatten(1), positions, mask), turns


def expected_attention(
    qkv: Tensor, rows: Rows, turns: Tensor, cache: tuple[Tensor, Tensor], heads: Heads
) -> tuple[Tensor, Tensor, Tensor]:
    """What is read, and the new slot's keys and values; the cache's slots end before it."""
    states = qkv.double().view(len(qkv), -1, heads.width)
    turned = torch.view_as_real(
        torch.view_as_complex(states.unflatten(-1, (-1, 2))) * turns[rows.positions].unsqueeze(1)
    ).flatten(-2)
    both = heads.queries + heads.pairs
    key, value = turned[:, heads.queries : both], states[:, both:]
    keys = torch.cat([cache[0].double(), key.unsqueeze(2)], dim=2)
    values = torch.cat([cache[1].double(), value.unsqueeze(2)], dim=2)
    shared = heads.queries // heads.pairs
    scores = turned[:, : heads.queries, None] @ keys.repeat_interleave(shared, 1).mT
    hidden = rows.mask == 0
    hidden[:, -1] = False
    weights = scores.masked_fill(hidden[:, None, None], -torch.inf).softmax(-1)
    return (weights @ values.repeat_interleave(shared, 1)).flatten(1), key, value


@pytest.mark.parametrize(("queries", "pairs", "width"), SHAPES)
def test_attention(decoding: Decoding, queries: int, pairs: int, width: int) -> None:
    count, slots, used = 5, 24, 18
    heads = Heads(queries, pairs, width, 1.0)
    rows, turns = some_rows(count, used, width)
    qkv = normal(count, (queries + 2 * pairs) * width)
    keys, values = normal(count, pairs, slots, width), normal(count, pairs, slots, width, seed=1)
    before = keys.clone(), values.clone()
    old = keys[:, :, :used].clone(), values[:, :, :used].clone()
    found = decoding.attention(qkv, rows, (keys, values), heads)
    expected, key, value = expected_attention(qkv, rows, turns, old, heads)
    close(found, expected)
    close(keys[:, :, used], key)
    close(values[:, :, used], value)
    others = torch.arange(slots) != used
    assert torch.equal(keys[:, :, others], before[0][:, :, others])
    assert torch.equal(values[:, :, others], before[1][:, :, others])


@pytest.mark.parametrize("count", [1, 7, 200])
@pytest.mark.parametrize(("queries", "pairs", "width"), SHAPES)
def test_all_layers(functions: Compiled, count: int, queries: int, pairs: int, width: int) -> None:
    hidden, inner, slots, used = 48, 80, 12, 6
    heads, made = Heads(queries, pairs, width, 1.0), Layers(functions)
    rows, turns = some_rows(count, used, width)
    embedding, tokens = normal(50, hidden), torch.arange(count) * 7 % 50
    weights = [
        [
            normal(*shape, seed=10 * layer + number) / shape[1] ** 0.5
            for number, shape in enumerate(
                [
                    ((queries + 2 * pairs) * width, hidden),
                    (hidden, queries * width),
                    (2 * inner, hidden),
                    (hidden, inner),
                ]
            )
        ]
        for layer in range(3)
    ]
    small = [
        Small(made.pack(qkv), made.pack(out), made.pack(gates, gated=True), made.pack(down))
        for qkv, out, gates, down in weights
    ]
    caches = [
        (normal(count, pairs, slots, width, seed=s), normal(count, pairs, slots, width, seed=-s))
        for s in (1, 2, 3)
    ]
    x = embedding[tokens].double()
    kept = []
    for (qkv, out, gates, down), (keys, values) in zip(weights, caches, strict=True):
        normed = functional.rms_norm(x, (hidden,), eps=EPS)
        old = keys[:, :, :used], values[:, :, :used]
        read, *slot = expected_attention(normed @ qkv.double().T, rows, turns, old, heads)
        x = x + read @ out.double().T
        gate, up = (functional.rms_norm(x, (hidden,), eps=EPS) @ gates.double().T).chunk(2, 1)
        x = x + (functional.silu(gate) * up) @ down.double().T
        kept.append(slot)
    found = Decoding(functions).layers(tokens, embedding, small, rows, caches, heads, EPS)
    torch.testing.assert_close(found.double(), x, rtol=1e-3, atol=1e-4)
    for (keys, values), (key, value) in zip(caches, kept, strict=True):
        torch.testing.assert_close(keys[:, :, used].double(), key, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(values[:, :, used].double(), value, rtol=1e-3, atol=1e-4)


def test_all_layers_by_any_number_of_threads(functions: Compiled) -> None:
    """The same to the bit, and each row as if it were alone."""
    count, hidden, inner, used = 150, 48, 80, 6
    heads, made = Heads(2, 2, 16, 1.0), Layers(functions)
    embedding, tokens = normal(50, hidden), torch.arange(count) * 7 % 50
    qkv, out = made.pack(normal(96, hidden)), made.pack(normal(hidden, 32))
    gates, down = made.pack(normal(2 * inner, hidden), gated=True), made.pack(normal(hidden, inner))
    rows, _ = some_rows(count, used, 16)

    def run(chosen: slice) -> Tensor:
        cache = normal(count, 2, 9, 16, seed=5)[chosen], normal(count, 2, 9, 16, seed=6)[chosen]
        own = Rows(rows.turns, rows.positions[chosen], rows.mask[chosen])
        small = [Small(qkv, out, gates, down)]
        return Decoding(functions).layers(
            tokens[chosen], embedding, small, own, [cache], heads, EPS
        )

    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(run(slice(count)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    for row in range(0, count, 13):
        assert torch.equal(run(slice(row, row + 1))[0], found[0][row])


@pytest.mark.parametrize("words", [1, 5, 64, 300])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 2.5])
def test_the_chosen_word(decoding: Decoding, words: int, temperature: float) -> None:
    """The first whose cumulative share is above the number, for numbers beside every step."""
    logits = 3 * normal(words, seed=1)
    logits[2::7] = -torch.inf
    logits[0] = 1.0
    shares = (logits.double() / temperature).softmax(-1)
    ends = shares.cumsum(-1)
    numbers = torch.cat(
        [ends * (1 - 1e-5), (ends * (1 + 1e-5))[:-1], torch.tensor([0.0, 1 - 2**-53])]
    )
    expected = torch.searchsorted(ends, numbers * ends[-1], right=True).clamp(max=words - 1)
    # The last word may be one that cannot be.
    possible = torch.arange(words)[shares > 0]
    expected = torch.minimum(expected, possible[-1])
    rows = logits.expand(len(numbers), words).contiguous()
    found, share = decoding.choose(rows, torch.full((len(numbers),), temperature), numbers.double())
    rare = shares[expected] < 1e-4  # beside a word that is rarer than the numbers' distance
    assert torch.equal(found[~rare], expected[~rare])
    assert bool((shares[found] > 0).all())
    close(share, shares[found])


def test_the_likeliest_word_is_certain(decoding: Decoding) -> None:
    logits = normal(4, 33)
    logits[2, 7] = logits[2, 9] = 9.0
    temperatures = torch.tensor([0.0, 1.0, 0.0, 1.0])
    found, share = decoding.choose(logits, temperatures, torch.full((4,), 0.5).double())
    assert found[0] == logits[0].argmax()
    assert found[2] == 7
    assert share[[0, 2]].tolist() == [1.0, 1.0]
    assert share[1] < 1
    assert share[3] < 1


def test_numbers_that_are_none_choose_a_word_that_is_one(decoding: Decoding) -> None:
    logits = normal(3, 70)
    logits[1, 5] = torch.nan
    logits[2] = -torch.inf
    found, share = decoding.choose(logits, torch.ones(3), torch.full((3,), 0.5).double())
    assert bool(((found >= 0) & (found < 70)).all())
    assert share.isnan().tolist() == [False, True, True]
