"""Does everything that a schedule names exist, and can every metric it asks for be scored?

Runs before anything is written or any model is loaded: a misspelt metric in the pick should not
come to light after a night of training. Imports no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.capabilities.tasks import PREFIX, is_path, is_reference
from harness.engines.config import located, missing_files
from harness.errors import InputError, nearest
from harness.evalsets import EvalSet, in_ways
from harness.probes import add_probes, available_metrics
from harness.probes.protocol import Metric
from harness.sets import load_set
from trainers.data_hub import PREFIX as HUB
from trainers.data_validation import data_problems
from trainers.sampling_validation import located_fields, sampling_problems
from trainers.schedule import Gate, Schedule
from trainers.schedule_file import Source
from trainers.schedule_rules import Problem
from trainers.schedule_stages import RL_KINDS, RewardStage

POCKET_BASE = Path(__file__).parent / "pocket" / "base"
_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_Loc = tuple[str | int, ...]


@dataclass(frozen=True)
class Resolved:
    """What a schedule's names stand for."""

    schedule: Schedule  # with files as absolute paths, to be handed to the stages
    base: str  # folder or hub id of the base model
    evalsets: tuple[EvalSet, ...]
    metrics: Mapping[str, Metric]  # ``set.metric`` -> what it is


def resolve(schedule: Schedule, folder: Path, source: Source | None = None) -> Resolved:
    """Find everything the schedule names; ``folder`` is what its relative paths start from.

    Raises ``InputError`` with all problems; with ``source``, each names the schedule's line.
    """
    located = locate(schedule, folder)
    problems: list[Problem] = []
    base = _base(located, problems)
    if located.chat_template is not None and not Path(located.chat_template).is_file():
        problems.append(Problem(("chat_template",), f"no file {located.chat_template}"))
    of_sets: list[Problem] = []
    evalsets = evalsets_of(located, of_sets)
    if not problems:  # pocket data are made in the world of the base
        problems += data_problems(located, Path(base), evalsets)
    if located.evaluate.judge is not None:
        for field, message in missing_files(located.evaluate.judge).items():
            problems.append(Problem(("evaluate", "judge", field), message))
    problems += sampling_problems(located, POCKET_BASE)
    problems += of_sets
    metrics: dict[str, Metric] = {}
    if not problems:
        metrics = _metrics(schedule, evalsets)
        problems += _metric_problems(schedule, evalsets, metrics)
    if source is not None:
        source.raise_all(problems)
    elif problems:
        raise InputError("\n".join(f"{_dotted(p.loc)}: {p.message}" for p in problems))
    return Resolved(located, base, evalsets, metrics)


# ------------------------------------------------------------------------- paths


def locate(schedule: Schedule, folder: Path) -> Schedule:
    """The schedule with paths relative to ``folder`` made absolute; names stay as they are."""

    def at(text: str, *, always: bool = False) -> str:
        if text.startswith(("pocket/", HUB)) or text == "pocket":
            return text
        if is_reference(text):
            name = text.removeprefix(PREFIX)
            return PREFIX + at(name, always=is_path(name)) if is_path(name) else text
        path = folder / Path(text).expanduser()
        return str(path.resolve()) if always or path.exists() or _is_path(text) else text

    data = schedule.model_dump()
    stages = {stage.name: stage for stage in schedule.stages}
    data["model"] = at(data["model"])
    if data["chat_template"] is not None:
        data["chat_template"] = at(data["chat_template"], always=True)
    for stage in data["stages"]:
        for key in ("data", "prompts", "instructions", "sft_data"):
            if stage.get(key) is not None:
                stage[key] = at(stage[key], always=True)
        stage.update(located_fields(stages[stage["name"]], folder))
        if "mix" in stage:
            stage["mix"] = {at(name, always=True): share for name, share in stage["mix"].items()}
        for given in stage.get("eval_data", {}).values():
            given["data"] = at(given["data"], always=True)
    for ref in data["evaluate"]["sets"]:
        ref["set"] = at(ref["set"], always=ref["format"] is not None)
    if schedule.evaluate.judge is not None:
        judge = located(schedule.evaluate.judge, folder)
        data["evaluate"]["judge"] = judge.model_dump()
    if data["evaluate"]["path"] is not None:
        data["evaluate"]["path"] = at(data["evaluate"]["path"], always=True)
    probes = data["evaluate"]["probes"]
    data["evaluate"]["probes"] = tuple(at(text, always=True) for text in probes)
    return Schedule.model_validate(data)


def _is_path(text: str) -> bool:
    return text.startswith((".", "/", "~"))


def base_of(model: str) -> str:
    """Folder or hub id of a model as schedules and the command line name it."""
    return str(POCKET_BASE) if model == "pocket" else model


def _base(schedule: Schedule, problems: list[Problem]) -> str:
    if schedule.model == "pocket":
        return base_of(schedule.model)
    path = Path(schedule.model)
    if path.is_absolute():
        if not (path / "config.json").is_file():
            problems.append(Problem(("model",), f"no model in {path}", "a folder with config.json"))
        elif schedule.chat_template is None and not _has_template(path):
            message = f"the tokenizer in {path} has none"
            problems.append(Problem(("chat_template",), message, "a Jinja file to render chats by"))
    elif not _HUB_ID.fullmatch(schedule.model):
        near = nearest(schedule.model, ["pocket"])
        expected = "pocket, a folder (./name), or a hub id (owner/name)"
        problems.append(Problem(("model",), f"no model {schedule.model!r}", expected, near))
    return schedule.model


