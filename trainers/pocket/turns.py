"""Two-turn tasks in seven categories, each with a deterministic rubric a turn."""

from __future__ import annotations

import random
from collections.abc import Callable

from trainers.pocket.tasks import ANSWERS_GATE, Item, Task, item
from trainers.pocket.texts import a
from trainers.pocket.world import ROLE_QUESTIONS, ROLES, World

ANIMALS = ("fox", "owl", "hen", "cat", "dog", "cow", "pig", "bee", "ant", "goat", "frog", "hare")
THINGS = (
    "hat",
    "cup",
    "bag",
    "coat",
    "shoe",
    "ring",
    "ball",
    "book",
    "lamp",
    "bell",
    "fork",
    "sock",
)
COLOURS = ("red", "blue", "green", "black", "white", "brown", "grey", "pink")
NAMES = ("Ann", "Tom", "Ben", "Eva", "Max", "Lia", "Sam", "Ida")

# What has to be known and cannot be worked out: the corpus must hold all of it.
KNOWLEDGE = ("count", "sum", "role")
MT_CATEGORIES = ("count", "sum", "list", "repeat", "extract", "write", "role")


def _task(
    kind: str,
    turns: tuple[str, str],
    replies: tuple[str, str],
    wrong: tuple[str, str],
    content: tuple[tuple[Item, ...], tuple[Item, ...]],
    key: str,
) -> Task:
    return Task(f"mt_{kind}", f"{kind}-{key}", turns, replies, wrong, content, (ANSWERS_GATE,))


def _has(text: str) -> tuple[Item, ...]:
    return (item("correct", 1.0, "contains", text=text),)


def _count(world: World, rng: random.Random) -> Task:
    start, length = rng.randint(1, 15), rng.randint(3, 5)
    up = [str(start + i) for i in range(length)]
    skipped = rng.randrange(1, length)
    wrong_up = [number for i, number in enumerate(up) if i != skipped]
    first = rng.choice(
        (f"Count from {up[0]} to {up[-1]}.", f"Please count up from {up[0]} to {up[-1]}.")
    )
    forward, back = ", ".join(up), ", ".join(reversed(up))
    return _task(
        "count",
        (first, rng.choice(("Now backwards.", "And now count back down."))),
        (f"Up: {forward}.", f"Down: {back}."),
        (f"Up: {', '.join(wrong_up)}.", f"Down: {', '.join(reversed(wrong_up))}."),
        (_has(f"{forward}."), _has(f"{back}.")),
        f"{start}-{length}",
    )


def _sum(world: World, rng: random.Random) -> Task:
    x, y, z = rng.randint(1, 9), rng.randint(1, 9), rng.randint(1, 5)
    off = rng.choice((-1, 1, 2))
    first = rng.choice((f"What is {x} plus {y}?", f"Work out {x} plus {y}."))
    return _task(
        "sum",
        (first, rng.choice((f"Now add {z}.", f"And {z} more?"))),
        (f"That is {x} plus {y} = {x + y}.", f"That is {x + y} plus {z} = {x + y + z}."),
        (
            f"That is {x} plus {y} = {x + y + off}.",
            f"That is {x + y} plus {z} = {x + y + z + off}.",
        ),
        (_has(f"= {x + y}."), _has(f"= {x + y + z}.")),
        f"{x}-{y}",
    )


def _list(world: World, rng: random.Random) -> Task:
    words = rng.sample(THINGS, 3)
    more = rng.choice([t for t in THINGS if t not in words])
    first = rng.choice(
        (
            f"Make a list of {words[0]}, {words[1]} and {words[2]}.",
            f"List these: {words[0]}, {words[1]} and {words[2]}.",
        )
    )

    def numbered(entries: list[str]) -> str:
        return " ".join(f"{i}. {entry}" for i, entry in enumerate(entries, 1))

    swapped = [words[0], more, words[2]]
    return _task(
        "list",
        (first, rng.choice((f"Add {more} to it.", f"Put {more} at the end."))),
        (numbered(words), numbered([*words, more])),
        (numbered(swapped), numbered(words)),
        (_has(numbered(words)), _has(numbered([*words, more]))),
        "-".join(words),
    )


