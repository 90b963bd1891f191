"""Reading and writing schedules: YAML 1.2, line numbers, "did you mean", ``--set`` overrides.

``trainers/schedule.py`` says what a schedule is; this file gets one from text and tells what is
wrong with the text in the words of its author: the file, the line, the field, what was expected.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from ruamel.yaml import YAML

from harness.errors import InputError, nearest
from trainers.schedule import Schedule
from trainers.schedule_fields import STAGE_KINDS, child, fields_of
from trainers.schedule_rules import Problem, broken_rules
from trainers.yaml_lines import Document, Loc, load

_EXPECTED = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text (a number or true/false as text needs quotes)",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "none_required": "null",
    "string_pattern_mismatch": "lower-case letters, digits, - and _",
}


@dataclass
class Source:
    """A schedule's text as read, and what ``--set`` and ``--seed`` changed in it."""

    document: Document
    data: dict[str, Any]
    overrides: dict[tuple[str | int, ...], str] = field(default_factory=dict)

    def error(self, problem: Problem) -> InputError:
        """The problem with its file and line, or with the override that brought it in."""
        steps = _without_kind(problem.loc)
        for loc, text in self.overrides.items():
            if loc == steps[: len(loc)]:
                return InputError(
                    problem.message,
                    path=f"--set {text}",
                    field=".".join(map(str, steps[len(loc) :])) or None,
                    expected=problem.expected,
                    nearest=problem.nearest,
                )
        return InputError(
            problem.message,
            path=self.document.source,
            line=self.document.line(problem.loc),
            field=self.dotted(problem.loc) or None,
            expected=problem.expected,
            nearest=problem.nearest,
        )

    def dotted(self, loc: Loc) -> str:
        """A location as a reader would write it: stages by name (``stages.ppo.kl``)."""
        steps = [str(step) for step in _without_kind(loc)]
        if len(loc) > 1 and loc[0] == "stages" and isinstance(loc[1], int):
            stage = self.data["stages"][loc[1]]
            if isinstance(stage, dict) and isinstance(stage.get("name"), str):
                steps[1] = stage["name"]
        return ".".join(steps)

    def raise_all(self, problems: Sequence[Problem]) -> None:
        """Raise the problems as one ``InputError``, a line each; nothing if there are none."""
        errors = [self.error(problem) for problem in problems]
        if len(errors) == 1:
            raise errors[0]
        if errors:
            raise InputError("\n".join(dict.fromkeys(str(error) for error in errors)))


def read_schedule(path: Path, overrides: Sequence[str] = (), seed: int | None = None) -> Schedule:
    """The validated schedule of a file. Raises ``InputError`` with file, line and field."""
    return read_with_source(path, overrides, seed)[0]


def read_with_source(
    path: Path, overrides: Sequence[str] = (), seed: int | None = None
) -> tuple[Schedule, Source]:
    """The schedule, and its source for telling later problems with their lines."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        near = nearest(path.name, [file.name for file in path.parent.glob("*.y*ml")])
        raise InputError("no such schedule file", path=path, nearest=near) from error
    except (IsADirectoryError, UnicodeDecodeError) as error:
        raise InputError("not a schedule file", path=path, expected="YAML in UTF-8") from error
    return parse_schedule(text, str(path), overrides, seed)


def parse_schedule(
    text: str, name: str, overrides: Sequence[str] = (), seed: int | None = None
) -> tuple[Schedule, Source]:
    """As ``read_with_source``, from text; ``name`` is used in messages."""
    document = load(text, name)
    if not isinstance(document.data, dict):
        raise InputError("not a schedule", path=name, line=1, expected="name:, model:, stages: …")
    source = Source(document, document.data)
    _long_forms(source)
    for override in overrides:
        _apply(source, override)
    if seed is not None:
        _set(source, ("seed",), seed, f"seed={seed}")
    try:
        # JSON, because strict validation of Python data would want tuples where YAML has lists.
        schedule = Schedule.model_validate_json(json.dumps(source.data))
    except ValidationError as error:
        source.raise_all([_problem(item) for item in error.errors()])
        raise
    source.raise_all(list(broken_rules(schedule)))
    return schedule, source


# ------------------------------------------------------------------------- short forms


def _long_forms(source: Source) -> None:
    """Replace ``- sft: {…}`` by kind and name, and an eval set's name by ``{set: name}``."""
    stages = source.data.get("stages")
    if isinstance(stages, list):
        source.data["stages"] = [_stage(source, at, item) for at, item in enumerate(stages)]
    evaluate = source.data.get("evaluate")
    if isinstance(evaluate, dict) and isinstance(evaluate.get("sets"), list):
        evaluate["sets"] = [
            {"set": item} if isinstance(item, str) else item for item in evaluate["sets"]
        ]


