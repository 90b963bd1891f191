"""What is in training data, and what looks wrong with it, before anything is trained.

``check_file`` looks at one source, ``check_schedule`` at every source of a schedule's stages:
counts, turns, lengths against the stage's limit, repetition, preferences that contradict each
other, ratings, safety flags, characters that nobody sees, and rows that stand in the eval sets too.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.errors import InputError
from harness.overlap import near_duplicates, words
from trainers.data import BadRowsError, Loaded, Report, first_object
from trainers.data_formats import FORMATS, Kind, detect_kind
from trainers.data_leaks import Comparison, LeakIndex, TrainingRow, Worded, sides, words_of
from trainers.data_lengths import Lengths, Tokenizer, summary, token_counts
from trainers.data_rows import RATINGS, Dialogue, Document, Instruction, Pair, Place, Prompt
from trainers.data_validation import Reading, data_seed, fields, load
from trainers.schedule import Schedule

NEAR_DUPLICATE = 0.9  # likeness of two prompts (harness.overlap) from which they are one
NEAR_ROWS = 3000  # distinct prompts up to which near duplicates are looked for: it is quadratic
_SHOWN = 5  # examples of a finding
# Control characters but tab and line ends; marks that turn the direction of writing; spaces without
# width; the tag characters, which spell ASCII invisibly.
_UNSEEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff"
    "\U000e0000-\U000e007f]"
)


@dataclass(frozen=True)
class Use:
    """A stage's field that names a source, and the longest row that the stage takes."""

    stage: str
    max_length: int | None = None
    allow_leaks: bool = False


@dataclass(frozen=True)
class Finding:
    """Something that ``count`` rows have; some of the places, and what stands there."""

    count: int = 0
    examples: tuple[str, ...] = ()


@dataclass
class SourceReport:
    """One source. ``errors`` make it unusable; the rest is there if it could be read."""

    source: str
    kind: Kind
    uses: tuple[Use, ...] = ()
    errors: list[str] = field(default_factory=list)
    report: Report | None = None
    turns: dict[int, int] = field(default_factory=dict)  # messages (a pair's: of the prompt)
    lengths: dict[str, Lengths] = field(default_factory=dict)  # stage ("" without) -> lengths
    no_lengths: str = ""  # why there are none
    repeated: Finding = Finding()  # rows that stood before, to the letter
    repeated_words: Finding = Finding()  # and those that do but for case and punctuation
    near_repeated: Finding | None = None  # prompts like an earlier one; None: not looked for
    identical_sides: Finding = Finding()  # pairs whose replies have the same words
    contradictions: Finding = Finding()  # pairs that stand the other way round, too
    ratings: dict[str, int] = field(default_factory=dict)
    safety: dict[str, int] = field(default_factory=dict)
    categories: dict[str, int] = field(default_factory=dict)
    unseen: Finding = Finding()
    special: Finding = Finding()  # the tokenizer's special tokens, written out
    comparison: Comparison | None = None

    @property
    def allow_leaks(self) -> bool:
        """Whether every stage that uses the source takes its leaks."""
        return bool(self.uses) and all(use.allow_leaks for use in self.uses)

    @property
    def bad(self) -> bool:
        """Whether it cannot be read, or has leaks that were not allowed."""
        leaks = self.comparison.refused() if self.comparison else []
        return bool(self.errors) or (bool(leaks) and not self.allow_leaks)


@dataclass(frozen=True)
class Looking:
    """What rows are held against."""

    base_folder: Path
    seed: int
    index: LeakIndex | None = None
    tokenizer: Tokenizer | None = None
    no_tokenizer: str = ""  # why there is none


def check_file(
    source: str,
    looking: Looking,
    *,
    kind: Kind | None = None,
    data_format: str = "auto",
    max_length: int | None = None,
) -> SourceReport:
    """One source: a file, a folder, a pocket/ or hub: name. Without ``kind`` the columns of its
    first row tell what it holds. Raises ``InputError`` where they do not."""
    known = kind or _kind_of(source)
    uses = (Use("", max_length),) if max_length is not None else ()
    return check_source(Reading(source, known, data_format), looking, uses)


