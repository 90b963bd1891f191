"""A folder of texts, cut into sentences and into windows of whole sentences, every offset kept.

Offsets count characters of the file decoded as UTF-8: ``open(path, encoding="utf-8", newline="")``
read whole and sliced gives the same text again. A document is known by what it says, not by its
name: its tag is made of the hash of its text, so that a moved or renamed file keeps it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.errors import InputError, nearest
from trainers.self_instruct_words import word_set

SUFFIXES = (".txt", ".md")
TAG = re.compile(r"Source:\d+REF")

# A sentence's end: marks, and the quotes and brackets that close behind them.
_END = re.compile(r"(?<![.!?…])[.!?…]++[\"'”’»)\]*_]*+(?=\s)|[。！？｡]++[」』”’）]*+")
_NEXT = re.compile(r"\s++[\"'“‘«(\[*_¿¡—–-]*\s*(\S)")
_LAST_WORD = re.compile(r"(?:\w\.)*\w+\Z")
_LONGEST_WORD = 64  # characters before a full stop that are looked at: no abbreviation has more
# Before a full stop these end no sentence, in the languages that the checks know.
_ABBREVIATIONS = word_set(
    """mr mrs ms dr prof st sr jr rev hon gen col capt lt sgt vs etc eg ie e.g i.e cf al ca approx
    fig figs eq eqs sec ch chap vol nos pp ed eds est dept univ inc ltd co corp jan feb mar apr
    jun jul aug sep sept oct nov dec mt ft str bzw usw z.b d.h u.a nr bd hrsg sog evtl vgl ggf
    mme mlle m.e sig sigg dott pag sra srta ud uds núm pág dhr mevr bijv enz"""
)
_HEADING = re.compile(r" {0,3}#{1,6}(?:\s|$)")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,3}[.)])\s+\S")
_FENCE = re.compile(r" {0,3}(```+|~~~+)")


@dataclass(frozen=True, slots=True)
class Sentence:
    """``text[start:end]`` of its document, and how it is shown: on one line unless it is code."""

    start: int
    end: int
    shown: str


@dataclass(frozen=True, eq=False)  # a key of tables: not hashed by its text
class Document:
    """A text with its tag. ``name``: its path inside the folder, with ``/``."""

    name: str
    tag: str
    text: str
    sentences: tuple[Sentence, ...]


@dataclass(frozen=True)
class Window:
    """Neighbouring sentences of a document: ``first`` up to, not with, ``stop``."""

    document: Document
    number: int  # in its document, from 1
    first: int
    stop: int

    @property
    def sentences(self) -> tuple[Sentence, ...]:
        return self.document.sentences[self.first : self.stop]

    @property
    def start(self) -> int:
        return self.document.sentences[self.first].start

    @property
    def end(self) -> int:
        return self.document.sentences[self.stop - 1].end

    @property
    def text(self) -> str:
        return " ".join(sentence.shown for sentence in self.sentences)

    @property
    def id(self) -> str:
        """Unique among all windows: the tag's digits and the number."""
        return f"{re.sub(r'[^0-9]', '', self.document.tag)}-{self.number}"


@dataclass(frozen=True)
class Texts:
    """The documents of a folder, in the order of their names, and the files that gave none."""

    documents: tuple[Document, ...]
    repeated: dict[str, str] = field(default_factory=dict)  # name -> whose text it has
    empty: tuple[str, ...] = ()


def read_texts(source: Path, *, digits: int = 4) -> Texts:
    """Every ``.txt`` and ``.md`` file in a folder and below it, or one such file.

    Hidden files and folders are left out. A text that stands there twice is read once. Raises
    ``InputError`` for a file that is not UTF-8, with the offset of the byte, or has such a name;
    where there are no texts; and where two texts get one tag of so many digits.
    """
    paths = _paths(source)
    documents: list[Document] = []
    known: dict[str, str] = {}  # hash -> name
    tags: dict[str, str] = {}  # tag -> name
    repeated: dict[str, str] = {}
    empty: list[str] = []
    for path in paths:
        name = path.name if source.is_file() else path.relative_to(source).as_posix()
        if not name.isascii() and any("\ud800" <= character <= "\udfff" for character in name):
            raise InputError("a name that is not UTF-8", path=path, expected="another file name")
        text = _decoded(path)
        found = tuple(split(text, markdown=path.suffix.lower() == ".md"))
        if not found:
            empty.append(name)
            continue
        digest = content_hash(text)
        if digest in known:
            repeated[name] = known[digest]
            continue
        known[digest] = name
        tag = tag_of(digest, digits)
        if tag in tags:
            raise InputError(
                f"gets the tag {tag}, and so does {tags[tag]}",
                path=path,
                expected=f"more digits in a tag: --tag-digits {min(digits + 4, 16)}",
            )
        tags[tag] = name
        documents.append(Document(name, tag, text, found))
    if not documents:
        raise InputError("the texts in this folder are empty", path=source, expected="sentences")
    return Texts(tuple(documents), repeated, tuple(empty))


def content_hash(text: str) -> str:
    """sha256 (hex) of a text, whatever its line ends and whether it has a byte-order mark."""
    plain = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
    return hashlib.sha256(plain.encode()).hexdigest()


def tag_of(digest: str, digits: int = 4) -> str:
    """The tag of a text by its hash: ``Source:8989REF``."""
    return f"Source:{int(digest, 16) % 10**digits:0{digits}d}REF"