def _stage(source: Source, at: int, item: Any) -> dict[str, Any]:
    fields: Any
    if isinstance(item, str):
        kind, fields = item, {}
    elif isinstance(item, dict) and "kind" in item:
        kind, fields = item["kind"], item
    elif isinstance(item, dict) and len(item) == 1:
        kind, fields = next(iter(item.items()))
        fields = {} if fields is None else fields
    else:
        hint = "`- kind: {fields}`, the fields on its line or indented below the kind"
        raise source.error(Problem(("stages", at), "not a stage", hint))
    if kind not in STAGE_KINDS:
        raise source.error(
            Problem(
                ("stages", at),
                f"unknown stage {kind!r}",
                f"one of {', '.join(STAGE_KINDS)}",
                nearest(str(kind), STAGE_KINDS),
            )
        )
    if not isinstance(fields, dict):
        raise source.error(Problem(("stages", at, kind), "not a stage's fields", "a mapping"))
    if fields.get("kind", kind) != kind:
        raise source.error(Problem(("stages", at, kind, "kind"), "contradicts the stage's kind"))
    return {"name": kind, **fields, "kind": kind}


# ------------------------------------------------------------------------- --set


def _apply(source: Source, override: str) -> None:
    """Apply one ``PATH=VALUE``; stages go by name, the value is YAML."""
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise InputError("not an override", path=f"--set {override}", expected="PATH=VALUE")
    value = load(text, f"--set {override}").data if text.strip() else None
    _set(source, tuple(_steps(source, path.split("."), override)), value, override)


def _steps(source: Source, path: list[str], override: str) -> Iterator[str | int]:
    """Turn a dotted path into steps through the data, checking each against the models."""

    def unknown(word: str, known: Sequence[str]) -> InputError:
        near = nearest(word, known)
        return InputError(
            f"unknown path, no {word!r} here",
            path=f"--set {override}",
            expected=None if near else f"one of {', '.join(known)}",
            nearest=near,
        )

    here: Any = Schedule
    at = 0
    while at < len(path):
        word = path[at]
        if here is dict:  # keys are the user's own, and may have dots in them
            yield ".".join(path[at:])
            return
        if at == 1 and path[0] == "stages":
            stages = source.data.get("stages") or []
            names = [str(stage.get("name")) for stage in stages]
            if word not in names:
                raise unknown(word, names)
            yield names.index(word)
            here = STAGE_KINDS[stages[names.index(word)]["kind"]]
        elif word.isdigit() and here is not None and not isinstance(here, type):
            count = len(source.data.get(path[0]) or [])
            if at == 1 and int(word) >= count:
                raise unknown(word, [str(index) for index in range(count)])
            yield int(word)
            here = child(here, int(word))
        else:
            if here is None or word not in fields_of(here):
                raise unknown(word, fields_of(here))
            yield word
            here = child(here, word)
        at += 1


def _set(source: Source, steps: tuple[str | int, ...], value: Any, override: str) -> None:
    here: Any = source.data
    for step in steps[:-1]:
        if isinstance(step, str):
            if not isinstance(here.get(step), dict | list):
                here[step] = {}
            here = here[step]
        else:
            here = here[step]
    if isinstance(here, list) and steps == ("stages",):
        raise InputError("set a stage's fields one by one", path=f"--set {override}")
    here[steps[-1]] = value
    source.overrides[steps] = override
    if steps[0] in {"stages", "evaluate"} and len(steps) <= 2:
        _long_forms(source)


