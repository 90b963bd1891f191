"""Batches of pairs that several processes share, to the loss, gradient and metrics of one.

trl's losses and metrics are means over the pairs of a forward. So each process passes its own pairs
through the model, what comes out is gathered, and trl is shown micro-batch after micro-batch as one
process has them. A process that is short of pairs gets blank ones, which nobody is shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from trainers.blank_rows import ReadsBlanksLast, filled

_Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Flagged:
    """A collator's batches, and ``real`` (pairs,) bool from the rows' ``real``."""

    collate: Callable[[Sequence[dict[str, Any]]], dict[str, Tensor]]

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, Tensor]:
        return {**self.collate(pairs), "real": torch.tensor([pair["real"] for pair in pairs])}


class SharedPairs(ReadsBlanksLast):
    """Mixed into a trl trainer of pairs, above what makes its loss of a micro-batch, such as
    ``RowsWeighed``. ``blank``: a pair of which nothing is learnt, by column."""

    blank: ClassVar[Mapping[str, Any]]
    args: Any
    accelerator: Any
    data_collator: Any
    _signature_columns: Any
    _alone = 0

    def share(self, micro_batch: int) -> None:
        """Share every batch with the other processes, if there are any. To be said before training.
        ``micro_batch``: pairs a forward where there is one process; must divide what all processes
        together read at once, as ``Plan.among`` sees to."""
        if self.args.world_size == 1:
            return
        together = self.args.per_device_train_batch_size * self.args.world_size
        assert together % micro_batch == 0
        self._alone, self.real = micro_batch, len(self.train_dataset)
        data = self.train_dataset.add_column("real", [True] * self.real)
        self.train_dataset = filled(data, together, {**self.blank, "real": False})
        self.data_collator = _Flagged(self.data_collator)

    def _set_signature_columns_if_needed(self) -> None:
        above: Any = super()
        above._set_signature_columns_if_needed()
        if "real" not in self._signature_columns:
            self._signature_columns.append("real")

    def outputs(self, model: Any, inputs: dict[str, Any]) -> tuple[_Tensors, _Tensors]:
        """This process's forward: what trl reads of the model's output, and of the batch. All by
        pair (pairs, ...) or by reply (2·pairs, ...), chosen first; ``attention_mask`` by reply."""
        raise NotImplementedError

    def rows_of(self, samples: Sequence[dict[str, Any]]) -> list[int]:
        """Replies in each of the step's forwards, of all processes together."""
        if not samples or "real" not in samples[0]:
            above: Any = super()
            found: list[int] = above.rows_of(samples)
            return found
        pairs = self.accelerator.reduce(torch.stack([batch["real"].sum() for batch in samples]))
        return [2 * int(count) for count in pairs]

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of the pairs of all processes, the same in each; or what trl returns, where
        they are not shared."""
        above: Any = super()
        if "real" not in inputs:
            return above.compute_loss(model, inputs, return_outputs, num_items_in_batch)
        own = inputs.pop("real")
        output, batch = self.outputs(model, inputs)
        real = self.accelerator.gather(own)
        shown = {name: self._gathered(tensor, len(own))[real] for name, tensor in output.items()}
        known = {name: self._gathered(tensor, len(own))[real] for name, tensor in batch.items()}
        # Of this only the sum is asked, and then that of all processes.
        mine = torch.arange(len(real), device=real.device) // len(own)
        known["attention_mask"][(mine != self.accelerator.process_index)[real]] = 0
        losses = []
        for start in range(0, int(real.sum()), self._alone):
            part = slice(start, start + self._alone)
            seen = SimpleNamespace(**{name: _by_side(x[part]) for name, x in shown.items()})
            micro = {name: _by_side(x[part]) for name, x in known.items()}
            loss = above.compute_loss(lambda seen=seen, **_: seen, micro)
            losses.append(loss.mean())  # of pairs, where something of a whole forward is in it
        return torch.stack(losses).sum()

    def _gathered(self, own: Tensor, pairs: int) -> Tensor:
        """(all pairs, sides, ...) of ``own`` (sides·pairs, ...): one process's after the other's,
        tokens padded to the longest.

        A gradient goes into this process's share alone, times the number of processes, by which
        the mean over their gradients divides it again.
        """
        accelerator = self.accelerator
        by_pair = own.unflatten(0, (-1, pairs)).transpose(0, 1)
        mine: Tensor = accelerator.pad_across_processes(by_pair, dim=2)
        mine = mine.to(own.dtype)  # truth values are numbers once they are padded
        found: Tensor = accelerator.gather(mine.detach().contiguous())
        if not mine.requires_grad:
            return found
        mine.register_hook(lambda gradient: gradient * accelerator.num_processes)
        start = accelerator.process_index * pairs
        return torch.cat([found[:start], mine, found[start + pairs :]])


def _by_side(pairs: Tensor) -> Tensor:
    """(pairs, sides, ...) → (sides·pairs, ...): chosen first."""
    return pairs.transpose(0, 1).flatten(0, 1)
