"""Do training rows stand in the eval sets too? Exact prompts, and shared 8- and 13-grams of words.

A leak is a training row that has an eval row's prompt: the same words (case and punctuation do not
count), or at least 0.9 of its 13-grams. Length 13 is GPT-3's (Brown et al. 2020, appendix C), which
calls a single shared one a collision; so few catch templates, hence the share. Shorter overlap is
told and refused nowhere. A prompt in the middle of a dialogue is compared with all that the user
said before it: "And five more?" alone is no leak. The texts of an instruction (itself, its short
form, its question) are no turns: each is compared alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from harness.evalsets import EvalSet
from harness.overlap import words
from trainers.data_grams import Grams, Ints
from trainers.data_rows import (
    Demonstration,
    Dialogue,
    Document,
    Instruction,
    Pair,
    Place,
    Prompt,
)

SHORT, LONG = 8, 13  # words in a gram
NEAR = 0.9  # share of an eval prompt's long grams from which a training row is refused
Side = Literal["prompt", "reply", "text"]
TrainingRow = Demonstration | Document | Pair | Prompt | Dialogue | Instruction

_PROMPTS = ("prompt", "question", "instruction")
_CHUNK = 1 << 20  # words looked up together


@dataclass(frozen=True, slots=True)
class EvalText:
    """A text of an eval row; ``words`` is what is compared."""

    evalset: str
    row: str
    field: str
    text: str
    words: tuple[str, ...]
    reference: bool = False  # an answer, not something that is asked


@dataclass(frozen=True, slots=True)
class Leak:
    """A training row and the eval row that it repeats. ``share`` of the eval text's 13-grams; 1 for
    the same words. ``evaluated.reference``: an answer, which is told and not refused."""

    place: Place
    side: Side  # where in the training row
    trained: str
    evaluated: EvalText
    share: float
    exact: bool

    def told(self) -> str:
        """How alike, in words."""
        of = f"{self.evaluated.evalset}/{self.evaluated.row} {self.evaluated.field}"
        if self.exact:
            return f"{self.side} is the same as {of}"
        return f"{self.side} has {self.share:.0%} of the {LONG}-grams of {of}"


@dataclass(frozen=True, slots=True)
class Worded:
    """The words of a training row's texts, as ``sides`` has them."""

    asked: tuple[tuple[str, ...], ...]
    said: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Seen:
    """How much of one eval set's prompts stands in a source, over its ``rows`` rows."""

    rows: int
    leaked: int  # rows with a leak
    long: int  # with any 13-gram in common
    short: int  # with any 8-gram in common
    short_share: float  # of the distinct 8-grams of the set's prompts, counted prompt by prompt


@dataclass
class Comparison:
    """A source against eval sets. ``closest``: the nearest below a leak, one an eval row."""

    leaks: list[Leak] = field(default_factory=list)
    closest: list[Leak] = field(default_factory=list)
    seen: dict[str, Seen] = field(default_factory=dict)
    not_compared: tuple[str, ...] = ()  # eval sets whose rows have no text here

    def refused(self) -> list[Leak]:
        """The leaks of what is asked: answers alone are not refused."""
        return [leak for leak in self.leaks if not leak.evaluated.reference]


def eval_texts(evalset: EvalSet) -> Iterator[EvalText]:
    """What is asked, and the answers that are given as references, of all rows."""
    for row in evalset.rows:
        given: Mapping[str, Any] = {name: getattr(row, name) for name in type(row).model_fields}
        before = "\n".join(turn[0] for turn in given.get("history") or ())
        found: list[tuple[str, str, str]] = []  # field, text, what goes before it
        found += [(name, given[name], before) for name in _PROMPTS if name in given]
        turns = [str(turn) for turn in given.get("turns") or ()]
        found += [(f"turns[{i}]", turns[i], "\n".join(turns[:i])) for i in range(len(turns))]
        for i, text in enumerate(given.get("paraphrases") or ()):
            found.append((f"paraphrases[{i}]", text, before))
        for name, text, earlier in found:
            whole = f"{earlier}\n{text}" if earlier else text
            known = words(whole)
            if known:
                yield EvalText(evalset.name, row.id, name, whole, known)
        for i, answer in enumerate(given.get("references") or ()):
            known = words(answer or "")
            if len(known) >= LONG:
                yield EvalText(evalset.name, row.id, f"references[{i}]", answer, known, True)


