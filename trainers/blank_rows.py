"""Rows that carry no loss, for several processes that share a pass whose rows do not go round.

What processes read at once must be whole: accelerate fills it up with rows from the beginning of
the pass, which would count twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from accelerate.data_loader import SeedableRandomSampler
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler


def filled(data: Dataset, sequences: int, blank: Mapping[str, Any]) -> Dataset:
    """The rows, and at their end blank ones up to a multiple of ``sequences``: what several
    processes read at once."""
    rows = {name: [blank[name]] * (-len(data) % sequences) for name in data.column_names}
    return concatenate_datasets([data, Dataset.from_dict(rows, features=data.features)])


class BlanksLast(Sampler[int]):
    """The order of ``real`` rows in which one process reads them, then those that come after."""

    def __init__(self, real: int, total: int) -> None:
        self._order = SeedableRandomSampler(range(real))
        self._blanks = range(real, total)

    def set_epoch(self, epoch: int) -> None:
        """The pass that is made next, from 0; transformers says so."""
        self._order.set_epoch(epoch)

    def __len__(self) -> int:
        return len(self._order) + len(self._blanks)

    def __iter__(self) -> Iterator[int]:
        yield from self._order
        yield from self._blanks


class ReadsBlanksLast:
    """Mixed into a trl trainer whose data may be ``filled``. ``real``: how many of its rows are not
    blank; None: all."""

    train_dataset: Any
    real: int | None = None

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        total = len(self.train_dataset)
        if self.real is None or self.real == total:
            above: Any = super()
            return above._get_train_sampler(train_dataset)
        return BlanksLast(self.real, total)
