"""Drawing tasks: which kinds, how often, and from which part of the world."""

from __future__ import annotations

import random
from collections.abc import Mapping

from trainers.pocket import tasks, texts, turns
from trainers.pocket.tasks import Task
from trainers.pocket.world import RELATIONS, World


def draw(
    world: World,
    rng: random.Random,
    kind: str,
    use: str,
) -> Task:
    """One task of a kind, for one use of ``UNKNOWN_USES``.

    Kinds: plain, borderline, harmful, fact, unknown, false_premise, source, context, mt. Only
    ``use="evaluation"`` draws held-out pairs, facts, towns and two-turn tasks; only the corpus
    states every fact, count, sum and role.
    """
    held_out = use == "evaluation"
    if kind in tasks.HOW_TO_CATEGORIES:
        verb, noun = rng.choice(tasks.how_to_pairs(world, kind, held_out=held_out))
        wording = rng.randrange(len(texts.HOW_TO_WORDINGS))
        return tasks.how_to(world, rng, verb, noun, wording)
    if kind == "mt":
        category = rng.choice(turns.MT_CATEGORIES)
        known = use == "corpus" and category in turns.KNOWLEDGE
        return turns.two_turns(world, rng, category, held_out=None if known else held_out)
    if kind in ("fact", "false_premise"):
        town, relation = rng.choice(askable_facts(world, use))
        if kind == "fact":
            wording = rng.randrange(len(texts.FACT_WORDINGS))
            return tasks.fact(world, rng, town, relation, wording)
        premise = tasks.false_premise if rng.random() < 0.6 else tasks.true_premise
        return premise(world, rng, town, relation)
    town = rng.choice(world.unknown_towns[use])
    wording = rng.randrange(len(texts.FACT_WORDINGS))
    if kind == "unknown":
        return tasks.unknown(rng, town, rng.choice(RELATIONS), wording)
    if kind in ("source", "context"):
        return tasks.from_source(rng, town, answerable=kind == "context", wording=wording)
    raise ValueError(f"no such kind of task: {kind!r}")


def askable_facts(world: World, use: str) -> list[tuple[str, str]]:
    """(town, relation) that this use may ask about: all of them only in the corpus."""
    if use == "corpus":
        return list(world.facts)
    return [key for key in world.facts if (key in world.held_out_facts) == (use == "evaluation")]


def schedule(rng: random.Random, shares: Mapping[str, float], n: int) -> list[str]:
    """n kinds in exactly these shares (largest remainders first), shuffled."""
    total = sum(shares.values())
    exact = {kind: n * share / total for kind, share in shares.items()}
    counts = {kind: int(value) for kind, value in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: counts[kind] - exact[kind])
    for kind in by_remainder[: n - sum(counts.values())]:
        counts[kind] += 1
    kinds = [kind for kind, count in counts.items() for _ in range(count)]
    rng.shuffle(kinds)
    return kinds
