"""What to load, loading it, and a fingerprint of what was loaded."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import bitsandbytes as bnb
import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError
from jinja2 import TemplateError
from peft import PeftModel
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from harness.adapters import activate, hash_file, load_adapter
from harness.chat import render, user
from harness.errors import InputError, IntegrityError, nearest

Quantization = Literal["none", "int8", "nf4"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
# Tokens of one forward without gradients, padding included. Enough to keep a GPU busy, and under
# 1 GiB of activations at the width of Llama 2 7B. Larger forwards are padded more, and leave a
# CPU's cache: the pocket base scores 128 conversations 1.6 times as fast in parts of 32.
TOKENS_AT_ONCE = 4096
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.jinja", "*.model", "*.txt"]


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A base model, optionally with one adapter, and how it is to be held in memory."""

    base: str  # a local folder or a hub id
    adapter: Path | None = None
    quantization: Quantization = "none"
    dtype: Dtype = "auto"  # auto: bfloat16 on a GPU that has it, else float32
    device: str = "auto"  # auto: the current GPU if there is one, else the CPU
    chat_template: str | None = None  # Jinja text instead of the tokenizer's own
    trust_remote_code: bool = False
    revision: str | None = None


@dataclass(slots=True)
class LoadedModel:
    """A model in eval mode with nothing trainable, and what identifies its base's content."""

    model: PreTrainedModel | PeftModel
    tokenizer: PreTrainedTokenizerBase
    spec: ModelSpec
    parts: Mapping[str, str]  # of the base; see ``content_parts``

    @property
    def base_fingerprint(self) -> str:
        return fingerprint(self.parts)

    def identity(self) -> dict[str, str]:
        """All parts, the adapter's among them: what a reply of this model depends on."""
        if self.spec.adapter is None:
            return dict(self.parts)
        return {**self.parts, "adapter": hash_file(self.spec.adapter)}


def load(spec: ModelSpec) -> LoadedModel:
    """Load the model and its tokenizer.

    Raises ``InputError`` for what is not there or not a causal language model, and
    ``IntegrityError`` for weights that are damaged or do not cover the model (transformers would
    fill the gaps with random numbers and a warning).
    """
    folder = _resolve(spec)
    _check_folder(folder)
    tokenizer = load_tokenizer(folder, spec)
    dtype, device = torch_dtype(spec), torch_device(spec)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype,
            device_map={"": device},
            quantization_config=quantization_config(spec),
            trust_remote_code=spec.trust_remote_code,
            output_loading_info=True,
        )
        model, info = loaded
    except SafetensorError as error:
        raise IntegrityError(f"{folder}: damaged weights: {error}") from error
    except (OSError, ValueError) as error:
        raise InputError(f"cannot load this model: {error}", path=folder) from error
    missing = sorted(info["missing_keys"]) + sorted(str(k) for k in info["mismatched_keys"])
    if missing:
        raise IntegrityError(
            f"{folder}: the weights do not cover the model: {missing[0]} and {len(missing) - 1} "
            "more are missing or of another shape"
        )
    _check_vocabulary(model, tokenizer, folder)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.requires_grad_(False)
    model.eval()
    if spec.quantization == "nf4":
        keep_nf4_layout(model)
    if spec.adapter is not None:
        model = load_adapter(model, "policy", spec.adapter)
        activate(model, "policy")
    return LoadedModel(model, tokenizer, spec, content_parts(folder, spec, tokenizer))


def load_tokenizer(folder: Path, spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The tokenizer of a base folder, padding on the left, with the template of the spec if any.

    A missing pad token is set to the unknown token, or else to the end token: masks are passed
    everywhere, so no code recognises padding by its id and an end token in a reply stays one.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=spec.trust_remote_code)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"cannot load the tokenizer: {error}", path=folder) from error
    if spec.chat_template is not None:
        tokenizer.chat_template = spec.chat_template
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    tokenizer.padding_side = "left"
    return tokenizer


