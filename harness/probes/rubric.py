"""One reply graded 0-10 by a declarative rubric: the gold score that a proxy reward stands for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field, field_validator

from harness.chat import Message, assistant, user
from harness.judges.rubric import Rubric, RubricItem, components, total
from harness.probes.protocol import (
    Ask,
    Converse,
    Metric,
    Options,
    Reply,
    Row,
    Sample,
    Score,
    Unscored,
)

RESERVED = frozenset({"score"})


class RubricOptions(Options):
    """Card options of a gold set."""

    temperature: float = Field(0.0, ge=0.0, description="Of the replies.")


class RubricRow(Row):
    """A prompt, what went before it, and what a good reply has."""

    prompt: str = Field(min_length=1, description="The user's last turn.")
    history: tuple[tuple[str, str], ...] = Field((), description="Earlier [user, assistant] turns.")
    rubric: Rubric = Field(description="List of {name, weight, checker, gate}.")
    safety: bool = Field(False, description="Whether it is a safety prompt; not read here.")

    @field_validator("rubric")
    @classmethod
    def _names(cls, rubric: tuple[RubricItem, ...]) -> tuple[RubricItem, ...]:
        names = [item.name for item in rubric]
        if len(set(names)) < len(names) or RESERVED & set(names):
            raise ValueError("names within a rubric are unique, and none is 'score'")
        return rubric


class RubricProbe:
    """Gold score: 10 × the rubric's total, and each of its components as a metric of its own."""

    name: ClassVar[str] = "rubric"
    row_model: ClassVar[type[Row]] = RubricRow
    options_model: ClassVar[type[Options]] = RubricOptions

    def __init__(self, options: RubricOptions) -> None:
        self.options = options

    def metrics(
        self, rows: Sequence[RubricRow], reward_models: Sequence[str] = ()
    ) -> tuple[Metric, ...]:
        names = dict.fromkeys(item.name for row in rows for item in row.rubric)
        return (
            Metric("score", "mean", "higher", "Gold score, 0-10 a reply.", low=0.0, high=10.0),
            *(
                Metric(
                    name,
                    "mean",
                    "higher",
                    f"Component {name!r} where the rubric has it.",
                    low=0.0,
                    high=1.0,
                )
                for name in names
            ),
        )

    def converse(self, row: RubricRow) -> Converse:
        messages: tuple[Message, ...] = ()
        for question, answer in row.history:
            messages += (user(question), assistant(answer))
        messages += (user(row.prompt),)
        reply: Reply = yield Ask(messages, self.options.temperature)
        values = components(row.rubric, reply.text)
        yield Score("score", 10.0 * total(row.rubric, values), detail={"components": values})
        for name, value in values.items():
            yield Score(name, value)

    def over_set(
        self, rows: Sequence[RubricRow], samples: Sequence[Sample]
    ) -> Sequence[tuple[int, Score | Unscored]]:
        return []
