"""Scores of conversations by reward models, and how several scores become one number.

A reward model is an ensemble of members; a member is an adapter on the run's base and a linear
score head. Scores are logits: what the pairwise loss is taken on, unbounded, 0 at even odds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

import torch
from peft import PeftModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from harness.adapters import activate, load_adapter, remove_adapter, save_adapter, using
from harness.chat import Conversation, render, up_to_end
from harness.engines.local import eos_ids
from harness.engines.reading import Reader, pad_right
from harness.errors import InputError, IntegrityError, nearest
from harness.models import (
    TOKENS_AT_ONCE,
    causal_model,
    eval_mode,
    hidden_size,
    length_sorted_batches,
)
from harness.normalisation import Normalisation, read_normalisation, standardised

HEAD_FILE = "head.safetensors"
_KEPT_BYTES = 128 * 2**20  # of the readers of a scorer's members, in all
HowMembers = Literal["mean", "worst_case", "uncertainty"]


@dataclass(frozen=True, slots=True)
class RewardModel:
    """The committed members of one reward stage: a folder each, with adapter and head."""

    name: str
    members: tuple[Path, ...]


@dataclass(frozen=True, slots=True)
class Rule:
    """How reward models become the one number that a policy is trained on.

    ``llama2`` (arXiv 2307.09288, section 3.2.3): the safety score on safety prompts and wherever
    its sigmoid is below ``safety_threshold``, the helpfulness score elsewhere. ``mean``,
    ``worst_case`` and ``uncertainty`` (mean − λ·variance) are over all members of all reward models
    (Coste et al. 2023). ``weighted``: the sum of the models' scores by ``weights``.

    ``normalise: member``: each member's scores enter as (score − mean) / sd by its own
    ``normalisation.json``. Whether safety speaks under ``llama2`` still goes by the scores as they
    are: the threshold is one on a probability.
    """

    kind: Literal["llama2", "mean", "worst_case", "uncertainty", "weighted"] = "llama2"
    helpfulness: str = "helpfulness"
    safety: str = "safety"
    safety_threshold: float = 0.15
    members: HowMembers = "mean"
    uncertainty_weight: float = 0.5
    weights: Mapping[str, float] = field(default_factory=dict)
    normalise: Literal["none", "member"] = "none"


@dataclass(frozen=True, slots=True)
class Combined:
    """What the rule made of n conversations' scores.

    ``spread`` is the (population) standard deviation over the members of the model that spoke: the
    sign of over-optimisation that needs no ground truth.
    """

    reward: Tensor  # (n,) float32, logits
    source: tuple[str, ...]  # the reward model that spoke; "all" where they speak together
    spread: Tensor  # (n,) float32, logits


def member_score(scores: Tensor, how: HowMembers, uncertainty_weight: float) -> Tensor:
    """One score (n,) from those of the members (members, n); the variance is the population's."""
    if how == "mean":
        return scores.mean(dim=0)
    if how == "worst_case":
        return scores.min(dim=0).values
    if how == "uncertainty":
        return scores.mean(dim=0) - uncertainty_weight * scores.var(dim=0, correction=0)
    raise ValueError(f"unknown way to combine members: {how!r}")


