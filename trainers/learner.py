"""The active adapter's hidden states and log-probabilities with gradients: what its trainers call.

Small Llamas on a CPU go through layers written out (``harness/engines/trunk.py``); any other model
through transformers, its adapter merged as it is passed (``merged.py``) where that is exact.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import PreTrainedModel

from harness.engines.folding import effective_weight
from harness.engines.merged import merged_linears
from harness.engines.operators import log_softmax_at
from harness.engines.trunk import Trunk, trunk
from harness.models import backbone, causal_model
from trainers.recomputing import recomputed

# Numbers of the vocabulary's width that are kept for a backward; more are computed again.
_LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True, slots=True)
class Predictions:
    """Of labels at n places, (n,) each; only the log-probabilities may have a gradient, and the
    entropy where it is wanted."""

    log_probs: Tensor
    entropy: Tensor
    likeliest: Tensor  # bool: whether no word is likelier
    mean_logits: Tensor  # over the words, divided by the temperature


class Learner:
    """The model with the adapter that is active at construction; neither that adapter nor its
    weights may change until the last backward. Made by ``learner``."""

    def __init__(self, model: PreTrainedModel | PeftModel, found: Trunk | None) -> None:
        self._model = causal_model(model)
        self.device = self._model.device
        self._trunk = found
        head: Any = self._model.get_output_embeddings()
        # An adapted head is trained too, and left to autograd.
        plain = found is not None and not isinstance(head, LoraLayer)
        self._head = effective_weight(head) if plain else None

    def hidden(self, input_ids: Tensor, rows: Tensor, columns: Tensor, *, sides: int = 1) -> Tensor:
        """The last hidden states (n, hidden), normed, at n places: (rows[i], columns[i]) each.

        ``input_ids`` (rows, length) are padded on the right, which no earlier token can see.
        ``sides`` of the same prompts, all rows of one before those of the next: layers that are
        written out compute once what row i of every side begins with alike.
        """
        if self._trunk is not None:
            return self._trunk.hidden(input_ids, rows, columns, sides=sides)
        states: Tensor = backbone(self._model)(
            input_ids=input_ids, use_cache=False
        ).last_hidden_state
        return states[rows, columns]

    @property
    def predicts(self) -> bool:
        """Whether it has ``predictions``."""
        return self._trunk is not None and self._head is not None

    def predictions(
        self,
        input_ids: Tensor,
        rows: Tensor,
        columns: Tensor,
        targets: Tensor,
        *,
        temperature: float = 1.0,
        entropy_grad: bool = False,
        sides: int = 1,
    ) -> Predictions:
        """As ``log_probs``, and more; of layers that are written out, ``sides`` as ``hidden``'s."""
        assert self._trunk is not None
        assert self._head is not None
        states = self._trunk.hidden(input_ids, rows, columns, sides=sides)
        found: tuple[Tensor, Tensor, Tensor] = _LogProbs.apply(
            states, self._head, targets, temperature, entropy_grad
        )
        mean = (states.detach() @ self._mean_word).div_(temperature)
        return Predictions(*found, mean)

    @cached_property
    def _mean_word(self) -> Tensor:
        assert self._head is not None
        return self._head.mean(0)

    def log_probs(
        self,
        input_ids: Tensor,
        rows: Tensor,
        columns: Tensor,
        targets: Tensor,
        *,
        temperature: float = 1.0,
        entropy_grad: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of ``targets`` (n,) at n places, and the entropy there; float32, (n,).

        The logits are divided by ``temperature``. They are computed from the first place on only:
        at 32,000 words they are the largest tensor of all. The entropy has a gradient only if
        wanted.
        """
        if self.predicts:
            found = self.predictions(
                input_ids,
                rows,
                columns,
                targets,
                temperature=temperature,
                entropy_grad=entropy_grad,
            )
            return found.log_probs, found.entropy
        first = int(columns.min())
        logits = self._model(
            input_ids=input_ids, use_cache=False, logits_to_keep=input_ids.shape[1] - first
        ).logits
        log_p = (logits[rows, columns - first].float() / temperature).log_softmax(-1)
        with torch.set_grad_enabled(entropy_grad and torch.is_grad_enabled()):
            entropy = -(log_p.exp() * log_p).sum(-1)
        return log_p.gather(-1, targets[:, None]).squeeze(-1), entropy


@contextmanager
def learner(model: PreTrainedModel | PeftModel, *, recompute: bool = False) -> Iterator[Learner]:
    """The learner of the adapter that is active; use it, backwards included, inside.

    ``recompute``: of each layer's forward keep only the input (gradient checkpointing).
    """
    found = trunk(causal_model(model), recompute=recompute)
    with ExitStack() as stack:
        if found is None:
            stack.enter_context(merged_linears(model))
            stack.enter_context(recomputed(model, recompute))
        yield Learner(model, found)


class _LogProbs(torch.autograd.Function):
    """log softmax of hidden·headᵀ / temperature at the targets, the entropy, and whether no word is
    likelier.

    Of all tensors of the vocabulary's width only the probabilities p are kept, and the backward
    overwrites them: ∂log p_t/∂z = onehot(t) − p, ∂H/∂z = −p·(log p + H). More than
    ``_LOGITS_AT_ONCE`` are computed part by part, and once more in the backward.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, head: Tensor, targets: Tensor, temperature: float, entropic: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        size = max(1, _LOGITS_AT_ONCE // len(head))
        parts = []
        for states, aims in zip(hidden.split(size), targets.split(size), strict=True):
            *part, p = log_softmax_at(states @ head.T, aims, temperature)
            parts.append(part)
        chosen, entropy, likeliest = (torch.cat(part) for part in zip(*parts, strict=True))
        if ctx.needs_input_grad[0]:
            ctx.p = p if len(parts) == 1 else None
            ctx.hidden = hidden if len(parts) > 1 else None
        ctx.head, ctx.targets, ctx.temperature, ctx.size = head, targets, temperature, size
        ctx.entropy = entropy if entropic else None
        ctx.mark_non_differentiable(likeliest, *(() if entropic else (entropy,)))
        return chosen, entropy, likeliest

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        to_chosen, to_entropy, _ = gradients
        p, ctx.p, hidden, ctx.hidden = ctx.p, None, ctx.hidden, None
        if p is None and hidden is None:
            raise RuntimeError("a second backward: what the first needed is gone")
        found = []
        for start in range(0, len(ctx.targets), ctx.size):
            part = slice(start, start + ctx.size)
            targets = ctx.targets[part]
            if hidden is not None:
                p = log_softmax_at(hidden[part] @ ctx.head.T, targets, ctx.temperature)[-1]
            if ctx.entropy is not None:
                # −p·(log p + H)·g, and 0 where p is: the limit of p·log p.
                slope = torch.xlogy(p, p).addcmul_(p, ctx.entropy[part, None])
                slope.mul_(-to_entropy[part, None])
            to_logits = p.mul_(-to_chosen[part, None])
            to_logits[torch.arange(len(targets)), targets] += to_chosen[part]
            if ctx.entropy is not None:
                to_logits += slope
            found.append((to_logits @ ctx.head).div_(ctx.temperature))
        return torch.cat(found), None, None, None, None
