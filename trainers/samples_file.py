"""``samples.jsonl`` of a rejection-sampling checkpoint: the samples chosen, and what is needed to
train another model on them.

No torch: schedules that name such a file are validated with these functions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_type_hints

from harness.chat import Conversation, assistant
from harness.errors import InputError
from harness.store.commit import is_committed
from harness.store.run import Run
from trainers.data_fields import RowError, conversation
from trainers.data_rows import Demonstration, Place

SAMPLES_FILE = "samples.jsonl"


@dataclass(frozen=True, slots=True)
class Best:
    """One of the best of a prompt's samples, as tokens: what was scored is what is trained on."""

    stage: str
    round: int
    id: str  # the prompt's
    messages: Conversation  # the prompt
    safety: bool
    prompt_ids: list[int]
    reply_ids: list[int]  # the end token included, if the reply ended
    text: str
    ended: bool  # by itself, not by the limit
    reward: float
    mean_reward: float  # of all K samples
    source: str  # the reward model that spoke


def write_lines(rows: Iterable[Any], path: Path) -> None:
    """Dataclasses as JSON lines."""
    text = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    path.write_text(text, encoding="utf-8")


def read_samples(folder: Path) -> list[Best]:
    """The chosen samples of a committed round; none where the round had none (epoch 0)."""
    path = folder / SAMPLES_FILE
    return [best for _, best in read_file(path)] if path.is_file() else []


def read_file(path: Path) -> Iterator[tuple[Place, Best]]:
    """Each sample with its place. Raises ``InputError`` for a line that holds none."""
    try:
        # splitlines would cut at U+2028 too
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("this file cannot be read", path=path) from error
    for number, line in enumerate(lines, 1):
        if line:
            yield Place(str(path), number), _sample(line, path, number)


def files_of(source: Path) -> list[Path]:
    """The files of ``samples_from``: itself, a checkpoint's, or those of all of a run's.

    Raises ``InputError`` where there is none.
    """
    if (source / "run.json").is_file():
        found = [
            info.folder / SAMPLES_FILE
            for info in Run.open(source).checkpoints()
            if info.kind == "rejection_sampling" and (info.folder / SAMPLES_FILE).is_file()
        ]
    elif source.is_dir():
        if not is_committed(source):
            raise InputError("not a committed checkpoint, nor a run", path=source)
        found = [source / SAMPLES_FILE]
    else:
        found = [source]
    missing = [path for path in found if not path.is_file()]
    if not found or missing:
        raise InputError(
            "no samples here",
            path=source,
            expected=f"a {SAMPLES_FILE}, a rejection-sampling checkpoint's folder, or a run's",
        )
    return found


def read_source(source: Path) -> list[tuple[Place, Best]]:
    """All samples of ``samples_from``, in their order."""
    found = [entry for path in files_of(source) for entry in read_file(path)]
    if not found:
        raise InputError("holds no samples", path=source)
    return found


def content_hash(source: Path) -> str:
    """sha256 (hex) over the bytes of the files of ``samples_from``, one after the other."""
    digest = hashlib.sha256()
    for path in files_of(source):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def demonstrations(samples: Sequence[tuple[Place, Best]]) -> list[Demonstration]:
    """The samples as what they are trained on, for comparing them with eval sets."""
    return [Demonstration((*best.messages, assistant(best.text))) for _, best in samples]


def _sample(line: str, path: Path, number: int) -> Best:
    def wrong(message: str, field: str | None = None, expected: str | None = None) -> InputError:
        return InputError(message, path=path, line=number, field=field, expected=expected)

    try:
        row = json.loads(line)
    except json.JSONDecodeError as error:
        raise wrong("not JSON", expected="a sample of rejection sampling a line") from error
    if not isinstance(row, dict):
        raise wrong("not a sample", expected="an object")
    names = [name for name in get_type_hints(Best) if name not in row]
    if names:
        raise wrong("is missing", names[0], "a sample as rejection sampling writes it")
    given = {name: row[name] for name in get_type_hints(Best)}
    for name, kind in _PLAIN.items():
        value = given[name]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise wrong(f"is {value!r}", name, _WORDS[name])
    try:
        given["messages"] = conversation(row, "messages", last="user")
    except RowError as error:
        raise wrong(error.message, error.field, error.expected) from error
    for name in ("prompt_ids", "reply_ids"):
        if not all(type(token) is int for token in given[name]):
            raise wrong("is no list of tokens", name)
    for name in ("reward", "mean_reward"):
        given[name] = float(given[name])
    return Best(**given)


_PLAIN: dict[str, Any] = {
    "stage": str,
    "round": int,
    "id": str,
    "safety": bool,
    "prompt_ids": list,
    "reply_ids": list,
    "text": str,
    "ended": bool,
    "reward": int | float,
    "mean_reward": int | float,
    "source": str,
}
_WORDS = {
    name: {int: "a whole number", str: "text", bool: "true or false", list: "a list"}.get(
        kind, "a number"
    )
    for name, kind in _PLAIN.items()
}
