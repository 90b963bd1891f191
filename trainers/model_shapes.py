"""What decides a model's memory: its shape, read from a config.json, with exact parameter counts.

Imports no torch and downloads nothing: a plan is made before either is needed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from huggingface_hub.errors import HFValidationError

from harness.errors import InputError, nearest
from trainers.validation import POCKET_BASE


@dataclass(frozen=True, slots=True)
class Linear:
    """A linear layer, and what it reads: linears of one ``source`` read the same tensor."""

    name: str
    inputs: int
    outputs: int
    bias: bool
    source: str  # normed | attended | mlp_normed | product

    @property
    def weights(self) -> int:
        return self.inputs * self.outputs


@dataclass(frozen=True, slots=True)
class ModelShape:
    """A decoder-only transformer: what its config.json says, as far as memory depends on it."""

    family: str  # transformers' model_type
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    positions: int  # longest text
    tied: bool  # the output head is the embedding
    linears: tuple[Linear, ...]  # of one layer
    window: int | None = None  # tokens that a layer looks back; None: all
    layer_norm: bool = False  # LayerNorm (with bias) instead of RMSNorm
    qk_norm: bool = False  # RMSNorm of each head's query and key
    gated: bool = True  # SwiGLU: gate and up; else one matrix up
    parallel: bool = False  # attention and MLP read the same hidden state

    @property
    def embedding_parameters(self) -> int:
        """The embedding, and the output head where it is not the same matrix."""
        return self.vocabulary * self.hidden * (1 if self.tied else 2)

    @property
    def norm_parameters(self) -> int:
        """All norms' weights and biases."""
        of_hidden = self.hidden * (2 if self.layer_norm else 1)
        of_heads = 2 * self.head_dim if self.qk_norm else 0
        return self.layers * (2 * of_hidden + of_heads) + of_hidden

    @property
    def parameters(self) -> int:
        """Exactly as many as transformers' model has."""
        linears = sum(linear.weights + linear.outputs * linear.bias for linear in self.linears)
        return self.embedding_parameters + self.norm_parameters + self.layers * linears


_Config = Mapping[str, Any]
_MOST = 10**9  # of any size: more is a slip of the pen
_WIDTH = 60  # characters of a wrong value in a message


