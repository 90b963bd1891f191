"""The pocket base model: a Llama of 1.2M parameters, trained from scratch on the pocket corpus.

``build`` makes it with its tokenizer and eval sets in a few minutes on two threads. Muon (Jordan et
al. 2024) for the matrices and AdamW for embeddings and norms learn the copying that instructions
need sooner than AdamW alone.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainers.pocket import acceptance, corpus, evalsets, tokenizer
from trainers.pocket.world import VERSION, World, make_world

SHIPPED = Path(__file__).parent / "base"
TOKENIZER_DOCUMENTS = 6_000
FIRST_TOKENS = 2_200_000
MORE_TOKENS = 500_000  # each time the acceptance check fails
MAX_TOKENS = 3_700_000
ECHO_DOCUMENTS = 13_000  # at the start, about 500,000 tokens
LENGTH = 256  # tokens a packed sequence
# Copying appears after a number of steps, whatever their size: so small ones first.
EARLY_BATCH, BATCH, EARLY_STEPS = 4, 8, 480
MUON_RATE = 4e-3
ADAM_RATE = 1e-2
WARMUP_STEPS = 30
DECAY_SHARE = 0.5  # of the steps, at the end
TOKENS_PER_DOCUMENT = 30  # fewer than there are, so that enough documents are made

Log = Callable[[str], None]


class NotAcceptedError(RuntimeError):
    """The base failed the acceptance check even after ``MAX_TOKENS`` tokens."""


def new_model(seed: int, tok: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Untrained, float32; 1.2M parameters with tied embeddings."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tok),
        hidden_size=128,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=tokenizer.MAX_LENGTH,
        tie_word_embeddings=True,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
        # Low frequencies would be wasted on 512 positions, and high ones find the previous token.
        rope_parameters={"rope_type": "default", "rope_theta": 500.0},
        initializer_range=0.03,
    )
    return LlamaForCausalLM(config)


def _batches(
    world: World,
    seed: int,
    tok: PreTrainedTokenizerFast,
    tokens: int,
    *,
    early: bool,
    lean: Sequence[str] = (),
) -> list[torch.Tensor]:
    """Packed token batches (sequences, LENGTH) in corpus order, about ``tokens`` tokens in all."""
    documents = corpus.documents(
        world,
        seed,
        tokens // TOKENS_PER_DOCUMENT,
        early=ECHO_DOCUMENTS if early else 0,
        lean=lean,
    )
    rendered = [tokenizer.document_text(document) for document in documents]
    stream: list[int] = []
    for ids in tok(rendered, add_special_tokens=False)["input_ids"]:
        stream += ids
        if len(stream) >= tokens:
            break
    packed = torch.tensor(stream[: len(stream) // LENGTH * LENGTH]).view(-1, LENGTH)
    small = EARLY_BATCH * EARLY_STEPS if early else 0
    parts = ((packed[:small], EARLY_BATCH), (packed[small:], BATCH))
    return [batch for part, size in parts if len(part) for batch in part.split(size)]


def _optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=MUON_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def _train(model: LlamaForCausalLM, batches: list[torch.Tensor], log: Log) -> None:
    """One pass: linear warm-up, constant, linear decay to a twentieth of the rate."""
    optimizers = _optimizers(model)
    rates = [optimizer.param_groups[0]["lr"] for optimizer in optimizers]
    steps, start = len(batches), time.perf_counter()
    model.train()
    for step, batch in enumerate(batches):
        scale = min(1.0, (step + 1) / WARMUP_STEPS, max(0.05, (1 - step / steps) / DECAY_SHARE))
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * scale
        loss = model(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if step % 100 == 0 or step == steps - 1:
            seconds = time.perf_counter() - start
            log(f"step {step + 1}/{steps} loss {loss.item():.3f} {seconds:.0f} s")
    model.eval()


def train_base(
    seed: int, *, tokens: int = FIRST_TOKENS, log: Log = lambda line: None
) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast, dict[str, Any]]:
    """A base that passed the acceptance check, its tokenizer, and the record of its making.

    A base that fails is trained on, with a fresh warm-up, on ``MORE_TOKENS`` new tokens at a time
    that lean towards what it failed in.
    Raises ``NotAcceptedError`` when ``MAX_TOKENS`` are used up.
    """
    world = make_world(seed)
    tok = tokenizer.train(
        tokenizer.plain_text(d) for d in corpus.documents(world, seed, TOKENIZER_DOCUMENTS)
    )
    model, used, part = new_model(seed, tok), 0, tokens
    failed: list[str] = []
    for round_number in range(1 + (MAX_TOKENS - tokens) // MORE_TOKENS):
        batches = _batches(
            world, seed + 1000 * round_number, tok, part, early=not used, lean=failed
        )
        _train(model, batches, log)
        used += part
        _round_to_bf16(model)
        measured = acceptance.measure(model, tok, world)
        failed = acceptance.failures(measured)
        log(f"{used} tokens: {measured}" + (f"; too low: {failed}" if failed else ""))
        if not failed:
            return model, tok, {"tokens": used, "acceptance": measured}
        part = MORE_TOKENS
    raise NotAcceptedError(f"base of world {seed} after {used} tokens: {measured} fails {failed}")


def _round_to_bf16(model: LlamaForCausalLM) -> None:
    """Round the weights as they are shipped, so that what is checked is what is loaded."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())