def _paths(source: Path) -> list[Path]:
    if source.is_file():
        if source.suffix.lower() not in SUFFIXES:
            raise InputError("no text", path=source, expected=" or ".join(SUFFIXES))
        return [source]
    if not source.is_dir():
        near = nearest(source.name, [p.name for p in source.parent.glob("*")])
        raise InputError("no such folder", path=source, nearest=near)
    found = [
        path
        for path in source.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(source).parts)
    ]
    if not found:
        raise InputError("no texts in this folder", path=source, expected=" or ".join(SUFFIXES))
    return sorted(found, key=lambda path: path.relative_to(source).as_posix())


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", path=path) from error
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        what = f"byte 0x{content[error.start]:02x} at offset {error.start} is not UTF-8"
        raise InputError(what, path=path, expected="a text in UTF-8") from error
    if "\0" in text:
        offset = content.index(b"\0")
        raise InputError(f"a zero byte at offset {offset}", path=path, expected="a text, not data")
    return text


# --------------------------------------------------------------------------- sentences


def split(text: str, *, markdown: bool = False) -> Iterator[Sentence]:
    """The sentences of a text in their order, none blank; only white space lies between them.

    Blank lines end a sentence, and list items begin one; in Markdown headings, rows of tables and
    fenced code stand alone, and a header of metadata between two ``---`` is left out. Initials and
    common abbreviations end none (where they do, two sentences stay one); an abbreviation that is
    not known may cut a sentence in two.
    """
    for start, end, whole in _blocks(text, markdown):
        if whole:
            yield from _trimmed(text, start, end, code=text[start:end].lstrip()[:3] in _CODE)
            continue
        begin = start
        for mark in _END.finditer(text, start, end):
            if mark.end() < end and _ends(text, begin, mark, end):
                yield from _trimmed(text, begin, mark.end())
                begin = mark.end()
        yield from _trimmed(text, begin, end)


_CODE = ("```", "~~~")


def _ends(text: str, begin: int, mark: re.Match[str], end: int) -> bool:
    """Whether the marks end the sentence that begins at ``begin``."""
    if mark[0][0] in "。！？｡":
        return True
    following = _NEXT.match(text, mark.end(), end)
    if following is None:
        return False
    if mark[0][0] != "." or mark[0].startswith(".."):
        # "What?" she said: a small letter goes on.
        return not following[1].islower()
    if following[1].islower():
        return False
    word = _LAST_WORD.search(text, max(begin, mark.start() - _LONGEST_WORD), mark.start())
    if word is None:
        return True
    last = word[0]
    if last.isdigit():  # "1. Boil water", but not "in 1992. Then"
        return text[begin : word.start()].strip() != "" or len(last) > 3
    initial = len(last) == 1 and last.isupper()
    return not initial and last.casefold() not in _ABBREVIATIONS


def _trimmed(text: str, start: int, end: int, *, code: bool = False) -> Iterator[Sentence]:
    raw = text[start:end]
    left = len(raw) - len(raw.lstrip("\ufeff \t\r\n\f\v\u2028\u2029\u00a0"))
    shown = raw.strip("\ufeff").strip()
    if any(character.isalnum() for character in shown):
        at = start + left
        yield Sentence(at, at + len(shown), shown if code else " ".join(shown.split()))


def _blocks(text: str, markdown: bool) -> Iterator[tuple[int, int, bool]]:
    """Stretches of lines (start, end) that no sentence leaves; True: one sentence as they are."""
    start: int | None = None  # of the block that is open
    fence: str | None = None
    at = 0
    lines = text.splitlines(keepends=True)
    if markdown:
        skipped = _metadata(lines)
        at = sum(map(len, lines[:skipped]))
        lines = lines[skipped:]
    for line in lines:
        end = at + len(line)
        opening = _FENCE.match(line) if markdown else None
        if fence is not None:
            if opening is not None and opening[1].startswith(fence):
                assert start is not None
                yield start, end, True
                start, fence = None, None
        elif opening is not None or (
            markdown and (_HEADING.match(line) or line.lstrip().startswith("|"))
        ):
            if start is not None:
                yield start, at, False
            start = None
            if opening is not None:
                start, fence = at, opening[1]
            else:
                yield at, end, True
        elif not line.strip():
            if start is not None:
                yield start, at, False
            start = None
        elif start is None:
            start = at
        elif _ITEM.match(line):
            yield start, at, False
            start = at
        at = end
    if start is not None:
        yield start, at, fence is not None


def _metadata(lines: Sequence[str]) -> int:
    """How many lines the header of metadata takes."""
    if lines and lines[0].removeprefix("\ufeff").strip() == "---":
        for number, line in enumerate(lines[1:], 2):
            if line.strip() == "---":
                return number
    return 0


# --------------------------------------------------------------------------- windows


def windows(
    document: Document,
    *,
    size: int,
    overlap: int,
    measure: Callable[[str], int] = lambda shown: 1,
) -> list[Window]:
    """Windows of at most ``size``, each sharing up to ``overlap`` with the one before.

    ``measure`` gives a sentence's length; without it a window is counted in sentences. No sentence
    is cut: one longer than ``size`` is a window alone. Every sentence is in a window, and every
    window but the first brings at least one that no window before it had.
    """
    if size < 1 or not 0 <= overlap < size:
        raise ValueError(f"no windows of {size} that overlap by {overlap}")
    lengths = [measure(sentence.shown) for sentence in document.sentences]
    found: list[Window] = []
    first = stop = 0
    while stop < len(lengths):
        total = sum(lengths[first:stop])
        fresh = stop
        while stop < len(lengths) and (stop == first or total + lengths[stop] <= size):
            total += lengths[stop]
            stop += 1
        if stop == fresh:  # what is shared leaves no room for the next sentence
            first += 1
            continue
        found.append(Window(document, len(found) + 1, first, stop))
        first, shared = stop, 0
        while first > found[-1].first + 1 and shared + lengths[first - 1] <= overlap:
            shared += lengths[first - 1]
            first -= 1
    return found
