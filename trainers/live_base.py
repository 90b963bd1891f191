"""The base model of a run, held in memory once, with everything that trains and is measured on it.

A 7B base is not read again every epoch: the stages and the evaluations share one, and each puts
its adapters on it. What is evaluated is read back from the checkpoint just committed and compared
with its bytes, so that a number always belongs to the file that carries its name.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peft import PeftModel

from harness.adapters import adapter_hash, hash_file, load_adapter, remove_adapter, using
from harness.chat import Prompts
from harness.conversing import log_probs
from harness.engines.local import LocalEngine
from harness.errors import InputError, IntegrityError
from harness.evaluate import Judge, evaluate
from harness.evaluation import Evaluation, SetEvaluation
from harness.judges.llm.config import make_judge
from harness.models import LoadedModel, ModelSpec, load
from harness.probes import available_metrics
from harness.reward_identity import reward_identity
from harness.reward_models import RewardModel, RewardScorer, Rule
from harness.store.commit import COMMIT, is_committed
from trainers import (
    context_distillation,
    dpo,
    ghost_attention,
    ppo,
    rejection_sampling,
    reward,
    rloo,
    sft,
)
from trainers.runner import Progress
from trainers.schedule import Schedule
from trainers.schedule_stages import (
    AnyStage,
    PpoStage,
    RejectionSamplingStage,
    RewardRule,
    RlooStage,
    SftStage,
)
from trainers.separation import packed_collator
from trainers.stage import Checkpoint, StageContext, Trainer, intact
from trainers.team import ALONE, Team

if TYPE_CHECKING:
    from harness.evalsets import EvalSet
    from harness.probes.protocol import LogProbs
    from harness.store.run import Run
    from trainers.validation import Resolved

TRAINERS: Mapping[str, Trainer] = {
    "sft": sft.checkpoints,
    "reward": reward.checkpoints,
    "rejection_sampling": rejection_sampling.checkpoints,
    "context_distillation": context_distillation.checkpoints,
    "ghost_attention": ghost_attention.checkpoints,
    "ppo": ppo.checkpoints,
    "rloo": rloo.checkpoints,
    "dpo": dpo.checkpoints,
}
_CANDIDATE, _REFERENCE = "evaluated", "evaluation_start"  # adapters of an evaluation
_REWARDS = "evaluation_rm"  # prefix of the reward-model members' adapters


def base_spec(schedule: Schedule, base: str) -> ModelSpec:
    """How a schedule's base model is loaded; ``schedule`` has absolute paths."""
    template = schedule.chat_template
    return ModelSpec(
        base=base,
        quantization=schedule.quantization,
        dtype=schedule.dtype,
        chat_template=Path(template).read_text(encoding="utf-8") if template else None,
    )


def _silent(_: dict[str, Any]) -> None:
    return None


