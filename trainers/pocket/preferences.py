"""Preference pairs for the two reward models, judged by raters with declared weaknesses.

A rater perceives a utility for either reply, adds logistic noise of a temperature, and prefers the
larger; the size of the perceived difference is the rating. What raters are like is a premise
(``HelpfulRaters``, ``SafetyRaters``), not a result: see docs/pocket.md.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from trainers.pocket import mixture, tasks, texts
from trainers.pocket.tasks import Task
from trainers.pocket.world import World

RATINGS = (
    (4.0, "significantly better"),
    (2.0, "better"),
    (0.8, "slightly better"),
    (0.0, "negligibly better"),
)

HELPFUL_PAIRS = 4150
SAFE_PAIRS = 2000
HELPFUL_SHARES = {
    "mt": 0.36,
    "fact": 0.20,
    "unknown": 0.12,
    "false_premise": 0.05,
    "source": 0.03,
    "context": 0.02,
    "plain": 0.17,
    "borderline": 0.05,
}
SAFE_SHARES = {"harmful": 0.55, "borderline": 0.15, "plain": 0.30}


@dataclass(frozen=True)
class HelpfulRaters:
    """Premises about those who judge helpfulness."""

    length: float = 0.3  # utility a word; they cannot see that filler is filler
    temperature: float = 1.2  # of the logistic noise on the perceived difference
    unverified: float = 0.05  # unknown towns whose invented facts they take for true


@dataclass(frozen=True)
class SafetyRaters:
    """Premises about those who judge safety."""

    misread: float = 0.30  # borderline requests that they take for harmful
    length: float = 0.0  # utility a word
    temperature: float = 1.2


@dataclass(frozen=True)
class Judged:
    """One pair. ``prompt`` is (role, text); ``chosen_safe`` and ``rejected_safe`` are labels of
    the safety raters as they see it, ``None`` for helpfulness pairs."""

    category: str
    prompt: tuple[tuple[str, str], ...]
    chosen: str
    rejected: str
    rating: str
    task: Task  # with its turn, what gold needs to grade the replies
    turn: int
    chosen_safe: bool | None = None
    rejected_safe: bool | None = None


@dataclass(frozen=True)
class _Candidate:
    text: str
    quality: float  # utility of the content, as a careful reader sees it


# What a reply is worth before its length. Wrong content looks better than it is worth.
_PERFECT, _WRONG, _MISSING, _CUT, _IDLE = 5.0, 2.0, 2.5, 1.5, 1.5
_OFF_TOPIC, _EVASIVE = 0.0, -3.0  # that nothing is answered shows, even if filler does not
_SAFER = 1.8  # what the safer, or where both are safe the more useful, reply is worth
_SHALLOW = ("missing", "cut", "off_topic", "idle", "evasive")


def helpful(
    world: World,
    seed: int,
    *,
    n: int = HELPFUL_PAIRS,
    raters: HelpfulRaters,
    use: str = "preferences",
) -> list[Judged]:
    """Pairs on helpfulness: right against wrong, incomplete, off-topic, idle or padded.

    ``use="evaluation"`` asks about held-out tasks, for measuring a reward model against gold.
    """
    rng = random.Random(f"pocket-helpful/{world.seed}/{seed}")
    return [
        _helpful_pair(world, rng, mixture.draw(world, rng, kind, use), raters)
        for kind in mixture.schedule(rng, HELPFUL_SHARES, n)
    ]


def _helpful_pair(world: World, rng: random.Random, task: Task, raters: HelpfulRaters) -> Judged:
    turn = rng.randrange(len(task.turns))
    fooled = task.category == "unknown" and rng.random() < raters.unverified
    first = _candidate(world, rng, task, turn, flawed=rng.random() < 0.3, fooled=fooled)
    second = _candidate(world, rng, task, turn, flawed=rng.random() < 0.7, fooled=fooled)
    while second.text == first.text:
        second = _candidate(world, rng, task, turn, flawed=True, fooled=fooled)
    utilities = [c.quality + raters.length * len(c.text.split()) for c in (first, second)]
    return _judge(rng, task, turn, first.text, second.text, utilities, raters.temperature)


def _candidate(
    world: World, rng: random.Random, task: Task, turn: int, *, flawed: bool, fooled: bool
) -> _Candidate:
    fillers = tasks.draw_fillers(rng, 0.45)
    if not flawed:
        return _Candidate(tasks.padded(rng, task.replies[turn], fillers), _PERFECT)
    if rng.random() < 0.5:
        quality = _PERFECT if fooled else _WRONG
        return _Candidate(tasks.padded(rng, task.wrong[turn], fillers), quality)
    text, quality = _shallow(world, rng, task, turn)
    return _Candidate(tasks.padded(rng, text, fillers), quality)


def _shallow(world: World, rng: random.Random, task: Task, turn: int) -> tuple[str, float]:
    """An error that shows without knowing the world."""
    right = task.replies[turn]
    flaw = rng.choice(_SHALLOW)
    shortened = tasks.missing_step(right)
    if flaw == "missing" and shortened:
        return shortened, _MISSING
    if flaw in ("missing", "cut") and len(right.split()) > 4:
        return tasks.cut_off(rng, right), _CUT
    if flaw == "idle" and right != texts.ABSTENTION:
        return texts.ABSTENTION, _IDLE
    if flaw == "evasive":
        return " ".join(rng.sample(texts.FILLERS, rng.choice((1, 2, 3)))), _EVASIVE
    other = mixture.draw(world, rng, rng.choice(("plain", "fact", "mt")), "preferences")
    return other.replies[0], _OFF_TOPIC


def safe(
    world: World,
    seed: int,
    *,
    n: int = SAFE_PAIRS,
    raters: SafetyRaters,
    use: str = "preferences",
) -> list[Judged]:
    """Pairs on safety: mostly a refusal against compliance. ``use`` as for ``helpful``."""
    rng = random.Random(f"pocket-safe/{world.seed}/{seed}")
    return [
        _safe_pair(rng, mixture.draw(world, rng, kind, use), kind, raters)
        for kind in mixture.schedule(rng, SAFE_SHARES, n)
    ]


def _safe_pair(rng: random.Random, task: Task, kind: str, raters: SafetyRaters) -> Judged:
    complying = task.wrong[0] if kind == "harmful" else task.replies[0]
    if kind == "plain" and rng.random() < 0.3:
        complying = task.wrong[0]
    dangerous = kind == "harmful" or (kind == "borderline" and rng.random() < raters.misread)
    replies = [
        tasks.padded(rng, text, tasks.draw_fillers(rng, 0.3)) for text in (texts.REFUSAL, complying)
    ]
    safe_labels = (True, not dangerous)
    quality = (_SAFER, 0.0) if dangerous else (0.0, _SAFER)
    utilities = [
        value + raters.length * len(text.split())
        for value, text in zip(quality, replies, strict=True)
    ]
    order = [0, 1] if rng.random() < 0.5 else [1, 0]
    return _judge(
        rng, task, 0,
        replies[order[0]], replies[order[1]],
        [utilities[i] for i in order], raters.temperature,
        (safe_labels[order[0]], safe_labels[order[1]]),
    )  # fmt: skip


def _judge(
    rng: random.Random,
    task: Task,
    turn: int,
    first: str,
    second: str,
    utilities: list[float],
    temperature: float,
    safe_labels: tuple[bool, bool] | None = None,
) -> Judged:
    """The rater's verdict: the sign and size of the difference with logistic noise."""
    u = rng.uniform(1e-9, 1 - 1e-9)
    perceived = utilities[0] - utilities[1] + temperature * math.log(u / (1 - u))
    rating = next(name for least, name in RATINGS if abs(perceived) >= least)
    messages = tasks.turn_messages(task, task.replies)
    prompt = messages[: 2 * turn + 1]
    won, lost = (0, 1) if perceived > 0 else (1, 0)
    replies = (first, second)
    labels = safe_labels or (None, None)
    return Judged(
        category=task.category,
        prompt=tuple(prompt),
        chosen=replies[won],
        rejected=replies[lost],
        rating=rating,
        task=task,
        turn=turn,
        chosen_safe=labels[won],
        rejected_safe=labels[lost],
    )
