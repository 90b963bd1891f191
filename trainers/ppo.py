"""Proximal policy optimisation of a LoRA policy, top to bottom; the formulas: ``ppo_losses.py``.

Schulman et al. 2017 (arXiv 1707.06347) with the reward of Llama 2 (arXiv 2307.09288, section
3.2.3) and the details that Ziegler et al. 2019, InstructGPT (2203.02155) and "The N implementation
details of RLHF with PPO" (Huang et al. 2024) found to matter; each quirk below names its source.

One quantised base never changes. The policy, the frozen reference it started from, the value
function and every reward-model member are LoRA adapters on it, so an iteration is::

    rollout   policy     one sampled reply to each prompt
    score     members    rewards at the reply's last token, combined, whitened
    measure   policy, reference, value    log-probabilities and values, by forward passes (the
                                          policy's are the sampler's own where those are exact)
    update    policy, then value          clipped losses over shuffled mini-batches

Adapters are switched only between a backward and the next forward: switching between a forward and
its backward gives the policy a gradient of exactly zero.

Shapes: ``B`` prompts, ``T`` tokens of the longest reply. All per-token tensors are ``(B, T)``
float32, right-padded, with a boolean ``mask`` of the real tokens, the end token included.
Sequences are right-padded as well: under causal attention no real token can see padding, so
neither attention mask nor position ids are needed (generation, which must left-pad, has both).

Everything random is a function of (seed, iteration, row), never of a global generator: a killed
run that starts again from its last checkpoint continues bit for bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from harness.adapters import activate
from harness.engines.local import LocalEngine
from harness.reward_models import RewardScorer, Rule
from trainers.actor import Actor, build, parameters
from trainers.data import load_prompts
from trainers.draws import draw, generator
from trainers.learner import Learner, learner
from trainers.ppo_losses import (
    KlController,
    clipped_value_loss,
    generalised_advantages,
    kl_k1,
    kl_k3,
    masked_mean,
    surrogate,
    token_rewards,
    whiten,
    whiten_rewards,
)
from trainers.rollouts import Question, Replies, Rollout, Tokens, roll_out, with_room
from trainers.schedule_stages import PpoStage
from trainers.sft_term import SftTerm, sft_term
from trainers.stage import POLICY, Checkpoint, StageContext, intact
from trainers.telemetry import signs

_CONTROLLER = "trainer/controller.json"
_ROLLOUTS = "rollouts.jsonl"


# --------------------------------------------------------------------------- the update


@dataclass(frozen=True)
class Batch:
    """Replies and what was measured on them before the update: scores (B,), the rest (B, T)."""

    sampled: Replies
    mask: Tensor  # bool, of the tokens that carry loss
    log_probs: Tensor  # under the policy that sampled
    advantages: Tensor
    values: Tensor  # before the update
    returns: Tensor

    def rows(self, chosen: Tensor) -> tuple[list[Tokens], list[Tokens], int]:
        """Prompts and replies of some rows, and the length of the longest of these replies."""
        index = chosen.tolist()
        prompts = [self.sampled.prompts[i] for i in index]
        replies = [self.sampled.replies[i] for i in index]
        return prompts, replies, max(len(reply) for reply in replies)


def update(
    actor: Actor,
    batch: Batch,
    stage: PpoStage,
    *,
    iteration: int,
    seed: int,
    accelerator: Accelerator,
    train_policy: bool = True,
    demonstrations: SftTerm | None = None,
) -> dict[str, float]:
    """Pass ``inner_epochs`` times over the batch in shuffled mini-batches, one step each.

    A mini-batch's loss is the mean over *its* valid tokens, however it is cut into micro-batches
    and shared among processes: every part is weighed by its tokens, so the gradient is the same to
    rounding. Returns the means over mini-batches of what ``_policy_step`` and ``_value_step`` saw.
    """
    seen: list[dict[str, float]] = []
    steps = stage.inner_epochs * (len(batch.sampled) // stage.mini_batch)
    number = iteration * steps  # of the optimiser step
    shuffles = generator(seed, iteration)
    for _ in range(stage.inner_epochs):
        order = torch.randperm(len(batch.sampled), generator=shuffles)
        for mini in order.split(stage.mini_batch):
            tokens = float(batch.mask[mini].sum().clamp(min=1))
            mine = mini[accelerator.process_index :: accelerator.num_processes]
            # Where a mini-batch has fewer rows than there are processes, some have none.
            micros = mine.split(stage.micro_batch or stage.mini_batch) if len(mine) else ()
            if train_policy:
                beside = (
                    None
                    if demonstrations is None
                    else partial(
                        demonstrations.backward, step=number, seed=seed, accelerator=accelerator
                    )
                )
                step = _policy_step(actor, batch, stage, micros, tokens, accelerator, beside)
                number += 1
                if step["stopped_early"]:
                    # Of the update, not of its steps.
                    return {**_means([*seen, step]), "stopped_early": 1.0}
                seen.append(step)
            seen.append(_value_step(actor, batch, stage, micros, tokens, accelerator))
    return _means(seen)


def _policy_step(
    actor: Actor,
    batch: Batch,
    stage: PpoStage,
    micros: Sequence[Tensor],
    tokens: float,
    accelerator: Accelerator,
    beside: Callable[[Learner], float] | None,
) -> dict[str, float]:
    """One optimiser step on the policy (``beside`` adds the gradient of another loss), unless it is
    already further than ``target_kl`` a token from the policy that sampled: then the gradient is
    thrown away and ``stopped_early`` is 1."""
    activate(actor.model, POLICY, train=True)
    actor.policy_optimizer.zero_grad(set_to_none=True)
    totals = torch.zeros(5)
    with learner(actor.model, recompute=stage.gradient_checkpointing) as net:
        for chosen in micros:
            totals[:4] += _policy_backward(actor, net, batch, stage, chosen, tokens)
        if beside is not None:
            totals[4] += beside(net)
    _sum_gradients(parameters(actor.policy_optimizer), accelerator)
    totals = accelerator.reduce(totals.to(accelerator.device), "sum").cpu()
    names = ("policy_loss", "clip_share", "update_kl", "entropy", "sft_loss")
    step = dict(zip(names, totals.tolist(), strict=True))
    if beside is None:
        del step["sft_loss"]
    if stage.target_kl is not None and step["update_kl"] > stage.target_kl:
        return {**step, "stopped_early": 1.0}
    norm = nn.utils.clip_grad_norm_(
        parameters(actor.policy_optimizer), stage.optimizer.max_grad_norm
    )
    actor.policy_optimizer.step()
    return {**step, "stopped_early": 0.0, "policy_grad_norm": float(norm)}


def _policy_backward(
    actor: Actor, net: Learner, batch: Batch, stage: PpoStage, chosen: Tensor, tokens: float
) -> Tensor:
    """Add the gradient of a micro-batch's share of the loss; its share of what is logged, (4,).

    A function of its own, so that no name outlives the backward and keeps the graph until the next
    one is made, and with it the layers' inputs that LLM.int8 holds.
    """
    prompts, replies, width = batch.rows(chosen)
    mask, old = batch.mask[chosen, :width], batch.log_probs[chosen, :width]
    log_probs, entropy = (x.cpu() for x in actor.log_probs(net, prompts, replies, width, stage))
    losses, clipped = surrogate(log_probs, old, batch.advantages[chosen, :width], stage.clip)
    objective = losses - stage.entropy_weight * entropy if stage.entropy_weight else losses
    ((objective * mask).sum() / tokens).backward()
    with torch.no_grad():
        parts = (losses, clipped, kl_k3(old, log_probs), entropy)
        return torch.stack([(part * mask).sum() for part in parts]) / tokens


def _value_step(
    actor: Actor,
    batch: Batch,
    stage: PpoStage,
    micros: Sequence[Tensor],
    tokens: float,
    accelerator: Accelerator,
) -> dict[str, float]:
    """One optimiser step on the value function. It has parameters of its own, so the weight of its
    loss would only rescale a gradient that AdamW normalises again: there is none."""
    actor.activate_value(train=True)
    actor.value_optimizer.zero_grad(set_to_none=True)
    total = torch.zeros(1)
    with learner(actor.model, recompute=stage.gradient_checkpointing) as net:
        for chosen in micros:
            total += _value_backward(actor, net, batch, stage, chosen, tokens)
    _sum_gradients(parameters(actor.value_optimizer), accelerator)
    total = accelerator.reduce(total.to(accelerator.device), "sum").cpu()
    norm = nn.utils.clip_grad_norm_(
        parameters(actor.value_optimizer), stage.optimizer.max_grad_norm
    )
    actor.value_optimizer.step()
    return {"value_loss": float(total), "value_grad_norm": float(norm)}


def _value_backward(
    actor: Actor, net: Learner, batch: Batch, stage: PpoStage, chosen: Tensor, tokens: float
) -> Tensor:
    """As ``_policy_backward``; the micro-batch's share of the loss, ()."""
    prompts, replies, width = batch.rows(chosen)
    values = actor.values(net, prompts, replies, width).cpu()
    old, returns = batch.values[chosen, :width], batch.returns[chosen, :width]
    losses = clipped_value_loss(values, old, returns, stage.value_clip)
    loss = (losses * batch.mask[chosen, :width]).sum() / tokens
    loss.backward()
    return loss.detach()


