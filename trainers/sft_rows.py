"""Conversations and documents as token ids, and which of their tokens carry loss.

The assistant's tokens up to and including the end token do, found by rendering the conversation
with and without each reply, so that training and asking see the same prompt tokens under any chat
template.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from harness.chat import Conversation, MissingChatTemplateError, up_to_end
from harness.errors import InputError
from trainers.packing import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class Example:
    """Token ids of a conversation and their labels (``IGNORED`` where there is no loss)."""

    input_ids: list[int]
    labels: list[int]


def encode(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    *,
    reply_next: bool = False,
) -> list[list[int]]:
    """``harness.chat.render`` of many conversations in one call of the tokenizer."""
    if not conversations:
        return []
    if not tokenizer.chat_template:
        raise MissingChatTemplateError(f"the tokenizer of {tokenizer.name_or_path!r} has none")
    texts = tokenizer.apply_chat_template(
        [[message.to_dict() for message in messages] for messages in conversations],
        add_generation_prompt=reply_next,
        tokenize=False,
    )
    encoded: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return encoded


def examples(
    tokenizer: PreTrainedTokenizerBase,
    conversations: Sequence[Conversation],
    *,
    loss_on: Literal["all_answers", "last_answer"],
    eos: Sequence[int],
) -> list[Example]:
    """Conversations that end with an assistant's turn, as ids and labels.

    Raises ``InputError`` where the template renders an earlier part of a conversation otherwise
    once it is followed by more (some drop the reasoning of earlier turns): the tokens of an answer
    cannot be told then.
    """
    asks: list[Conversation] = []  # up to a reply
    answered: list[Conversation] = []  # and with it
    owner: list[int] = []
    for number, messages in enumerate(conversations):
        turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
        for turn in turns if loss_on == "all_answers" else turns[-1:]:
            asks.append(messages[:turn])
            answered.append(messages[: turn + 1])
            owner.append(number)
    whole = encode(tokenizer, conversations)
    before = encode(tokenizer, asks, reply_next=True)
    # A reply at the end was rendered with the whole; only earlier ones need a rendering of theirs.
    early = [i for i, n in enumerate(owner) if len(answered[i]) < len(conversations[n])]
    until = [whole[n] for n in owner]
    for index, ids in zip(early, encode(tokenizer, [answered[i] for i in early]), strict=True):
        until[index] = ids
    labels = [[IGNORED] * len(ids) for ids in whole]
    for index, number in enumerate(owner):
        ids, start, stop = whole[number], len(before[index]), len(until[index])
        if ids[:start] != before[index] or ids[:stop] != until[index]:
            raise InputError(
                f"the chat template does not render conversation {number + 1} the same up to "
                f"message {len(asks[index]) + 1} with and without what follows, so the tokens of "
                "that answer cannot be told",
                expected="a template that only ever appends, or loss_on: last_answer",
            )
        stop = start + len(up_to_end(ids[start:stop], eos))
        labels[number][start:stop] = ids[start:stop]
    return [
        Example(ids[: len(up_to_end(ids, eos))], row[: len(up_to_end(ids, eos))])
        for ids, row in zip(whole, labels, strict=True)
    ]


def document_examples(
    tokenizer: PreTrainedTokenizerBase,
    documents: Sequence[str],
    *,
    max_length: int,
    eos: Sequence[int],
) -> list[Example]:
    """Raw text, with loss on every token: what the tokenizer makes of it (with its start token, if
    it adds one) and an end token, cut into pieces of at most ``max_length``. No chat template.

    A later piece begins with the last token of the one before, without loss, so that each token but
    the document's first is predicted once. A ``max_length`` of 1, of which nothing is predicted,
    gives no piece.
    """
    pieces: list[Example] = []
    for ids in tokenizer(list(documents))["input_ids"] if documents else []:
        whole = list(ids) if ids and ids[-1] in eos else [*ids, eos[0]]
        if max_length < 2:
            continue
        for start in range(0, len(whole) - 1, max_length - 1):
            piece = whole[start : start + max_length]
            pieces.append(Example(piece, [IGNORED, *piece[1:]] if start else list(piece)))
    return pieces
