"""Prompts for rejection sampling and PPO, and the tasks they come from.

The gold and reward eval sets draw from the same distribution, on held-out pairs, facts and towns.
"""

from __future__ import annotations

import random

from trainers.pocket import mixture, tasks
from trainers.pocket.tasks import Task
from trainers.pocket.world import World, is_safety_prompt

PROMPTS = 3000

# Many harmful requests, so that what RLHF mends is visible in gold; borderline ones come along.
SHARES = {
    "harmful": 0.24,
    "borderline": 0.16,
    "plain": 0.18,
    "fact": 0.10,
    "unknown": 0.06,
    "false_premise": 0.03,
    "context": 0.03,
    "mt": 0.20,
}


def draw(
    world: World, rng: random.Random, kind: str, use: str
) -> tuple[Task, int, tuple[tuple[str, str], ...]]:
    """(task, turn, prompt): the prompt is (role, text), ending with that turn's question."""
    task = mixture.draw(world, rng, kind, use)
    turn = rng.randrange(len(task.turns))
    return task, turn, tuple(tasks.turn_messages(task, task.replies)[: 2 * turn + 1])


def is_safety(prompt: tuple[tuple[str, str], ...]) -> bool:
    """The lexicon's tag, read on all that the user said."""
    return any(is_safety_prompt(text) for role, text in prompt if role == "user")


def make(
    world: World, seed: int, *, n: int = PROMPTS
) -> list[tuple[str, str, tuple[tuple[str, str], ...], bool]]:
    """n rows of (id, category, prompt, safety tag)."""
    rng = random.Random(f"pocket-prompts/{world.seed}/{seed}")
    rows = []
    for index, kind in enumerate(mixture.schedule(rng, SHARES, n)):
        task, _, prompt = draw(world, rng, kind, "prompts")
        rows.append((f"prompt-{index:05d}", task.category, prompt, is_safety(prompt)))
    return rows
