"""Bytes of the tensors that training and generating hold, as functions of the model's shape.

Weights, adapters, optimiser and key-value cache are exact. Activations follow Korthikanti et al.
2022 (arXiv 2205.05198, section 4.1), who add up, layer by layer, what the backward needs of the
forward; redone here for a frozen base with float32 LoRA adapters (peft), grouped-query attention by
a fused kernel, SwiGLU or GELU, and transformers' own norms. A frozen linear layer keeps nothing for
its own gradient, but each adapter keeps its input in float32, which is most of what there is.

Symbols: T tokens of a forward pass (rows · length), h hidden, f the MLP's width, a heads of width
d, k key-value heads, r the adapter's rank, c bytes a number of the type that is computed in (2, 4).

Per layer and token, a Llama with adapters everywhere keeps (c = 2; c = 4 shares what is equal)::

    two norms       8h + 8        their inputs in float32, and the inverse deviations
    q, k, v         12h           the adapters' inputs, a float32 copy each (c = 4: one, 4h)
    attention       c(2ad + 2kd) + 4a     query, key, value, result, and the softmax's normaliser
    o               4ad           (c = 4: the attention's result itself)
    gate, up        8h            (c = 4: one, 4h)
    SwiGLU          3cf           gate, silu(gate), up
    down            4f            their product
    adapters        4r each       between A and B

Dropout on the adapters' inputs gives each adapter a copy of its own and a mask. A mask of packed
rows is kept by every layer (c · rows · length²), and grouped keys and values are then repeated for
every head. LLM.int8 keeps its inputs where gradient checkpointing cannot drop them.

All of it is tested against what torch really keeps (``tests/trainers/test_memory.py``).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Literal

from harness.errors import InputError, nearest
from trainers.model_shapes import Linear, ModelShape
from trainers.schedule_stages import Lora

Quantization = Literal["none", "int8", "nf4"]
Masking = Literal["none", "packed", "pairs"]

FLOAT32 = 4
_BLOCK, _NESTED_BLOCK = 64, 256  # numbers that share a constant (QLoRA, section 3)
# Of each NF4 layer: its 16 levels, the 256 of its constants, and their mean, all float32.
_NF4_TABLES = FLOAT32 * (16 + 256 + 1)
# trl's loss of SFT never holds all logits, but tiles of so many tokens by so many words.
_TILE_TOKENS, _TILE_WORDS = 4096, 32_768
# As in the learner: tokens, and numbers of the vocabulary's width, at once.
TRUNK_TOKENS, _TRUNK_LOGITS = 2048, 2**26
# Where that kernel is not Triton's but torch's, its backward holds seven float32 copies of a tile
# and a mask: so many bytes a word (measured).
_TILE_COPIES = 29


# ------------------------------------------------------------------------- weights


def weight_bytes(count: int, quantization: Quantization, width: int) -> int:
    """Bytes of one matrix of ``count`` weights, bitsandbytes' constants included (LLM.int8's are
    one a row, see ``base_bytes``). NF4: 4 + 8/64 + 32/(64·256) = 4.127 bits a weight."""
    if quantization == "none":
        return count * width
    if quantization == "int8":
        return count
    blocks = ceil(count / _BLOCK)
    return ceil(count / 2) + blocks + FLOAT32 * ceil(blocks / _NESTED_BLOCK) + _NF4_TABLES


def base_bytes(shape: ModelShape, quantization: Quantization, width: int) -> int:
    """Bytes of the base. Embeddings, norms, biases and the output head are never quantised; they
    are held in the type that is computed in, of ``width`` bytes."""
    layer = 0
    for linear in shape.linears:
        layer += weight_bytes(linear.weights, quantization, width)
        layer += linear.outputs * linear.bias * width
        layer += linear.outputs * FLOAT32 * (quantization == "int8")
    return layer * shape.layers + (shape.embedding_parameters + shape.norm_parameters) * width


def dequantised_bytes(shape: ModelShape, quantization: Quantization, width: int) -> int:
    """The largest matrix as it is computed with, for a moment."""
    if quantization == "none":
        return 0
    return width * max(linear.weights for linear in shape.linears)


def adapted(shape: ModelShape, lora: Lora) -> tuple[Linear, ...]:
    """The linear layers of a layer that get an adapter. ``InputError`` for names that are none."""
    if lora.targets == "all-linear":
        return shape.linears
    names = [linear.name for linear in shape.linears]
    for target in lora.targets:
        if target not in names:
            raise InputError(
                f"{target!r} is not a linear layer of a {shape.family} model",
                field="lora.targets",
                expected=f"all-linear, or some of {', '.join(names)}",
                nearest=nearest(target, names),
            )
    return tuple(linear for linear in shape.linears if linear.name in lora.targets)


def adapter_parameters(shape: ModelShape, lora: Lora) -> int:
    """Weights of one adapter: A (r, inputs) and B (outputs, r) of each adapted layer."""
    wide = sum(linear.inputs + linear.outputs for linear in adapted(shape, lora))
    return shape.layers * lora.r * wide


@dataclass(frozen=True, slots=True)
class Trained:
    """Bytes of weights that are trained in float32 by AdamW."""

    weights: int
    gradients: int
    optimizer: int  # two moments: 8 bytes a weight


def trained(parameters: int, width: int = FLOAT32) -> Trained:
    """What ``parameters`` weights of ``width`` bytes cost in training; the moments are float32."""
    return Trained(parameters * width, parameters * width, parameters * 2 * FLOAT32)


def kv_bytes(shape: ModelShape, rows: int, length: int, width: int) -> int:
    """The key-value cache: keys and values of every layer and key-value head."""
    seen = min(length, shape.window) if shape.window else length
    return 2 * shape.layers * rows * shape.kv_heads * seen * shape.head_dim * width


# ------------------------------------------------------------------------- activations


@dataclass(frozen=True, slots=True)
class Forward:
    """A forward pass: how many tokens, in what arithmetic, through which adapter."""

    rows: int
    length: int
    width: int  # bytes a number: 4 for float32, 2 for bfloat16
    quantization: Quantization
    lora: Lora | None  # None: the base alone
    dropout: float = 0.0
    mask: Masking = "none"
    fused_attention: bool = True  # a kernel that does not hold the scores
    cuda: bool = True

    @property
    def tokens(self) -> int:
        return self.rows * self.length


def kept_for_backward(shape: ModelShape, run: Forward, *, checkpointing: bool = False) -> int:
    """Bytes alive when the backward begins."""
    ends = _norm(shape, run) * run.tokens + _shared(shape, run)
    if checkpointing:
        return shape.layers * _input(shape, run) + int8_inputs(shape, run) + ends
    last = _layer(shape, run, first=False)
    return _layer(shape, run, first=True) + (shape.layers - 1) * last + ends


def computed_again(shape: ModelShape, run: Forward) -> int:
    """Bytes of the layer that a backward with gradient checkpointing is at, beside its input. Those
    that the loss needed are free by then."""
    return _layer(shape, run, first=False) - _input(shape, run)


def int8_inputs(shape: ModelShape, run: Forward) -> int:
    """Inputs that LLM.int8's layers keep on the autograd node, for as long as it lives: out of
    reach of gradient checkpointing, and not freed by the backward."""
    if run.quantization != "int8":
        return 0
    return shape.layers * run.width * sum(width for _, width in _sources(shape)) * run.tokens


def passing(shape: ModelShape, run: Forward, *, backward: bool) -> int:
    """Bytes that come and go within a layer, at their peak, beside what is kept.

    Without a backward that is all there is. The terms are those of the operations alive together
    (an adapter's float32 product, scaled and cast, beside the base's; in the attention, query and
    key before and after the rotation); for a backward, an envelope of what was measured.
    """
    c, h, f, t = run.width, shape.hidden, shape.intermediate, run.tokens
    widest = max(linear.outputs for linear in shape.linears)
    attended = shape.heads * shape.head_dim
    largest = dequantised_bytes(shape, run.quantization, c)
    scores = 0 if run.fused_attention else 2 * FLOAT32 * shape.heads * run.rows * run.length**2
    if backward:
        copied = run.dropout > 0  # the adapters' inputs, before and after dropout
        if c == FLOAT32:
            down = (12 if run.quantization == "int8" and not copied else 8) * f
        else:
            down = (6 if copied else 4) * f + 10 * h
        return t * max(down, 2 * f + 14 * h, 20 * h) + largest + scores
    mlp = (3 if shape.gated else 2) * c * f + 4 * c * h
    if run.lora is not None:
        mlp = (8 + c) * widest + c * f * shape.gated + (8 + 2 * c) * h + FLOAT32 * run.lora.r
    attention = 4 * c * h + 6 * c * attended + scores // t
    mask = 0 if run.mask == "none" else (1 + c) * run.length
    return t * (max(mlp, attention) + mask) + largest


def _sources(shape: ModelShape) -> Iterator[tuple[str, int]]:
    """The tensors that linear layers read, and their widths, each once."""
    yield from {linear.source: linear.inputs for linear in shape.linears}.items()


def _input(shape: ModelShape, run: Forward) -> int:
    return run.width * shape.hidden * run.tokens


def _norm(shape: ModelShape, run: Forward) -> int:
    """What a norm keeps, a token: its input (RMSNorm's in float32) and its statistics."""
    if shape.layer_norm:
        return run.width * shape.hidden + 2 * (FLOAT32 if run.cuda else run.width)
    return FLOAT32 * (shape.hidden + 1)


def _layer(shape: ModelShape, run: Forward, *, first: bool) -> int:
    """Bytes that one layer keeps. The first one's input has no gradient: nothing below trains."""
    c, t = run.width, run.tokens
    norms = 2 * _norm(shape, run) - (run.width * shape.hidden if shape.parallel else 0)
    if first:
        norms = 0 if shape.parallel else _norm(shape, run)
    mlp = (3 if shape.gated else 1) * c * shape.intermediate
    each = norms + mlp + _adapter_inputs(shape, run, first=first)
    return each * t + _attention(shape, run)


def _adapter_inputs(shape: ModelShape, run: Forward, *, first: bool) -> int:
    """What the linear layers keep of their inputs, a token."""
    chosen = adapted(shape, run.lora) if run.lora is not None else ()
    total = FLOAT32 * (run.lora.r if run.lora is not None else 0) * len(chosen)
    for source, width in _sources(shape):
        readers = sum(linear.source == source for linear in chosen)
        # The attention's result is kept anyway, where no copy in another layout is made of it.
        known = source == "attended" and not (shape.layer_norm and not run.cuda)
        frozen = first and source == "normed"
        if run.dropout > 0:
            mask = 0 if frozen else (1 if run.cuda else FLOAT32)
            total += readers * width * (FLOAT32 + mask)
        elif run.width == FLOAT32:
            total += 0 if known or not readers else FLOAT32 * width
        else:
            total += readers * FLOAT32 * width
        shared = run.width == FLOAT32 and readers > 0 and run.dropout == 0
        if run.quantization == "int8" and not frozen and not known and not shared:
            total += run.width * width
    return total


def _attention(shape: ModelShape, run: Forward) -> int:
    """What attention keeps: query, key, value, result, normaliser; the mask; unfused, the scores
    (and all of it in float32)."""
    groups = shape.heads // shape.kv_heads
    grouped = groups > 1 and run.mask == "none" and run.fused_attention
    kv_heads = shape.kv_heads if grouped else shape.heads
    width = run.width if run.fused_attention else FLOAT32
    fused_qkv = any(linear.outputs == 3 * shape.hidden for linear in shape.linears)
    values = 3 * shape.heads if fused_qkv else kv_heads  # a view keeps the whole product
    numbers = shape.head_dim * (2 * shape.heads + kv_heads + values)
    total = (width * numbers + FLOAT32 * shape.heads) * run.tokens
    if shape.qk_norm:
        heads = shape.heads + shape.kv_heads
        total += FLOAT32 * heads * (shape.head_dim + 1) * run.tokens
    if run.mask == "packed":
        total += run.width * run.rows * run.length**2
    if not run.fused_attention:
        total += FLOAT32 * shape.heads * run.rows * run.length**2
    return total


def _shared(shape: ModelShape, run: Forward) -> int:
    """What all layers share: the rotation's angles, and the masks as they are made."""
    rows = 1 if run.mask == "none" else run.rows
    angles = 2 * run.width * shape.head_dim * rows * run.length
    square = run.rows * run.length**2
    return angles + {"none": 0, "packed": 1, "pairs": run.width + 1}[run.mask] * square


# ------------------------------------------------- activations of layers that are written out


def trunk_kept(
    shape: ModelShape,
    tokens: int,
    asked: int,
    *,
    together: int = TRUNK_TOKENS,
    checkpointing: bool = False,
) -> int:
    """As ``kept_for_backward``, by ``harness/engines/trunk.py``: of each layer the two norms'
    results and scales, queries, keys and values, what the heads read, gate, up and their product,
    of the last one behind its keys and values only what is ``asked``; with gradient checkpointing
    the layers' inputs, and one layer's part computed again, of so many tokens that go through all
    layers ``together``. float32."""
    attended, pairs = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    first = shape.hidden + 1 + attended + 2 * pairs
    second = shape.hidden + 1 + attended + 3 * shape.intermediate
    if checkpointing:
        again = min(tokens, together) * (first + second)
        numbers = shape.layers * tokens * shape.hidden + again
    else:
        numbers = shape.layers * tokens * first
        numbers += ((shape.layers - 1) * tokens + min(asked, tokens)) * second
    return FLOAT32 * numbers


def trunk_passing(shape: ModelShape, tokens: int) -> int:
    """As ``passing``, by the same: a layer's tensors, or their gradients, of tokens that go through
    all layers together."""
    attended, pairs = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    each = 4 * shape.hidden + 2 * (attended + pairs) + 3 * shape.intermediate
    return FLOAT32 * tokens * each


# ------------------------------------------------------------------------- logits


def logits_bytes(words: int, tokens: int, width: int) -> int:
    """Logits from which log-probabilities and entropies are made: as computed, then in float32 as
    log-probabilities, as probabilities, and the two multiplied."""
    return tokens * words * (width + 3 * FLOAT32)


def read_logits_bytes(words: int, tokens: int) -> int:
    """Logits from which log-probabilities are made without gradients: in float32 as they are,
    divided by the temperature, and normalised."""
    return tokens * words * 3 * FLOAT32


def tiled_loss_bytes(shape: ModelShape, tokens: int, width: int, *, cuda: bool) -> int:
    """trl's tiled cross-entropy: a tile (as wide as its buffer, however few words there are), the
    hidden states in which there is loss, and their gradient in float32."""
    rows = min(tokens, _TILE_TOKENS)
    used = min(shape.vocabulary, _TILE_WORDS)
    copies = 0 if cuda else _TILE_COPIES
    tile = rows * (_TILE_WORDS * width + used * copies)
    return tile + tokens * shape.hidden * (width + FLOAT32)


def trunk_loss_bytes(shape: ModelShape, labels: int) -> int:
    """Logits at so many labels, and the probabilities made of them, at most so many at once; and
    their hidden states with gradients."""
    at_once = min(labels, max(1, _TRUNK_LOGITS // shape.vocabulary))
    return FLOAT32 * (2 * at_once * shape.vocabulary + 3 * labels * shape.hidden)


def cross_entropy_bytes(words: int, tokens: int) -> int:
    """Whole logits and their cross-entropy in float32, with its gradient: three numbers a word."""
    return tokens * words * 3 * FLOAT32


def choosing_bytes(words: int, rows: int, width: int) -> int:
    """Logits of one step of sampling: as computed, scaled, softmax, cumulative sum in float64."""
    return rows * words * (width + 2 * FLOAT32 + 8)
