"""Whether a model places tokens by the position ids that it is given, in every layer.

Where two replies share their prompt's computation, or a dialogue goes on behind kept keys and
values, a token's slot is not its place. Rotary and learnt positions go by the ids. Others count
slots, and would compute something else without a word: ALiBi's distances, and windows that are
laid over the slots.
"""

from __future__ import annotations

from inspect import signature
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel

from harness.models import backbone, causal_model


def goes_by_position_ids(model: PreTrainedModel | PeftModel) -> bool:
    """True where only the ids count. Sliding windows, which transformers lays over slots as well,
    are not looked at: callers know them by ``layer_types`` or the cache."""
    config: Any = causal_model(model).config.get_text_config()
    takes_ids = "position_ids" in signature(backbone(model).forward).parameters
    alibi = bool(getattr(config, "alibi", False))  # Falcon's takes the ids and leaves them
    windows = "local" in (getattr(config, "attention_layers", None) or ())  # GPT-Neo's
    return takes_ids and not alibi and not windows