class LeakIndex:
    """Eval sets, ready to be compared with training data."""

    def __init__(self, evalsets: Iterable[EvalSet]) -> None:
        self.texts: list[EvalText] = []
        without: list[str] = []
        known: set[int] = set()
        for evalset in evalsets:
            if id(evalset.rows) in known:  # the same rows, asked in another way
                continue
            known.add(id(evalset.rows))
            found = list(eval_texts(evalset))
            self.texts += found
            if not found:
                without.append(evalset.name)
        self.not_compared = tuple(without)
        self._exact: dict[tuple[str, ...], list[int]] = defaultdict(list)
        for at, text in enumerate(self.texts):
            if not text.reference:
                self._exact[text.words].append(at)
        self._lengths = {len(key) for key in self._exact}
        vocabulary = sorted({word for text in self.texts for word in text.words})
        self._number = {word: number for number, word in enumerate(vocabulary, 1)}
        ids = [self.numbers(text.words) for text in self.texts]
        self._short, self._long = Grams(SHORT, ids), Grams(LONG, ids)

    def numbers(self, found: Sequence[str]) -> list[int]:
        """Words as numbers; 0 is a word that no eval text has."""
        return list(map(self._number.get, found, repeat(0)))

    def same(self, found: Sequence[str], start: int = 0, stop: int | None = None) -> list[int]:
        """The prompts that are exactly these words."""
        stop = len(found) if stop is None else stop
        if stop - start not in self._lengths:
            return []
        return self._exact.get(tuple(found[start:stop]), [])

    def compare(
        self,
        rows: Sequence[TrainingRow],
        places: Sequence[Place],
        worded: Iterable[Worded] | None = None,
    ) -> Comparison:
        """All rows of a source, each with its place, against all eval texts. ``worded``: the words
        of each row, where they are there already."""
        search = _Search(self, rows, self._short.forget(), self._long.forget())
        for number, found in enumerate(map(words_of, rows) if worded is None else worded):
            search.add(number, found)
        return search.finish(places)


@dataclass(frozen=True, slots=True)
class _Hit:
    row: int
    side: Side
    owner: int
    share: float
    exact: bool
    turns: tuple[int, int] = (0, 0)  # of a prompt: which of the user's turns

    def rank(self) -> tuple[bool, float]:
        return self.exact, self.share


