"""Every compiled function against torch in float64, for this processor and for older ones."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from compiled_functions import close, functions, normal
from torch import Tensor
from torch.nn import functional

from harness.engines import building
from harness.engines.attention import Padding
from harness.engines.compiled import SWITCH, Compiled, Heads, PackedAdapters, compiled

__all__ = ["functions"]


def angles(length: int, width: int) -> Tensor:
    return torch.outer(torch.arange(length) + 0.0, 1 / 100 ** (torch.arange(width // 2) / width))


def expected_attention(qkv: Tensor, lengths: list[int], heads: Heads) -> Tensor:
    """As transformers computes it, a row after the other; (tokens, heads · width), float64."""
    read, first = [], 0
    for length in lengths:
        states = qkv[first : first + length].unflatten(1, (-1, heads.width)).transpose(0, 1)
        first += length
        turns = angles(length, heads.width).double().repeat(1, 2)
        one, two = states.chunk(2, dim=-1)
        turned = states * turns.cos() + torch.cat([-two, one], dim=-1) * turns.sin()
        queries = turned[: heads.queries] * heads.scale
        shared = heads.queries // heads.pairs
        keys = turned[heads.queries : -heads.pairs].repeat_interleave(shared, 0)
        values = states[-heads.pairs :].repeat_interleave(shared, 0)
        hidden = torch.ones(length, length, dtype=torch.bool).triu(1)
        weights = (queries @ keys.mT).masked_fill(hidden, -torch.inf).softmax(-1)
        read.append((weights @ values).transpose(0, 1).flatten(1))
    return torch.cat(read)


@pytest.mark.parametrize(
    ("queries", "pairs", "width"), [(4, 4, 32), (4, 2, 16), (3, 1, 64), (2, 2, 80), (2, 1, 128)]
)
@pytest.mark.parametrize("lengths", [[1], [5, 64, 1, 16], [70, 129, 33]])
def test_attention_and_its_backward(
    functions: Compiled, queries: int, pairs: int, width: int, lengths: list[int]
) -> None:
    heads = Heads(queries, pairs, width, width**-0.5)
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    columns = torch.cat([torch.arange(length) for length in lengths])
    padding = Padding(rows, columns, len(lengths))
    qkv = normal(sum(lengths), (queries + 2 * pairs) * width)
    double = qkv.double().requires_grad_()
    expected = expected_attention(double, lengths, heads)
    turns = angles(max(lengths), width)
    found = functions.attention(qkv, (turns.cos(), turns.sin()), padding.every, heads)
    close(found, expected)
    g = normal(*found.shape, seed=1)
    back = functions.attention_backward(g, qkv, (turns.cos(), turns.sin()), padding.every, heads)
    close(back, torch.autograd.grad(expected, double, g.double())[0])


def test_attention_at_chosen_places(functions: Compiled) -> None:
    """In any order, one of them twice, the last of a row among them or the row is shorter."""
    heads, lengths = Heads(2, 1, 32, 0.2), [9, 1, 20, 6]
    rows = torch.tensor([2, 0, 3, 2, 0, 2, 1, 2])
    columns = torch.tensor([19, 8, 5, 3, 2, 18, 0, 3])
    padding = Padding(rows, columns, 4)
    qkv = normal(sum(lengths), 4 * 32)
    double = qkv.double().requires_grad_()
    expected = expected_attention(double, lengths, heads)[padding.places]
    turns = angles(20, 32).cos(), angles(20, 32).sin()
    close(functions.attention(qkv, turns, padding.chosen, heads), expected)
    g = normal(8, 64, seed=1)
    back = functions.attention_backward(g, qkv, turns, padding.chosen, heads)
    close(back, torch.autograd.grad(expected, double, g.double())[0])


Sides = list[list[int]]  # lengths by side and row


def whole(sides: Sides, shared: list[int]) -> tuple[Tensor, Tensor]:
    """Of the tokens of all rows without sharing, one after the other: which packed one each is, and
    which are packed as their own."""
    numbers: dict[tuple[int, int], int] = {}  # by row and position in the first side
    tokens, own = [], []
    for side, lengths in enumerate(sides):
        for row, length in enumerate(lengths):
            for position in range(length):
                if side and position < shared[row]:
                    tokens.append(numbers[row, position])
                    continue
                if not side:
                    numbers[row, position] = len(own)
                own.append(len(tokens))
                tokens.append(len(own) - 1)
    return torch.tensor(tokens), torch.tensor(own)


SIDES: list[tuple[Sides, list[int]]] = [
    ([[9, 1, 40, 7, 3], [12, 1, 33, 0, 8]], [5, 1, 33, 0, 0]),  # one ends in the other's middle
    ([[70, 18], [17, 129], [80, 19]], [16, 17]),
]


@pytest.mark.parametrize(("queries", "pairs", "width"), [(4, 2, 16), (2, 2, 80), (2, 1, 32)])
@pytest.mark.parametrize(("sides", "shared"), SIDES)
def test_attention_of_rows_that_share_their_beginning(
    functions: Compiled, queries: int, pairs: int, width: int, sides: Sides, shared: list[int]
) -> None:
    """As of whole rows: what is read bit by bit, and the gradients that a shared token gets from
    all sides."""
    heads = Heads(queries, pairs, width, width**-0.5)
    lengths = [length for side in sides for length in side]
    tokens, own = whole(sides, shared)
    rows = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
    columns = torch.cat([torch.arange(length) for length in lengths])
    apart = Padding(rows, columns, len(lengths))
    padding = Padding(rows, columns, len(lengths), sides=len(sides), shared=torch.tensor(shared))
    assert torch.equal(padding.places, tokens)
    qkv = normal(len(own), (queries + 2 * pairs) * width)
    double = qkv.double().requires_grad_()
    expected = expected_attention(double[tokens], lengths, heads)
    angle = angles(max(lengths), width)
    turns = angle.cos(), angle.sin()
    found = functions.attention(qkv, turns, padding.every, heads)
    close(found, expected[own])
    assert torch.equal(found, functions.attention(qkv[tokens], turns, apart.every, heads)[own])
    g = normal(*found.shape, seed=1)
    back = functions.attention_backward(g, qkv, turns, padding.every, heads)
    close(back, torch.autograd.grad(expected[own], double, g.double(), retain_graph=True)[0])

    # At some places in any order, shared ones and others more than once, and at all rows' ends.
    some = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(2))[::2]
    ends = torch.tensor(lengths).cumsum(0)[torch.tensor(lengths) > 0] - 1
    some = torch.cat([some, some[:9], ends])
    padding = Padding(
        rows[some], columns[some], len(lengths), sides=len(sides), shared=torch.tensor(shared)
    )
    close(functions.attention(qkv, turns, padding.chosen, heads), expected[some])
    g = normal(len(some), queries * width, seed=3)
    back = functions.attention_backward(g, qkv, turns, padding.chosen, heads)
    close(back, torch.autograd.grad(expected[some], double, g.double())[0])


def test_weights_that_are_no_numbers_stay_so(functions: Compiled) -> None:
    padding = Padding(torch.arange(2).repeat_interleave(3), torch.arange(3).repeat(2), 2)
    qkv = normal(6, 96)
    qkv[4, 0] = torch.nan  # a query of the second row's second token
    turns = angles(3, 32).cos(), angles(3, 32).sin()
    read = functions.attention(qkv, turns, padding.every, Heads(1, 1, 32, 1.0))
    assert read.isnan().any(dim=1).tolist() == [False] * 4 + [True, False]
    gate_up = normal(2, 32)
    gate_up[1, 3] = torch.nan
    assert functions.swiglu(gate_up).isnan().sum() == 1
    logits = normal(3, 40)
    logits[2, 7] = torch.nan
    chosen, *_ = functions.log_softmax(logits, torch.zeros(3, dtype=torch.int64), 1.0)
    assert chosen.isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("tokens", [1, 7, 50, 700])
@pytest.mark.parametrize("ranks", [[16], [16, 32], [16, 16, 16]])
@pytest.mark.parametrize("gained", [False, True])
def test_adapters_gradients(
    functions: Compiled, tokens: int, ranks: list[int], gained: bool
) -> None:
    inputs, widths = 48, [32, 16, 80][: len(ranks)]
    gain = normal(inputs, seed=7) if gained else None
    outputs = sum(widths) + 16  # a layer without an adapter comes first
    downs = [normal(r, inputs, seed=r) for r in ranks]
    ups = [normal(w, r, seed=w) for w, r in zip(widths, ranks, strict=True)]
    firsts = [16 + sum(widths[:i]) for i in range(len(widths))]
    packed = PackedAdapters(
        torch.cat(downs).T.contiguous(),
        torch.cat([up.flatten() for up in ups]),
        tuple(zip(firsts, widths, strict=True)),
        tuple((sum(ranks[:i]), r) for i, r in enumerate(ranks)),
        gain,
    )
    assert packed.suit
    x, g = normal(tokens, inputs, seed=5), normal(tokens, outputs, seed=6)
    to_downs, to_ups = functions.adapters_gradients(g, x, packed)
    x, g = x.double(), g.double()
    assert len(to_downs) == len(to_ups) == len(ranks)
    for i, (down, up, first) in enumerate(zip(downs, ups, firsts, strict=True)):
        part = g[:, first : first + len(up)]
        expected = (part @ up.double()).T @ x
        if gain is not None:
            expected *= gain
        for found, wanted in (
            (to_downs[i], expected),
            (to_ups[i], part.T @ (x @ down.double().T)),
        ):
            assert found.is_contiguous()
            assert float((found - wanted).norm()) < 1e-5 * float(wanted.norm())


@pytest.mark.parametrize("tokens", [1, 33, 500])
def test_norms_and_gates(functions: Compiled, tokens: int) -> None:
    x, g = normal(tokens, 48) * 3, normal(tokens, 48, seed=1)
    x[0, 0] = -100.0  # of which the exponential overflows
    double = x.double().requires_grad_()
    expected = functional.rms_norm(double, (48,), eps=0.1)
    normed, scale = functions.rms_norm(x, 0.1)
    close(normed, expected)
    close(normed, x.double() * scale.double())
    back = torch.autograd.grad(expected, double, g.double())[0]
    close(functions.rms_norm_backward(g, normed, scale, None), back)
    plus = normal(tokens, 48, seed=2)
    close(functions.rms_norm_backward(g, normed, scale, plus), back + plus)

    double = torch.cat([x, g], dim=1).double().requires_grad_()
    gate, up = double.chunk(2, dim=1)
    expected = functional.silu(gate) * up
    close(functions.swiglu(double.detach().float()), expected)
    back = torch.autograd.grad(expected, double, plus.double())[0]
    close(functions.swiglu_backward(plus, double.detach().float()), back)


@pytest.mark.parametrize("words", [3, 64, 77])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities(functions: Compiled, words: int, temperature: float) -> None:
    logits = normal(40, words) * 5
    logits[0, 1] = -torch.inf  # a word that cannot be
    logits[1, 2] = 1000.0  # certainty
    targets = torch.randint(0, words, (40,), generator=torch.Generator().manual_seed(2))
    targets[0] = 0
    log_p = (logits.double() / temperature).log_softmax(-1)
    targets[1::3] = log_p.argmax(1)[1::3]
    chosen, entropy, likeliest = functions.log_softmax(logits, targets, temperature)
    assert torch.equal(likeliest, targets == log_p.argmax(1))
    close(chosen, log_p.gather(1, targets[:, None]).squeeze(1))
    close(entropy, torch.distributions.Categorical(logits=log_p).entropy())
    close(logits, log_p.exp())


def test_threads_do_not_change_a_bit(functions: Compiled) -> None:
    heads, before = Heads(4, 2, 32, 0.2), torch.get_num_threads()
    padding = Padding(torch.arange(9).repeat_interleave(40), torch.arange(40).repeat(9), 9)
    turns = angles(40, 32).cos(), angles(40, 32).sin()
    rows = torch.arange(9).repeat_interleave(40), torch.arange(40).repeat(9)
    sides = Padding(*rows, 9, sides=3, shared=torch.tensor([7, 0, 40])).every
    qkv, g = normal(360, 8 * 32), normal(360, 4 * 32, seed=1)
    fewer = len(sides.places)
    packed = PackedAdapters(normal(256, 16), normal(128 * 16), ((0, 128),), ((0, 16),))
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            results.append(
                [
                    functions.attention(qkv, turns, padding.every, heads),
                    functions.attention_backward(g, qkv, turns, padding.every, heads),
                    functions.attention(qkv[:fewer], turns, sides, heads),
                    functions.attention_backward(g[:fewer], qkv[:fewer], turns, sides, heads),
                    functions.swiglu(qkv),
                    *functions.rms_norm(qkv, 1e-5),
                    *(one for both in functions.adapters_gradients(g, qkv, packed) for one in both),
                ]
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


# --------------------------------------------------------------------------- building


def test_without_a_compiler_or_unwanted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(building, "_folders", lambda source: iter([tmp_path / "empty"]))
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compiled.__wrapped__() is None
    monkeypatch.undo()
    monkeypatch.setenv(SWITCH, "0")
    assert compiled.__wrapped__() is None


def test_a_compiler_that_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(building, "_folders", lambda source: iter([tmp_path]))
    monkeypatch.setenv("CC", "false")
    assert compiled.__wrapped__() is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(compiled() is None, reason="no C compiler here")
def test_it_is_built_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    barred = tmp_path / "file"  # where no folder can be made
    barred.touch()
    folders = [barred / "in", tmp_path / "cache"]
    monkeypatch.setattr(building, "_folders", lambda source: iter(folders))
    assert compiled.__wrapped__() is not None
    (built,) = (tmp_path / "cache").iterdir()
    changed = built.stat().st_mtime_ns
    monkeypatch.setenv("CC", "false")
    monkeypatch.setenv("PATH", os.devnull)
    assert compiled.__wrapped__() is not None
    assert built.stat().st_mtime_ns == changed
