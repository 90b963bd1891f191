"""The compiled halves of a layer against torch in float64, for this processor and older ones."""

from __future__ import annotations

from dataclasses import dataclass, fields
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from compiled_functions import close, functions, normal
from torch import Tensor
from torch.nn import functional

from harness.engines import compiled_layers
from harness.engines.compiled import Compiled, compiled
from harness.engines.compiled_layers import Layers, Panels, layers_for

__all__ = ["functions"]

EPS = 0.01
# Of what the heads read, of the states, of the gates: no multiples of a panel, and multiples.
WIDTHS = [(48, 80, 112), (16, 16, 16), (128, 128, 192)]
TOKENS = [1, 7, 100, 500]


@pytest.fixture
def layers(functions: Compiled) -> Layers:
    return Layers(functions)


@dataclass
class Half:
    """Weights of a second half, and the same laid out."""

    out: Tensor
    gate_up: Tensor
    down: Tensor
    gain: Tensor

    def forth(self, layers: Layers) -> tuple[Panels, Panels, Panels]:
        gates = layers.pack(self.gate_up, self.gain, gated=True)
        return layers.pack(self.out), gates, layers.pack(self.down)

    def back(self, layers: Layers) -> tuple[Panels, Panels, Panels]:
        gates = layers.pack_across(self.gate_up, self.gain)
        return layers.pack_across(self.out), gates, layers.pack_across(self.down)


def second(heads: int, hidden: int, inner: int) -> Half:
    return Half(
        normal(hidden, heads) / heads**0.5,
        normal(2 * inner, hidden, seed=1) / hidden**0.5,
        normal(hidden, inner, seed=2) / inner**0.5,
        normal(hidden, seed=3),
    )


def expected_second(
    half: Half, read: Tensor, x: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Middle, normed, gates, products and the output, in float64."""
    middle = x + read @ half.out.double().T
    normed = functional.rms_norm(middle, middle.shape[-1:], eps=EPS)
    gates = (normed * half.gain) @ half.gate_up.double().T
    gate, up = gates.chunk(2, dim=1)
    products = functional.silu(gate) * up
    return middle, normed, gates, products, middle + products @ half.down.double().T


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 48), (80, 16), (128, 192)])
@pytest.mark.parametrize("gained", [False, True])
def test_the_first_half_and_its_backward(
    layers: Layers, tokens: int, inputs: int, outputs: int, gained: bool
) -> None:
    weight, gain = normal(outputs, inputs), normal(inputs, seed=1) if gained else None
    x = normal(tokens, inputs, seed=2)
    double = x.double().requires_grad_()
    normed = functional.rms_norm(double, (inputs,), eps=EPS)
    expected = (normed if gain is None else normed * gain) @ weight.double().T
    panels = layers.pack(weight, gain)
    out, none, nor = layers.first_half(x, panels, EPS)
    assert none is nor is None
    close(out, expected)
    again, kept, scale = layers.first_half(x, panels, EPS, keep=True)
    assert torch.equal(again, out)
    assert kept is not None
    assert scale is not None
    close(kept, normed)
    close(x * scale, normed)
    g, plus = normal(tokens, outputs, seed=3), normal(tokens, inputs, seed=4)
    found = layers.first_half_backward(g, layers.pack_across(weight, gain), kept, scale, plus)
    close(found, torch.autograd.grad(expected, double, g.double())[0] + plus)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize(("heads", "hidden", "inner"), WIDTHS)
def test_the_second_half_and_its_backward(
    layers: Layers, tokens: int, heads: int, hidden: int, inner: int
) -> None:
    half = second(heads, hidden, inner)
    read, x = normal(tokens, heads, seed=4), normal(tokens, hidden, seed=5)
    double = read.double().requires_grad_()
    middle, normed, gates, products, expected = expected_second(half, double, x.double())
    y, none = layers.second_half(read, x, *half.forth(layers), EPS)
    assert none is None
    close(y, expected)
    again, kept = layers.second_half(read, x, *half.forth(layers), EPS, keep=True)
    assert torch.equal(again, y)
    assert kept is not None
    close(kept.normed, normed)
    close(middle.detach().float() * kept.scale, normed)
    close(kept.gates, gates)
    close(kept.products, products)
    g = normal(tokens, hidden, seed=6)
    wanted = torch.autograd.grad(expected, (gates, middle, double), g.double())
    found = layers.second_half_backward(g, kept, *half.back(layers))
    for one, two in zip(found, wanted, strict=True):
        close(one, two)


def test_what_is_given_is_left_as_it_was(layers: Layers) -> None:
    half = second(48, 80, 112)
    read, x, g = normal(9, 48), normal(9, 80, seed=1), normal(9, 80, seed=2)
    before = [tensor.clone() for tensor in (read, x, g)]
    _, kept = layers.second_half(read, x, *half.forth(layers), EPS, keep=True)
    assert kept is not None
    between = [getattr(kept, field.name).clone() for field in fields(kept)]
    layers.second_half_backward(g, kept, *half.back(layers))
    for one, two in zip((read, x, g), before, strict=True):
        assert torch.equal(one, two)
    for field, two in zip(fields(kept), between, strict=True):
        assert torch.equal(getattr(kept, field.name), two)


def test_a_token_does_not_see_another(layers: Layers) -> None:
    """Numbers that are none stay with their token, whichever go through together."""
    half = second(48, 80, 112)
    read, x = normal(20, 48), normal(20, 80, seed=1)
    y, _ = layers.second_half(read, x, *half.forth(layers), EPS)
    read[13, 5] = torch.nan
    other, _ = layers.second_half(read, x, *half.forth(layers), EPS)
    assert other[13].isnan().all()
    others = torch.arange(20) != 13
    assert torch.equal(other[others], y[others])
    for token in range(20):
        if token != 13:
            alone, _ = layers.second_half(
                read[token : token + 1], x[token : token + 1], *half.forth(layers), EPS
            )
            assert torch.equal(alone[0], y[token])


def test_threads_do_not_change_a_bit(layers: Layers) -> None:
    half, before = second(48, 80, 112), torch.get_num_threads()
    read, x, g = normal(700, 48), normal(700, 80, seed=1), normal(700, 80, seed=2)
    weight = normal(96, 80, seed=3)
    results = []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            y, kept = layers.second_half(read, x, *half.forth(layers), EPS, keep=True)
            out, normed, scale = layers.first_half(x, layers.pack(weight), EPS, keep=True)
            assert kept is not None
            assert normed is not None
            assert scale is not None
            back = layers.second_half_backward(g, kept, *half.back(layers))
            across = layers.pack_across(weight)
            results.append(
                [y, out, *back, layers.first_half_backward(out, across, normed, scale, x)]
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        for one, two in zip(results[0], other, strict=True):
            assert torch.equal(one, two)


def linear(inputs: int, outputs: int) -> Any:
    return SimpleNamespace(in_features=inputs, out_features=outputs)


def test_which_layers_suit(monkeypatch: pytest.MonkeyPatch) -> None:
    if compiled() is None:
        pytest.skip("no C compiler here")
    assert layers_for([linear(128, 512), linear(512, 128)]) is not None
    assert layers_for([linear(128, 512), linear(512, 100)]) is None  # no whole vectors
    assert layers_for([linear(1024, 1024)]) is not None  # of 4 MiB
    assert layers_for([linear(1024, 1024), linear(16, 16)]) is None
    monkeypatch.setattr(compiled_layers, "compiled", lambda: None)
    assert layers_for([linear(128, 512)]) is None
