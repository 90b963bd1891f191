"""Our PPO's advantages, losses and gradients on frozen rollouts, beside two others.

One is trl 1.12's ``PPOTrainer`` (removed since), which trains on the same rollouts in this process:
its generation is replaced by ours, its advantages are read where it whitens them, its losses where
it averages them, its gradients at the optimiser's first step. The other is the plainest float64
code, token by token, written from the papers' equations.

Two batches: in one all replies fill their length; in the other some end early. There trl puts the
score on the padding *after* the end token and learns a value for it; ours is on the end token. So
that batch is compared with trl in its own convention (every short reply one token longer) and with
the float64 code in ours.

    pip download --no-deps trl==1.12.0 && unzip trl-1.12.0-*.whl -d trl112
    python benchmarks/ppo_parity.py --trl trl112
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import os
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

PAD, EOS, FIRST = 0, 2, 5
ROWS, CONTEXT, REPLY = 16, 9, 12
BETA, GAMMA, LAM, CLIP, VALUE_CLIP = 0.07, 0.99, 0.9, 0.2, 0.15


class _EnoughError(Exception):
    """Raised at trl's first optimiser step."""


@dataclass(frozen=True)
class Frozen:
    """Rollouts: left-padded queries (B, CONTEXT) and replies (B, REPLY), padded behind the end."""

    queries: Tensor
    replies: Tensor

    @property
    def lengths(self) -> list[int]:
        """Of the replies, the end token included."""
        return [int((row != PAD).sum()) for row in self.replies]

    def pairs(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        return [
            (
                tuple(query[query != PAD].tolist()),
                tuple(reply[reply != PAD].tolist()),
            )
            for query, reply in zip(self.queries, self.replies, strict=True)
        ]


@dataclass(frozen=True)
class Models:
    """Policy, the policy that sampled, reference, reward and value: five networks, all alike."""

    policy: LlamaForCausalLM
    behaviour: LlamaForCausalLM
    reference: LlamaForCausalLM
    reward: LlamaForSequenceClassification
    value: LlamaForSequenceClassification

    def double(self) -> Models:
        return Models(*(copy.deepcopy(getattr(self, n)).double() for n in self.__annotations__))


@dataclass(frozen=True)
class Found:
    """What is compared; ``gradients`` of the policy and of the value network, flat."""

    advantages: Tensor
    policy_loss: float
    value_loss: float
    policy_gradient: Tensor
    value_gradient: Tensor


def networks() -> Models:
    config = LlamaConfig(
        vocab_size=128,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.2,
        pad_token_id=PAD,
        bos_token_id=1,
        eos_token_id=EOS,
        num_labels=1,
    )
    torch.manual_seed(3)
    policy = LlamaForCausalLM(config).eval()

    def moved(seed: int) -> LlamaForCausalLM:
        other = copy.deepcopy(policy)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for weight in other.parameters():
                weight += 0.01 * torch.randn(weight.shape, generator=generator)
        return other

    def scorer(seed: int) -> LlamaForSequenceClassification:
        torch.manual_seed(seed)
        return LlamaForSequenceClassification(config).eval()

    return Models(policy, moved(1), moved(2), scorer(4), scorer(5))


def rollouts(*, early: bool) -> Frozen:
    generator = torch.Generator().manual_seed(11)
    queries = torch.randint(FIRST, 128, (ROWS, CONTEXT), generator=generator)
    replies = torch.randint(FIRST, 128, (ROWS, REPLY), generator=generator)
    for row in range(ROWS):
        queries[row, : row % 5] = PAD
        # In both batches every reply ends with the end token: neither is penalised.
        length = 2 + row % (REPLY - 3) if early and row % 3 else REPLY
        replies[row, length - 1] = EOS
        replies[row, length:] = PAD
    return Frozen(queries, replies)


# --------------------------------------------------------------------------- trl


def theirs(models: Models, frozen: Frozen) -> Found:
    """trl 1.12's trainer up to its first optimiser step."""
    from datasets import Dataset
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast
    from trl.experimental.ppo import PPOConfig, ppo_trainer

    words = {f"w{i}": i for i in range(3, 128)} | {"<pad>": PAD, "<s>": 1, "</s>": EOS}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, unk_token="<pad>")),
        pad_token="<pad>",
        eos_token="</s>",
        padding_side="left",
    )
    models = copy.deepcopy(models)
    whole = torch.cat([frozen.queries, frozen.replies], dim=1)
    seen: dict[str, Any] = {"means": []}

    def frozen_generation(*_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        mask = whole != PAD
        logits = models.behaviour(
            input_ids=whole.masked_fill(~mask, 0),
            attention_mask=mask,
            position_ids=mask.cumsum(1) - mask.long(),
        ).logits
        return whole, logits[:, CONTEXT - 1 : -1].detach()

    def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
        seen["advantages"] = values.clone()
        seen["means"].clear()
        result = original_whiten(values, mask, shift_mean)
        seen["means"].clear()
        return result

    def mean(values: Tensor, mask: Tensor, axis: Any = None) -> Tensor:
        result = original_mean(values, mask, axis)
        seen["means"].append(float(result.detach()))
        return result

    original_whiten, original_mean = ppo_trainer.masked_whiten, ppo_trainer.masked_mean
    ppo_trainer.batch_generation = frozen_generation
    ppo_trainer.masked_whiten, ppo_trainer.masked_mean = whiten, mean

    with tempfile.TemporaryDirectory() as folder:
        trainer = ppo_trainer.PPOTrainer(
            args=PPOConfig(
                output_dir=folder,
                per_device_train_batch_size=ROWS,
                gradient_accumulation_steps=1,
                num_mini_batches=1,
                num_ppo_epochs=1,
                total_episodes=ROWS,
                response_length=REPLY,
                local_rollout_forward_batch_size=ROWS,
                stop_token="eos",
                missing_eos_penalty=None,
                temperature=1.0,
                kl_coef=BETA,
                gamma=GAMMA,
                lam=LAM,
                cliprange=CLIP,
                cliprange_value=VALUE_CLIP,
                vf_coef=1.0,
                whiten_rewards=False,
                num_sample_generations=0,
                gradient_checkpointing=False,
                bf16=False,
                use_cpu=True,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            processing_class=tokenizer,
            model=models.policy,
            ref_model=models.reference,
            reward_model=models.reward,
            value_model=models.value,
            train_dataset=Dataset.from_list([{"input_ids": q} for q in frozen.queries.tolist()]),
            eval_dataset=Dataset.from_list([{"input_ids": q} for q in frozen.queries.tolist()]),
        )
        # The order of its data loader: the frozen one.
        trainer.dataloader = [{"input_ids": frozen.queries}]

        def stop(*_: Any, **__: Any) -> None:
            raise _EnoughError

        trainer.optimizer.step = stop
        with contextlib.suppress(_EnoughError):
            trainer.train()
    ppo_trainer.masked_whiten, ppo_trainer.masked_mean = original_whiten, original_mean
    value_mean, _, policy_mean = seen["means"][:3]
    return Found(
        advantages=seen["advantages"],
        policy_loss=policy_mean,
        value_loss=0.5 * value_mean,
        policy_gradient=_flat(models.policy),
        value_gradient=_flat(models.value),
    )


def _flat(model: torch.nn.Module) -> Tensor:
    return torch.cat([p.grad.flatten().double() for p in model.parameters() if p.grad is not None])


# --------------------------------------------------------------------------- ours


def ours(models: Models, frozen: Frozen, *, one_more: bool) -> Found:
    """The functions that ``trainers/ppo.py`` is made of. ``one_more``: in trl's convention."""
    from harness.models import backbone
    from trainers.learner import Learner
    from trainers.ppo_losses import (
        clipped_value_loss,
        generalised_advantages,
        surrogate,
        token_rewards,
        whiten,
    )
    from trainers.rollouts import pack, policy_log_probs

    models = copy.deepcopy(models)
    prompts, replies = zip(*frozen.pairs(), strict=True)
    device = torch.device("cpu")
    lengths = torch.tensor(frozen.lengths)
    slots = torch.arange(REPLY)[None, :]
    mask = slots < lengths[:, None]
    longer = slots < (lengths + one_more).clamp(max=REPLY)[:, None]

    def log_probs(model: LlamaForCausalLM) -> Tensor:
        net = Learner(model, None)  # all weights are trained, there is no adapter
        return policy_log_probs(net, prompts, replies, pad=PAD, temperature=1.0, width=REPLY)[0]

    def values() -> Tensor:
        # The state before the token that trl adds is the end token's.
        padded = [
            (*reply, *[PAD] * (int(row.sum()) - len(reply)))
            for reply, row in zip(replies, longer, strict=True)
        ]
        packed = pack(prompts, padded, PAD, device)
        hidden = backbone(models.value)(input_ids=packed.input_ids, use_cache=False)
        found = models.value.score(hidden.last_hidden_state[packed.rows, packed.columns])
        empty = torch.zeros(ROWS, REPLY)
        return empty.index_put((packed.rows, packed.slots), found.squeeze(-1))

    with torch.no_grad():
        old, reference = log_probs(models.behaviour), log_probs(models.reference)
        before = values()
        packed = pack(prompts, replies, PAD, device)
        states = backbone(models.reward)(input_ids=packed.input_ids, use_cache=False)
        ends = torch.tensor([len(p) + len(r) - 1 for p, r in zip(prompts, replies, strict=True)])
        scores = models.reward.score(states.last_hidden_state[torch.arange(ROWS), ends]).squeeze(-1)
        rewards = token_rewards(scores, old, reference, longer, BETA)
        advantages, returns = generalised_advantages(rewards, before, longer, GAMMA, LAM)
        whitened = whiten(advantages, mask.to(advantages.dtype))
    losses, _ = surrogate(log_probs(models.policy), old, whitened, CLIP)
    policy_loss = (losses * mask).sum() / mask.sum()
    policy_loss.backward()
    errors = clipped_value_loss(values(), before, returns, VALUE_CLIP)
    value_loss = (errors * longer).sum() / longer.sum()
    value_loss.backward()
    return Found(
        advantages=advantages,
        policy_loss=float(policy_loss.detach()),
        value_loss=float(value_loss.detach()),
        policy_gradient=_flat(models.policy),
        value_gradient=_flat(models.value),
    )


# --------------------------------------------------------------------------- float64


def plain(models: Models, frozen: Frozen) -> Found:
    """From the equations, in float64, a row and a token at a time."""
    models = models.double()
    rows = []
    for prompt, reply in frozen.pairs():
        ids = torch.tensor([[*prompt, *reply]])
        at = [len(prompt) - 1 + t for t in range(len(reply))]

        def chosen(model: Any, ids: Tensor = ids, at: Any = at, reply: Any = reply) -> list[Tensor]:
            logits = model(input_ids=ids).logits[0]
            return [logits[i].log_softmax(-1)[token] for i, token in zip(at, reply, strict=True)]

        states = models.value.model(input_ids=ids).last_hidden_state[0]
        value = [models.value.score(states[i])[0] for i in at]
        final = models.reward.model(input_ids=ids).last_hidden_state[0, -1]
        with torch.no_grad():
            old, reference = chosen(models.behaviour), chosen(models.reference)
            score = float(models.reward.score(final))
        reward = [-BETA * float(o - r) for o, r in zip(old, reference, strict=True)]
        reward[-1] += score
        known = [float(v.detach()) for v in value]
        advantage = []
        for t in range(len(reply)):
            total, factor = 0.0, 1.0
            for k in range(t, len(reply)):
                after = known[k + 1] if k + 1 < len(reply) else 0.0
                total += factor * (reward[k] + GAMMA * after - known[k])
                factor *= GAMMA * LAM
            advantage.append(total)
        rows.append((chosen(models.policy), old, value, known, advantage))
    everything = torch.tensor([a for row in rows for a in row[4]], dtype=torch.float64)
    mean, deviation = float(everything.mean()), float(everything.std())
    policy_loss = torch.zeros((), dtype=torch.float64)
    value_loss = torch.zeros((), dtype=torch.float64)
    for new, old, value, known, advantage in rows:
        for t, raw in enumerate(advantage):
            ratio = (new[t] - old[t]).exp()
            better = (raw - mean) / deviation
            policy_loss -= torch.minimum(ratio * better, ratio.clamp(1 - CLIP, 1 + CLIP) * better)
            target = raw + known[t]
            near = known[t] + (value[t] - known[t]).clamp(-VALUE_CLIP, VALUE_CLIP)
            value_loss += 0.5 * torch.maximum((value[t] - target) ** 2, (near - target) ** 2)
    count = len(everything)
    ((policy_loss + value_loss) / count).backward()
    advantages = torch.zeros(ROWS, REPLY, dtype=torch.float64)
    for i, row in enumerate(rows):
        advantages[i, : len(row[4])] = torch.tensor(row[4], dtype=torch.float64)
    return Found(
        advantages,
        float(policy_loss.detach()) / count,
        float(value_loss.detach()) / count,
        _flat(models.policy),
        _flat(models.value),
    )


# --------------------------------------------------------------------------- the table


def differences(a: Found, b: Found, mask: Tensor) -> list[tuple[str, float, float]]:
    """(quantity, its largest size, the largest difference)."""
    found = []
    for name in ("advantages", "policy_loss", "value_loss", "policy_gradient", "value_gradient"):
        x, y = (torch.as_tensor(getattr(each, name), dtype=torch.float64) for each in (a, b))
        if name == "advantages":
            x, y = x[mask], y[mask]
        found.append((name.replace("_", " "), float(y.abs().max()), float((x - y).abs().max())))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trl", type=Path, required=True, help="folder that holds trl 1.12's trl/")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    os.environ["TRL_EXPERIMENTAL_SILENCE"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    sys.path.insert(0, str(options.trl))
    import trl

    models = networks()
    lines = [
        "# PPO on frozen rollouts, beside trl's and plain float64 code",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}; torch {torch.__version__}, trl {trl.__version__}; "
        f"{ROWS} rows of {REPLY} tokens; `python benchmarks/ppo_parity.py --trl …`",
        "",
        "| replies | ours beside | quantity | largest value | largest difference |",
        "|---|---|---|---|---|",
    ]
    for early in (False, True):
        frozen = rollouts(early=early)
        mask = torch.arange(REPLY)[None, :] < torch.tensor(frozen.lengths)[:, None]
        what = "some end early" if early else "all fill their length"
        for who, other, mine in (
            ("float64", plain(models, frozen), ours(models, frozen, one_more=False)),
            (
                "trl" + ", one token more" * early,
                theirs(models, frozen),
                ours(models, frozen, one_more=early),
            ),
        ):
            for name, size, difference in differences(mine, other, mask):
                lines.append(f"| {what} | {who} | {name} | {size:.3g} | {difference:.1e} |")
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        options.out.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