def check_schedule(schedule: Schedule, looking: Looking) -> list[SourceReport]:
    """Every source of the stages, each once, of a schedule that ``validation.locate`` gave."""
    uses: dict[tuple[Reading, int], list[Use]] = {}
    for stage in schedule.stages:
        for found in fields(stage):
            allowed = stage.allow_leaks or not found.trained
            use = Use(stage.name, found.max_length, allowed)
            seed = data_seed(schedule, stage, found)
            uses.setdefault((found.reading, seed), []).append(use)
    return [
        check_source(reading, replace(looking, seed=seed), of_it)
        for (reading, seed), of_it in uses.items()
    ]


def _kind_of(source: str) -> Kind:
    if source.startswith("pocket/"):
        name = source.removeprefix("pocket/").partition("?")[0]
        return next((kind for kind in FORMATS if kind == name), "pairs")
    path, line, row = first_object(source)
    return detect_kind(row, path, line)


def check_source(reading: Reading, looking: Looking, uses: Sequence[Use] = ()) -> SourceReport:
    """Read a source as training would, and look further. Bad rows are in ``errors``."""
    found = SourceReport(reading.source, reading.kind, tuple(uses))
    try:
        loaded = load(reading, base_folder=looking.base_folder, seed=looking.seed)
    except BadRowsError as error:
        found.errors += [str(problem) for problem in error.problems]
        return found
    except InputError as error:
        found.errors.append(str(error))
        return found
    found.report = loaded.report
    if loaded.rows:
        _count(found, loaded.rows)
        _repetition(found, loaded, looking)
        _preferences(found, loaded)
        _characters(found, loaded, looking.tokenizer)
        _lengths(found, loaded, looking)
    return found


def _count(found: SourceReport, rows: Sequence[TrainingRow]) -> None:
    labels = [row.kind if isinstance(row, Instruction) else row.category for row in rows]
    found.categories = dict(Counter(label for label in labels if label).most_common())
    messages = Counter[int]()
    rated = Counter[str]()
    safety = Counter[str]()
    for row in rows:
        if isinstance(row, Pair):
            messages[len(row.prompt)] += 1
            rated[row.rating or "none"] += 1
            if row.chosen_safe is not None or row.rejected_safe is not None:
                safety[f"chosen {_flag(row.chosen_safe)}, rejected {_flag(row.rejected_safe)}"] += 1
        elif isinstance(row, Dialogue):
            messages[len(row.turns)] += 1
        elif not isinstance(row, Document | Instruction):
            messages[len(row.messages)] += 1
        if isinstance(row, Prompt):
            safety["safety" if row.safety else "not safety"] += 1
    found.turns = dict(sorted(messages.items()))
    if set(rated) - {"none"}:
        found.ratings = {name: rated[name] for name in (*RATINGS, "none") if rated[name]}
    found.safety = dict(safety.most_common())


def _flag(value: bool | None) -> str:
    return "unknown" if value is None else "safe" if value else "unsafe"


def _repetition(found: SourceReport, loaded: Loaded[TrainingRow], looking: Looking) -> None:
    """Rows that repeat one another, and the eval sets: one pass over all words."""
    rows, places = loaded.rows, loaded.places
    letters: dict[object, int] = {}
    keys: dict[bytes, int] = {}
    same: list[tuple[int, int]] = []
    alike: list[tuple[int, int]] = []

    def worded() -> Iterator[Worded]:
        for number, row in enumerate(rows):
            known = words_of(row)
            first = letters.setdefault(_content(row), number)
            # No word has a control character in it: the texts' ends and the sides' cannot be moved.
            plain = "\1".join("\2".join(map(" ".join, side)) for side in (known.asked, known.said))
            key = hashlib.blake2b(plain.encode(), digest_size=16).digest()
            before = keys.setdefault(key, number)
            if first != number:
                same.append((first, number))
            elif before != number:
                alike.append((before, number))
            yield known

    if looking.index is not None:
        found.comparison = looking.index.compare(rows, places, worded())
    else:
        for _ in worded():
            pass
    found.repeated = _of_two(same, places)
    found.repeated_words = _of_two(alike, places)
    prompts: dict[str, int] = {}
    for number, row in enumerate(rows):
        prompts.setdefault(_prompt(row), number)
    if len(prompts) <= NEAR_ROWS:
        numbers = list(prompts.values())
        near = near_duplicates(list(prompts), NEAR_DUPLICATE)
        later: dict[int, int] = {}
        for i, j, _ in near:
            later.setdefault(numbers[j], numbers[i])
        found.near_repeated = _of_two([(i, j) for j, i in sorted(later.items())], places)


