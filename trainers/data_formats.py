"""Rows of training data, and the public formats they come in.

A format is a function from one JSON object to rows; it raises ``RowError`` naming the field. What a
published file is known to contain although it looks wrong is read and counted (see ``transcript``);
anything else that does not fit is an error, because a row that is skipped in silence changes what
was trained on.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

from harness.chat import Conversation, Message, Role, assistant, user

Rating = Literal["significantly better", "better", "slightly better", "negligibly better"]
RATINGS: tuple[Rating, ...] = get_args(Rating)


@dataclass(frozen=True, slots=True)
class Demonstration:
    """A conversation whose assistant turns are to be imitated; it ends with one."""

    messages: Conversation
    category: str = ""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two replies to one prompt, the better one first."""

    prompt: Conversation
    chosen: str
    rejected: str
    rating: Rating | None = None  # how much better, where the raters said so
    chosen_safe: bool | None = None
    rejected_safe: bool | None = None
    category: str = ""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A conversation that the assistant is to continue."""

    id: str
    messages: Conversation
    safety: bool
    category: str = ""


class RowError(ValueError):
    """This row does not fit its format: ``field``, what is wrong, and what was expected."""

    def __init__(self, field: str, message: str, expected: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.expected = expected


Row = Mapping[str, Any]
Notes = Counter[str]  # oddities that were read all the same -> how many rows


# --------------------------------------------------------------------------- fields


def text(row: Row, field: str, *, empty: bool = False) -> str:
    """A field that is a string, and not blank unless ``empty``."""
    if field not in row:
        raise RowError(field, "missing", f"a string; the row has {', '.join(sorted(row))}")
    value = row[field]
    if not isinstance(value, str):
        raise RowError(field, f"is {_kind(value)}", "a string")
    if not empty and not value.strip():
        raise RowError(field, "is empty", "some text")
    return value


def optional_text(row: Row, field: str) -> str:
    """A field that may be missing, null or empty."""
    return "" if row.get(field) is None else text(row, field, empty=True)


def flag(row: Row, field: str) -> bool:
    """true or false; in a CSV, the words."""
    value = row.get(field)
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in {"true", "false"}:
        return value.strip().lower() == "true"
    raise RowError(field, "missing" if field not in row else f"is {value!r}", "true or false")


def optional_flag(row: Row, field: str) -> bool | None:
    return None if row.get(field) in (None, "") else flag(row, field)


def conversation(row: Row, field: str, *, last: Role) -> Conversation:
    """A list of ``{role, content}``: an optional system message, then user and assistant in turn,
    ending with ``last``."""
    items = row.get(field)
    if not isinstance(items, list) or not items:
        raise RowError(field, f"is {_kind(items)}", "a list of {role, content}")
    messages: list[Message] = []
    for number, item in enumerate(items):
        at = f"{field}[{number}]"
        if not isinstance(item, Mapping):
            raise RowError(at, f"is {_kind(item)}", "{role, content}")
        role = item.get("role")
        if role not in get_args(Role):
            raise RowError(f"{at}.role", f"is {role!r}", "system, user or assistant")
        content = item.get("content")
        if not isinstance(content, str) or not content.strip():
            raise RowError(f"{at}.content", "is empty or no string", "some text")
        messages.append(Message(cast("Role", role), content))
    check_turns(messages, field, last=last)
    return tuple(messages)


def check_turns(messages: list[Message], field: str, *, last: Role) -> None:
    """Raise ``RowError`` unless the roles alternate as chat templates want them."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    for number, message in enumerate(turns):
        wanted = "assistant" if number % 2 else "user"
        if message.role != wanted:
            at = f"{field}[{number + len(messages) - len(turns)}].role"
            raise RowError(at, f"is {message.role}", f"{wanted} (turns alternate from user on)")
    if not turns or turns[-1].role != last:
        raise RowError(field, "does not end as it should", f"a last message of the {last}")


def _kind(value: object) -> str:
    return "missing" if value is None else f"a {type(value).__name__}"


# --------------------------------------------------------------------------- demonstrations


def _messages(row: Row, notes: Notes) -> list[Demonstration]:
    return [Demonstration(conversation(row, "messages", last="assistant"), _category(row))]


def _instruction(row: Row, notes: Notes) -> list[Demonstration]:
    """Alpaca's form: {instruction, input?, output}."""
    return [_demonstration(row, row, "output", "")]


def _instances(row: Row, notes: Notes) -> list[Demonstration]:
    """Self-Instruct's form: {instruction, instances: [{input, output}]}; a row an instance."""
    instances = row.get("instances")
    if not isinstance(instances, list) or not instances:
        raise RowError("instances", f"is {_kind(instances)}", "a list of {input, output}")
    rows = []
    for number, instance in enumerate(instances):
        at = f"instances[{number}]"
        if not isinstance(instance, Mapping):
            raise RowError(at, f"is {_kind(instance)}", "{input, output}")
        rows.append(_demonstration(row, instance, "output", f"{at}."))
    return rows


def _demonstration(row: Row, part: Row, reply: str, prefix: str) -> Demonstration:
    instruction = text(row, "instruction")
    try:
        given, output = optional_text(part, "input"), text(part, reply)
    except RowError as error:
        raise RowError(prefix + error.field, error.message, error.expected) from error
    question = f"{instruction}\n\n{given}" if given.strip() else instruction
    return Demonstration((user(question), assistant(output)), _category(row))


def _prompt_completion(row: Row, notes: Notes) -> list[Demonstration]:
    reply = assistant(text(row, "completion"))
    return [Demonstration((*_prompt(row), reply), _category(row))]


# --------------------------------------------------------------------------- pairs

