"""What a stage has to leave as it found it: the base that all stages share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel


@contextmanager
def left_as_it_was(inner: PreTrainedModel) -> Iterator[None]:
    """The base's weights, configurations and forward are the same afterwards; nothing is trainable
    or in training mode."""
    weights, before = _state(inner)
    yield
    after, rest = _state(inner)
    assert rest == before
    assert after.keys() == weights.keys()
    assert all(torch.equal(after[name], weights[name]) for name in weights)
    assert not any(p.requires_grad or p.grad is not None for p in inner.parameters())
    assert not any(module.training for module in inner.modules())


def _state(inner: PreTrainedModel) -> tuple[dict[str, Tensor], Any]:
    weights = {  # once peft has wrapped a layer, its weight is called base_layer.weight
        name.replace(".base_layer", ""): tensor.detach().clone()
        for name, tensor in inner.named_parameters()
        if "lora" not in name
    }
    generation: Any = inner.generation_config
    described = inner.config.to_dict(), generation.to_dict()
    return weights, (*described, "forward" in vars(inner), inner.training)
