"""Every example of ``docs/training-data.md`` is read as the format that its heading names."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trainers.data import LOADERS, first_object
from trainers.data_files import SUFFIXES
from trainers.data_formats import FORMATS, Kind, detect_kind
from trainers.schedule_fields import STAGE_KINDS

DOC = (Path(__file__).parents[2] / "docs" / "training-data.md").read_text(encoding="utf-8")
_HEADINGS: dict[str, Kind] = {
    "Demonstrations": "demonstrations",
    "Preference pairs": "pairs",
    "Prompts": "prompts",
    "Dialogues": "dialogues",
    "Instructions": "instructions",
}
CONVERSATIONS = {("dialogues", "messages"), ("dialogues", "sharegpt")}


def examples() -> list[tuple[Kind, str, str]]:
    """(kind, format, two lines) of the page, in its order."""
    found: list[tuple[Kind, str, str]] = []
    for part in re.split(r"^## ", DOC, flags=re.MULTILINE)[1:]:
        kind = _HEADINGS.get(part.partition(":")[0])
        for section in re.split(r"^### ", part, flags=re.MULTILINE)[1:]:
            block = re.search(r"```jsonl\n(.*?)```", section, flags=re.DOTALL)
            if kind is not None:
                name = re.match(r"`(\w+)`", section)
                assert name, section[:40]
                assert block, section[:40]
                found.append((kind, name.group(1), block.group(1)))
    return found


def test_every_format_has_its_example() -> None:
    shown = {(kind, name) for kind, name, _ in examples()}
    assert shown == {
        (kind, known.name) for kind, all_of_it in FORMATS.items() for known in all_of_it
    }
    assert len(examples()) == DOC.count("```jsonl")


def test_every_stage_is_named_with_every_field_that_it_reads() -> None:
    table = DOC.partition("## Sources")[0]
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    named: dict[str, str] = {}
    for row in rows:
        stages, fields = row.strip("| ").split(" | ")
        named |= dict.fromkeys(re.findall(r"`(\w+)`", stages), fields)
    assert named.keys() == STAGE_KINDS.keys()
    reading = {"data", "mix", "eval_data", "prompts", "sft_data", "instructions"}
    for kind, model in STAGE_KINDS.items():
        assert set(re.findall(r"`(\w+)`", named[kind])) == reading & set(model.model_fields)


def test_the_links_lead_to_headings() -> None:
    headings = re.findall(r"^#+ (.*)$", DOC, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", text).lower().replace(" ", "-") for text in headings}
    assert set(re.findall(r"\]\(#([\w-]+)\)", DOC)) <= anchors


@pytest.mark.parametrize(
    ("kind", "name", "lines"), examples(), ids=[f"{kind}-{name}" for kind, name, _ in examples()]
)
def test_an_example_is_read_without_being_told_how(
    tmp_path: Path, kind: Kind, name: str, lines: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(lines, encoding="utf-8")
    told = detect_kind(first_object(str(path))[2], path, 1)
    # Conversations are dialogues only where a stage, or --as, takes them so.
    assert told == ("demonstrations" if (kind, name) in CONVERSATIONS else kind)
    loaded = LOADERS[kind](str(path), base_folder=tmp_path, seed=1)
    assert loaded.report.format == name
    assert lines.count("\n") == 2
    assert {place.line for place in loaded.places} == {1, 2}
    assert not loaded.report.notes
    assert not loaded.report.dropped


def test_every_kind_of_file_is_named() -> None:
    for suffix in (*SUFFIXES, ".txt"):
        assert f"{suffix}`" in DOC
