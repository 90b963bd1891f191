"""Sampling as a function of (seed, key, position), never of the batch.

A request's stream is 64 bits of BLAKE2b over its seed and key; the number at a position is
splitmix64 (Steele, Lea and Flood 2014; Vigna's constants) of the stream advanced by that many
increments, its upper 53 bits read as a fraction. Being counter-based, it needs no state: a resumed
evaluation, another batch size or a second process draw the same number for the same token.

The number picks the token by the inverse of the cumulative distribution in the vocabulary's order.
Two batches whose logits differ by rounding then differ only where the number falls within that
rounding of a step of the distribution.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.engines.compiled_decoding import decoding

_INCREMENT = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def uniform(seed: int, key: str, position: int | NDArray[np.integer]) -> NDArray[np.float64]:
    """Numbers in [0, 1) for the token positions of one request, in the shape of ``position``."""
    digest = hashlib.blake2b(f"{seed}\0{key}".encode(), digest_size=8).digest()
    counter = np.asarray(position).astype(np.uint64) + np.uint64(1)
    state = np.uint64(int.from_bytes(digest, "little"))
    with np.errstate(over="ignore"):  # arithmetic is modulo 2**64 on purpose
        z = state + counter * _INCREMENT
        z = (z ^ (z >> np.uint64(30))) * _MIX_1
        z = (z ^ (z >> np.uint64(27))) * _MIX_2
    z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53


def choose(logits: Tensor, temperatures: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """The next token of each row (rows,) int64, and its probability (rows,) float32.

    ``logits`` (rows, vocabulary); ``temperatures`` (rows,) float32, 0 for the most likely token,
    which is then certain; ``numbers`` (rows,) float64 in [0, 1). The cumulative sum is float64:
    in float32 its rounding over a vocabulary of 100,000 would exceed the rarest tokens' share.
    """
    functions = decoding() if logits.device.type == "cpu" else None
    if functions is not None:
        whole = logits.float().contiguous()
        return functions.choose(whole, temperatures.contiguous(), numbers.contiguous())
    sampled = temperatures > 0
    if not bool(sampled.any()):
        return logits.argmax(dim=-1), torch.ones_like(temperatures)
    scaled = logits.float() / torch.where(sampled, temperatures, 1.0).unsqueeze(-1)
    shares = torch.softmax(scaled, dim=-1)
    cumulative = shares.cumsum(dim=-1, dtype=torch.float64)
    targets = numbers.unsqueeze(-1) * cumulative[:, -1:]
    # right=True: the first token whose cumulative share is above the number, so that a token of
    # probability 0 is never taken.
    drawn = torch.searchsorted(cumulative, targets, right=True).squeeze(-1)
    drawn.clamp_(max=logits.shape[-1] - 1)
    share = shares.gather(-1, drawn.unsqueeze(-1)).squeeze(-1)
    if bool(sampled.all()):
        return drawn, share
    drawn = torch.where(sampled, drawn, logits.argmax(dim=-1))
    return drawn, torch.where(sampled, share, 1.0)