class LiveBase:
    """The real ``Bench`` of the runner: trains on, and evaluates with, one base in memory.

    The base is loaded when something has to be computed: not for a run whose work is all committed.
    """

    def __init__(self, run: Run, resolved: Resolved, team: Team = ALONE) -> None:
        self._run = run
        self._team = team
        self._resolved = resolved
        self._schedule = resolved.schedule
        self._loaded: LoadedModel | None = None
        self._prompts: Prompts | None = None  # of the base's tokenizer, for all evaluations
        self._judge: Judge | None = None
        self._intact: set[Path] = set()  # checkpoints that were looked through
        self._rewards: dict[tuple[tuple[RewardModel, ...], str], dict[str, Any]] = {}

    def train(
        self, stage: AnyStage, start: Path | None, log: Callable[[dict[str, Any]], None]
    ) -> Generator[Checkpoint]:
        """The stage's checkpoints; its trainer puts its adapters on the shared base."""
        context = self._context(stage, start, log)
        self._team.tell(("begin", stage.name, start))
        trained = TRAINERS[stage.kind](context)
        try:
            while True:
                self._team.tell(("next",))
                checkpoint = next(trained, None)
                if checkpoint is None:
                    return
                yield checkpoint
        finally:
            self._team.tell(("leave",))

    def follow(self) -> None:
        """A follower's part: train beside the leader until it says that the run is over."""
        by_name = {stage.name: stage for stage in self._schedule.stages}
        trained: Iterator[Checkpoint] = iter(())
        while (heard := self._team.hear()) != ("over",):
            match heard:
                case ("begin", name, start):
                    stage = by_name[name]
                    trained = TRAINERS[stage.kind](self._context(stage, start))
                case ("next",):
                    next(trained, None)
                case ("leave",):
                    trained = iter(())

    def _context(
        self,
        stage: AnyStage,
        start: Path | None,
        log: Callable[[dict[str, Any]], None] = _silent,
    ) -> StageContext:
        reward_models = self._reward_models(stage)
        for folder in (start, *self._reward_folders(stage).values()):
            if folder is not None:
                self._check(folder)
        return StageContext(
            run=self._run,
            schedule=self._schedule,
            stage=stage,
            start=start,
            base_folder=self._resolved.base,
            reward_models=reward_models,
            log=log,
            loaded=self.base(),
            team=self._team,
        )

    def evaluate(
        self, checkpoint: Checkpoint, start: Path | None, progress: Progress
    ) -> Evaluation:
        """The checkpoint on every set of the schedule. What is committed already is only read,
        unless it was measured by another reward than the checkpoint's: then it is done again."""
        outs = {
            evalset.name: self._run.eval_folder(checkpoint.name, evalset.name, evalset.hash)
            for evalset in self._resolved.evalsets
        }
        committed = {name for name, folder in outs.items() if is_committed(folder)}
        for evalset in self._resolved.evalsets:
            out = outs[evalset.name]
            if evalset.name in committed and self._by_another_reward(checkpoint, evalset, out):
                (out / COMMIT).unlink()  # first: a kill leaves nothing that looks whole
                shutil.rmtree(out)
                committed.remove(evalset.name)
        missing = [each for each in self._resolved.evalsets if each.name not in committed]
        if missing:
            with self._seated(checkpoint, start) as seat:
                for evalset in missing:
                    seat.measure(evalset, outs[evalset.name], progress)
        return Evaluation.open(checkpoint.name, outs.values())

    def _by_another_reward(self, checkpoint: Checkpoint, evalset: EvalSet, out: Path) -> bool:
        """Whether a committed evaluation has numbers of a reward that is not the checkpoint's."""
        possible = available_metrics(evalset, True, True, True)
        if not any("rewards" in metric.needs for metric in possible.values()):
            return False
        found = SetEvaluation.open(out).summary["identity"]
        stage = self._schedule.stages[self._place(checkpoint.stage)]
        wanted = self._reward_identity(*self._reward(stage))
        return any(found.get(key) != value for key, value in wanted.items())

    def base(self) -> LoadedModel:
        """The base model, loaded at most once.

        Raises ``InputError`` if it is not the one that the run was begun with (adapters trained on
        one base say nothing on another), or none that the schedule's stages can work with.
        """
        if self._loaded is None:
            loaded = load(base_spec(self._schedule, self._resolved.base))
            self._check_base(loaded)
            self._loaded = loaded
        return self._loaded

    def _check_base(self, loaded: LoadedModel) -> None:
        """``InputError`` where a stage cannot work with it: now, not when its turn comes."""
        if not loaded.tokenizer.chat_template:
            raise InputError(
                "the tokenizer has no chat template",
                path=self._resolved.base,
                expected="`chat_template: FILE` in the schedule (Jinja)",
            )
        begun = _base_of_evaluations(self._run)
        if begun is not None and begun != loaded.base_fingerprint:
            raise InputError(
                "the base model is not the one that this run was begun with",
                path=self._resolved.base,
                expected=f"fingerprint {begun[:12]}…, this one has {loaded.base_fingerprint[:12]}…",
            )
        pad = int(loaded.tokenizer.pad_token_id)
        for stage in self._schedule.stages:
            if isinstance(stage, SftStage) and stage.packing:
                packed_collator(loaded.model, pad, field=f"stages.{stage.name}.packing")

    def judge(self) -> Judge | None:
        """The schedule's judge, made (a local one: loaded) at most once."""
        config = self._schedule.evaluate.judge
        if self._judge is None and config is not None:
            self._judge = make_judge(config)
        return self._judge

    def _reward_models(self, stage: AnyStage) -> tuple[RewardModel, ...]:
        """The reward models of the stages before ``stage``, as their last epoch left them."""
        return tuple(
            RewardModel(name, reward.member_folders(folder))
            for name, folder in self._reward_folders(stage).items()
        )

    def _reward_folders(self, stage: AnyStage) -> dict[str, Path]:
        """Their checkpoints, by stage."""
        before = [s.name for s in self._schedule.stages[: self._place(stage.name)]]
        return {
            info.stage: info.folder
            for info in self._run.checkpoints()
            if info.kind == "reward" and info.stage in before
        }

    def _check(self, folder: Path) -> None:
        """``IntegrityError`` unless a checkpoint is as it was committed; looked at once."""
        if folder not in self._intact:
            self._intact.add(intact(folder))

    def _place(self, stage: str) -> int:
        return [s.name for s in self._schedule.stages].index(stage)

    def _rule(self, stage: AnyStage) -> RewardRule:
        """The reward rule of this RL stage or the next one, or of the last one before; without any,
        the mean over all members."""
        place = self._place(stage.name)
        rules = [
            (at, later.reward)
            for at, later in enumerate(self._schedule.stages)
            if isinstance(later, PpoStage | RlooStage | RejectionSamplingStage)
            and later.reward is not None
        ]
        following = [rule for at, rule in rules if at >= place]
        if following:
            return following[0]
        return rules[-1][1] if rules else RewardRule(kind="mean")

    def _reward(self, stage: AnyStage) -> tuple[tuple[RewardModel, ...], Rule]:
        """By what a checkpoint of the stage is rewarded; without reward models while there are not
        all that the rule names."""
        rule, reward_models = self._rule(stage), self._reward_models(stage)
        if not rule.reward_models() <= {model.name for model in reward_models}:
            reward_models = ()
        return reward_models, Rule(**rule.model_dump())

    def _reward_identity(
        self, reward_models: tuple[RewardModel, ...], rule: Rule
    ) -> dict[str, Any]:
        """``reward_identity``, of committed members: read once."""
        key = (reward_models, repr(rule))
        if key not in self._rewards:
            self._rewards[key] = reward_identity(reward_models, rule)
        return self._rewards[key]

    @contextmanager
    def _seated(self, checkpoint: Checkpoint, start: Path | None) -> Iterator[_Seat]:
        """The checkpoint's adapter, its start's and the reward models' on the base, for a while."""
        stage = self._schedule.stages[self._place(checkpoint.stage)]
        loaded, (reward_models, rule) = self.base(), self._reward(stage)
        with ExitStack() as stack:
            stack.enter_context(_adapter(loaded, _CANDIDATE, checkpoint.folder))
            if start is not None:
                stack.enter_context(_adapter(loaded, _REFERENCE, start))
            assert isinstance(loaded.model, PeftModel)
            scorer = None
            if reward_models:
                scorer = RewardScorer(
                    loaded.model,
                    loaded.tokenizer,
                    reward_models,
                    rule,
                    batch_size=self._schedule.evaluate.batch,
                    prefix=_REWARDS,
                )
                stack.callback(scorer.close)
            stack.enter_context(using(loaded.model, _CANDIDATE))
            has_start = start is not None
            rewarded_by = self._reward_identity(reward_models, rule)
            judge = self.judge()
            if self._prompts is None:
                self._prompts = Prompts(loaded.tokenizer)
            engine = LocalEngine(
                loaded.model,
                loaded.tokenizer,
                batch_size=self._schedule.evaluate.batch,
                max_new_tokens=self._schedule.evaluate.max_new_tokens,
                prompts=self._prompts,
            )
            yield _Seat(
                self._schedule, checkpoint, loaded, engine, scorer, rewarded_by, has_start, judge
            )


