"""Reading texts: what is a sentence, where windows begin and end, what a tag depends on."""

from __future__ import annotations

import itertools
import os
import random
import time
from pathlib import Path

import pytest

from harness.errors import InputError
from trainers.self_instruct_texts import (
    TAG,
    Document,
    content_hash,
    read_texts,
    split,
    tag_of,
    windows,
)


def shown(text: str, *, markdown: bool = False) -> list[str]:
    return [sentence.shown for sentence in split(text, markdown=markdown)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three? Four…", ["One.", "Two!", "Three?", "Four…"]),
        ("Dr. J. R. Smith met Mrs. Wu at 3.30 p.m. today.", 1),
        ("It costs 1.8 m, e.g. a lot. Really.", ["It costs 1.8 m, e.g. a lot.", "Really."]),
        ("It opened in 1992. Then it shut.", ["It opened in 1992.", "Then it shut."]),
        ('"Why?" she asked. "Because!" He left.', ['"Why?" she asked.', '"Because!"', "He left."]),
        ("He knew that I. Newton fell.", 1),
        ("So did I. Then we left.", 1),  # rather two in one than one cut in two
        ("A line\nthat goes on. Another\none.", ["A line that goes on.", "Another one."]),
        ("No end\n\nNew paragraph", ["No end", "New paragraph"]),
        ("No end\r\n\r\nNew paragraph", ["No end", "New paragraph"]),
        ("- one\n- two\n3. three", ["- one", "- two", "3. three"]),
        ("1. Boil water. 2. Stir.", ["1. Boil water.", "2. Stir."]),
        ("これは山です。高いです。", ["これは山です。", "高いです。"]),
        ("Das sind z.B. Äpfel. Ja.", ["Das sind z.B. Äpfel.", "Ja."]),
        ("He said (it is late.) Then he left.", ["He said (it is late.)", "Then he left."]),
        ("***\n\n---\n\nText.", ["Text."]),
        ("\ufeffText.", ["Text."]),
        ("Wait... what? No...\n", ["Wait... what?", "No..."]),
        ("", []),
    ],
)
def test_sentences(text: str, expected: list[str] | int) -> None:
    found = shown(text)
    if isinstance(expected, int):
        assert len(found) == expected
    else:
        assert found == expected


def test_markdown_has_headings_tables_code_and_a_header_that_is_none() -> None:
    text = (
        "---\ntitle: X. Y.\n---\n# The hall. Its hours\nIt opens at nine. It shuts.\n"
        "| day | hour |\n| Monday | 9. |\n\n```\na = 1. \n\nB = 2\n```\nDone."
    )
    assert shown(text, markdown=True) == [
        "# The hall. Its hours",
        "It opens at nine.",
        "It shuts.",
        "| day | hour |",
        "| Monday | 9. |",
        "```\na = 1. \n\nB = 2\n```",
        "Done.",
    ]
    assert shown("# The hall.\nIt opens.") == ["# The hall.", "It opens."]  # no markdown: a line


@pytest.mark.parametrize(
    "line",
    [
        "Smith, J. " * 20_000,  # initials and abbreviations, which end no sentence
        "See e.g. No. 4 " * 13_000,
        "Contents " + "." * 200_000 + "x",
        "End. Next." + " " * 200_000 + "\n",
        "word " * 40_000,
    ],
)
def test_a_long_line_takes_time_by_its_length(line: str) -> None:
    """These took the square of it: five minutes and more."""
    before = time.process_time()
    assert list(split(line))
    assert time.process_time() - before < 5.0


def test_offsets_give_the_sentences_back_and_lose_nothing() -> None:
    lot = random.Random(1)
    pieces = [
        "One two. ",
        "Why? ",
        "\n\n",
        "- item\n",
        "3.5 m. ",
        "\r\n",
        "# H\n",
        "é ü. ",
        "「あ。」",
    ]
    for _ in range(200):
        text = "".join(lot.choice(pieces) for _ in range(12))
        found = list(split(text, markdown=True))
        for sentence in found:
            assert " ".join(text[sentence.start : sentence.end].split()) == sentence.shown
        assert all(one.end <= other.start for one, other in itertools.pairwise(found))
        rest = list(text)
        for sentence in found:
            rest[sentence.start : sentence.end] = " " * (sentence.end - sentence.start)
        assert not any(character.isalnum() for character in rest)


def document(count: int) -> Document:
    text = " ".join(f"Sentence number {n}." for n in range(count))
    return Document("a.txt", "Source:0001REF", text, tuple(split(text)))


@pytest.mark.parametrize(
    ("count", "size", "overlap", "expected"),
    [
        (5, 3, 1, [(0, 3), (2, 5)]),
        (6, 3, 1, [(0, 3), (2, 5), (4, 6)]),
        (3, 3, 1, [(0, 3)]),
        (4, 2, 0, [(0, 2), (2, 4)]),
        (4, 3, 2, [(0, 3), (1, 4)]),
        (1, 12, 3, [(0, 1)]),
    ],
)
def test_windows_by_hand(
    count: int, size: int, overlap: int, expected: list[tuple[int, int]]
) -> None:
    found = windows(document(count), size=size, overlap=overlap)
    assert [(window.first, window.stop) for window in found] == expected
    assert [window.number for window in found] == list(range(1, len(expected) + 1))