_SPEAKER = re.compile(r"\n\n(Human|Assistant):")


def transcript(row: Row, field: str, notes: Notes) -> Conversation:
    r"""hh-rlhf's form: ``\n\nHuman: … \n\nAssistant: …``, ending with the assistant.

    Two things occur in the published files and are kept, and counted in ``notes``: two turns of
    one speaker in a row (joined by a blank line, as chat templates want roles to alternate), and
    a last reply that is empty (the rater preferred silence, or did not).
    """
    whole = text(row, field)
    parts = _SPEAKER.split(whole)
    if parts[0].strip():
        raise RowError(field, f"starts with {parts[0][:40]!r}", "'\\n\\nHuman:' first")
    messages: list[Message] = []
    for speaker, said in zip(parts[1::2], parts[2::2], strict=True):
        role: Role = "user" if speaker == "Human" else "assistant"
        if messages and messages[-1].role == role:
            joined = f"{messages[-1].content}\n\n{said.strip()}"
            messages[-1] = Message(role, joined)
            notes["turns of one speaker joined"] += 1
        else:
            messages.append(Message(role, said.strip()))
    check_turns(messages, field, last="assistant")
    for number, message in enumerate(messages[:-1]):
        if not message.content:
            raise RowError(field, f"turn {number + 1} is empty", "some text")
    if not messages[-1].content:
        notes["empty replies"] += 1
    return tuple(messages)


def _transcripts(row: Row, notes: Notes) -> list[Pair]:
    oddities: Notes = Counter()
    chosen, rejected = transcript(row, "chosen", oddities), transcript(row, "rejected", oddities)
    notes.update(dict.fromkeys(oddities, 1))  # rows, not occurrences
    if chosen[:-1] != rejected[:-1]:
        raise RowError(
            "rejected", "answers another prompt than `chosen`", "one prompt, two replies"
        )
    return [_pair(row, chosen[:-1], chosen[-1].content, rejected[-1].content)]


def _message_pair(row: Row, notes: Notes) -> list[Pair]:
    """{chosen: [messages], rejected: [messages]}, whole or, with a ``prompt`` list, replies."""
    if "prompt" in row:
        prompt = list(_prompt(row))
        replies = {
            f: [m.to_dict() for m in prompt] + _items(row, f) for f in ("chosen", "rejected")
        }
        row = {**row, **replies}
    chosen = conversation(row, "chosen", last="assistant")
    rejected = conversation(row, "rejected", last="assistant")
    if chosen[:-1] != rejected[:-1]:
        raise RowError(
            "rejected", "answers another prompt than `chosen`", "one prompt, two replies"
        )
    return [_pair(row, chosen[:-1], chosen[-1].content, rejected[-1].content)]


def _prompt_pair(row: Row, notes: Notes) -> list[Pair]:
    """{prompt, chosen, rejected, rating?}, the replies being text."""
    return [_pair(row, _prompt(row), text(row, "chosen"), text(row, "rejected"))]


def _pair(row: Row, prompt: Conversation, chosen: str, rejected: str) -> Pair:
    rating = row.get("rating") or None
    if rating is not None and rating not in RATINGS:
        raise RowError("rating", f"is {rating!r}", " | ".join(RATINGS))
    return Pair(
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        rating=cast("Rating | None", rating),
        chosen_safe=optional_flag(row, "chosen_safe"),
        rejected_safe=optional_flag(row, "rejected_safe"),
        category=_category(row),
    )


def _items(row: Row, field: str) -> list[Any]:
    items = row.get(field)
    if not isinstance(items, list):
        raise RowError(field, f"is {_kind(items)}", "a list of {role, content}")
    return items


# --------------------------------------------------------------------------- prompts


def _prompt_row(row: Row, notes: Notes) -> list[Prompt]:
    """{prompt | messages, safety, id?, category?}."""
    field = "messages" if "messages" in row else "prompt"
    identity = row.get("id", "")
    if not isinstance(identity, str | int):
        raise RowError("id", f"is {_kind(identity)}", "a string")
    return [Prompt(str(identity), _prompt(row, field), flag(row, "safety"), _category(row))]


def _prompt(row: Row, field: str = "prompt") -> Conversation:
    if isinstance(row.get(field), list):
        return conversation(row, field, last="user")
    return (user(text(row, field)),)


def _category(row: Row) -> str:
    return optional_text(row, "category")


# --------------------------------------------------------------------------- which format


@dataclass(frozen=True)
class Format:
    """A name, the fields it is known by, and its parser."""

    name: str
    shape: str
    fits: Callable[[Row], bool]
    parse: Callable[[Row, Notes], list[Any]]


def _is_list(row: Row, field: str) -> bool:
    return isinstance(row.get(field), list)


DEMONSTRATIONS = (
    Format("messages", "{messages}", lambda r: "messages" in r, _messages),
    Format("instances", "{instruction, instances}", lambda r: "instances" in r, _instances),
    Format("instruction", "{instruction, input?, output}", lambda r: "output" in r, _instruction),
    Format(
        "prompt_completion", "{prompt, completion}", lambda r: "completion" in r, _prompt_completion
    ),
)
PAIRS = (
    Format("messages", "{chosen: [messages], …}", lambda r: _is_list(r, "chosen"), _message_pair),
    Format("prompt", "{prompt, chosen, rejected, rating?}", lambda r: "prompt" in r, _prompt_pair),
    Format("transcript", "{chosen, rejected} transcripts", lambda r: "chosen" in r, _transcripts),
)
PROMPTS = (
    Format(
        "prompt",
        "{prompt | messages, safety}",
        lambda r: "prompt" in r or "messages" in r,
        _prompt_row,
    ),
)