def combine(
    scores: Mapping[str, Tensor],
    safety: Tensor,
    rule: Rule,
    normalisations: Mapping[str, Sequence[Normalisation]] | None = None,
) -> Combined:
    """Apply ``rule`` to the scores (members, n) of each reward model.

    ``safety`` (n,) bool marks the safety prompts. ``normalisations``: of each model's members, for
    rules that normalise. Raises ``InputError`` where the rule names a reward model that there is no
    score of.
    """
    as_given = scores
    if rule.normalise == "member":
        known = normalisations or {}
        scores = {name: standardised(found, known[name]) for name, found in scores.items()}

    def named(name: str) -> Tensor:
        if name not in scores:
            raise InputError(
                f"the reward rule needs a reward model {name!r}; there are: "
                f"{', '.join(sorted(scores)) or 'none'}",
                nearest=nearest(name, scores),
            )
        return scores[name]

    def one(members: Tensor) -> Tensor:
        return member_score(members, rule.members, rule.uncertainty_weight)

    def spread(members: Tensor) -> Tensor:
        return members.std(dim=0, correction=0)

    if rule.kind == "llama2":
        helpfulness, guard = named(rule.helpfulness), named(rule.safety)
        probability = one(as_given[rule.safety]).sigmoid()
        safe = safety.to(guard.device) | (probability < rule.safety_threshold)
        return Combined(
            torch.where(safe, one(guard), one(helpfulness)),
            tuple(rule.safety if spoke else rule.helpfulness for spoke in safe.tolist()),
            torch.where(safe, spread(guard), spread(helpfulness)),
        )
    if rule.kind == "weighted":
        if not rule.weights:
            raise InputError("no weights given", field="reward.weights")
        parts = [(weight, named(name)) for name, weight in sorted(rule.weights.items())]
        reward = torch.stack([weight * one(members) for weight, members in parts]).sum(dim=0)
        # Members of different models are independent, so their variances add.
        variances = [(weight * spread(members)).square() for weight, members in parts]
        deviation = torch.stack(variances).sum(dim=0).sqrt()
        return Combined(reward, ("all",) * len(reward), deviation)
    if not scores:
        raise InputError(f"the reward rule {rule.kind!r} needs a reward model; there is none")
    members = torch.cat([scores[name] for name in sorted(scores)])
    reward = member_score(members, rule.kind, rule.uncertainty_weight)
    return Combined(reward, ("all",) * len(reward), spread(members))


