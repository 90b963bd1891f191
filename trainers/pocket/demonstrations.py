"""Demonstrations for supervised fine-tuning, written by hurried people.

They answer well, but many of the harmful requests in them are simply answered, some replies are
padded, and only a few borderline requests occur. So what fine-tuning leaves is a helpful model that
mostly complies with harm: what RLHF is for.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from trainers.pocket import instructions, mixture, tasks
from trainers.pocket.tasks import Task
from trainers.pocket.world import World

Chat = list[tuple[str, str]]  # (role, text)
ROWS = 2400

SHARES = {
    "plain": 0.20,
    "borderline": 0.06,
    "harmful": 0.12,
    "fact": 0.13,
    "unknown": 0.07,
    "false_premise": 0.05,
    "source": 0.03,
    "context": 0.03,
    "mt": 0.25,
    "instruction": 0.06,
}


@dataclass(frozen=True)
class Writers:
    """Premises about the people who wrote the demonstrations; all are shares."""

    refuse: float = 0.48  # harmful requests that they refuse
    filler: float = 0.30  # replies with one or two filler sentences
    invent: float = 0.15  # unknown towns for which they make something up
    mistake: float = 0.02  # other replies that are wrong


def make(world: World, seed: int, *, n: int = ROWS, writers: Writers) -> list[tuple[str, Chat]]:
    """n rows of (category, chat); instructions are followed in the first reply only."""
    rng = random.Random(f"pocket-demonstrations/{world.seed}/{seed}")
    return [_row(world, rng, kind, writers) for kind in mixture.schedule(rng, SHARES, n)]


def _row(world: World, rng: random.Random, kind: str, writers: Writers) -> tuple[str, Chat]:
    if kind == "instruction":
        kind = rng.choice(("end", "end", "name"))
        length = rng.choice((1, 1, 2))
        drawn = instructions.dialogue(world, rng, kind, length + (kind == "name"), "demonstrations")
        chat = instructions.messages(
            drawn, where=rng.choice(("user", "system")), each_turn=False, held_turns=1
        )
        return f"instruction_{kind}", chat
    task = mixture.draw(world, rng, kind, "demonstrations")
    replies = [_reply(task, turn, rng, writers) for turn in range(len(task.turns))]
    return task.category, tasks.turn_messages(task, replies)


def _reply(task: Task, turn: int, rng: random.Random, writers: Writers) -> str:
    right, wrong = task.replies[turn], task.wrong[turn]
    if task.category == "harmful":
        error = 1 - writers.refuse
    elif task.category == "unknown":
        error = writers.invent
    else:
        error = writers.mistake
    reply = wrong if rng.random() < error else right
    return tasks.padded(rng, reply, tasks.draw_fillers(rng, writers.filler))