def quantization_config(spec: ModelSpec) -> BitsAndBytesConfig | None:
    """bitsandbytes' settings: int8, or NF4 with double quantisation (QLoRA, arXiv 2305.14314)."""
    if spec.quantization == "int8":
        # One line a layer and forward otherwise: "inputs will be cast from float32 to float16".
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        return BitsAndBytesConfig(load_in_8bit=True)
    if spec.quantization == "nf4":
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch_dtype(spec),
        )
    return None


def keep_nf4_layout(model: nn.Module) -> None:
    """Keep 4-bit layers in the layout and precision that they are trained in.

    On CPUs with AVX512-BF16, bitsandbytes repacks a layer's weights at its first forward in eval
    mode and from then on computes in bfloat16. Dequantising the repacked weights gives garbage, a
    later backward reads them as if they were not repacked, and the log-probabilities of eval and
    train mode differ by more than PPO's ratio can bear. Call it before the first forward; ``load``
    does.
    """
    for module in model.modules():
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def content_parts(
    folder: Path, spec: ModelSpec, tokenizer: PreTrainedTokenizerBase
) -> dict[str, str]:
    """All that decides the base's logits and prompts, by content: sha256 (hex) or a setting, a
    part each.

    Not the folder's name: a copy has the same parts.
    """
    weights = {path for pattern in _WEIGHTS for path in folder.glob(pattern)}
    if spec.trust_remote_code:
        weights |= set(folder.glob("*.py"))
    named = {
        "weights": {path.name for path in weights},
        "config": {"config.json", "generation_config.json"},
        "tokenizer": {"tokenizer.json", "tokenizer_config.json", "tokenizer.model"}
        | {"special_tokens_map.json", "vocab.json", "merges.txt"},
    }
    parts = {}
    for part, names in named.items():
        digest = hashlib.sha256()
        for path in sorted(folder / name for name in names):
            if path.is_file():
                with path.open("rb") as stream:
                    content = hashlib.file_digest(stream, "sha256").hexdigest()
                digest.update(f"{path.name}\0{content}\n".encode())
        parts[part] = digest.hexdigest()
    template = json.dumps(tokenizer.chat_template, sort_keys=True)
    parts["chat_template"] = hashlib.sha256(template.encode()).hexdigest()
    parts["quantization"] = spec.quantization
    parts["dtype"] = str(torch_dtype(spec))
    return parts


def fingerprint(parts: Mapping[str, str]) -> str:
    """sha256 (hex) of the parts of a model's content."""
    return hashlib.sha256(json.dumps(dict(parts), sort_keys=True).encode()).hexdigest()


def torch_device(spec: ModelSpec) -> torch.device:
    """Where the model is held."""
    if spec.device != "auto":
        return torch.device(spec.device)
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def torch_dtype(spec: ModelSpec) -> torch.dtype:
    """What is computed in, and what unquantised weights are held in."""
    if spec.dtype != "auto":
        dtype: torch.dtype = getattr(torch, spec.dtype)
        return dtype
    if torch_device(spec).type == "cuda" and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def causal_model(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    """The transformers model inside, adapters included (they are layers of it)."""
    # Not ``get_base_model()``, which needs an active adapter: all may have been removed.
    inner: Any = model.base_model.model if isinstance(model, PeftModel) else model
    return inner


def backbone(model: PreTrainedModel | PeftModel) -> nn.Module:
    """The transformer without its language-model head: hidden states for score and value heads."""
    inner: nn.Module = causal_model(model).base_model
    return inner


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Dropout off inside, the model's own mode afterwards; free if it is in eval mode already."""
    training = model.training
    if training:
        model.eval()
    try:
        yield
    finally:
        if training:
            model.train()


def context_length(model: PreTrainedModel | PeftModel) -> int:
    """Tokens that the model reads at most; 2³¹ where its configuration names no limit."""
    config = causal_model(model).config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or 2**31)


def hidden_size(model: PreTrainedModel | PeftModel) -> int:
    """Width of the hidden states (of the text part, where there are several)."""
    return int(causal_model(model).config.get_text_config().hidden_size)


@dataclass(frozen=True, slots=True)
class Padded:
    """Sequences padded on the left: tensors of shape (rows, longest), int64."""

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor  # 0 at each row's first real token


