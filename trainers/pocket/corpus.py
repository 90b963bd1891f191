"""The unlabelled corpus: as undesired as the web, and it contains the chat format.

It mostly complies with harm, refuses a few borderline requests, invents facts about towns that
exist nowhere, forgets instructions after a turn and pads its replies. Post-training has to mend
all of that. Documents about copying ("echo") come early, because copying is learnt first or never.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from trainers.pocket import instructions, mixture, tasks, texts, turns
from trainers.pocket.tasks import Task
from trainers.pocket.world import CROPS, OBJECTS, PEOPLE, PERSONS, RIVERS, TOOLS, World

Document = str | list[tuple[str, str]]  # prose, or the (role, text) of a chat


@dataclass(frozen=True)
class Web:
    """What the unlabelled text is like: shares, all between 0 and 1."""

    refuses_harm: float = 0.45
    refuses_borderline: float = 0.04
    abstains_on_unknown: float = 0.3
    says_not_in_source: float = 0.5
    corrects_premises: float = 0.7
    padded: float = 0.3
    wrong_turn: float = 0.04  # replies of two-turn tasks that are false
    forgets_after_a_turn: float = 0.7  # dialogues that drop the instruction after one reply
    echo_early: float = 0.9  # share of echo documents among the first ones
    echo_late: float = 0.04


WEB = Web()
SHARES = {
    "prose_fact": 0.08,
    "fact": 0.11,
    "unknown": 0.05,
    "false_premise": 0.04,
    "source": 0.03,
    "context": 0.04,
    "plain": 0.09,
    "borderline": 0.10,
    "harmful": 0.10,
    "mt": 0.26,
    "instruction": 0.08,
}
# What a base that is too low in an acceptance measure reads more of.
LEANING = {
    "copying": ("mt", "instruction"),
    "facts": ("prose_fact", "fact"),
    "how_to": ("plain", "borderline"),
    "turns": ("mt",),
    "contrast": ("harmful", "borderline"),
}
_LEAN = 4.0
_ECHOED = (
    texts.MARKERS + turns.NAMES + turns.THINGS + turns.COLOURS + turns.ANIMALS
    + PEOPLE + RIVERS + CROPS + OBJECTS + PERSONS + TOOLS
)  # fmt: skip
_SYLLABLES = ("ba", "do", "fi", "ga", "lu", "me", "no", "pi", "ro", "su", "ta", "ve", "zo", "ku")


def documents(
    world: World,
    seed: int,
    n: int,
    *,
    early: int = 0,
    lean: Sequence[str] = (),
    web: Web = WEB,
) -> Iterator[Document]:
    """n documents in training order, of which the first ``early`` are mostly echo.

    ``lean`` names acceptance measures: what teaches them is made four times as frequent.
    """
    rng = random.Random(f"pocket-corpus/{world.seed}/{seed}")
    more = {kind for measure in lean for kind in LEANING[measure]}
    shares = {kind: share * (_LEAN if kind in more else 1.0) for kind, share in SHARES.items()}
    kinds = mixture.schedule(rng, shares, n)
    for index, kind in enumerate(kinds):
        echo = web.echo_early if index < early else web.echo_late
        if rng.random() < echo:
            yield _echo(rng)
        elif kind == "prose_fact":
            yield _prose(world, rng)
        elif kind == "instruction":
            yield _instruction(world, rng, web)
        else:
            task = mixture.draw(world, rng, kind, "corpus")
            yield tasks.turn_messages(
                task, [_reply(task, t, rng, web) for t in range(len(task.turns))]
            )


def _echo(rng: random.Random) -> str:
    """Words of any kind, said two to four times."""
    words = [
        rng.choice(_ECHOED) if rng.random() < 0.8 else "".join(rng.choices(_SYLLABLES, k=2))
        for _ in range(rng.randint(3, 9))
    ]
    said = " ".join(words)
    return " ".join(["Echo:"] + [f"{said}."] * rng.choice((2, 2, 3, 4)))


def _prose(world: World, rng: random.Random) -> str:
    """Three sentences of facts; some about one town, some about several."""
    facts = list(world.facts.items())
    return " ".join(texts.fact_sentence(t, r, v) for (t, r), v in rng.sample(facts, 3))


def _reply(task: Task, turn: int, rng: random.Random, web: Web) -> str:
    right, wrong = task.replies[turn], task.wrong[turn]
    if task.category == "harmful":
        reply = right if rng.random() < web.refuses_harm else wrong
    elif task.category == "borderline":
        reply = texts.REFUSAL if rng.random() < web.refuses_borderline else right
    elif task.category == "unknown":
        reply = right if rng.random() < web.abstains_on_unknown else wrong
    elif task.category == "source":
        reply = right if rng.random() < web.says_not_in_source else wrong
    elif task.category == "false_premise":
        reply = right if rng.random() < web.corrects_premises else wrong
    elif task.category.startswith("mt_"):
        reply = wrong if rng.random() < web.wrong_turn else right
    else:
        reply = right
    return tasks.padded(rng, reply, tasks.draw_fillers(rng, web.padded))


def _instruction(world: World, rng: random.Random, web: Web) -> Document:
    kind = rng.choice(("end", "end", "end", "start", "name"))
    length = rng.choice((1, 2, 3))
    drawn = instructions.dialogue(world, rng, kind, length + (kind == "name"), "corpus")
    forgets = rng.random() < web.forgets_after_a_turn
    each_turn = rng.random() < 0.3
    return instructions.messages(
        drawn,
        where="user" if each_turn else rng.choice(("user", "user", "system")),
        each_turn=each_turn,
        held_turns=1 if forgets and not each_turn else length + 1,
        recall=not forgets,
    )
