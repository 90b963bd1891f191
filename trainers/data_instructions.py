"""Instructions that are to hold over a dialogue, by kind: as a file's rows or in a schedule.

One row may stand for many: ``{value}`` in its texts and in its checker is replaced by each of
``values`` ("Always act as {value}."). The checker says by rule whether a reply follows the
instruction; not every instruction has one.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from harness.judges.checkers import Checker
from trainers.data_fields import Notes, Row, RowError, check_encodable, kind_of
from trainers.data_rows import Instruction

_HOLDER = "{value}"
_CHECKER: TypeAdapter[Any] = TypeAdapter(Checker)
Words = Annotated[str, Field(min_length=1, pattern=r"\S")]


class InstructionRow(BaseModel):
    """An instruction, or with `values` one for each of them."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    kind: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$",
        description="Such as language or persona: of each kind at most one is joined, and kinds "
        "are what is held out.",
    )
    instruction: Words = Field(description="As it is told; `{value}` stands for one of `values`.")
    short: Words | None = Field(
        None, description="The same in few words (`Language: {value}.`); null: there is none."
    )
    ask: Words | None = Field(
        None,
        description="A question that only who remembers the instruction can answer; it takes the "
        "place of the dialogue's last turn, and only there the checker looks.",
    )
    checker: Checker | None = Field(
        None,
        description="1 where a reply follows the instruction, as in eval sets; null: no rule can "
        "tell.",
    )
    values: tuple[Words, ...] = Field((), description="What `{value}` is replaced by, each once.")

    @model_validator(mode="after")
    def _filled(self) -> Self:
        held = _HOLDER in self.instruction
        if self.values and not held:
            raise ValueError(f"there are values, but no {_HOLDER} in the instruction")
        if not self.values and any(_HOLDER in text for text in _texts(self.model_dump())):
            raise ValueError(f"{_HOLDER} stands for one of `values`, and there are none")
        if len(set(self.values)) < len(self.values):
            raise ValueError("a value stands twice")
        self.expanded()
        return self

    def expanded(self) -> list[Instruction]:
        """The instructions that the row stands for, in the order of its values.

        Raises ``ValueError`` where a value does not fit the checker.
        """
        return [self._with(value) for value in self.values or (_HOLDER,)]

    def _with(self, value: str) -> Instruction:
        checker = None
        if self.checker is not None:
            rules = _replaced(self.checker.model_dump(mode="json"), value)
            try:
                checker = _CHECKER.validate_json(json.dumps(rules))
            except ValidationError as error:
                message = error.errors()[0]["msg"].removeprefix("Value error, ")
                raise ValueError(f"checker with {value!r}: {message}") from error
        return Instruction(
            kind=self.kind,
            text=self.instruction.replace(_HOLDER, value),
            short=(self.short or self.instruction).replace(_HOLDER, value),
            ask=(self.ask or "").replace(_HOLDER, value),
            checker=checker,
        )


FIELDS = tuple(InstructionRow.model_fields)


def instructions(row: Row, notes: Notes, seed: int) -> list[Instruction]:
    """{kind, instruction, short?, ask?, checker?, values?}; columns besides are not read."""
    known = {name: row[name] for name in FIELDS if row.get(name) is not None}
    for name, value in known.items():
        try:
            json.dumps(value)
        except TypeError as error:  # a table's date, say
            raise RowError(name, f"is {kind_of(value)}", "text") from error
        for text in _texts(value):
            check_encodable(text, name)
    try:
        return InstructionRow.model_validate_json(json.dumps(known)).expanded()
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(step) for step in first["loc"]) or "instruction"
        message = "missing" if first["type"] == "missing" else first["msg"]
        raise RowError(field, message.removeprefix("Value error, ")) from error


def _replaced(value: Any, by: str) -> Any:
    """A JSON value with ``{value}`` replaced in all its texts."""
    if isinstance(value, str):
        return value.replace(_HOLDER, by)
    if isinstance(value, dict):
        return {key: _replaced(inner, by) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replaced(inner, by) for inner in value]
    return value


def _texts(value: Any) -> list[str]:
    """All texts in a JSON value."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for inner in value.values() for text in _texts(inner)]
    if isinstance(value, list | tuple):
        return [text for inner in value for text in _texts(inner)]
    return []
