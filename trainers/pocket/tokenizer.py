"""A byte-level BPE tokenizer with the pocket vocabulary; it encodes any text without loss."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

VOCABULARY = 1280
PAD, BEGIN, SYSTEM, USER, ASSISTANT, END = (
    "<|pad|>", "<|begin|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>",
)  # fmt: skip
SPECIALS = (PAD, BEGIN, SYSTEM, USER, ASSISTANT, END)
MAX_LENGTH = 512

# Each message ends with <|end|>, which is the eos; so a rendered finished conversation equals the
# rendered prompt, the reply's tokens and eos, token by token.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] + eos_token }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Learn the merges from these texts. Same texts, same tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT],
        model_max_length=MAX_LENGTH,
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def load(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved beside a base."""
    return PreTrainedTokenizerFast.from_pretrained(folder)


def document_text(document: str | list[tuple[str, str]]) -> str:
    """A corpus document with its special tokens: a chat as the template renders it, or prose."""
    if isinstance(document, str):
        return f"{BEGIN}{document}{END}"
    return BEGIN + "".join(f"<|{role}|>{text}{END}" for role, text in document)


def plain_text(document: str | list[tuple[str, str]]) -> str:
    """A document without special tokens, for learning the merges."""
    return document if isinstance(document, str) else "\n".join(text for _, text in document)
