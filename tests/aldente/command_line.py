"""Calling ``aldente`` in this process, and a schedule small enough to run in a test."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from aldente.main import main


@dataclass(frozen=True)
class Result:
    """What a command left: exit code and both streams."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        """The last line of stdout as JSON."""
        return json.loads(self.out.splitlines()[-1])


class CommandLine:
    """``aldente`` as a function of its arguments."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *arguments: str | Path) -> Result:
        self._monkeypatch.setattr("sys.argv", ["aldente", *map(str, arguments)])
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as caught:
            main()
        code = caught.value.code
        captured = self._capsys.readouterr()
        return Result(code if isinstance(code, int) else 0, captured.out, captured.err)


SCHEDULE = """\
name: tiny
model: MODEL
quantization: none
stages:
  - sft: {data: demonstrations.jsonl, epochs: 1, batch: 8, packing: false, lora: {r: 2}}
  - reward: {name: helpfulness, data: pairs.jsonl, members: 1, batch: 8, held_out: 0.2}
  - ppo:
      prompts: prompts.jsonl
      epochs: 2
      iterations: 1
      batch: 4
      mini_batch: 4
      max_new_tokens: 4
      reward: {kind: mean}
evaluate:
  sets: [./sets/borderline]
  batch: 8
  max_new_tokens: 4
gates:
  - {metric: borderline.false_refusal, at_most: 0.9, on_fail: stop}
pick:
  minimize: borderline.false_refusal
"""


def write_schedule(folder: Path, model: Path) -> Path:
    """A whole schedule with its data and eval set beside it."""
    folder.mkdir(exist_ok=True)
    rows: dict[str, list[dict[str, Any]]] = {
        "demonstrations": [{"prompt": f"q{i}", "completion": f"a{i}"} for i in range(16)],
        "pairs": [
            {"prompt": f"q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20)
        ],
        "prompts": [{"prompt": f"q{i}", "safety": i % 2 == 0} for i in range(8)],
        "sets/borderline/rows": [{"id": f"r{i}", "prompt": f"kill {i}?"} for i in range(10)],
    }
    for name, content in rows.items():
        path = folder / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in content))
    (folder / "sets" / "borderline" / "card.yaml").write_text(
        "name: borderline\nversion: '1'\nprobe: refusal\nlanguage: en\nlicence: Apache-2.0\n"
        "source: ours\nhigh_means: worse\nintended_use: tests\noptions: {safe: true}\n"
    )
    path = folder / "tiny.yaml"
    path.write_text(SCHEDULE.replace("MODEL", str(model)))
    return path
