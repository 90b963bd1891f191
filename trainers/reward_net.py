"""A score head on the shared base, and trl's trainer of it."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import SequenceClassifierOutput
from trl import RewardTrainer

from harness.models import TOKENS_AT_ONCE, backbone, causal_model, length_sorted_batches
from trainers.pair_batches import attention, tokens_a_reply
from trainers.shared_pairs import SharedPairs
from trainers.trl_epoch import RowsWeighed, WeightsInPlace
from trainers.trunk_forward import Learners

if TYPE_CHECKING:
    from peft import PeftModel


class RewardNet(nn.Module):
    """The shared base with a score head, as trl's ``RewardTrainer`` takes it.

    Not transformers' sequence classification class: that would be a second base in memory, and it
    finds the last token by its id, which is wrong where the padding token is the end token.
    """

    def __init__(self, model: PeftModel, head: Tensor, *, recompute: bool = False) -> None:
        """``recompute``: of each layer's forward keep only the input."""
        super().__init__()
        inner = causal_model(model)
        self.learners = Learners(model, recompute=recompute)
        self.backbone = backbone(model)
        hidden = head.shape[1]
        self.score = nn.Linear(hidden, 1, bias=False, device=inner.device, dtype=torch.float32)
        with torch.no_grad():
            self.score.weight.copy_(head)
        self.config = copy.deepcopy(inner.config)
        self.config.num_labels = 1
        self.dtype = inner.dtype
        # Tells the trainer to leave the weights where they are.
        self.quantization_method = getattr(inner, "quantization_method", None)

    def forward(
        self, input_ids: Tensor, *, sides: int = 2, **batch: Any
    ) -> SequenceClassifierOutput:
        """Scores (n, 1) at the last real token of each sequence.

        Takes a ``PairCollator``'s batch, or right-padded sequences with their ``attention_mask``:
        pairs, the chosen ones first, or with one of ``sides`` any.
        """
        if "ends" in batch:
            inputs = {
                "position_ids": batch["position_ids"],
                "attention_mask": attention(batch["block"], batch["branch"], self.dtype),
            }
            ends = batch["ends"]
        else:
            mask = batch["attention_mask"]
            inputs = {"attention_mask": mask}
            rows, last = torch.arange(len(mask), device=mask.device), mask.sum(dim=1) - 1
            if (learner := self.learners.current()) is not None:
                states = learner.hidden(input_ids, rows, last, sides=sides)
                return SequenceClassifierOutput(logits=self.score(states.float()))
            ends = rows * mask.shape[1] + last
        states = self.backbone(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
        return SequenceClassifierOutput(logits=self.score(states.flatten(0, 1)[ends].float()))

    def add_model_tags(self, tags: Any) -> None:
        """For model cards, which are not written."""

    @torch.no_grad()
    def scores(self, sequences: Sequence[Sequence[int]], *, pad_id: int) -> Tensor:
        """Scores (n,) of token sequences, float32 on the CPU."""
        device = self.score.weight.device
        result = torch.empty(len(sequences))
        lengths = [len(ids) for ids in sequences]
        for indices in length_sorted_batches(lengths, tokens=TOKENS_AT_ONCE):
            rows = [sequences[index] for index in indices]
            ids = torch.full((len(rows), max(map(len, rows))), pad_id, dtype=torch.int64)
            mask = torch.zeros_like(ids)
            for number, row in enumerate(rows):
                ids[number, : len(row)] = torch.tensor(row)
                mask[number, : len(row)] = 1
            logits = self(ids.to(device), attention_mask=mask.to(device), sides=1).logits
            result[indices] = logits.squeeze(-1).float().cpu()
        return result


class _LabelledPairs(RowsWeighed, WeightsInPlace, RewardTrainer):
    safety_weight = 0.0

    def _set_signature_columns_if_needed(self) -> None:
        super()._set_signature_columns_if_needed()
        columns: Any = self._signature_columns
        if "safe" not in columns:
            columns.append("safe")

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch, or (loss, outputs)."""
        safe, weight = inputs.pop("safe", None), self.row_weight(inputs)
        loss, outputs = super().compute_loss(model, inputs, True, num_items_in_batch)
        if safe is not None:
            auxiliary = safety_loss(outputs.logits.squeeze(-1), safe)
            mode = "train" if self.model.training else "eval"
            self._metrics[mode]["safety_loss"].append(float(auxiliary.detach()))
            loss = loss + weight * self.safety_weight * auxiliary
        return (loss, outputs) if return_outputs else loss


class PairTrainer(SharedPairs, _LabelledPairs):
    """trl's trainer of a ``RewardNet``; its ``margin`` column makes the loss Llama 2's.

    With a column ``safe`` (see ``WithLabels``), ``safety_weight`` times ``safety_loss`` is added.
    """

    blank: ClassVar = {"chosen_ids": [0], "rejected_ids": [0], "margin": 0.0, "safe": [-1, -1]}

    def outputs(
        self, model: Any, inputs: dict[str, Any]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Scores; and margins, labels, tokens."""
        known = {name: x for name, x in inputs.items() if name in ("margin", "safe")}
        known["attention_mask"] = tokens_a_reply(inputs)
        return {"logits": model(**inputs).logits}, known


def safety_loss(scores: Tensor, safe: Tensor) -> Tensor:
    """Safe/unsafe cross-entropy on the scores themselves; both (2·pairs,), chosen first.

    Llama 2 (section 3.2.2, Table 28) has such a loss and gives no equation; this form is ours:
    −log σ(s) for a reply labelled safe (1), −log σ(−s) for one labelled unsafe (0), nothing for one
    without a label (−1), over the number of *all* replies, so that a label weighs the same in
    whatever batch it stands. No head of its own: the pairwise loss leaves the zero of the scores
    open, and this sets it where σ(score) is the probability that a reply is safe, which is how
    the reward rule's ``safety_threshold`` reads it.
    """
    known = safe >= 0
    targets = safe.clamp(min=0).to(scores.dtype)
    losses = nn.functional.binary_cross_entropy_with_logits(scores, targets, reduction="none")
    return (losses * known).sum() / len(scores)


def new_head(hidden: int, *, seed: int) -> Tensor:
    """A random score head (1, hidden), std 1/√(hidden + 1) (Stiennon et al. 2020), so that scores
    start with about unit spread at unit-norm features."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(1, hidden, generator=generator) / (hidden + 1) ** 0.5