# ------------------------------------------------------------------------- problems


def _problem(error: Any) -> Problem:
    """One pydantic error in plain words."""
    loc, kind, given = tuple(error["loc"]), error["type"], error["input"]
    if kind == "extra_forbidden":
        known = fields_of(_model_at(loc[:-1]))
        near = nearest(str(loc[-1]), known)
        expected = None if near else f"one of {', '.join(known)}"
        return Problem(loc, "unknown field", expected, near)
    if kind == "missing":
        return Problem(loc, "is missing")
    if kind in {"literal_error", "enum"}:
        expected = str(error["ctx"]["expected"]).replace("'", "")
        choices = expected.replace(" or ", ", ").split(", ")
        near = nearest(given, choices) if isinstance(given, str) else None
        return Problem(loc, f"{_shown(given)} is not known", expected, near)
    if kind == "value_error":
        return Problem(loc, str(error["ctx"]["error"]))
    if kind in _EXPECTED:
        return Problem(loc, f"got {_shown(given)}", _EXPECTED[kind])
    message = str(error["msg"]).replace("Input should be", "must be")
    return Problem(loc, f"{message}, got {_shown(given)}")


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "…"


def _without_kind(loc: Loc) -> tuple[str | int, ...]:
    """``stages.3.ppo.kl`` -> ``stages.3.kl``: pydantic names the member of the union it tried."""
    if len(loc) > 2 and loc[0] == "stages" and loc[2] in STAGE_KINDS:
        return (*loc[:2], *loc[3:])
    return tuple(loc)


def _model_at(loc: Loc) -> Any:
    here: Any = Schedule
    for at, step in enumerate(loc):
        union_member = at == 2 and loc[0] == "stages"
        here = STAGE_KINDS.get(str(step)) if union_member else child(here, step)
    return here


# ------------------------------------------------------------------------- writing, identity


def resolved_yaml(schedule: Schedule) -> str:
    """The schedule with every default written out, as YAML that reads back to the same one."""
    data = schedule.model_dump(mode="json")
    data["stages"] = [{stage.pop("kind"): stage} for stage in data["stages"]]
    yaml = YAML()
    yaml.default_flow_style = False
    yaml.width = 100
    stream = io.StringIO()
    yaml.dump(data, stream)
    return stream.getvalue()


def schedule_hash(schedule: Schedule) -> str:
    """sha256 over the resolved schedule as canonical JSON: order and comments do not count, and
    neither does `allow_leaks`."""
    text = json.dumps(_what_runs(schedule), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differences(before: Schedule, after: Schedule) -> list[str]:
    """The fields in which two schedules differ, a line each: ``stages.ppo.kl: 0.02 -> 0.05``."""
    old, new = (dict(_flat(_by_name(schedule))) for schedule in (before, after))
    return [
        f"{name}: {_shown(old.get(name))} -> {_shown(new.get(name))}"
        for name in [*old, *(name for name in new if name not in old)]
        if old.get(name) != new.get(name)
    ]


def _what_runs(schedule: BaseModel) -> dict[str, Any]:
    """The schedule without `allow_leaks`, which changes what is refused and nothing that is run: a
    run that was begun without it goes on with it."""
    data = schedule.model_dump(mode="json")
    for stage in data["stages"]:
        del stage["allow_leaks"]
    return data


def _by_name(schedule: BaseModel) -> dict[str, Any]:
    data = _what_runs(schedule)
    data["stages"] = {stage["name"]: stage for stage in data["stages"]}
    return data


def _flat(data: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    items: Any = ()
    if isinstance(data, Mapping):
        items = data.items()
    elif isinstance(data, list):
        items = enumerate(data)
    if not items:
        yield path, data
    for key, value in items:
        yield from _flat(value, f"{path}.{key}" if path else str(key))
