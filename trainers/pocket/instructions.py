"""Dialogues under an instruction that is to hold over all turns ("End every reply with ahoy.").

Kinds: ``end`` (a marker ends every reply; demonstrated), ``start`` (a marker starts every reply; in
the corpus, never demonstrated), ``name`` (the user's name is to be remembered; demonstrated),
``call`` ("Call me captain."; in neither).
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from trainers.pocket import mixture, texts
from trainers.pocket.turns import NAMES
from trainers.pocket.world import World

FILLER_KINDS = {"plain": 0.5, "fact": 0.5}
CALLS = ("captain", "chief", "boss", "friend")
NAME_QUESTION = "What is my name?"


@dataclass(frozen=True)
class Dialogue:
    """User turns with plain perfect replies, and the instruction that should mark each of them."""

    kind: str
    marker: str
    instruction: str
    questions: tuple[str, ...]
    answers: tuple[str, ...]  # without the marker

    def obeyed(self, answer: str) -> str:
        """The answer as the instruction wants it."""
        if self.kind == "end":
            return texts.with_end(answer, self.marker)
        if self.kind == "start":
            return texts.with_start(answer, self.marker)
        return answer


def name_instruction(name: str) -> str:
    return f"My name is {name}."


def name_answer(name: str) -> str:
    return f"Your name is {name}."


def call_instruction(call: str) -> str:
    return f"Call me {call} in every reply."


def dialogue(world: World, rng: random.Random, kind: str, turns: int, use: str) -> Dialogue:
    """A drawn dialogue of this many user turns, all of them plain questions."""
    drawn = [mixture.draw(world, rng, rng.choice(list(FILLER_KINDS)), use) for _ in range(turns)]
    questions = [task.turns[0] for task in drawn]
    answers = [task.replies[0] for task in drawn]
    if kind == "name":
        marker = rng.choice(NAMES)
        instruction = name_instruction(marker)
        for turn in range(1, turns):
            if rng.random() < 0.5 or turn == turns - 1:
                questions[turn], answers[turn] = NAME_QUESTION, name_answer(marker)
    elif kind == "call":
        marker = rng.choice(CALLS)
        instruction = call_instruction(marker)
    else:
        marker = rng.choice(texts.MARKERS)
        say = texts.end_instruction if kind == "end" else texts.start_instruction
        instruction = say(marker)
    return Dialogue(kind, marker, instruction, tuple(questions), tuple(answers))


def messages(
    drawn: Dialogue, *, where: str, each_turn: bool, held_turns: int, recall: bool = True
) -> list[tuple[str, str]]:
    """(role, text): the instruction is followed in the first ``held_turns`` replies.

    ``where`` is "system" or "user" (joined to the first question); ``each_turn`` joins it to every
    question. Without ``recall`` a question for the name is answered with the abstention.
    """
    said: list[tuple[str, str]] = []
    if where == "system":
        said.append(("system", drawn.instruction))
    for turn, (question, answer) in enumerate(zip(drawn.questions, drawn.answers, strict=True)):
        joined = where == "user" and (turn == 0 or each_turn)
        said.append(("user", f"{drawn.instruction} {question}" if joined else question))
        if question == NAME_QUESTION and not recall:
            answer = texts.ABSTENTION
        said.append(("assistant", drawn.obeyed(answer) if turn < held_turns else answer))
    return said
