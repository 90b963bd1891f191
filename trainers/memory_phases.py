"""A moment of training, generating or scoring, as bytes by part: what ``memory.py`` is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from harness.engines.config import EngineConfig
from trainers.devices import Device
from trainers.model_shapes import ModelShape, find_shape
from trainers.schedule import Schedule
from trainers.schedule_stages import POLICY_KINDS, Lora, RewardStage
from trainers.tensor_bytes import (
    FLOAT32,
    TRUNK_TOKENS,
    Forward,
    Masking,
    adapter_parameters,
    base_bytes,
    choosing_bytes,
    computed_again,
    kept_for_backward,
    kv_bytes,
    passing,
    trained,
    trunk_kept,
    trunk_loss_bytes,
    trunk_passing,
)

PARTS = (
    "base",
    "judge",
    "adapters",
    "heads",
    "gradients",
    "optimizer",
    "activations",
    "logits",
    "kv_cache",
    "reserve",
)
# As in the engine: weights up to which a CPU folds adapters in; tokens, and prompts, of one forward
# without gradients; slots of a cache's room, at least so many and this share of those in use.
FOLDED_BYTES = 128 * 2**20
KEPT_BYTES = 512 * 2**20  # of layers that are held a second time, to be multiplied by
MEMBERS_BYTES = 128 * 2**20  # of reward members' such weights, which are kept
TOKENS_AT_ONCE = 4096
PROMPTS_AT_ONCE = 64
LEAST_ROOM, ROOM_SHARE = 16, 1 / 8
# The allocator's rounding and fragmentation, as a share of what comes and goes.
_FRAGMENTATION = 0.05


@dataclass(frozen=True, slots=True)
class Phase:
    """A moment of a stage, and the bytes in memory then, by part (``PARTS``)."""

    name: str
    parts: Mapping[str, int]

    @property
    def bytes(self) -> int:
        return sum(self.parts.values())


def number_width(schedule: Schedule, device: Device) -> int:
    """Bytes of the type that is computed in, as ``harness.models`` chooses it."""
    if schedule.dtype == "auto":
        return 2 if device.cuda else FLOAT32
    return {"float32": FLOAT32, "bfloat16": 2}[schedule.dtype]


def policy_lora(schedule: Schedule, at: int) -> Lora:
    """The policy's adapter in the stage at ``at``: as the first policy stage made it."""
    for stage in schedule.stages[: at + 1]:
        if not isinstance(stage, RewardStage):
            return stage.lora
    stage = schedule.stages[at]
    return (stage.lora if isinstance(stage, RewardStage) else None) or Lora()


