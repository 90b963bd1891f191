"""Pocket data by name: ``pocket/demonstrations``, ``helpful``, ``safe``, ``prompts``, ``instructions``.

A name's options set the premises about writers and raters, so that a control needs no code:
``pocket/safe?misread=0`` asks what raters who misread nothing would have made of the same pairs.
"""

from __future__ import annotations

import inspect
import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from harness.chat import Conversation, Message, Role
from harness.errors import InputError, nearest
from trainers.data_formats import RATINGS, Demonstration, Pair, Prompt
from trainers.pocket import demonstrations as writing
from trainers.pocket import instructions, mixture, preferences
from trainers.pocket import prompts as asking
from trainers.pocket.tasks import rubric
from trainers.pocket.world import VERSION, World, make_world

_ROLES: dict[str, Role] = {role: role for role in get_args(Role)}


def rows(name: str, options: Mapping[str, str], *, base_folder: Path, seed: int) -> Sequence[Any]:
    """The rows of a pocket name, in the world of the base (its world.json), drawn by ``seed``.

    Raises ``InputError`` for a name, an option or a value that is not known.
    """
    short = name.removeprefix("pocket/")
    if short not in SOURCES:
        raise InputError(
            f"no pocket data {name!r}",
            expected=" | ".join(f"pocket/{known}" for known in SOURCES),
            nearest=nearest(short, SOURCES),
        )
    make = SOURCES[short]
    given = {key: _number(name, key, value, make) for key, value in options.items()}
    rows: Sequence[Any] = make(_world(base_folder), seed, **given)
    return rows


def demonstrations(
    world: World,
    seed: int,
    *,
    n: int = 2400,
    refuse: float = 0.40,
    filler: float = 0.30,
    invent: float = 0.15,
    mistake: float = 0.02,
) -> list[Demonstration]:
    """What hurried people wrote; the options are those of ``demonstrations.Writers``."""
    writers = writing.Writers(refuse=refuse, filler=filler, invent=invent, mistake=mistake)
    return [
        Demonstration(_conversation(chat), category)
        for category, chat in writing.make(world, seed, n=n, writers=writers)
    ]


def helpful(
    world: World,
    seed: int,
    *,
    n: int = 4150,
    length: float = 0.3,
    temperature: float = 1.2,
    unverified: float = 0.05,
) -> list[Pair]:
    """Pairs on helpfulness; the options are those of ``preferences.HelpfulRaters``."""
    raters = preferences.HelpfulRaters(length, temperature, unverified)
    return [_pair(judged) for judged in preferences.helpful(world, seed, n=n, raters=raters)]


def safe(
    world: World,
    seed: int,
    *,
    n: int = 2000,
    misread: float = 0.45,
    length: float = 0.0,
    temperature: float = 1.2,
) -> list[Pair]:
    """Pairs on safety; the options are those of ``preferences.SafetyRaters``."""
    raters = preferences.SafetyRaters(misread, length, temperature)
    return [_pair(judged) for judged in preferences.safe(world, seed, n=n, raters=raters)]


def prompts(world: World, seed: int, *, n: int = 3000) -> list[Prompt]:
    """RL prompts; ``safety`` is the trigger lexicon's tag."""
    return [
        Prompt(identity, _conversation(prompt), safety, category)
        for identity, category, prompt, safety in asking.make(world, seed, n=n)
    ]
