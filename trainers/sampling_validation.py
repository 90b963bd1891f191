"""What the stages that sample replies name: are the files there, and do the prompts fit them?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from harness.engines.config import located, missing_files
from harness.errors import InputError, nearest
from trainers.data_rows import Prompt
from trainers.schedule import Schedule
from trainers.schedule_rules import Problem
from trainers.schedule_stages import (
    AnyStage,
    ContextDistillationStage,
    RejectionSamplingStage,
)

_ADAPTER, _HEAD = "adapter_model.safetensors", "head.safetensors"  # as harness stores them
_FILES = ("samples_from", "preprompts_file")


def located_fields(stage: AnyStage, folder: Path) -> dict[str, Any]:
    """The fields of a stage whose paths start from ``folder``, made absolute."""

    def at(text: str) -> str:
        return str((folder / Path(text).expanduser()).resolve())

    found: dict[str, Any] = {}
    for name in _FILES:
        given = getattr(stage, name, None)
        if given is not None:
            found[name] = at(given)
    if isinstance(stage, RejectionSamplingStage) and stage.sampler is not None:
        sampler = stage.sampler
        if sampler.base_url is not None or sampler.model != "pocket":
            sampler = located(sampler, folder)
        if sampler.adapter is not None:
            sampler = sampler.model_copy(update={"adapter": at(sampler.adapter)})
        found["sampler"] = sampler.model_dump()
    return found


def sampling_problems(schedule: Schedule, pocket: Path) -> Iterator[Problem]:
    """What is not there, or does not fit, of the files that a located schedule's stages name; no
    server is asked. ``pocket``: the folder of the base of that name."""
    for place, stage in enumerate(schedule.stages):
        loc = ("stages", place, stage.kind)
        if isinstance(stage, RejectionSamplingStage) and stage.sampler is not None:
            if stage.sampler.base_url is not None or stage.sampler.model != "pocket":
                for field, message in missing_files(stage.sampler).items():
                    yield Problem((*loc, "sampler", field), message)
            if stage.sampler.adapter is not None:
                base = pocket if stage.sampler.model == "pocket" else Path(stage.sampler.model)
                wrong = adapter_problem(Path(stage.sampler.adapter), base)
                if wrong is not None:
                    yield Problem((*loc, "sampler", "adapter"), wrong)
        if isinstance(stage, ContextDistillationStage) and stage.preprompts_file is not None:
            try:
                read_preprompts(stage)
            except InputError as error:
                yield Problem((*loc, "preprompts_file"), str(error))


def adapter_problem(adapter: Path, base: Path) -> str | None:
    """Why a folder's adapter cannot reply on a base: told before a night's training, not after it.

    Only the headers of the files are read, and a base that is no folder is not judged.
    """
    weights = adapter / _ADAPTER
    if not (adapter / "adapter_config.json").is_file() or not weights.is_file():
        return f"no adapter in {adapter}"
    if (adapter / _HEAD).is_file():
        return f"a member of a reward model is in {adapter}, not a policy"
    try:
        parts = _shapes(weights)
        whole: dict[str, tuple[int, ...]] = {}
        for file in base.glob("*.safetensors"):
            whole |= _shapes(file)
    except SafetensorError as error:
        return f"not a whole safetensors file: {error}"
    for name, shape in parts.items():
        module, _, side = name.removeprefix("base_model.model.").rpartition(".lora_")
        there = whole.get(f"{module}.weight", ())
        if side not in ("A.weight", "B.weight") or len(shape) != 2 or len(there) != 2:
            continue
        wide = shape[1] if side[0] == "A" else shape[0]
        if wide not in there:  # some models have their matrices the other way round
            sizes = " x ".join(map(str, there))
            return f"is for another base: {module} is {sizes} in {base}, and {wide} wide in it"
    return None


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    with safe_open(file, framework="numpy") as opened:
        names = opened.keys()
        return {name: tuple(opened.get_slice(name).get_shape()) for name in names}


def read_preprompts(stage: ContextDistillationStage) -> tuple[str, ...]:
    """The stage's general pre-prompts. Raises ``InputError`` for a file without any."""
    if stage.preprompts_file is None:
        return stage.preprompts
    path = Path(stage.preprompts_file)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("this file cannot be read", path=path) from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise InputError("holds no pre-prompt", path=path, expected="one a line")
    return found


def prompt_problems(place: int, stage: AnyStage, prompts: Sequence[Prompt]) -> Iterator[Problem]:
    """What the stage asks of its prompts, and they do not have."""
    loc = ("stages", place, stage.kind)
    if isinstance(stage, RejectionSamplingStage) and stage.held_out_prompts is not None:
        distinct = len({prompt.messages for prompt in prompts})
        if stage.held_out_prompts >= distinct:
            message = f"{stage.held_out_prompts} of {distinct} prompts leave none to train on"
            yield Problem((*loc, "held_out_prompts"), message)
    if not isinstance(stage, ContextDistillationStage):
        return
    if stage.only_safety and not any(prompt.safety for prompt in prompts):
        expected = "some, or only_safety: false"
        yield Problem((*loc, "prompts"), "no prompt has `safety: true`", expected)
    categories = {prompt.category for prompt in prompts if prompt.category}
    for name in stage.category_preprompts:
        if name not in categories:
            yield Problem(
                (*loc, "category_preprompts", name),
                f"no prompt has the category {name!r}",
                f"one of {', '.join(sorted(categories))}" if categories else None,
                nearest(name, categories),
            )
