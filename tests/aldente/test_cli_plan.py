from __future__ import annotations

import sys
from pathlib import Path

import pytest
from command_line import CommandLine

from aldente.exit_codes import BAD_INPUT
from trainers.model_shapes import find_shape

SHIPPED = Path(__file__).parents[2] / "schedules"


def test_json_is_one_object_and_adds_up(aldente: CommandLine) -> None:
    result = aldente("plan", SHIPPED / "llama-2-7b.yaml", "--device", "a10g", "--json")
    assert result.code == 0
    assert len(result.out.splitlines()) == 1
    found = result.json()
    assert found["parameters"] == 6_738_415_616
    (device,) = found["devices"]
    assert device["name"] == "A10G 24 GB"
    assert [stage["name"] for stage in device["stages"]][:2] == ["sft", "helpfulness"]
    for stage in device["stages"]:
        assert stage["fits"] == (stage["bytes"] <= device["bytes"])
        assert stage["bytes"] == max(phase["bytes"] for phase in stage["phases"])
        for phase in stage["phases"]:
            assert phase["bytes"] == sum(phase["parts"].values())
    unfit = [stage["name"] for stage in device["stages"] if not stage["fits"]]
    assert [advice["stage"] for advice in found["advice"]] == unfit
    disk = found["disk"]
    assert disk["bytes"] == disk["base"] + sum(disk["checkpoints"].values()) + disk["evaluations"]


def test_the_advice_given_is_advice_that_works(aldente: CommandLine) -> None:
    """What `together` says, given to --set, makes the stage fit, with the bytes promised."""
    command = ("plan", SHIPPED / "real-data.yaml", "--device", "4GB", "--json")
    told = [advice for advice in aldente(*command).json()["advice"] if advice["fits"]]
    assert told
    for advice in told:
        settings = [each for change in advice["together"] for each in change["set"]]
        again = aldente(*command, *(part for each in settings for part in ("--set", each))).json()
        stages = {stage["name"]: stage for stage in again["devices"][0]["stages"]}
        assert stages[advice["stage"]]["fits"]
        assert stages[advice["stage"]]["bytes"] == advice["bytes"]


def test_plain_text_in_a_pipe(aldente: CommandLine, schedule: Path) -> None:
    result = aldente("plan", schedule)
    lines = result.out.splitlines()
    assert any(line.startswith("A100 40 GB") and line.endswith("●") for line in lines)
    assert any(line.startswith("this CPU") for line in lines)
    assert "disk: " in result.out
    assert "\x1b" not in result.out
    assert result.err.startswith("will do: ")
    assert "A100 40 GB" in result.err


def test_a_table_on_a_terminal(
    aldente: CommandLine, schedule: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda _: True, raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    assert "──" in aldente("plan", schedule).out


def test_longer_prompts_need_more(aldente: CommandLine) -> None:
    command = ("plan", SHIPPED / "llama-2-7b.yaml", "--device", "h200", "--json")
    few, many = (
        aldente(*command, "--prompt-tokens", count).json()["devices"][0]["stages"][-1]["bytes"]
        for count in ("100", "1000")
    )
    assert few < many


def test_bad_input(aldente: CommandLine, schedule: Path) -> None:
    result = aldente("plan", schedule, "--device", "a100")
    assert result.code == BAD_INPUT
    assert "A100 40 GB, A100 80 GB" in result.err
    result = aldente("plan", schedule, "--set", "model=owner/unheard-of")
    assert result.code == BAD_INPUT
    assert "a folder with its config.json" in result.err
    assert aldente("plan", schedule.parent / "none.yaml").code == BAD_INPUT


def test_an_odd_configuration_is_bad_input(
    aldente: CommandLine, schedule: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "llama", "hidden_size": "64"}')
    result = aldente("plan", schedule, "--set", f"model={tmp_path}")
    assert result.code == BAD_INPUT
    assert "config.json: hidden_size: is '64'; expected a whole number" in result.err


def test_every_shipped_schedule_has_a_plan(aldente: CommandLine) -> None:
    for file in sorted(SHIPPED.glob("*.yaml")):
        found = aldente("plan", file, "--json").json()
        assert found["parameters"] == find_shape(found["model"]).parameters
