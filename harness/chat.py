"""Messages and conversations, rendered through the tokenizer's own chat template."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation."""

    role: Role
    content: str

    def to_dict(self) -> dict[str, str]:
        return {"role": self.role, "content": self.content}


Conversation = tuple[Message, ...]


def system(content: str) -> Message:
    return Message("system", content)


def user(content: str) -> Message:
    return Message("user", content)


def assistant(content: str) -> Message:
    return Message("assistant", content)


class MissingChatTemplateError(ValueError):
    """The tokenizer has no chat template and none was given."""


def render(
    tokenizer: PreTrainedTokenizerBase, messages: Sequence[Message], *, reply_next: bool
) -> list[int]:
    """Token ids of a conversation, special tokens included.

    ``reply_next`` appends the header after which the assistant's reply starts: true for asking,
    false for scoring a finished conversation. Raises ``MissingChatTemplateError`` without a
    template, because any format we guessed would silently change every score.
    """
    if not tokenizer.chat_template:
        raise MissingChatTemplateError(
            f"the tokenizer of {tokenizer.name_or_path!r} has no chat template; "
            "give one with --chat-template FILE (a Jinja template)"
        )
    ids = tokenizer.apply_chat_template(
        [message.to_dict() for message in messages],
        add_generation_prompt=reply_next,
        tokenize=True,
        return_dict=False,
    )
    return [int(token) for token in ids]  # type: ignore[arg-type]  # one conversation: a flat list


class Prompts:
    """A tokenizer's prompts of conversations in which nobody has replied yet, each rendered once:
    what eval sets ask is asked of every checkpoint anew. What a reply is part of hardly comes
    again, and is rendered each time.

    With another template or other tokens in the tokenizer all of them are rendered anew, and always
    by a template that asks for the time.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._rendered_with: Any = None
        self._known: dict[Conversation, tuple[int, ...]] = {}

    def __call__(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """As ``render``, with the header of the assistant's next reply."""
        asked = tuple(messages)
        template = self.tokenizer.chat_template
        timed = "strftime_now" in str(template)
        if timed or any(message.role == "assistant" for message in asked):
            return tuple(render(self.tokenizer, asked, reply_next=True))
        now = (template, len(self.tokenizer))
        if self._rendered_with != now:
            self._rendered_with, self._known = now, {}
        found = self._known.get(asked)
        if found is None:
            found = self._known[asked] = tuple(render(self.tokenizer, asked, reply_next=True))
        return found


def up_to_end(ids: Sequence[int], eos: Sequence[int]) -> list[int]:
    """The ids without what a template adds after the last end token (ChatML's newline), which no
    model ever generates. Ids without an end token are returned whole."""
    for position in range(len(ids) - 1, -1, -1):
        if ids[position] in eos:
            return list(ids[: position + 1])
    return list(ids)