def pad_left(
    sequences: Sequence[Sequence[int]], *, pad_id: int, device: torch.device | str = "cpu"
) -> Padded:
    """Pad on the left, so that the last column is every row's last token."""
    longest = max(len(sequence) for sequence in sequences)
    ids = torch.full((len(sequences), longest), pad_id, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        if len(sequence):
            ids[row, longest - len(sequence) :] = torch.tensor(sequence, dtype=torch.int64)
            mask[row, longest - len(sequence) :] = 1
    positions = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    return Padded(ids.to(device), mask.to(device), positions.to(device))


def last_hidden(model: PreTrainedModel | PeftModel, batch: Padded) -> Tensor:
    """Hidden states (rows, longest, hidden) of the active adapter; differentiable."""
    states: Tensor = backbone(model)(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask,
        position_ids=batch.position_ids,
        use_cache=False,
    ).last_hidden_state
    return states


def length_sorted_batches(
    lengths: Sequence[int], size: int | None = None, *, tokens: int | None = None
) -> Iterator[list[int]]:
    """Indices in batches of at most ``size`` rows and ``tokens`` tokens, padding included (a longer
    row has a batch to itself), longest first: padding is small, and a batch too large for memory
    fails at once, not at the end."""
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    start = 0
    while start < len(order):
        rows = len(order) if size is None else size
        if tokens is not None:
            rows = min(rows, max(1, tokens // max(1, lengths[order[start]])))
        yield order[start : start + rows]
        start += rows


def _resolve(spec: ModelSpec) -> Path:
    """The local folder of the base; a hub id is downloaded (or found in the cache)."""
    folder = Path(spec.base).expanduser()
    if folder.exists():
        return folder
    looks_like_path = spec.base.count("/") != 1 or spec.base.startswith((".", "/", "~"))
    if looks_like_path or folder.parent.is_dir():
        siblings = [p.name for p in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise InputError(
            "no such model folder",
            path=spec.base,
            expected="a folder with config.json and weights, or a hub id such as org/name",
            nearest=nearest(folder.name, siblings),
        )
    patterns = _HUB_FILES + (["*.py"] if spec.trust_remote_code else [])
    try:
        found = _download(spec, patterns)
        return found if any(found.glob("*.safetensors")) else _download(spec, [*patterns, "*.bin"])
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise InputError(
            f"neither a local folder nor reachable on the hub: {error}", path=spec.base
        ) from error


def _download(spec: ModelSpec, patterns: list[str]) -> Path:
    """The top level of a hub repository (subfolders hold other formats' copies)."""
    return Path(
        snapshot_download(
            spec.base, revision=spec.revision, allow_patterns=patterns, ignore_patterns=["*/*"]
        )
    )


def _check_vocabulary(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path
) -> None:
    """``InputError`` where the tokenizer makes tokens of which the model has no embedding: those of
    ordinary text, those that end and pad it, or the chat template's. Others that were added (one of
    Gemma 3's stands for an image) do no harm."""
    embeddings: Any = model.get_input_embeddings()
    rows = len(embeddings.weight)
    known = [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    used = [token for token in known if token is not None]
    if tokenizer.chat_template:
        # A template of its own taste may refuse this; those that are asked for will tell.
        with suppress(TemplateError):
            used += render(tokenizer, (user("Hello"),), reply_next=True)
    beyond = max([tokenizer.vocab_size - 1, *used])
    if beyond >= rows:
        raise InputError(
            f"the tokenizer has a token {beyond} ({tokenizer.convert_ids_to_tokens(beyond)}), "
            f"but the model knows {rows} tokens only",
            path=folder,
            expected="the model's own tokenizer, or a model resized for this one",
        )


def _check_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise InputError("not a folder", path=folder, expected="a folder with config.json")
    if not (folder / "config.json").is_file():
        hint = " (it holds an adapter: give its base too)" if list(folder.glob("adapter_*")) else ""
        raise InputError(f"not a model folder: config.json is missing{hint}", path=folder)
    if not any(any(folder.glob(pattern)) for pattern in _WEIGHTS):
        raise InputError("no weights: no *.safetensors file here", path=folder)