def _prompt(row: TrainingRow) -> str:
    """What near duplicates are told by. An instruction's question is often its kind's, the same for
    all values, and would make them alike."""
    if isinstance(row, Instruction):
        return row.text
    asked, said = sides(row)
    return "\n".join(asked) or "\n".join(said)


def _content(row: TrainingRow) -> object:
    return (row.messages, row.safety) if isinstance(row, Prompt) else row


def _preferences(found: SourceReport, loaded: Loaded[TrainingRow]) -> None:
    known: dict[tuple[object, str, str], int] = {}
    against: list[tuple[int, int]] = []
    identical: list[int] = []
    for number, row in enumerate(loaded.rows):
        if isinstance(row, Pair):
            other = known.get((row.prompt, row.rejected, row.chosen))
            if other is not None:
                against.append((other, number))
            known.setdefault((row.prompt, row.chosen, row.rejected), number)
            # Lengths first: the words of two replies are costly, and few replies are as long.
            if abs(len(row.chosen) - len(row.rejected)) < 20 and words(row.chosen) == words(
                row.rejected
            ):
                identical.append(number)
    found.contradictions = _of_two(against, loaded.places)
    shown = tuple(f"{loaded.places[i]}" for i in identical[:_SHOWN])
    found.identical_sides = Finding(len(identical), shown)


def _characters(
    found: SourceReport, loaded: Loaded[TrainingRow], tokenizer: Tokenizer | None
) -> None:
    special = _special(tokenizer)
    unseen: list[str] = []
    written: list[str] = []
    for row, place in zip(loaded.rows, loaded.places, strict=True):
        asked, said = sides(row)
        odd = {c for text in (*asked, *said) for c in _UNSEEN.findall(text)}
        if odd:
            unseen.append(f"{place} {' '.join(f'U+{ord(c):04X}' for c in sorted(odd))}")
        if special is not None:
            tokens = {t for text in (*asked, *said) for t in special.findall(text)}
            if tokens:
                written.append(f"{place} {' '.join(sorted(tokens))}")
    found.unseen = Finding(len(unseen), tuple(unseen[:_SHOWN]))
    found.special = Finding(len(written), tuple(written[:_SHOWN]))


def _special(known: Tokenizer | None) -> re.Pattern[str] | None:
    tokens = known.tokenizer.all_special_tokens if known else []
    return (
        re.compile("|".join(map(re.escape, sorted(tokens, key=len, reverse=True))))
        if tokens
        else None
    )


def _lengths(found: SourceReport, loaded: Loaded[TrainingRow], looking: Looking) -> None:
    if looking.tokenizer is None:
        found.no_lengths = looking.no_tokenizer
        return
    try:
        counts = token_counts(loaded.rows, looking.tokenizer)
    except InputError as error:
        found.no_lengths = str(error)
        return
    cut = isinstance(loaded.rows[0], Document)
    for use in found.uses or (Use(""),):
        found.lengths[use.stage] = summary(counts, use.max_length, cut=cut)


def _of_two(pairs: Sequence[tuple[int, int]], places: Sequence[Place]) -> Finding:
    shown = tuple(f"{places[later]} as {places[first]}" for first, later in pairs[:_SHOWN])
    return Finding(len(pairs), shown)
