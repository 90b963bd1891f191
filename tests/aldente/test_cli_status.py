"""``aldente status`` of a run whose eval sets ask how long an instruction lasts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import CommandLine, write_schedule
from ruamel.yaml import YAML

from harness.store.run import Run

NAMES = ["sft-e000", "sft-e001", "sft-e002"]
ROWS = 6


def consistency_set(folder: Path) -> Path:
    """Six dialogues, each told to say nothing: a first check that any reply passes, then one that
    none does."""
    folder.mkdir()
    rows = []
    for i in range(ROWS):
        row: dict[str, Any] = {"id": f"r{i}", "instruction": "Be brief."}
        row["fillers"] = ["one", "two", "three"]
        never: dict[str, Any] = {"check": "contains", "text": "never said"}
        checks = {1: {"check": "not", "of": never}, 3: never}
        row["probes"] = [
            {"turn": turn, "ask": f"turn {turn} of {i}", "checker": checker}
            for turn, checker in checks.items()
        ]
        rows.append(row)
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "card.yaml").write_text(
        "name: lasting\nversion: '1'\nprobe: consistency\nlanguage: en\nlicence: MIT\n"
        "source: ours\nhigh_means: it lasts\nintended_use: tests\n"
    )
    return folder


@pytest.fixture
def run(aldente: CommandLine, tmp_path: Path, tiny_llama: Path) -> Path:
    path = write_schedule(tmp_path / "schedules", tiny_llama)
    consistency_set(path.parent / "sets" / "lasting")
    yaml = YAML()
    schedule = yaml.load(path)
    schedule["stages"] = [{"sft": {**schedule["stages"][0]["sft"], "epochs": 2}}]
    schedule["evaluate"]["sets"] = ["./sets/borderline", "./sets/lasting"]
    del schedule["gates"]
    schedule["pick"] = {"maximize": "lasting.survival"}
    with path.open("w") as stream:
        yaml.dump(schedule, stream)
    result = aldente("run", path, "--runs", tmp_path / "runs")
    assert result.code == 0, result.err
    return tmp_path / "runs" / "tiny"


def test_status_says_how_long_instructions_last(aldente: CommandLine, run: Path) -> None:
    picked = Run.open(run).events()[-2]
    assert picked["event"] == "picked"
    said = "half of 6 dialogues have lost the instruction: turn 3 [turn 3, turn 3] (both splits)"
    told = [line for line in aldente("status", run).out.splitlines() if "have lost" in line]
    between = ["sft-e001"] if picked["picked"] == "sft-e001" else []
    assert told == [f"lasting, {name}: {said}" for name in ("sft-e000", *between, "sft-e002")]
    with (run / "events.jsonl").open("a") as stream:
        stream.write(json.dumps({**picked, "picked": "sft-e001"}) + "\n")
    told = [line for line in aldente("status", run).out.splitlines() if "have lost" in line]
    assert told == [f"lasting, {name}: {said}" for name in NAMES]
    shown = aldente("status", run, "--json").json()
    life = {"turn": 3, "low": 3, "high": 3, "n": ROWS}
    assert [(each["name"], each["half_life"]) for each in shown["checkpoints"]] == [
        (name, {"lasting": life}) for name in NAMES
    ]