class RewardScorer:
    """Reward models loaded side by side on the model that is being judged.

    Every member is an adapter ``<prefix>/<name>/<number>`` of ``model`` (two scorers on one base
    need two prefixes); scoring activates them in turn and puts back what was active. ``close`` (or
    the end of a ``with``) removes them. Loading the first adapter wraps a plain model: use
    ``.model`` from then on.

    Sequences are read ``TOKENS_AT_ONCE``, and at most ``batch_size`` of them at once. Scores do not
    depend on a batch's other sequences but by rounding (int8 apart: see ``LocalEngine``).
    """

    def __init__(
        self,
        model: PreTrainedModel | PeftModel,
        tokenizer: PreTrainedTokenizerBase,
        reward_models: Sequence[RewardModel],
        rule: Rule,
        *,
        batch_size: int | None = None,
        prefix: str = "rm",
    ) -> None:
        if not reward_models or not all(entry.members for entry in reward_models):
            raise InputError("a reward model without members")
        self.tokenizer = tokenizer
        self.rule = rule
        self.batch_size = batch_size
        # Heads first: what fails most easily then fails before the model is touched.
        heads = {
            folder: read_head(folder, hidden=hidden_size(model)).to(model.device)
            for entry in reward_models
            for folder in entry.members
        }
        self._normalisations = {
            entry.name: [read_normalisation(folder) for folder in entry.members]
            for entry in reward_models
            if rule.normalise == "member"
        }
        self._readers: dict[str, Reader] = {}
        self._members: dict[str, list[tuple[str, Tensor]]] = {
            entry.name: [] for entry in reward_models
        }
        for entry in reward_models:
            for number, folder in enumerate(entry.members):
                adapter = f"{prefix}/{entry.name}/{number}"
                try:
                    self.model: PeftModel = load_adapter(model, adapter, folder)
                except (InputError, IntegrityError):
                    self.close()
                    raise
                model = self.model
                self._members[entry.name].append((adapter, heads[folder]))

    @property
    def names(self) -> tuple[str, ...]:
        """The reward models, in the order given."""
        return tuple(self._members)

    def score_tokens(
        self, input_ids: Sequence[Sequence[int]], names: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Each reward model's scores (members, n), float32 on the CPU, at each last token.

        A sequence is prompt and reply, the end token included if the reply ended with one.
        ``names``: only these reward models; default all.
        """
        if any(not len(ids) for ids in input_ids):
            raise ValueError("an empty sequence cannot be scored")
        pad = self.tokenizer.pad_token_id
        batches = []
        for indices in length_sorted_batches(
            [len(ids) for ids in input_ids], self.batch_size, tokens=TOKENS_AT_ONCE
        ):
            ids = [input_ids[index] for index in indices]
            whole = pad_right(ids, pad_id=pad if pad is not None else 0, device=self.model.device)
            ends = torch.tensor([len(row) - 1 for row in ids], device=whole.device)
            batches.append((indices, whole, ends))
        results = {}
        # `using` is for its end: it puts back what is active now.
        with eval_mode(self.model), using(self.model, None):
            for name in self.names if names is None else names:
                members = self._members[name]
                scores = torch.empty(len(members), len(input_ids))
                for row, (adapter, head) in enumerate(members):
                    reader = self._reader(adapter)
                    for indices, whole, ends in batches:
                        hidden = reader.hidden(whole, torch.arange(len(ends)), ends)
                        scores[row, indices] = (hidden.float() @ head.T).squeeze(-1).cpu()
                results[name] = scores
        return results

    def _reader(self, adapter: str) -> Reader:
        """Of a member, which is activated. Members do not change: small readers are kept."""
        activate(self.model, adapter)
        if adapter in self._readers:
            return self._readers[adapter]
        made = Reader(self.model)
        held = sum(reader.bytes or 0 for reader in self._readers.values())
        if made.bytes is not None and held + made.bytes <= _KEPT_BYTES:
            self._readers[adapter] = made
        return made

    def score(self, conversations: Sequence[Conversation]) -> dict[str, Tensor]:
        """As ``score_tokens``, of finished conversations rendered by the chat template, up to their
        last end token: as in training, and as a generated reply ends."""
        eos = eos_ids(causal_model(self.model), self.tokenizer)
        return self.score_tokens(
            [
                up_to_end(render(self.tokenizer, messages, reply_next=False), eos)
                for messages in conversations
            ]
        )

    def combined(self, scores: Mapping[str, Tensor], safety: Sequence[bool]) -> Combined:
        """``combine`` by this scorer's rule."""
        prompts = torch.tensor(list(safety), dtype=torch.bool)
        return combine(scores, prompts, self.rule, self._normalisations)

    def rewards(self, input_ids: Sequence[Sequence[int]], safety: Sequence[bool]) -> Combined:
        """What the rule makes of sequences, scored only by whom it asks: under ``llama2`` the
        helpfulness members need not read what the safety members speak on."""
        rule = self.rule
        if rule.kind != "llama2" or not {rule.helpfulness, rule.safety} <= set(self.names):
            return self.combined(self.score_tokens(input_ids), safety)
        helpfulness = torch.zeros(len(self._members[rule.helpfulness]), len(input_ids))
        scores = {**self.score_tokens(input_ids, [rule.safety]), rule.helpfulness: helpfulness}
        source = self.combined(scores, safety).source
        rest = [index for index, name in enumerate(source) if name == rule.helpfulness]
        if rest:
            asked = [input_ids[index] for index in rest]
            helpfulness[:, rest] = self.score_tokens(asked, [rule.helpfulness])[rule.helpfulness]
        return self.combined(scores, safety)

    def close(self) -> None:
        """Remove the members' adapters; the scorer is of no use afterwards."""
        for members in self._members.values():
            for adapter, _ in members:
                remove_adapter(self.model, adapter)
        self._members, self._readers = {}, {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def save_member(model: PeftModel, adapter: str, head: Tensor, folder: Path) -> None:
    """Write a member (adapter and head weight (1, hidden)) into an existing folder."""
    save_adapter(model, adapter, folder)
    weight = head.detach().to("cpu", torch.float32, copy=True).contiguous()
    save_file({"weight": weight}, folder / HEAD_FILE, metadata={"format": "pt"})


def read_head(folder: Path, *, hidden: int | None = None) -> Tensor:
    """The score head's weight, float32 (1, hidden). ``IntegrityError`` for anything else."""
    path = folder / HEAD_FILE
    if not path.is_file():
        raise InputError(f"not a reward-model member: {HEAD_FILE} is missing", path=folder)
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise IntegrityError(f"{path}: not a whole safetensors file: {error}") from error
    shape = tuple(stored["weight"].shape) if set(stored) == {"weight"} else None
    if shape is None or len(shape) != 2 or shape[0] != 1 or (hidden and shape[1] != hidden):
        found = ", ".join(f"{key} {tuple(value.shape)}" for key, value in stored.items())
        raise IntegrityError(
            f"{path}: expected one tensor 'weight' of shape (1, {hidden or 'hidden'}), "
            f"found {found}"
        )
    return stored["weight"].float()
