"""The reference page is the models' own words."""

from __future__ import annotations

from pathlib import Path

from trainers.schedule_fields import STAGE_KINDS
from trainers.schedule_reference import reference

PAGE = Path(__file__).parents[2] / "docs" / "schedule-reference.md"


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference(), "run `make reference`"


def test_every_field_of_every_stage_is_on_it_with_its_meaning() -> None:
    text = reference()
    for model in STAGE_KINDS.values():
        for name, field in model.model_fields.items():
            if name != "kind":
                assert field.description
                assert field.description.replace("|", r"\|") in text