def shape_of(config: _Config, origin: Path | str = "config.json") -> ModelShape:
    """The shape that a config.json describes.

    Raises ``InputError`` for a kind of model whose memory is not known here, or a missing field.
    """
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _FAMILIES:
        raise InputError(
            f"the memory of model_type {_shown(kind)} is not known",
            path=origin,
            field="model_type",
            expected=f"one of {', '.join(_FAMILIES)}",
        )
    return _FAMILIES[kind](_Sizes(config, origin))


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The fields of a config.json, each checked as it is read. Raises ``InputError``."""

    config: _Config
    origin: Path | str

    def size(self, field: str, *, default: int | None = None, least: int = 1) -> int:
        """A whole number from ``least``. ``default``: where the field is absent."""
        if field not in self.config and default is None:
            raise self.wrong(field, "a field is missing", None)
        given = self.config.get(field, default)
        if type(given) is not int or not least <= given <= _MOST:
            expected = f"a whole number from {least} to {_MOST}"
            raise self.wrong(field, f"is {_shown(given)}", expected)
        return given

    def size_or(self, field: str, instead: int) -> int:
        """As ``size``; ``instead`` also where the field is null."""
        return instead if self.config.get(field) is None else self.size(field)

    def flag(self, field: str, *, default: bool = False) -> bool:
        given = self.config.get(field, default)
        if given is None:
            return False
        if type(given) is not bool:
            raise self.wrong(field, f"is {_shown(given)}", "true or false")
        return given

    def head_dim(self, heads: int) -> int:
        """Where the hidden state is cut evenly among the heads."""
        hidden = self.size("hidden_size")
        if hidden % heads:
            message = f"{heads} heads do not divide hidden_size {hidden}"
            raise self.wrong("num_attention_heads", message, None)
        return hidden // heads

    def wrong(self, field: str, message: str, expected: str | None) -> InputError:
        return InputError(message, path=self.origin, field=field, expected=expected)


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= _WIDTH else text[: _WIDTH - 1] + "…"


# What transformers' configurations fill in where the field is absent; where it is null, there are
# as many as heads.
_KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32}
_QWEN3_HEAD_DIM = 128
_WINDOW = 4096


def _llama_like(sizes: _Sizes) -> ModelShape:
    """Llama and those built alike: RMSNorm, grouped-query attention, SwiGLU."""
    config = sizes.config
    kind, hidden = config["model_type"], sizes.size("hidden_size")
    heads, middle = sizes.size("num_attention_heads"), sizes.size("intermediate_size")
    absent = "num_key_value_heads" not in config
    kv_heads = _KV_HEADS.get(kind, heads) if absent else sizes.size_or("num_key_value_heads", heads)
    if heads % kv_heads:
        message = f"{kv_heads} do not divide num_attention_heads {heads}"
        raise sizes.wrong("num_key_value_heads", message, None)
    if kind == "qwen3":  # whose head_dim is never null
        head_dim = sizes.size("head_dim", default=_QWEN3_HEAD_DIM)
    elif config.get("head_dim") is None:
        head_dim = sizes.head_dim(heads)
    else:
        head_dim = sizes.size("head_dim")
    may_have_bias = kind in ("llama", "qwen3")
    bias = kind == "qwen2" or (may_have_bias and sizes.flag("attention_bias"))
    out_bias = bias and kind != "qwen2"
    mlp_bias = kind == "llama" and sizes.flag("mlp_bias")
    windowed = kind == "mistral" or (kind != "llama" and sizes.flag("use_sliding_window"))
    if windowed and config.get("sliding_window", _WINDOW) is not None:
        window = sizes.size("sliding_window", default=_WINDOW)
    else:
        window = None
    return ModelShape(
        family=kind,
        hidden=hidden,
        intermediate=middle,
        layers=sizes.size("num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        vocabulary=sizes.size("vocab_size"),
        positions=sizes.size("max_position_embeddings", least=2),
        tied=sizes.flag("tie_word_embeddings"),
        window=window,
        qk_norm=kind == "qwen3",
        linears=(
            Linear("q_proj", hidden, heads * head_dim, bias, "normed"),
            Linear("k_proj", hidden, kv_heads * head_dim, bias, "normed"),
            Linear("v_proj", hidden, kv_heads * head_dim, bias, "normed"),
            Linear("o_proj", heads * head_dim, hidden, out_bias, "attended"),
            Linear("gate_proj", hidden, middle, mlp_bias, "mlp_normed"),
            Linear("up_proj", hidden, middle, mlp_bias, "mlp_normed"),
            Linear("down_proj", middle, hidden, mlp_bias, "product"),
        ),
    )


def _gpt_neox(sizes: _Sizes) -> ModelShape:
    """GPT-NeoX: LayerNorm, one matrix for query, key and value, MLP beside the attention."""
    hidden, middle = sizes.size("hidden_size"), sizes.size("intermediate_size")
    heads, bias = sizes.size("num_attention_heads"), sizes.flag("attention_bias", default=True)
    return ModelShape(
        family="gpt_neox",
        hidden=hidden,
        intermediate=middle,
        layers=sizes.size("num_hidden_layers"),
        heads=heads,
        kv_heads=heads,
        head_dim=sizes.head_dim(heads),
        vocabulary=sizes.size("vocab_size"),
        positions=sizes.size("max_position_embeddings", least=2),
        tied=sizes.flag("tie_word_embeddings"),
        layer_norm=True,
        gated=False,
        parallel=sizes.flag("use_parallel_residual", default=True),
        linears=(
            Linear("query_key_value", hidden, 3 * hidden, bias, "normed"),
            Linear("dense", hidden, hidden, bias, "attended"),
            Linear("dense_h_to_4h", hidden, middle, True, "mlp_normed"),
            Linear("dense_4h_to_h", middle, hidden, True, "product"),
        ),
    )


_FAMILIES = {
    "llama": _llama_like,
    "mistral": _llama_like,
    "qwen2": _llama_like,
    "qwen3": _llama_like,
    "gpt_neox": _gpt_neox,
}


# ------------------------------------------------------------------------- well-known models


def _llama(
    hidden: int,
    middle: int,
    layers: int,
    heads: int,
    kv_heads: int | None = None,
    vocabulary: int = 32_000,
    positions: int = 4096,
    tied: bool = False,
    **more: Any,
) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": middle,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads or heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": positions,
        "tie_word_embeddings": tied,
        **more,
    }


_LLAMA_3_8B = _llama(4096, 14_336, 32, 32, 8, 128_256, 8192)
_LLAMA_3_70B = _llama(8192, 28_672, 80, 64, 8, 128_256, 8192)
_LONG = {"max_position_embeddings": 131_072}
_MISTRAL = _llama(4096, 14_336, 32, 32, 8, 32_000, 32_768, model_type="mistral")
_SMOL_LM2 = _llama(576, 1536, 30, 9, 3, 49_152, 8192, tied=True)
_CONFIGS: dict[str, dict[str, Any]] = {
    "meta-llama/Llama-2-7b": _llama(4096, 11_008, 32, 32),
    "meta-llama/Llama-2-13b": _llama(5120, 13_824, 40, 40),
    "meta-llama/Llama-2-70b": _llama(8192, 28_672, 80, 64, 8),
    "meta-llama/Meta-Llama-3-8B": _LLAMA_3_8B,
    "meta-llama/Meta-Llama-3-70B": _LLAMA_3_70B,
    "meta-llama/Llama-3.1-8B": _LLAMA_3_8B | _LONG,
    "meta-llama/Llama-3.1-70B": _LLAMA_3_70B | _LONG,
    "huggyllama/llama-65b": _llama(8192, 22_016, 80, 64, positions=2048),
    "mistralai/Mistral-7B-v0.1": _MISTRAL | {"sliding_window": 4096},
    "mistralai/Mistral-7B-v0.3": _MISTRAL | {"vocab_size": 32_768, "sliding_window": None},
    "HuggingFaceTB/SmolLM2-135M": _SMOL_LM2,
    "EleutherAI/gpt-neox-20b": {
        "model_type": "gpt_neox",
        "hidden_size": 6144,
        "intermediate_size": 24_576,
        "num_hidden_layers": 44,
        "num_attention_heads": 64,
        "vocab_size": 50_432,
        "max_position_embeddings": 2048,
    },
}
_VARIANTS = ("-hf", "-chat-hf", "-Instruct")  # same shape, other weights


def known_models() -> tuple[str, ...]:
    """The hub ids whose shape is known without any file."""
    return tuple(_CONFIGS)


def find_shape(model: str) -> ModelShape:
    """The shape of a schedule's ``model``: pocket, a folder, or a hub id whose config.json is in
    the hub's cache or whose shape is well known.

    Raises ``InputError`` for others.
    """
    folder = POCKET_BASE if model == "pocket" else Path(model).expanduser()
    if folder.is_dir():
        file = folder / "config.json"
        if not file.is_file():
            raise InputError("not a model folder: config.json is missing", path=folder)
        return _read(file)
    try:
        cached = try_to_load_from_cache(model, "config.json")
    except HFValidationError as error:
        raise InputError(
            "no such model folder", path=model, expected="a folder with config.json, or a hub id"
        ) from error
    if isinstance(cached, str):
        return _read(Path(cached))
    for ending in ("", *_VARIANTS):
        config = _CONFIGS.get(model.removesuffix(ending))
        if config is not None:
            return shape_of(config, model)
    raise InputError(
        "the shape of this model is not known here",
        path=model,
        expected="a folder with its config.json, or that file in the hub's cache "
        f"(hf download {model} config.json)",
        nearest=nearest(model, _CONFIGS),
    )


def _read(file: Path) -> ModelShape:
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # a number of too many digits; brackets
        raise InputError("not JSON", path=file) from error
    except OSError as error:
        raise InputError("this file cannot be read", path=file) from error
    if not isinstance(config, dict):
        raise InputError("not a model's configuration", path=file, expected="a JSON object")
    return shape_of(config, file)