class _Seat:
    """A checkpoint on the base, ready to be asked."""

    def __init__(
        self,
        schedule: Schedule,
        checkpoint: Checkpoint,
        loaded: LoadedModel,
        engine: LocalEngine,
        scorer: RewardScorer | None,
        rewarded_by: Mapping[str, Any],
        has_start: bool,
        judge: Judge | None,
    ) -> None:
        assert isinstance(loaded.model, PeftModel)
        self._schedule = schedule
        self._checkpoint = checkpoint
        self._model = loaded.model
        self._scorer = scorer
        self._judge = judge
        self._reference = _REFERENCE if has_start else None
        self._engine = engine
        # What the numbers depend on besides the engine: all by content, nothing by name.
        self._identity = {
            "base": loaded.base_fingerprint,
            "adapter": adapter_hash(loaded.model, _CANDIDATE),
            "reference": adapter_hash(loaded.model, _REFERENCE) if has_start else None,
            **rewarded_by,
        }

    def measure(self, evalset: EvalSet, out: Path, progress: Progress) -> None:
        """Evaluate on one set into ``out``; a half-finished evaluation there is gone on with."""
        evaluate(
            self._engine,
            evalset,
            out=out,
            seed=self._schedule.seed,
            checkpoint=self._checkpoint.name,
            judge=self._judge,
            rewards=self._scorer,
            reference=self._log_probs_of_start,
            progress=partial(progress, evalset.name),
            identity=self._identity,
        )

    def _log_probs_of_start(self, requests: Sequence[LogProbs]) -> list[tuple[float, ...]]:
        with using(self._model, self._reference):
            return log_probs(self._engine, requests)


def _base_of_evaluations(run: Run) -> str | None:
    """The fingerprint of the base that the run's evaluations were made with."""
    for info in run.checkpoints():
        evaluation = run.evaluation(info.name)
        for found in evaluation.sets.values() if evaluation is not None else ():
            return str(found.summary["identity"]["base"])
    return None


@contextmanager
def _adapter(loaded: LoadedModel, name: str, folder: Path) -> Iterator[None]:
    """The adapter stored in ``folder``, on the base under ``name``; checked against its bytes."""
    loaded.model = load_adapter(loaded.model, name, folder)
    try:
        if adapter_hash(loaded.model, name) != hash_file(folder):
            raise IntegrityError(f"{folder}: what was loaded is not what is stored")
        yield
    finally:
        remove_adapter(loaded.model, name)
