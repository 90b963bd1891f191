"""Tiny random models of many families: what users bring that is no Llama."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

_ROTARY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_OLD: dict[str, Any] = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_MIDDLE = {key: value for key, value in _ROTARY.items() if key != "num_key_value_heads"}
_FALCON = {key: value for key, value in _MIDDLE.items() if key != "intermediate_size"}
_WINDOW = {"sliding_window": 8}
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}
_TYPES = {"layer_types": ["sliding_attention", "full_attention"]}
# Name -> configuration class of transformers, and its settings.
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2Config", _OLD),
    "gpt_neox": ("GPTNeoXConfig", _MIDDLE),
    "gpt_neo": (
        "GPTNeoConfig",
        {
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_layers": 2,
            "num_heads": 4,
            "max_position_embeddings": 256,
            "window_size": 8,
            "attention_types": [[["global", "local"], 1]],
        },
    ),
    "opt": (
        "OPTConfig",
        {
            "hidden_size": 32,
            "ffn_dim": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "max_position_embeddings": 256,
            "word_embed_proj_dim": 32,
            "init_std": 0.2,
            "dropout": 0.0,
        },
    ),
    "bloom": ("BloomConfig", {"hidden_size": 32, "n_layer": 2, "n_head": 4}),
    "mpt": ("MptConfig", {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 256}),
    "falcon": ("FalconConfig", _FALCON | {"alibi": False, "multi_query": True}),
    "falcon_alibi": ("FalconConfig", _FALCON | {"alibi": True, "new_decoder_architecture": False}),
    "qwen2": ("Qwen2Config", _ROTARY | {"tie_word_embeddings": True, "vocab_size": 320}),
    "qwen3": ("Qwen3Config", _ROTARY | {"head_dim": 16}),
    "mistral": ("MistralConfig", _ROTARY | _WINDOW),
    "phi3": ("Phi3Config", _ROTARY),
    "gemma2": (
        "Gemma2Config",
        _ROTARY
        | _WINDOW
        | {"head_dim": 8, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 5.0},
    ),
    "gemma3": ("Gemma3TextConfig", _ROTARY | _WINDOW | _TYPES | {"head_dim": 8}),
    "cohere": ("CohereConfig", _ROTARY | {"logit_scale": 0.3}),
    "granite": ("GraniteConfig", _ROTARY | {"logits_scaling": 2.0, "residual_multiplier": 0.5}),
    "mixtral": ("MixtralConfig", _ROTARY | _EXPERTS),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        _ROTARY
        | {"head_dim": 8, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    ),
    "gpt_oss": ("GptOssConfig", _ROTARY | _WINDOW | _TYPES | _EXPERTS | {"head_dim": 8}),
}


def make_family(
    folder: Path, name: str, tokenizer: PreTrainedTokenizerFast, **changes: Any
) -> Path:
    """Write a random model of the family and the tokenizer into ``folder``; ``changes`` are of its
    configuration."""
    kind, settings = FAMILIES[name]
    config = getattr(transformers, kind)(
        **{
            "vocab_size": len(tokenizer),
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "initializer_range": 0.2,  # so that the next token depends on the text
            **settings,
            **changes,
        }
    )
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for weight in model.parameters():  # norms and biases are ones and zeros
                if weight.ndim == 1:
                    weight.add_(0.05 * torch.randn(weight.shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