def _sum_gradients(trained: Sequence[nn.Parameter], accelerator: Accelerator) -> None:
    """Sum the adapters' gradients over processes. DistributedDataParallel would do the same, but
    insists on one forward a backward through its wrapper, and we switch adapters in between."""
    if accelerator.num_processes == 1:
        return
    for parameter in trained:
        if parameter.grad is None:  # this process had no row of the mini-batch
            parameter.grad = torch.zeros_like(parameter)
        parameter.grad = accelerator.reduce(parameter.grad, "sum")


def _means(rows: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each name over the rows that have it."""
    names = dict.fromkeys(name for row in rows for name in row)
    found = {name: [row[name] for row in rows if name in row] for name in names}
    return {name: math.fsum(values) / len(values) for name, values in found.items()}


# --------------------------------------------------------------------------- one iteration


def iterate(
    actor: Actor,
    engine: LocalEngine,
    scorer: RewardScorer,
    questions: Sequence[Question],
    stage: PpoStage,
    controller: KlController,
    *,
    iteration: int,
    seed: int,
    accelerator: Accelerator,
    demonstrations: SftTerm | None = None,
) -> tuple[dict[str, float], list[Rollout]]:
    """Rollout, score, measure, update; what to log, and the rollouts."""
    activate(actor.model, POLICY)
    sampled = roll_out(
        engine,
        questions,
        f"{iteration}",
        seed=seed,
        temperature=stage.temperature,
        max_new_tokens=stage.max_new_tokens,
        accelerator=accelerator,
    )

    sequences = [(*p, *r) for p, r in zip(sampled.prompts, sampled.replies, strict=True)]
    combined = scorer.rewards(sequences, [question.safety for question in questions])
    alike = [q.id for q in questions] if stage.whiten == "per_prompt" else combined.source
    places = {one: place for place, one in enumerate(sorted(set(alike)))}
    group = torch.tensor([places[one] for one in alike])
    scores = whiten_rewards(combined.reward, group, stage.whiten)
    ended = torch.tensor(sampled.ended)
    if stage.no_eos_penalty is not None:
        scores = scores - stage.no_eos_penalty * ~ended

    mask = sampled.mask()
    old = sampled.sampled_log_probs()
    if old is None:
        activate(actor.model, POLICY)
        old = actor.measured_log_probs(sampled, stage)
    reference = actor.reference_log_probs(sampled, stage)
    values = actor.measured_values(sampled, stage)

    rewards = token_rewards(scores, old, reference, mask, controller.beta)
    advantages, returns = generalised_advantages(rewards, values, mask, stage.gamma, stage.lam)
    trained = mask & ended[:, None] if stage.mask_no_eos else mask
    if stage.whiten_advantages:
        advantages = whiten(advantages, trained.to(advantages.dtype))
    batch = Batch(sampled, trained, old, advantages, values, returns)
    losses = update(
        actor,
        batch,
        stage,
        iteration=iteration,
        seed=seed,
        accelerator=accelerator,
        train_policy=iteration >= stage.value_warmup,
        demonstrations=demonstrations,
    )

    kls = (kl_k1(old, reference) * mask).sum(1)
    kl, beta = float(kls.mean()), controller.beta
    if iteration >= stage.value_warmup:  # before, the policy is its start: there is no KL to steer
        controller.update(kl, len(sampled))
    texts = engine.tokenizer.batch_decode(
        [list(reply) for reply in sampled.replies], skip_special_tokens=True
    )
    rollouts = [
        Rollout(iteration, question.id, text, ends, *seen)
        for question, text, ends, *seen in zip(
            questions,
            texts,
            sampled.ended,
            combined.reward.tolist(),
            combined.source,
            combined.spread.tolist(),
            kls.tolist(),
            strict=True,
        )
    ]
    return {
        "reward": float(combined.reward.mean()),
        "reward_spread": float(combined.spread.mean()),
        "kl": kl,
        "kl_token": float(masked_mean(kl_k1(old, reference), mask)),
        "kl_token_k3": float(masked_mean(kl_k3(old, reference), mask)),
        "beta": beta,
        **signs(sampled.replies, texts, sampled.ended),
        **_explained(values, returns, mask),
        **losses,
    }, rollouts


def _explained(values: Tensor, returns: Tensor, mask: Tensor) -> dict[str, float]:
    """1 − Var(return − V)/Var(return) over valid tokens: 0 is no better than a constant. Of fewer
    than two tokens there is none."""
    if int(mask.sum()) < 2:
        return {}
    error = returns[mask] - values[mask]
    share = 1 - error.var() / returns[mask].var().clamp(min=1e-12)
    return {"value_explained": float(share)}


# --------------------------------------------------------------------------- the stage


def checkpoints(ctx: StageContext) -> Iterator[Checkpoint]:
    """Train by ``ctx.stage`` (a ``PpoStage``) and yield a committed checkpoint an epoch.

    Epoch 0 is the policy that the stage starts from, with the value function not yet trained.
    """
    stage = ctx.stage
    assert isinstance(stage, PpoStage)
    done = list(ctx.committed())
    yield from done
    if done and done[-1].epoch >= stage.epochs:
        return

    accelerator = Accelerator(cpu=ctx.base().model.device.type == "cpu")
    actor = build(ctx, stage, intact(done[-1].folder) if done else None)
    controller = KlController(stage.kl, stage.kl_target, stage.kl_horizon)
    if done:
        state = json.loads((done[-1].folder / _CONTROLLER).read_text(encoding="utf-8"))
        controller.beta = state["beta"]
    else:
        yield ctx.commit(0, partial(_write, ctx, actor, controller, [], []))

    loaded = ctx.base()
    engine = LocalEngine(
        actor.model,
        loaded.tokenizer,
        batch_size=stage.sample_batch,
        max_new_tokens=stage.max_new_tokens,
    )
    prompts = load_prompts(
        stage.prompts, base_folder=Path(ctx.base_folder), seed=ctx.seed("prompts")
    )
    asked = [Question(p.id, engine.tokenize(p.messages), p.safety) for p in prompts.rows]
    questions = with_room(asked, engine.context, stage.prompts)
    demonstrations = sft_term(ctx, stage)
    seed = ctx.seed("ppo")
    for epoch in range(done[-1].epoch + 1 if done else 1, stage.epochs + 1):
        logs: list[dict[str, float]] = []
        rollouts: list[Rollout] = []
        # Opened an epoch at a time: between epochs the evaluation has the base to itself.
        with RewardScorer(
            actor.model,
            loaded.tokenizer,
            ctx.reward_models,
            Rule(**stage.reward.model_dump()),
        ) as scorer:
            for iteration in range((epoch - 1) * stage.iterations, epoch * stage.iterations):
                drawn = draw(len(questions), stage.batch // stage.samples, iteration, seed)
                scalars, rollouts = iterate(
                    actor,
                    engine,
                    scorer,
                    [questions[i] for i in drawn for _ in range(stage.samples)],
                    stage,
                    controller,
                    iteration=iteration,
                    seed=seed,
                    accelerator=accelerator,
                    demonstrations=demonstrations,
                )
                logs.append(scalars)
                ctx.log({"epoch": epoch, "iteration": iteration, **scalars})
        if skipped := len(asked) - len(questions):
            logs = [{**scalars, "skipped_prompts": skipped} for scalars in logs]
        yield ctx.commit(epoch, partial(_write, ctx, actor, controller, logs, rollouts))


def _write(
    ctx: StageContext,
    actor: Actor,
    controller: KlController,
    logs: Sequence[dict[str, float]],
    rollouts: Sequence[Rollout],
    folder: Path,
) -> dict[str, float]:
    """Write a checkpoint into ``folder``, with the rollouts of its last iteration; the epoch's
    training scalars. The prompts' order and all seeds follow from the epoch, so the optimisers, the
    value function and β are the whole state."""
    actor.save(folder)
    ctx.base().tokenizer.save_pretrained(folder)
    text = json.dumps({"beta": controller.beta}) + "\n"
    (folder / _CONTROLLER).write_text(text, encoding="utf-8")
    if rollouts:
        lines = [json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rollouts]
        (folder / _ROLLOUTS).write_text("".join(lines), encoding="utf-8")
    return _means(logs)