class PhaseMaker:
    """Makes the phases of one stage. ``updated`` adapters have gradients and AdamW's moments."""

    def __init__(
        self, schedule: Schedule, shape: ModelShape, device: Device, at: int, prompt_tokens: int
    ) -> None:
        self.schedule = schedule
        self.shape = shape
        self.device = device
        self.width = number_width(schedule, device)
        self.prompt = min(prompt_tokens, shape.positions - 1)
        self.lora = policy_lora(schedule, at)
        kinds = [stage.kind for stage in schedule.stages[: at + 1]]
        config = schedule.evaluate.judge
        self.judge: ModelShape | None = None
        # A local judge is loaded for the first evaluation (of the untrained policy), and stays.
        if config is not None and config.base_url is None and POLICY_KINDS.intersection(kinds):
            self.judge = find_shape(config.model)
        self._adapter = adapter_parameters(shape, self.lora)
        self._head = shape.hidden + 1

    def length(self, new_tokens: int) -> int:
        """Tokens of a prompt with its reply."""
        return min(self.prompt + new_tokens, self.shape.positions)

    def forward(
        self, rows: int, length: int, *, mask: Masking = "none", dropout: float = 0.0
    ) -> Forward:
        """A pass through the base and one adapter."""
        return Forward(
            rows=rows,
            length=length,
            width=self.width,
            quantization=self.schedule.quantization,
            lora=self.lora,
            dropout=dropout,
            mask=mask,
            fused_attention=self.device.fused_bfloat16 or self.width == FLOAT32,
            cuda=self.device.cuda,
        )

    def read(self, length: int, rows: int = TOKENS_AT_ONCE, *, mask: Masking = "none") -> Forward:
        """A pass without gradients over as many of ``rows`` sequences as are read at once."""
        return self.forward(_rows_read(rows, length), length, mask=mask)

    def generation(
        self,
        name: str,
        rows: int,
        length: int,
        *,
        adapters: int,
        updated: int = 0,
        distinct: int,
        dialogues: int = 0,
        read: int | None = None,
        beside: int = 0,
    ) -> Phase:
        """``rows`` replies side by side, ``beside`` so many bytes. Prompts (of ``read`` tokens, or
        as assumed) are read in parts, equal ones once (``distinct``); those of ``dialogues``, whose
        caches of earlier turns take so many bytes, all at once."""
        prompt = min(self.prompt if read is None else read, length)
        if dialogues:
            reading = self.forward(min(distinct, rows), prompt, mask="packed")
        else:
            reading = self.read(prompt, min(distinct, rows, PROMPTS_AT_ONCE), mask="packed")
        return self.replying(
            name,
            reading,
            rows=rows,
            length=length,
            adapters=adapters,
            updated=updated,
            beside=self._folded() + beside,
            dialogues=dialogues,
        )

    def replying(
        self,
        name: str,
        reading: Forward,
        *,
        rows: int,
        length: int,
        adapters: int,
        updated: int = 0,
        beside: int = 0,
        dialogues: int = 0,
        of: ModelShape | None = None,
    ) -> Phase:
        """``rows`` replies by an engine that reads prompts by forwards like ``reading``, up to
        ``length`` tokens in all: the moment that needs more, reading the last of the prompts, or
        the last token, when the cache is full. It grows, or is copied, a layer at a time."""
        shape, width = of or self.shape, reading.width
        room = max(LEAST_ROOM, int(reading.length * ROOM_SHARE))
        filled = kv_bytes(shape, rows, min(reading.length + room, length), width)
        full = kv_bytes(shape, rows, length, width)
        layer = full // shape.layers * (shape.heads // shape.kv_heads)  # repeated for every head
        scores = 0 if reading.fused_attention else 2 * FLOAT32 * shape.heads * rows * length
        moments = (
            (reading, beside, filled),
            (replace(reading, rows=rows, length=1), beside + layer + scores, full),
        )
        phases = [
            self.phase(
                name,
                adapters=adapters,
                updated=updated,
                heads=1 if updated else 0,
                run=run,
                of=of,
                beside=extra,
                logits=choosing_bytes(shape.vocabulary, rows, width),
                kv_cache=cache + dialogues,
            )
            for run, extra, cache in moments
        ]
        return max(phases, key=lambda phase: phase.bytes)

    def scoring(
        self,
        name: str,
        rows: int,
        length: int,
        *,
        adapters: int,
        members: int,
        updated: int = 0,
        beside: int = 0,
    ) -> Phase:
        """``rows`` whole conversations read in parts, by a member after the other; ``beside`` so
        many bytes."""
        return self.phase(
            name,
            adapters=adapters + members,
            updated=updated,
            heads=members + bool(updated),
            run=self.read(length, rows),
            beside=max(self._folded(), self.laid_out(members=members)) + beside,
        )

    def laid_out(self, *, members: int = 0, others: int = 0) -> int:
        """Weights of a small model on a CPU with adapters added, as its products want them: of
        reward members, of which so many are kept as ``MEMBERS_BYTES`` allow, and of others."""
        each = 0 if self.schedule.quantization == "int8" else self._folded()
        return each * (min(members, MEMBERS_BYTES // max(1, each)) + others)

    def written_out(self, dropout: float = 0.0) -> bool:
        """Whether adapters are trained by layers that are written out: float32 Llamas on a CPU,
        where nothing is dropped."""
        return (
            not self.device.cuda
            and self.width == FLOAT32
            and self.schedule.quantization != "int8"
            and self.shape.family == "llama"
            and dropout == 0
        )

    def learning(self, adapters: int = 1, *, dropout: float = 0.0) -> int:
        """What such layers hold for themselves of so many adapters: weights laid out for the
        forward and the backward; of a base that is larger than that, a copy."""
        if not self.written_out(dropout):
            return 0
        if self._folded():
            return self.laid_out(others=2 * adapters)
        layers = self._float32_layers()
        return layers if layers <= KEPT_BYTES else 0

    def loss(self, labels: int, otherwise: int, *, dropout: float = 0.0) -> int:
        """Logits at so many labels of a forward by such layers; ``otherwise``: of one by others."""
        written_out = self.written_out(dropout)
        return trunk_loss_bytes(self.shape, labels) if written_out else otherwise

    def judging(self, name: str, length: int, *, adapters: int, updated: int = 0) -> Phase:
        """A local judge reads conversations of ``length`` tokens and answers."""
        config, shape = self.schedule.evaluate.judge, self.judge
        assert config is not None
        assert shape is not None
        return self.other(
            name,
            shape,
            config,
            prompt=length,
            new_tokens=config.max_new_tokens,
            adapters=adapters,
            updated=updated,
        )

    def other(
        self,
        name: str,
        shape: ModelShape,
        engine: EngineConfig,
        *,
        prompt: int,
        new_tokens: int,
        adapters: int,
        updated: int = 0,
        lora: Lora | None = None,
    ) -> Phase:
        """Another model replies to prompts of ``prompt`` tokens beside the base; its weights, and
        those of its adapter (``lora``), apart."""
        prompt = min(prompt, shape.positions - 1)
        reading = Forward(
            rows=_rows_read(min(engine.batch, PROMPTS_AT_ONCE), prompt),
            length=prompt,
            width=2 if self.device.cuda else FLOAT32,
            quantization=engine.quantization,
            lora=lora,
            mask="packed",
            fused_attention=self.device.fused_bfloat16 or not self.device.cuda,
            cuda=self.device.cuda,
        )
        return self.replying(
            name,
            reading,
            rows=engine.batch,
            length=min(prompt + new_tokens, shape.positions),
            adapters=adapters,
            updated=updated,
            of=shape,
        )

    def phase(
        self,
        name: str,
        *,
        adapters: int,
        updated: int = 0,
        heads: int = 0,
        run: Forward,
        of: ModelShape | None = None,
        backward: bool = False,
        checkpointing: bool = False,
        asked: int | None = None,
        uncut: int = 0,
        beside: int = 0,
        logits: int = 0,
        kv_cache: int = 0,
    ) -> Phase:
        """``run`` through the base (or ``of``), with ``beside`` more bytes of activations.
        ``asked``: places whose last hidden states are wanted; None: all. ``uncut``: tokens of a
        pair; layers that are written out take its sides together.

        Logits come and go after the layers' forward and before their backward: what passes within
        a layer takes memory beyond them only.
        """
        shape = of or self.shape
        kept = beside
        if of is None and self.written_out(run.dropout if backward else 0.0):
            # Prompts are read whole, into the cache.
            together = run.tokens if kv_cache else max(TRUNK_TOKENS, run.length, uncut)
            within = trunk_passing(shape, min(run.tokens, together))
            if backward:
                places = run.tokens if asked is None else asked
                kept += trunk_kept(
                    shape, run.tokens, places, together=together, checkpointing=checkpointing
                )
        else:
            within = passing(shape, run, backward=backward)
            if backward:
                kept += kept_for_backward(shape, run, checkpointing=checkpointing)
                within += computed_again(shape, run) if checkpointing else 0
        learnt = trained(self._adapter * updated + self._head * (heads > 0 and updated > 0))
        parts = {
            "base": base_bytes(self.shape, self.schedule.quantization, self.width),
            "judge": self._judge_bytes(),
            "adapters": FLOAT32 * self._adapter * adapters,
            "heads": FLOAT32 * self._head * heads,
            "gradients": learnt.gradients,
            "optimizer": learnt.optimizer,
            "activations": kept + max(0, within - logits),
            "logits": logits,
            "kv_cache": kv_cache,
        }
        moving = parts["activations"] + parts["logits"] + parts["kv_cache"]
        parts["reserve"] = self.device.process_bytes + round(_FRAGMENTATION * moving)
        return Phase(name, parts)

    def _judge_bytes(self) -> int:
        config = self.schedule.evaluate.judge
        if config is None or self.judge is None:
            return 0
        return base_bytes(self.judge, config.quantization, 2 if self.device.cuda else FLOAT32)

    def _float32_layers(self) -> int:
        return FLOAT32 * self.shape.layers * sum(x.weights for x in self.shape.linears)

    def _folded(self) -> int:
        """Adapters folded into float32 weights, on small models."""
        folded = self._float32_layers()
        return folded if self.width == FLOAT32 and folded <= FOLDED_BYTES else 0


def _rows_read(rows: int, length: int) -> int:
    return min(rows, max(1, TOKENS_AT_ONCE // length))
