"""trl's ``RLOOTrainer`` with the harness's replies, the run's rewards, the start as reference."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import broadcast, gather_object
from datasets import Dataset
from torch import Tensor
from torch.utils.data import Sampler
from trl import RLOOConfig, RLOOTrainer
from trl.trainer.utils import add_fused_lm_head, split_tensor_dict

from harness.engines.local import LocalEngine
from harness.models import eval_mode
from harness.reward_models import Combined, RewardScorer
from trainers.draws import draw
from trainers.learner import learner
from trainers.ppo_losses import KlController, kl_k1, kl_k3, masked_mean, whiten_rewards
from trainers.rollouts import Question, Rollout, Tokens, sample
from trainers.schedule_stages import RlooStage
from trainers.sft_term import SftTerm
from trainers.telemetry import signs
from trainers.trl_epoch import WeightsInPlace

# --------------------------------------------------------------------------- prompts, rewards


class PromptOrder(Sampler[int]):
    """Row numbers of the prompts as trl's loader asks for them: each ``samples`` times, and every
    iteration's batch ``repeats`` times over, once for each forward that is made of it."""

    def __init__(self, count: int, stage: RlooStage, *, seed: int, repeats: int) -> None:
        self._count = count
        self._stage = stage
        self._seed = seed
        self._repeats = repeats
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """The epoch that is iterated over next, from 0; transformers says so."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._stage.iterations * self._stage.batch * self._repeats

    def __iter__(self) -> Iterator[int]:
        first = self._epoch * self._stage.iterations
        for iteration in range(first, first + self._stage.iterations):
            asked = asked_in(iteration, self._count, self._stage, seed=self._seed)
            for _ in range(self._repeats):
                yield from asked


def asked_in(iteration: int, count: int, stage: RlooStage, *, seed: int) -> list[int]:
    """The prompts' numbers (batch,) of an iteration, a prompt's replies side by side: those that
    PPO would draw."""
    drawn = draw(count, stage.batch // stage.samples, iteration, seed)
    return [row for row in drawn for _ in range(stage.samples)]


@dataclass(frozen=True)
class Scored:
    """The replies (B,) of an iteration and their rewards: as the rule gives them, and as they are
    maximised."""

    questions: Sequence[Question]
    replies: Sequence[Tokens]
    texts: Sequence[str]
    ended: Sequence[bool]
    combined: Combined
    scores: Tensor  # (B,) whitened, less the penalty


def score(
    scorer: RewardScorer,
    stage: RlooStage,
    questions: Sequence[Question],
    replies: Sequence[Tokens],
    texts: Sequence[str],
    eos: Sequence[int],
) -> Scored:
    """PPO's rewards of a whole batch (see ``ppo.iterate``)."""
    sequences = [(*q.tokens, *reply) for q, reply in zip(questions, replies, strict=True)]
    combined = scorer.rewards(sequences, [question.safety for question in questions])
    alike = [q.id for q in questions] if stage.whiten == "per_prompt" else combined.source
    places = {one: place for place, one in enumerate(sorted(set(alike)))}
    group = torch.tensor([places[one] for one in alike])
    scores = whiten_rewards(combined.reward, group, stage.whiten)
    ended = [reply[-1] in eos for reply in replies]
    if stage.no_eos_penalty is not None:
        scores = scores - stage.no_eos_penalty * ~torch.tensor(ended)
    return Scored(questions, replies, texts, ended, combined, scores)


# --------------------------------------------------------------------------- the trainer


@dataclass(frozen=True)
class Rollouts:
    """Who replies, who rewards, and to which prompts; and what is trained on beside them."""

    stage: RlooStage
    questions: Sequence[Question]
    engine: LocalEngine
    scorer: RewardScorer
    seed: int
    demonstrations: SftTerm | None = None


