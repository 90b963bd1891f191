"""What ``aldente data check`` prints of a source of which no row is left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import CommandLine


@pytest.mark.parametrize("options", [[], ["--eval-sets", "pocket/borderline"]])
def test_of_no_rows_nothing_but_the_counts_is_told(
    aldente: CommandLine, tmp_path: Path, options: list[str]
) -> None:
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({"prompt": "hi", "chosen": "a", "rejected": "a"}) + "\n")
    result = aldente("data", "check", path, *options)
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines() == [
        f"{path}: pairs (prompt): 1 rows read, 0 to train on",
        "  dropped: identical replies 1",
    ]


def test_near_duplicates_are_not_looked_for_among_too_many_prompts(
    aldente: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainers.data_check.NEAR_ROWS", 1)
    rows = [{"prompt": f"ask {n}", "completion": "a"} for n in range(2)]
    path = tmp_path / "d.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = "  prompts much like an earlier one: not looked for, too many prompts"
    assert told in aldente("data", "check", path).out.splitlines()
