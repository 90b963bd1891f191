"""The formats of preference pairs, and of prompts: how one JSON object becomes rows."""

from __future__ import annotations

import re
import reprlib
from collections import Counter
from typing import cast

from harness.chat import Conversation, Message, Role
from trainers.data_fields import (
    Notes,
    Row,
    RowError,
    category,
    check_encodable,
    check_turns,
    flag,
    kind_of,
    message,
    optional_flag,
    parts,
    prompt,
    text,
)
from trainers.data_rows import RATINGS, Pair, Prompt, Rating

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")
_JOINED, _EMPTY = "turns of one speaker joined", "empty replies"


def is_transcript(value: object) -> bool:
    r"""Whether a text begins as hh-rlhf's do: ``\n\nHuman:``."""
    return isinstance(value, str) and value.startswith("\n\nHuman:")


def transcript(row: Row, field: str, notes: Notes) -> Conversation:
    r"""hh-rlhf's form: ``\n\nHuman: … \n\nAssistant: …``, ending with the assistant.

    Two things occur in the published files and are kept, and counted in ``notes``: two turns of
    one speaker in a row (joined by a blank line, as chat templates want roles to alternate), and
    a last reply that is empty (the rater preferred silence, or did not).
    """
    whole = text(row, field)
    pieces = _SPEAKER.split(whole)
    if pieces[0].strip():
        raise RowError(field, f"starts with {pieces[0][:40]!r}", "'\\n\\nHuman:' first")
    messages: list[Message] = []
    for speaker, said in zip(pieces[1::2], pieces[2::2], strict=True):
        role: Role = "user" if speaker == "Human" else "assistant"
        if messages and messages[-1].role == role:
            joined = f"{messages[-1].content}\n\n{said.strip()}"
            messages[-1] = Message(role, joined)
            notes[_JOINED] += 1
        else:
            messages.append(Message(role, said.strip()))
    check_turns(tuple(messages), field, last="assistant")
    for place, turn in enumerate(messages[:-1]):
        if not turn.content:
            raise RowError(field, f"turn {place + 1} is empty", "some text")
    if not messages[-1].content:
        notes[_EMPTY] += 1
    return tuple(messages)


def transcripts(row: Row, notes: Notes, seed: int) -> list[Pair]:
    """{chosen, rejected}, whole transcripts; or what follows a ``prompt`` that is one's start."""
    if "prompt" in row:
        start = text(row, "prompt")
        row = {**row, **{f: start + text(row, f, empty=True) for f in ("chosen", "rejected")}}
    oddities: Notes = Counter()
    chosen, rejected = transcript(row, "chosen", oddities), transcript(row, "rejected", oddities)
    notes.update(dict.fromkeys(oddities, 1))  # rows, not occurrences
    return [_of_conversations(row, chosen, rejected)]


def message_pair(row: Row, notes: Notes, seed: int) -> list[Pair]:
    """{chosen: [messages], rejected: [messages]}, whole or, with a ``prompt``, replies.

    Some published files have the whole conversation and, once more, its prompt beside it: that is
    read as the whole, if the two agree.
    """
    shape = "{role, content}"
    sides = [
        tuple(message(item, at) for at, item in parts(row, field, shape))
        for field in ("chosen", "rejected")
    ]
    if "prompt" in row:
        asked = prompt(row)
        whole = sides[0][0].role != "assistant"
        for field, side in zip(("chosen", "rejected"), sides, strict=True):
            begins = side[: len(asked)] == asked or (len(asked) == 1 and asked[0] in side[:2])
            if whole and not begins:
                raise RowError(field, "does not begin with `prompt`", "its messages, or replies")
        if not whole:
            sides = [(*asked, *side) for side in sides]
    for field, side in zip(("chosen", "rejected"), sides, strict=True):
        check_turns(side, field, last="assistant")
    return [_of_conversations(row, *sides)]


def prompt_pair(row: Row, notes: Notes, seed: int) -> list[Pair]:
    """{prompt, chosen, rejected, rating?}, the replies being text."""
    if is_transcript(row.get("prompt")):
        raise RowError("prompt", "is a transcript (\\n\\nHuman: …)", "a prompt as in earlier rows")
    return [_pair(row, prompt(row), text(row, "chosen"), text(row, "rejected"))]


def _of_conversations(row: Row, chosen: Conversation, rejected: Conversation) -> Pair:
    if chosen[:-1] != rejected[:-1]:
        raise RowError(
            "rejected", "answers another prompt than `chosen`", "one prompt, two replies"
        )
    return _pair(row, chosen[:-1], chosen[-1].content, rejected[-1].content)


def _pair(row: Row, asked: Conversation, chosen: str, rejected: str) -> Pair:
    rating = row.get("rating")
    if rating in (None, ""):
        rating = None
    elif rating not in RATINGS:
        raise RowError("rating", f"is {reprlib.repr(rating)}", " | ".join(RATINGS))
    return Pair(
        prompt=asked,
        chosen=chosen,
        rejected=rejected,
        rating=cast("Rating | None", rating),
        chosen_safe=optional_flag(row, "chosen_safe"),
        rejected_safe=optional_flag(row, "rejected_safe"),
        category=category(row),
    )


def prompt_row(row: Row, notes: Notes, seed: int) -> list[Prompt]:
    """{prompt | messages, safety, id?, category?}."""
    field = "messages" if "messages" in row else "prompt"
    if "prompt" in row and "messages" in row:
        raise RowError("prompt", "stands beside `messages`", "one of the two")
    identity = "" if row.get("id") is None else row["id"]
    if isinstance(identity, bool) or not isinstance(identity, str | int):
        raise RowError("id", f"is {kind_of(identity)}", "a string or a whole number")
    check_encodable(str(identity), "id")
    return [Prompt(str(identity), prompt(row, field), flag(row, "safety"), category(row))]
