"""What the ablations ask reward models: pairs on held-out tasks, replies to earlier prompts."""

from __future__ import annotations

import json

import numpy as np
from ablations_plan import PAIRS
from ablations_runs import Trained
from pydantic import TypeAdapter

from harness.adapters import activate, load_adapter, remove_adapter
from harness.chat import Message
from harness.engines.local import LocalEngine, eos_ids
from harness.engines.protocol import Request
from harness.judges.rubric import Rubric, components, total
from harness.models import LoadedModel, causal_model, load
from harness.reward_models import RewardModel, RewardScorer, Rule
from trainers.data_rows import Pair
from trainers.live_base import base_spec
from trainers.pocket import preferences, tasks
from trainers.pocket.base import world_of
from trainers.reward import member_folders
from trainers.reward_accuracy import Scored, report
from trainers.reward_data import examples
from trainers.samples_file import read_samples
from trainers.schedule_stages import RejectionSamplingStage
from trainers.stage import Checkpoint

SEED = 91_000  # of the pairs: no training seed
TIE = 0.05  # of gold in [0, 1]; closer pairs are ties and left out
BATCH = 128
_ASKED = "asked"  # the adapter of the policy that is asked
_RUBRIC: TypeAdapter[Rubric] = TypeAdapter(Rubric)


def compared(trained: Trained, name: str) -> dict[str, float]:
    """The reward model ``name``, mean of its members, on pairs of its raters about held-out tasks:
    accuracy in all and by rating, calibration, and agreement with gold."""
    judged = preferences.helpful(
        world_of(), SEED, n=PAIRS, raters=preferences.HelpfulRaters(), use="evaluation"
    )
    loaded = _base(trained)
    eos = eos_ids(causal_model(loaded.model), loaded.tokenizer)
    rows = examples(loaded.tokenizer, [_pair(found) for found in judged], size="none", eos=eos)
    models = [RewardModel(name, member_folders(trained.checkpoints[name][-1].folder))]
    with RewardScorer(
        loaded.model, loaded.tokenizer, models, Rule(kind="mean"), batch_size=BATCH
    ) as scorer:
        chosen, rejected = (
            scorer.score_tokens(ids)[name]
            for ids in ([row.chosen for row in rows], [row.rejected for row in rows])
        )
    found = report(Scored(rows, chosen, rejected))
    gold = np.array([_gold(each, each.chosen) - _gold(each, each.rejected) for each in judged])
    model = (chosen.mean(0) - rejected.mean(0)).numpy()
    untied = np.abs(gold) > TIE
    return {
        **{rating: each["value"] for rating, each in found["accuracy_by_rating"].items()},
        "accuracy": found["accuracy"]["value"],
        "calibration_error": found["calibration"]["ece"],
        "gold_agreement": float(((model > 0) == (gold > 0))[untied].mean()),
    }


def retention(trained: Trained, stage: str) -> list[float]:
    """How the reward of the greedy reply changed, for each prompt of the rounds before the last:
    under the policy after the last round − under the one after the prompt's own round."""
    of = next(each for each in trained.resolved.schedule.stages if each.name == stage)
    assert isinstance(of, RejectionSamplingStage)
    assert of.reward is not None
    *earlier, last = trained.checkpoints[stage]
    loaded = _base(trained)
    models = [
        RewardModel(name, member_folders(found[-1].folder))
        for name, found in trained.checkpoints.items()
        if found[-1].kind == "reward"
    ]
    changes: list[float] = []
    for own in earlier:
        prompts = [(tuple(best.prompt_ids), best.safety) for best in read_samples(own.folder)]
        sequences = [_replied(loaded, policy, prompts) for policy in (own, last)]
        with RewardScorer(
            loaded.model,
            loaded.tokenizer,
            models,
            Rule(**of.reward.model_dump()),
            batch_size=BATCH,
        ) as scorer:
            before, after = (
                scorer.rewards(found, [safety for _, safety in prompts]).reward
                for found in sequences
            )
        changes += (after - before).tolist()
    return changes


def _replied(
    loaded: LoadedModel, policy: Checkpoint, prompts: list[tuple[tuple[int, ...], bool]]
) -> list[tuple[int, ...]]:
    """Prompts with a policy's greedy replies, end tokens included."""
    loaded.model = load_adapter(loaded.model, _ASKED, policy.folder)
    activate(loaded.model, _ASKED)
    engine = LocalEngine(loaded.model, loaded.tokenizer, batch_size=BATCH, max_new_tokens=64)
    requests = [
        Request(str(number), prompt, 0.0, engine.max_new_tokens)
        for number, (prompt, _) in enumerate(prompts)
    ]
    replies: dict[int, tuple[int, ...]] = {}
    for number, made in engine.sample(requests, seed=0):
        assert not isinstance(made, str), made
        replies[number] = made.token_ids
    remove_adapter(loaded.model, _ASKED)
    return [(*prompt, *replies[number]) for number, (prompt, _) in enumerate(prompts)]


def _base(trained: Trained) -> LoadedModel:
    found = trained.resolved
    return load(base_spec(found.schedule, found.base))


def _pair(found: preferences.Judged) -> Pair:
    prompt = tuple(Message(role, text) for role, text in found.prompt)  # type: ignore[arg-type]
    return Pair(prompt, found.chosen, found.rejected, found.rating)  # type: ignore[arg-type]


def _gold(found: preferences.Judged, text: str) -> float:
    rubric = _RUBRIC.validate_json(json.dumps(tasks.rubric(found.task, found.turn)))
    return total(rubric, components(rubric, text))
