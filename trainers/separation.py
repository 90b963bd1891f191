"""How a base keeps packed rows apart, found out by asking it.

transformers makes a block-diagonal mask of position ids that start again, but only where a model's
own file hands them on; others (OPT, Falcon) would let each row see those in front of it, without a
word. Those get the mask written out. What takes neither, ALiBi for one, cannot be packed.
"""

from __future__ import annotations

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from harness.errors import InputError
from harness.models import backbone, causal_model, eval_mode
from trainers.packing import PackedCollator
from trainers.pair_batches import suits

_PROBED = 4  # tokens of each of the two rows that the model is asked with


def packed_collator(
    model: PreTrainedModel | PeftModel, pad_token_id: int, *, field: str = "packing"
) -> PackedCollator:
    """Batches in which this model lets no row see another.

    Raises ``InputError``, which names ``field``, where there are none.
    """
    inner = causal_model(model)
    by_positions = PackedCollator(pad_token_id)
    if keeps_apart(model, by_positions):
        return by_positions
    if suits(inner):
        by_mask = PackedCollator(pad_token_id, mask=inner.dtype)
        if keeps_apart(model, by_mask):
            return by_mask
    kind = inner.config.get_text_config().model_type
    raise InputError(
        f"packed rows would see each other: {kind} can be told of no boundaries",
        field=field,
        expected="packing: false",
    )


def keeps_apart(model: PreTrainedModel | PeftModel, collator: PackedCollator) -> bool:
    """Whether the second of two packed rows has nothing of the first: its hidden states' gradient
    into the first one's embeddings is zero, exactly, whatever the base's precision."""
    ids = list(range(2 * _PROBED))
    row = {"input_ids": ids, "labels": ids, "seq_lengths": [_PROBED, _PROBED]}
    device = causal_model(model).device
    batch = {name: tensor.to(device) for name, tensor in collator([row]).items()}
    del batch["labels"]
    embedded: list[Tensor] = []

    def cut(_: object, __: object, output: Tensor) -> Tensor:
        embedded.append(output.detach().requires_grad_())
        return embedded[0]

    hook = causal_model(model).get_input_embeddings().register_forward_hook(cut)
    try:
        with torch.enable_grad(), eval_mode(causal_model(model)):
            states = backbone(model)(**batch, use_cache=False).last_hidden_state[0]
            # Not their plain sum, which a norm may keep from changing.
            weights = torch.linspace(-1.0, 2.0, states.shape[1], device=device).square()
            total = (states[_PROBED:].float() * weights).sum()
            (gradient,) = torch.autograd.grad(total, embedded[0])
    finally:
        hook.remove()
    first, second = gradient[0, :_PROBED], gradient[0, _PROBED:]
    return not bool(first.any()) and bool(second.any())