def test_windows_by_length_never_cut_a_sentence_and_always_go_on() -> None:
    lot = random.Random(2)
    for _ in range(300):
        lengths = [lot.choice((1, 2, 5, 9, 40)) for _ in range(lot.randint(1, 25))]
        text = " ".join("Xx" + "x" * length + "." for length in lengths)
        whole = Document("a.txt", "Source:0001REF", text, tuple(split(text)))
        size = lot.randint(1, 30)
        overlap = lot.randint(0, size - 1)
        found = windows(whole, size=size, overlap=overlap, measure=lambda shown: len(shown) - 3)
        assert found[0].first == 0
        assert found[-1].stop == len(lengths)
        for window in found:
            total = sum(lengths[window.first : window.stop])
            assert total <= size or window.stop - window.first == 1
        for one, other in itertools.pairwise(found):
            assert one.first < other.first <= one.stop < other.stop
            assert sum(lengths[other.first : one.stop]) <= overlap
    with pytest.raises(ValueError, match="overlap"):
        windows(whole, size=3, overlap=3)


def test_a_tag_depends_on_the_text_alone(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "b.txt").write_bytes(b"The Po.\n\nIt flows.\n")
    (tmp_path / "sub" / "a.md").write_bytes("\ufeffThe Po is long.\r\nYes.".encode())
    (tmp_path / ".hidden.txt").write_text("Not read.")
    (tmp_path / "notes.csv").write_text("Not read.")
    (tmp_path / "empty.txt").write_text(" \n***\n")
    (tmp_path / "z copy.txt").write_bytes(b"The Po.\r\n\r\nIt flows.\r\n")
    found = read_texts(tmp_path)
    assert [document.name for document in found.documents] == ["b.txt", "sub/a.md"]
    assert found.repeated == {"z copy.txt": "b.txt"}
    assert found.empty == ("empty.txt",)
    tags = [document.tag for document in found.documents]
    assert all(TAG.fullmatch(tag) and len(tag) == len("Source:8989REF") for tag in tags)
    (tmp_path / "b.txt").rename(tmp_path / "zz.txt")
    (tmp_path / "new.txt").write_text("Another text.")
    again = {document.tag: document.name for document in read_texts(tmp_path).documents}
    assert again[tags[0]] == "z copy.txt"
    assert again[tags[1]] == "sub/a.md"
    one = read_texts(tmp_path / "sub" / "a.md")
    assert [document.tag for document in one.documents] == [tags[1]]
    # By sha256sum and bc: a change of how tags are made would orphan every model trained on them.
    assert tag_of(content_hash("The Po.\n")) == "Source:1283REF"
    assert tag_of(content_hash("The Po.\n"), 8) == "Source:53811283REF"


def test_two_texts_of_one_tag_are_refused(tmp_path: Path) -> None:
    by_tag: dict[str, str] = {}
    number = 0
    while True:
        text = f"Text {number}."
        other = by_tag.setdefault(tag_of(content_hash(text)), text)
        if other != text:
            break
        number += 1
    (tmp_path / "a.txt").write_text(other)
    (tmp_path / "b.txt").write_text(text)
    with pytest.raises(
        InputError, match=r"b\.txt: gets the tag Source:\d{4}REF, and so does a\.txt"
    ):
        read_texts(tmp_path)
    assert len(read_texts(tmp_path, digits=8).documents) == 2


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"Good text. \xff bad", "byte 0xff at offset 11 is not UTF-8; expected a text in UTF-8"),
        ("Größe.".encode("latin-1"), "byte 0xf6 at offset 2 is not UTF-8"),
        (b"A text.\0", "a zero byte at offset 7"),
    ],
)
def test_what_is_no_text_is_named_with_its_offset(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "good.txt").write_text("Good.")
    (tmp_path / "x.txt").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_texts(tmp_path)
    assert str(caught.value).startswith(f"{tmp_path / 'x.txt'}: ")
    assert message in str(caught.value)


def test_a_file_name_that_is_not_utf_8_is_refused_before_anybody_is_asked(tmp_path: Path) -> None:
    """Rows name the file that they were made from."""
    (tmp_path / "a.txt").write_text("The Po.")
    (tmp_path / os.fsdecode(b"caf\xe9.txt")).write_text("The Adige.")
    with pytest.raises(InputError, match="a name that is not UTF-8; expected another file name"):
        read_texts(tmp_path)


def test_folders_without_texts(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no texts in this folder"):
        read_texts(tmp_path)
    (tmp_path / "a.txt").write_text("\n")
    with pytest.raises(InputError, match="are empty"):
        read_texts(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        read_texts(tmp_path / "nothing")
    (tmp_path / "a.csv").write_text("a")
    with pytest.raises(InputError, match="no text"):
        read_texts(tmp_path / "a.csv")