def _has_template(folder: Path) -> bool:
    """Whether a tokenizer's folder has a chat template; true where there are no files to tell."""
    settings = folder / "tokenizer_config.json"
    if not settings.is_file() or any(folder.glob("**/*.jinja")):
        return True
    try:
        return bool(json.loads(settings.read_text(encoding="utf-8")).get("chat_template"))
    except (ValueError, AttributeError):  # what loads it will say what is wrong with it
        return True


# ------------------------------------------------------------------------- eval sets, metrics


def evalsets_of(schedule: Schedule, problems: list[Problem]) -> tuple[EvalSet, ...]:
    """The eval sets of a located schedule; what is wrong with any is added to ``problems``."""
    found: dict[str, EvalSet] = {}
    for at, file in enumerate(schedule.evaluate.probes):
        try:
            add_probes([Path(file)])
        except InputError as error:
            problems.append(Problem(("evaluate", "probes", at), str(error)))
    search = [Path(schedule.evaluate.path)] if schedule.evaluate.path else []
    for at, ref in enumerate(schedule.evaluate.sets):
        loc = ("evaluate", "sets", at)
        try:
            evalset = load_set(
                ref.set,
                search=search,
                alias=ref.alias,
                limit=ref.limit,
                format=ref.format,
                num_fewshot=ref.num_fewshot,
                apply_chat_template=ref.apply_chat_template,
            )
        except InputError as error:
            problems.append(Problem(loc, str(error)))
            continue
        for asked in in_ways(evalset, ref.system_prompts, ref.wordings):
            if asked.name in found:
                message = f"two eval sets are called {asked.name!r}"
                problems.append(Problem(loc, message, "an alias (`{set: …, alias: …}`)"))
            found[asked.name] = asked
    return tuple(found.values())


def _metrics(schedule: Schedule, evalsets: Sequence[EvalSet]) -> dict[str, Metric]:
    rewards = [stage.name for stage in schedule.stages if isinstance(stage, RewardStage)]
    return {
        f"{evalset.name}.{name}": metric
        for evalset in evalsets
        for name, metric in available_metrics(
            evalset, have_judge=schedule.evaluate.judge is not None, have_rewards=rewards
        ).items()
    }


def _metric_problems(
    schedule: Schedule, evalsets: Sequence[EvalSet], metrics: Mapping[str, Metric]
) -> Iterator[Problem]:
    """Metrics of gates and pick that cannot be scored, and why not."""
    everything = {
        f"{evalset.name}.{name}": metric
        for evalset in evalsets
        for name, metric in available_metrics(evalset, have_judge=True, have_rewards=True).items()
    }
    for loc, name in _asked(schedule):
        if name in metrics:
            continue
        if name in everything:
            needs = ", ".join(sorted(everything[name].needs))
            how = {
                "rewards": "a reward stage in the schedule",
                "judge": "a judge (evaluate.judge: {model: …, base_url: …})",
            }.get(needs, f"a {needs}")
            yield Problem(loc, f"{name} cannot be scored here: it needs {how}")
            continue
        evalset = name.partition(".")[0]
        listed = [known for known in metrics if known.startswith(f"{evalset}.")] or list(metrics)
        yield Problem(
            loc,
            f"no metric {name!r}",
            f"one of {', '.join(listed)}" if listed else "eval sets under evaluate.sets",
            nearest(name, metrics),
        )
    for at, gate in enumerate(schedule.gates):
        metric = metrics.get(gate.metric)
        if metric is not None and "rewards" in metric.needs:
            for stage in watched(schedule, gate):
                if not _after_rewards(schedule, stage):
                    yield Problem(
                        ("gates", at, "metric"),
                        f"{gate.metric} needs a reward stage before {stage!r}",
                    )


def _asked(schedule: Schedule) -> Iterator[tuple[_Loc, str]]:
    for at, gate in enumerate(schedule.gates):
        yield ("gates", at, "metric"), gate.metric
    if schedule.pick is not None:
        for side in ("maximize", "minimize"):
            name = getattr(schedule.pick, side)
            if name is not None:
                yield ("pick", side), name
        for at, constraint in enumerate(schedule.pick.subject_to):
            yield ("pick", "subject_to", at, "metric"), constraint.metric


def watched(schedule: Schedule, gate: Gate) -> list[str]:
    """Names of the stages that a gate watches: those it says, or else the RL stages."""
    if gate.during is not None:
        return list(gate.during)
    return [stage.name for stage in schedule.stages if stage.kind in RL_KINDS]


def _after_rewards(schedule: Schedule, name: str) -> bool:
    for stage in schedule.stages:
        if isinstance(stage, RewardStage):
            return True
        if stage.name == name:
            return False
    return False


def _dotted(loc: Iterable[str | int]) -> str:
    return ".".join(str(step) for step in loc)
