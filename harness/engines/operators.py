"""What a Llama does number by number, and its backward: in one pass over memory where that is
compiled (``compiled.py``), by torch's operators elsewhere. float32 on the CPU, contiguous."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from harness.engines.compiled import Compiled, compiled, in_vectors


def rms_norm(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x̂ = x·r with r = 1/√(mean x² + ε), (n, width), and r (n, 1).

    ``functional.rms_norm`` is five operators on the CPU, of which two read all of x.
    """
    width = x.shape[-1]
    if (functions := _for_width(width)) is not None:
        return functions.rms_norm(x, eps)
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    scale = length.square_().add_(width * eps).rsqrt_().mul_(width**0.5)
    return x * scale, scale


def rms_norm_backward(g: Tensor, normed: Tensor, scale: Tensor, plus: Tensor | None) -> Tensor:
    """r·(g − x̂·mean(g·x̂)), ``plus`` added; overwrites g and ``plus``."""
    width = g.shape[-1]
    if (functions := _for_width(width)) is not None:
        return functions.rms_norm_backward(g, normed, scale, plus)
    along = torch.linalg.vecdot(g, normed).unsqueeze_(-1).div_(-width)
    g = g.addcmul_(normed, along)
    return g.mul_(scale) if plus is None else plus.addcmul_(g, scale)


def swiglu(gate_up: Tensor) -> Tensor:
    """silu(gate)·up (Shazeer 2020, arXiv 2002.05202): (n, width) of the two side by side,
    (n, 2 · width)."""
    width = gate_up.shape[1] // 2
    if (functions := _for_width(width)) is not None:
        return functions.swiglu(gate_up)
    gate, up = gate_up.split(width, dim=1)
    return functional.silu(gate).mul_(up)


def swiglu_backward(g: Tensor, gate_up: Tensor) -> Tensor:
    """∂L/∂gate_up from g = ∂L/∂swiglu, which it may overwrite."""
    width = g.shape[1]
    if (functions := _for_width(width)) is not None:
        return functions.swiglu_backward(g, gate_up)
    gate, up = gate_up.split(width, dim=1)
    found = torch.empty_like(gate_up)
    to_gate, to_up = found.split(width, dim=1)
    torch.mul(g, functional.silu(gate), out=to_up)
    torch.ops.aten.silu_backward.grad_input(g.mul_(up), gate, grad_input=to_gate)
    return found


def log_softmax_at(
    logits: Tensor, targets: Tensor, temperature: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log-probabilities of the targets under softmax(logits / temperature), the entropy, and
    whether no word is likelier (bool), (n,) each, and the probabilities (n, words), for which
    ``logits`` may be overwritten.

    ``targets``: (n,) int64.
    """
    if (functions := _for_words(logits)) is not None:
        return *functions.log_softmax(logits, targets, temperature), logits
    if temperature != 1.0:
        logits.div_(temperature)
    log_p = logits.log_softmax(-1)
    chosen = log_p.gather(-1, targets[:, None]).squeeze(-1)
    likeliest = chosen == log_p.amax(-1)
    p = torch.exp(log_p, out=logits)
    entropy = torch.linalg.vecdot(p, log_p.clamp_(min=torch.finfo(p.dtype).min)).neg_()
    return chosen, entropy, likeliest, p


def log_probs_at(logits: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """The first of ``log_softmax_at``, of logits on any device."""
    if (functions := _for_words(logits)) is not None:
        return functions.log_softmax(logits, targets, temperature)[0]
    log_p = (logits / temperature).log_softmax(-1)
    return log_p.gather(-1, targets[:, None]).squeeze(-1)


def _for_width(width: int) -> Compiled | None:
    return compiled() if in_vectors(width) else None


def _for_words(logits: Tensor) -> Compiled | None:
    here = logits.device.type == "cpu" and logits.dtype == torch.float32
    return compiled() if here and logits.is_contiguous() else None