def save(
    folder: Path,
    model: LlamaForCausalLM,
    tok: PreTrainedTokenizerFast,
    seed: int,
    record: dict[str, Any],
) -> None:
    """Write config, bf16 weights, tokenizer with chat template, world.json and SHA256."""
    folder.mkdir(parents=True, exist_ok=True)
    model.generation_config.pad_token_id = tok.pad_token_id
    model.bfloat16().save_pretrained(folder)
    tok.save_pretrained(folder)
    world = {"seed": seed, "version": VERSION, **record}
    (folder / "world.json").write_text(json.dumps(world, indent=2) + "\n")
    lines = [f"{_sha256(path)}  {path.name}" for path in _hashed_files(folder)]
    (folder / "SHA256").write_text("\n".join(lines) + "\n")


def _hashed_files(folder: Path) -> Iterator[Path]:
    yield from sorted(p for p in folder.iterdir() if p.is_file() and p.name != "SHA256")


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def changed_files(folder: Path = SHIPPED) -> list[str]:
    """Files of a base folder that differ from its SHA256 list, are missing, or are not in it."""
    listed = {}
    for line in (folder / "SHA256").read_text().splitlines():
        digest, name = line.split("  ", 1)
        listed[name] = digest
    present = {path.name: _sha256(path) for path in _hashed_files(folder)}
    return sorted(n for n in listed.keys() | present.keys() if listed.get(n) != present.get(n))


def world_of(folder: Path = SHIPPED) -> World:
    """The world that a base was trained in. Raises ``ValueError`` for another world version."""
    record = json.loads((folder / "world.json").read_text())
    if record["version"] != VERSION:
        raise ValueError(
            f"{folder}: trained in world version {record['version']}, this code makes {VERSION}; "
            "rebuild the base"
        )
    return make_world(int(record["seed"]))


def build(out: Path, seed: int, threads: int = 2, log: Log = lambda line: None) -> dict[str, Any]:
    """Make ``out/base`` and ``out/evalsets/pocket`` for the world of this seed.

    ``threads`` are torch's, for the time of the build; another number of threads may give other
    last bits. Returns what world.json holds. Raises ``NotAcceptedError``.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        model, tok, record = train_base(seed, log=log)
    finally:
        torch.set_num_threads(before)
    save(out / "base", model, tok, seed, record)
    evalsets.write(make_world(seed), out / "evalsets" / "pocket")
    return {"seed": seed, "version": VERSION, **record}