class LeaveOneOutTrainer(WeightsInPlace, RLOOTrainer):
    """trl's trainer with our prompts, replies, rewards and reference.

    Its data are the prompts' numbers, as text. ``history`` has what to log of each iteration,
    ``rollouts`` the last one's replies. β is the controller's.
    """

    model: Any
    ref_model: Any
    _buffered_inputs: Any

    def __init__(
        self,
        net: Any,
        reference: Any,
        rollouts: Rollouts,
        controller: KlController,
        args: RLOOConfig,
        **more: Any,
    ) -> None:
        self._from = rollouts
        self._controller = controller
        self._log_probs: dict[bool, Tensor] = {}  # of the reference? -> (B, T)
        self.history: list[dict[str, float]] = []
        self.rollouts: list[Rollout] = []
        numbers = [str(number) for number in range(len(rollouts.questions))]
        # Told that it needs no reference, since it would load another base for it.
        assert args.beta == 0.0
        super().__init__(
            model=net,
            reward_funcs=self._rewards,
            args=args,
            train_dataset=Dataset.from_dict({"prompt": numbers}),
            **more,
        )
        add_fused_lm_head(reference, temperature=args.temperature)
        self.ref_model = reference
        self.beta = controller.beta

    @property
    def iteration(self) -> int:
        """Of the whole stage, from 0."""
        stage = self._from.stage
        return self.state.global_step // (stage.inner_epochs * (stage.batch // stage.mini_batch))

    def _get_train_sampler(self, dataset: Any = None) -> PromptOrder:
        args: Any = self.args
        return PromptOrder(
            len(self._from.questions),
            self._from.stage,
            seed=self._from.seed,
            repeats=args.num_iterations * args.steps_per_generation,
        )

    def _generate(self, prompts: list[str]) -> tuple[list[list[int]], list[list[int]], list[str]]:
        """Token ids of prompts and replies, and the replies as text."""
        engine, stage = self._from.engine, self._from.stage
        asked = [self._from.questions[int(number)] for number in prompts]
        first = self.accelerator.process_index * len(asked)
        with eval_mode(self.model):
            sampled = sample(
                engine,
                [question.tokens for question in asked],
                [f"{self.iteration}/{first + i}/{q.id}" for i, q in enumerate(asked)],
                seed=self._from.seed,
                temperature=stage.temperature,
                max_new_tokens=stage.max_new_tokens,
            )
        replies = [list(reply) for reply in sampled.replies]
        texts = engine.tokenizer.batch_decode(replies, skip_special_tokens=True)
        return [list(ids) for ids in sampled.prompts], replies, texts

    def _rewards(
        self, prompts: list[str], completions: list[str], completion_ids: list[list[int]], **_: Any
    ) -> list[float | None]:
        """trl's reward callable. Whitening needs the whole batch, so every process scores it."""
        mine = list(zip(prompts, map(tuple, completion_ids), completions, strict=True))
        numbers, replies, texts = zip(*gather_object(mine), strict=True)
        questions = [self._from.questions[int(number)] for number in numbers]
        with eval_mode(self.model):
            self._scored = score(
                self._from.scorer,
                self._from.stage,
                questions,
                replies,
                texts,
                self._from.engine.eos_ids,
            )
        first = self.accelerator.process_index * len(mine)
        found: list[float | None] = self._scored.scores[first : first + len(mine)].tolist()
        return found

    def _get_per_token_logps_and_entropies(self, model: Any, *args: Any, **settings: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(model, *args, **settings)
        if not torch.is_grad_enabled():  # before the update
            self._log_probs[model is self.ref_model] = found[0]
        return found

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.beta = self._controller.beta
        batch: dict[str, Any] = super()._generate_and_score_completions(inputs)
        mask = batch["completion_mask"].bool()
        if self.beta == 0.0:  # then trl does not ask the reference, and we measure all the same
            ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
            real = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
            with torch.no_grad():
                self._get_per_token_logps_and_entropies(
                    self.ref_model, ids, real, mask.shape[1], self.args.per_device_train_batch_size
                )
        self._record(self._log_probs[False], self._log_probs[True], mask)
        return batch

    def _prepare_inputs(self, generation_batch: Any) -> Any:
        """The micro-batch that is trained on next.

        trl shuffles each process's own replies, so that several processes would put others together
        in a mini-batch than one does.
        """
        if self.accelerator.num_processes == 1 or not self.model.training:
            return super()._prepare_inputs(generation_batch)
        args: Any = self.args
        steps = args.steps_per_generation
        if self._step % (steps * self.num_iterations) == 0 or self._buffered_inputs is None:
            batch = self._generate_and_score_completions(generation_batch)
            self._buffered_inputs = split_tensor_dict(self._dealt(batch), steps)
        return self._buffered_inputs[self._step % steps]

    def _dealt(self, batch: dict[str, Any]) -> dict[str, Any]:
        """This process's share of each mini-batch, which are those of one process: the first one
        draws the order of a whole batch of rollouts, as it would alone."""
        parts = self._from.stage.batch // self._from.stage.mini_batch
        order = torch.randperm(self._from.stage.batch).to(self.accelerator.device)
        order = broadcast(order)
        mine = order.view(parts, self.accelerator.num_processes, -1)
        rows = mine[:, self.accelerator.process_index].flatten()
        found = {}
        for name, value in batch.items():
            if isinstance(value, Tensor) and value.ndim:
                whole = value
                if value.ndim > 1:
                    whole = self.accelerator.pad_across_processes(
                        value,
                        dim=1,
                        pad_index=self._tokenizer.pad_token_id if name.endswith("_ids") else 0,
                        pad_first=name.startswith("prompt"),
                    )
                found[name] = self.accelerator.gather(whole)[rows]
            else:
                found[name] = value
        return found

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **settings: Any) -> Any:
        """trl's, with the demonstrations' gradient added once an optimiser step: before the first
        forward, since the last backward is the one that shares gradients among processes."""
        terms = self._from.demonstrations
        if terms is not None and self._step % self.current_gradient_accumulation_steps == 0:
            # Gradients are averaged over processes: their shares, made larger, add up again.
            processes = self.accelerator.num_processes
            net: Any = self.accelerator.unwrap_model(model)
            with learner(net.adapters[0]) as policy:
                share = replace(terms, weight=terms.weight * processes).backward(
                    policy,
                    self.state.global_step,
                    seed=self._from.seed,
                    accelerator=self.accelerator,
                )
            total = self.accelerator.reduce(torch.tensor(share, device=self.accelerator.device))
            self._metrics["train"]["sft_loss"].append(float(total))
        return super().compute_loss(model, inputs, *args, **settings)

    def _record(self, log_probs: Tensor, reference: Tensor, mask: Tensor) -> None:
        """What to log of the iteration, as PPO does; KL over the replies that carry loss."""
        seen = self._scored
        k1, k3 = kl_k1(log_probs, reference), kl_k3(log_probs, reference)
        tokens = mask.sum(1)
        sums = torch.stack([(k1 * mask).sum(1), (k3 * mask).sum(1), tokens.float()])
        kl, kl3, lengths = self.accelerator.gather(sums.T.contiguous()).T.cpu()
        counted = (lengths > 0).float()
        mean_kl = float(masked_mean(kl, counted))
        if counted.any():
            self._controller.update(mean_kl, len(seen.replies))
        self.history.append(
            {
                "reward": float(seen.combined.reward.mean()),
                "reward_spread": float(seen.combined.spread.mean()),
                "kl": mean_kl,
                "kl_token": float(kl.sum() / lengths.sum().clamp(min=1)),
                "kl_token_k3": float(kl3.sum() / lengths.sum().clamp(min=1)),
                "beta": self.beta,
                **signs(seen.replies, seen.texts, seen.ended),
            }
        )
        self.rollouts = [
            Rollout(self.iteration, question.id, *row)
            for question, *row in zip(
                seen.questions,
                seen.texts,
                seen.ended,
                seen.combined.reward.tolist(),
                seen.combined.source,
                seen.combined.spread.tolist(),
                kl.tolist(),
                strict=True,
            )
        ]
