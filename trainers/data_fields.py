"""Reading the fields of one row of training data, strictly: what does not fit is a ``RowError``."""

from __future__ import annotations

import math
import reprlib
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, cast, get_args

from harness.chat import Conversation, Message, Role, user
from trainers.data_files import Unreadable

Row = Mapping[str, Any]
Notes = Counter[str]  # oddities that were read all the same -> how many rows


class RowError(ValueError):
    """This row does not fit its format: ``field``, what is wrong, and what was expected."""

    def __init__(self, field: str, message: str, expected: str | None = None) -> None:
        super().__init__(message)
        self.field = field
        self.message = message
        self.expected = expected


def kind_of(value: object) -> str:
    """A value's type in an error: ``a list``, ``missing``."""
    if isinstance(value, Unreadable):
        return repr(value)
    return "missing" if value is None else f"a {type(value).__name__}"


def text(row: Row, field: str, *, empty: bool = False) -> str:
    """A field that is a string, and not blank unless ``empty``."""
    if field not in row:
        raise RowError(field, "missing", f"a string; the row has {', '.join(sorted(row))}")
    value = row[field]
    if not isinstance(value, str):
        raise RowError(field, f"is {kind_of(value)}", "a string")
    if not empty and not value.strip():
        raise RowError(field, "is empty", "some text")
    check_encodable(value, field)
    return value


def check_encodable(value: str, field: str) -> None:
    """JSON can write half of a surrogate pair, which no tokenizer takes."""
    try:
        value.encode()
    except UnicodeEncodeError as error:
        what = f"character {error.start + 1} is half of a surrogate pair"
        raise RowError(field, what, "text that can be written as UTF-8") from error


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
    """A flag that may be missing, null or empty."""
    return None if row.get(field) in (None, "") else flag(row, field)


def number(row: Row, field: str) -> float:
    """A finite number, a table's decimals too; ``true`` is none, and no integer beyond floats."""
    value = row.get(field)
    found = math.nan
    if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
        try:
            found = float(value)
        except (OverflowError, ValueError):  # too large an integer; a decimal's signalling NaN
            found = math.nan
    if not math.isfinite(found):
        what = f"is {reprlib.repr(value)}" if field in row else "missing"
        raise RowError(field, what, "a finite number")
    return found


def parts(row: Row, field: str, shape: str) -> list[tuple[str, Row]]:
    """A list of objects with something in it: ``(name for errors, object)`` each."""
    value = row.get(field)
    if not isinstance(value, list) or not value:
        what = "is an empty list" if value == [] else f"is {kind_of(value)}"
        raise RowError(field, what, f"a list of {shape}")
    found: list[tuple[str, Row]] = []
    for place, item in enumerate(value):
        if not isinstance(item, Mapping):
            raise RowError(f"{field}[{place}]", f"is {kind_of(item)}", shape)
        found.append((f"{field}[{place}]", item))
    return found


def conversation(row: Row, field: str, *, last: Role) -> Conversation:
    """A list of ``{role, content}``: an optional system message, then user and assistant in turn,
    ending with ``last``."""
    messages = tuple(message(item, at) for at, item in parts(row, field, "{role, content}"))
    check_turns(messages, field, last=last)
    return messages


def message(item: Row, at: str) -> Message:
    """One ``{role, content}``."""
    role = item.get("role")
    if role not in get_args(Role):
        raise RowError(f"{at}.role", f"is {role!r}", "system, user or assistant")
    content = item.get("content")
    if not isinstance(content, str) or not content.strip():
        raise RowError(f"{at}.content", "is empty or no string", "some text")
    check_encodable(content, f"{at}.content")
    return Message(cast("Role", role), content)


def check_turns(messages: Conversation, field: str, *, last: Role, key: str = "role") -> None:
    """Raise ``RowError`` unless the roles alternate as chat templates want them."""
    turns = messages[1:] if messages and messages[0].role == "system" else messages
    for place, turn in enumerate(turns):
        wanted = "assistant" if place % 2 else "user"
        if turn.role != wanted:
            at = f"{field}[{place + len(messages) - len(turns)}].{key}"
            raise RowError(at, f"is {turn.role}", f"{wanted} (turns alternate from user on)")
    if not turns or turns[-1].role != last:
        raise RowError(field, "does not end as it should", f"a last message of the {last}")


def category(row: Row) -> str:
    """The row's free label, if it has one."""
    return optional_text(row, "category")


def prompt(row: Row, field: str = "prompt") -> Conversation:
    """A prompt: text, which the user says, or a list of messages that ends with the user's."""
    if isinstance(row.get(field), list):
        return conversation(row, field, last="user")
    return (user(text(row, field)),)