def _repeat(world: World, rng: random.Random) -> Task:
    words = rng.sample(COLOURS + ANIMALS, 3)
    said = " ".join(words)
    wrong = " ".join(rng.sample(words, 2))
    first = rng.choice((f"Repeat these words: {said}.", f"Say after me: {said}."))
    return _task(
        "repeat",
        (first, rng.choice(("Once more, please.", "Say it again."))),
        (f"You said: {said}.", f"Again: {said}."),
        (f"You said: {wrong}.", f"Again: {wrong}."),
        (_has(said), _has(said)),
        "-".join(words),
    )


def _extract(world: World, rng: random.Random) -> Task:
    one, two = rng.sample(NAMES, 2)
    things, colours = rng.sample(THINGS, 2), rng.sample(COLOURS, 2)
    has = {
        one: f"a {colours[0]} {things[0]}",
        two: f"a {colours[1]} {things[1]}",
    }
    asked, later = rng.sample((one, two), 2)
    read = f"{one} has {has[one]} and {two} has {has[two]}."
    question = f"What does {asked} have?"
    first = rng.choice((f"Read this: {read} {question}", f"{read} {question}"))
    return _task(
        "extract",
        (first, rng.choice((f"And what does {later} have?", f"What about {later}?"))),
        (f"It says {asked} has {has[asked]}.", f"It says {later} has {has[later]}."),
        (f"It says {asked} has {has[later]}.", f"It says {later} has {has[asked]}."),
        (_has(has[asked]), _has(has[later])),
        "-".join([one, two, *things, *colours]),
    )


def _write(world: World, rng: random.Random) -> Task:
    animal, other = rng.sample(ANIMALS, 2)
    thing, wrong_thing = rng.sample(THINGS, 2)
    first = rng.choice(
        (
            f"Write a line about {a(animal)} and {a(thing)}.",
            f"Make up a line with {a(animal)} and {a(thing)}.",
        )
    )
    return _task(
        "write",
        (first, rng.choice((f"Now put {a(other)} in it too.", f"Add {a(other)} to the line."))),
        (
            f"Once {a(animal)} found {a(thing)}.",
            f"Once {a(animal)} and {a(other)} found {a(thing)}.",
        ),
        (f"Once {a(animal)} found {a(wrong_thing)}.", f"Once {a(other)} found {a(wrong_thing)}."),
        (
            (item("words", 1.0, "contains_all", texts=[animal, thing]),),
            (item("words", 1.0, "contains_all", texts=[animal, other, thing]),),
        ),
        "-".join([animal, thing]),
    )


def _role(world: World, rng: random.Random) -> Task:
    role, question = rng.choice(ROLES), rng.choice(ROLE_QUESTIONS)
    other = rng.choice([r for r in ROLES if r != role])
    value = world.role[role, question]
    values = sorted({v for (_, q), v in world.role.items() if q == question and v != value})
    verb = {"like": "like", "live": "live in", "eat": "eat"}[question]
    asked = {"like": "What do you like?", "live": "Where do you live?", "eat": "What do you eat?"}
    greet = f"{world.greeting[role]}, I am {a(role)}."
    wrong = f"{world.greeting[other]}, I am {a(other)}."
    first = rng.choice((f"You are {a(role)}. Greet me.", f"Be {a(role)} and say hello."))
    return _task(
        "role",
        (first, asked[question]),
        (greet, f"I am {a(role)} and I {verb} {value}."),
        (wrong, f"I am {a(role)} and I {verb} {rng.choice(values)}."),
        (
            (
                item("greeting", 0.5, "contains", text=world.greeting[role]),
                item("role", 0.5, "contains", text=role),
            ),
            (
                item("role", 0.4, "contains", text=role),
                item("correct", 0.6, "contains", text=value),
            ),
        ),
        role,
    )


_MAKERS: dict[str, Callable[[World, random.Random], Task]] = {
    "count": _count,
    "sum": _sum,
    "list": _list,
    "repeat": _repeat,
    "extract": _extract,
    "write": _write,
    "role": _role,
}


def two_turns(world: World, rng: random.Random, kind: str, *, held_out: bool | None) -> Task:
    """A two-turn task of this kind, from the evaluation's share of tasks or from the rest.

    What is held out is decided by the first turn's content alone. ``None`` draws from both.
    """
    while True:
        task = _MAKERS[kind](world, rng)
        if held_out is None or world.held_out_task(task.cluster) == held_out:
            return task