class _Search:
    """One pass over a source's rows, many rows looked up together."""

    def __init__(
        self, index: LeakIndex, rows: Sequence[TrainingRow], short: Grams, long: Grams
    ) -> None:
        self.index, self.rows, self.short, self.long = index, rows, short, long
        self.ids: list[int] = []
        self.starts: list[int] = []  # where in ids the streams begin
        self.streams: list[tuple[int, Side, tuple[int, int]]] = []  # turns as a hit's
        self.best: dict[tuple[int, str, str], _Hit] = {}  # training row, eval set, eval row
        self.near: dict[int, _Hit] = {}  # eval text -> the closest that is no leak

    def add(self, number: int, worded: Worded) -> None:
        apart = isinstance(self.rows[number], Instruction)
        every: list[str] = []
        for turn, found in enumerate(worded.asked):
            if apart:
                for owner in self.index.same(found):
                    self._keep(_Hit(number, "prompt", owner, 1.0, True, (turn, turn + 1)))
                self._stream(number, "prompt", found, (turn, turn + 1))
                continue
            before = len(every)
            every += found
            # What the user says alone, and with all that was said before it.
            for start, first in ((before, turn), (0, 0)) if before else ((0, 0),):
                for owner in self.index.same(every, start):
                    self._keep(_Hit(number, "prompt", owner, 1.0, True, (first, turn + 1)))
        self._stream(number, "prompt", every, (0, len(worded.asked)))
        side: Side = "text" if isinstance(self.rows[number], Document) else "reply"
        for found in worded.said:
            if side == "text":
                for owner in self.index.same(found):
                    self._keep(_Hit(number, side, owner, 1.0, True))
            self._stream(number, side, found)
        if len(self.ids) >= _CHUNK:
            self._flush()

    def _stream(
        self, number: int, side: Side, found: Sequence[str], turns: tuple[int, int] = (0, 0)
    ) -> None:
        if len(found) >= SHORT:
            self.starts.append(len(self.ids))
            self.streams.append((number, side, turns))
            self.ids += self.index.numbers(found)
            self.ids.append(0)

    def _flush(self) -> None:
        ids = np.array(self.ids, np.int64)
        places, _ = self.short.everywhere(ids)
        # Every long gram begins with a short one of the same text.
        places, grams = self.long.at(ids, places)
        if len(places):
            stream = np.searchsorted(np.array(self.starts), places, side="right") - 1
            pairs = np.unique(stream * len(self.long.seen) + grams)
            stream, grams = pairs // len(self.long.seen), pairs % len(self.long.seen)
            at, owner = self.long.owners_of(grams)
            texts = len(self.index.texts)
            keys, counts = np.unique(stream[at] * texts + owner, return_counts=True)
            share = counts / self.long.count[keys % texts]
            self._take(keys // texts, keys % texts, share)
        self.ids, self.starts, self.streams = [], [], []

    def _take(self, stream: Ints, owner: Ints, share: NDArray[np.float64]) -> None:
        leaks = share >= NEAR - 1e-9
        for at in np.flatnonzero(leaks).tolist():
            row, side, turns = self.streams[stream[at]]
            self._keep(_Hit(row, side, int(owner[at]), float(share[at]), False, turns))
        rest = np.flatnonzero(~leaks)
        rest = rest[np.lexsort((-share[rest], owner[rest]))]
        firsts = rest[np.unique(owner[rest], return_index=True)[1]]
        for at in firsts.tolist():
            row, side, turns = self.streams[stream[at]]
            hit = _Hit(row, side, int(owner[at]), float(share[at]), False, turns)
            known = self.near.get(hit.owner)
            if known is None or hit.share > known.share:
                self.near[hit.owner] = hit

    def _keep(self, hit: _Hit) -> None:
        text = self.index.texts[hit.owner]
        key = (hit.row, text.evalset, text.row)
        known = self.best.get(key)
        if known is None or hit.rank() > known.rank():
            self.best[key] = hit

    def finish(self, places: Sequence[Place]) -> Comparison:
        self._flush()
        texts = self.index.texts
        leaked = {
            (text.evalset, text.row) for hit in self.best.values() for text in [texts[hit.owner]]
        }
        closest: dict[tuple[str, str], _Hit] = {}
        for hit in sorted(self.near.values(), key=lambda hit: -hit.share):
            key = (texts[hit.owner].evalset, texts[hit.owner].row)
            if key not in leaked:
                closest.setdefault(key, hit)
        return Comparison(
            [self._leak(hit, places) for hit in sorted(self.best.values(), key=_order)],
            [self._leak(hit, places) for hit in closest.values()],
            self._seen(leaked),
            self.index.not_compared,
        )

    def _leak(self, hit: _Hit, places: Sequence[Place]) -> Leak:
        asked, said = sides(self.rows[hit.row])
        shown = "\n".join(asked[slice(*hit.turns)] if hit.side == "prompt" else said)
        text = self.index.texts[hit.owner]
        return Leak(places[hit.row], hit.side, shown, text, hit.share, hit.exact)

    def _seen(self, leaked: set[tuple[str, str]]) -> dict[str, Seen]:
        short, long = self.short.seen_of(), self.long.seen_of()
        found: dict[str, Seen] = {}
        of_set: dict[str, list[int]] = defaultdict(list)
        for at, text in enumerate(self.index.texts):
            if not text.reference:
                of_set[text.evalset].append(at)
        for name, numbers in of_set.items():
            rows = {self.index.texts[at].row for at in numbers}
            grams = int(self.short.count[numbers].sum())
            found[name] = Seen(
                rows=len(rows),
                leaked=sum((name, row) in leaked for row in rows),
                long=len({self.index.texts[at].row for at in numbers if long[at]}),
                short=len({self.index.texts[at].row for at in numbers if short[at]}),
                short_share=int(short[numbers].sum()) / grams if grams else 0.0,
            )
        return found


def _order(hit: _Hit) -> tuple[int, bool, float, int]:
    return hit.row, not hit.exact, -hit.share, hit.owner


def words_of(row: TrainingRow) -> Worded:
    """The words of what is asked in a training row, and of what else it holds."""
    asked, said = sides(row)
    return Worded(tuple(map(words, asked)), tuple(map(words, said)))


def sides(row: TrainingRow) -> tuple[Sequence[str], Sequence[str]]:
    """What the user asks in a training row, and what else it holds: replies, a document's text.

    Of an instruction all that a dialogue may have of it, each a text of its own.
    """
    if isinstance(row, Document):
        return (), (row.text,)
    if isinstance(row, Dialogue):
        return row.turns, ()
    if isinstance(row, Instruction):
        return (row.text, row.short, row.ask), ()
    messages = row.prompt if isinstance(row, Pair) else row.messages
    asked = [message.content for message in messages if message.role == "user"]
    said = [message.content for message in messages if message.role != "user"]
    if isinstance(row, Pair):
        said += [row.chosen, row.rejected]
    return asked, said
