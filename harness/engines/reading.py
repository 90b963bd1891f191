"""Reading whole sequences without gradients: what scores rewards and measures log-probabilities.

Sequences are padded on the right: under causal attention no real token can see padding, so neither
a mask nor position ids are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import PreTrainedModel

from harness.engines.folding import Folded, fold
from harness.engines.merged import merged_linears
from harness.engines.trunk import trunk
from harness.models import backbone, causal_model, eval_mode


class Reader:
    """The model with the adapter that is active at construction, which must be active, and
    unchanged, whenever it reads. The layers of Llamas on the CPU are written out, those of other
    small models folded, others merged as they are passed."""

    def __init__(self, model: PreTrainedModel | PeftModel) -> None:
        self._model = causal_model(model)
        self._trunk = trunk(self._model, reading=True)
        self._folded = fold(self._model) if self._trunk is None else Folded({})

    @property
    def bytes(self) -> int | None:
        """Of the weights that it holds for itself; None where it reads the model's own."""
        return None if self._trunk is None else self._trunk.bytes

    @torch.inference_mode()
    def hidden(self, input_ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The last hidden states (n, hidden), normed, at n places: (rows[i], columns[i]) each."""
        if self._trunk is not None:
            return self._trunk.hidden(input_ids, rows, columns)
        with self._reading():
            states: Tensor = backbone(self._model)(
                input_ids=input_ids, use_cache=False
            ).last_hidden_state
        return states[rows, columns]

    @torch.inference_mode()
    def logits(self, input_ids: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Logits (n, vocabulary) at n places."""
        if self._trunk is not None:
            head: Any = self._model.get_output_embeddings()
            with eval_mode(head):
                states: Tensor = head(self._trunk.hidden(input_ids, rows, columns))
            return states
        first = int(columns.min())
        with self._reading():
            found: Tensor = self._model(
                input_ids=input_ids,
                use_cache=False,
                logits_to_keep=input_ids.shape[1] - first,
            ).logits
        return found[rows, columns - first]

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with eval_mode(self._model), self._folded:
            if len(self._folded):
                yield
            else:
                with merged_linears(self._model):
                    yield


def pad_right(
    sequences: Sequence[Sequence[int]], *, pad_id: int, device: torch.device | str
) -> Tensor:
    """Token ids (rows, longest), padded on the right."""
    longest = max(map(len, sequences))
    rows = [[*sequence, *[pad_id] * (longest - len(sequence))] for sequence in sequences]
    return torch.tensor(rows, dtype=torch.int64).to(device)
