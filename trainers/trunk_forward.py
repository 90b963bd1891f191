"""trl's trainers by the layers that are written out (``harness/engines/trunk.py``), where a model
is one of theirs: float32 Llamas on the CPU.

trl asks for the log-probabilities of labels by ``model(..., labels=..., fused_lm_head=True)``, its
own forward that runs the whole model over padded rows and its head over all places. Here rows are
read without padding, whether they are padded or packed, and the last layer and the head at the
labels alone; what trl is given is the same, up to the order of float32 additions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from trl.trainer.utils import FusedCausalLMOutput

from harness.adapters import active, adapter_weights
from harness.engines.trunk import is_written_out, trunk
from harness.models import causal_model
from trainers.learner import Learner
from trainers.packing import IGNORED

_READ = {"input_ids", "attention_mask", "position_ids", "use_cache"}


class Learners:
    """The learner of the adapter that is active, made again when weights have changed."""

    def __init__(self, model: PeftModel, *, recompute: bool = False) -> None:
        """``recompute``: as for ``learner``."""
        self._model, self._inner = model, causal_model(model)
        self._recompute = recompute
        self._weights: dict[str | None, list[Tensor]] = {None: []}
        self._made: dict[str | None, tuple[tuple[Any, ...], Learner | None]] = {}

    def suit(self) -> bool:
        """Whether the active adapter can be trained by layers that are written out."""
        training = self._inner.training
        self._inner.train()
        try:
            return is_written_out(self._inner)
        finally:
            self._inner.train(training)

    def current(self) -> Learner | None:
        """None where the layers are not written out. Good until weights change."""
        name = active(self._model).name
        if name not in self._weights:
            self._weights[name] = [*adapter_weights(self._model, name or "").values()]
        versions = (self._inner.training, *(weight._version for weight in self._weights[name]))
        known = self._made.get(name)
        if known is None or known[0] != versions:
            self._made.pop(name, None)  # before the next one takes as much memory
            found = trunk(self._inner, recompute=self._recompute)
            net = None if found is None else Learner(self._model, found)
            known = self._made[name] = versions, net
        return known[1]


@contextmanager
def through_trunk(
    net: nn.Module,
    model: PeftModel,
    *,
    temperature: float = 1.0,
    recompute: bool = False,
    sides: int = 1,
    within: Callable[[], AbstractContextManager[None]] = nullcontext,
) -> Iterator[None]:
    """Inside, the forward that trl has put on ``net``, a view of ``model`` with the adapter that is
    active, goes through the layers that are written out, where there are any.

    ``temperature``: that trl's forward divides logits by; ``recompute``: as for ``learner``;
    ``sides`` of the same prompts in each batch of padded rows: as for ``Learner.hidden``;
    ``within``: opened for each forward, which may activate an adapter.
    """
    theirs = vars(net)["forward"]
    learners = Learners(model, recompute=recompute)
    vars(net)["forward"] = _forward(theirs, learners, temperature, sides, within)
    try:
        yield
    finally:
        vars(net)["forward"] = theirs


def _forward(
    theirs: Callable[..., Any],
    learners: Learners,
    temperature: float,
    sides: int,
    within: Callable[[], AbstractContextManager[None]],
) -> Callable[..., Any]:
    @functools.wraps(theirs)  # whose signature tells what a model takes
    def forward(*args: Any, **kwargs: Any) -> Any:
        asked = dict(kwargs)
        fused, labels = asked.pop("fused_lm_head", False), asked.pop("labels", None)
        given = {name: value for name, value in asked.items() if value is not None}
        if fused and labels is not None and not args and given.keys() <= _READ:
            with within():
                net = learners.current()
                if net is not None and net.predicts:
                    places = _places(given, labels[:, 1:])
                    if places is not None:
                        return _predicted(net, places, temperature, sides)
        return theirs(*args, **kwargs)

    return forward


class _Places:
    """Where labels are predicted, n of them: in the batch, and in its sequences, each a row from
    column 0 of ``input_ids``."""

    def __init__(
        self, input_ids: Tensor, sequence: Tensor, position: Tensor, real: Tensor, labels: Tensor
    ) -> None:
        """(rows, longest): the number of each token's sequence, its position there, and whether it
        is no padding. ``labels`` (rows, longest − 1): of the token behind each."""
        self.asked = labels != IGNORED
        self.targets = labels[self.asked]
        self.rows, self.columns = self.asked.nonzero().unbind(1)
        self.sequences = sequence[self.rows, self.columns]
        self.positions = position[self.rows, self.columns]
        count, longest = int(sequence.max()) + 1, int(position.max()) + 1
        self.input_ids = torch.zeros(count, longest, dtype=torch.int64)
        self.input_ids[sequence[real], position[real]] = input_ids[real]

    def spread(self, values: Tensor) -> Tensor:
        """(n,) to (rows, longest − 1), zero where nothing is asked."""
        empty = values.new_zeros(self.asked.shape)
        return empty.index_put((self.rows, self.columns), values)


def _places(given: Mapping[str, Any], labels: Tensor) -> _Places | None:
    """On the CPU, of labels without the first. None for a batch of another kind than trl's
    collators and ours make: rows padded on one side or both, with a mask; or packed, with positions
    that start again."""
    ids: Tensor = given["input_ids"]
    mask, positions = given.get("attention_mask"), given.get("position_ids")
    if (mask is None) == (positions is None) or not bool((labels != IGNORED).any()):
        return None
    if mask is not None:
        real = mask.bool()
        position = real.cumsum(1) - 1
        # A gap would be a place in the rotation.
        gaps = (real[:, 1:] & ~real[:, :-1]).sum(1) + real[:, 0] > 1
        if bool(gaps.any()):
            return None
        sequence = torch.arange(len(ids))[:, None].expand_as(ids)
    else:
        assert positions is not None
        position, real = positions, torch.ones_like(ids, dtype=torch.bool)
        begins = position == 0
        begins[:, 0] = True
        sequence = (begins.flatten().cumsum(0) - 1).view_as(ids)
        inside = position[:, 1:] == position[:, :-1] + 1
        if bool((position[:, 0] != 0).any()) or not bool((inside | begins[:, 1:]).all()):
            return None
    return _Places(ids, sequence, position, real, labels)


def _predicted(
    net: Learner, places: _Places, temperature: float, sides: int
) -> FusedCausalLMOutput:
    found = net.predictions(
        places.input_ids,
        places.sequences,
        places.positions,
        places.targets,
        temperature=temperature,
        sides=sides,
    )
    return FusedCausalLMOutput(
        loss=-found.log_probs.sum() / len(places.targets),
        log_probs=places.spread(found.log_probs),
        entropy=places.spread(found.entropy),
        mean_logits=places.spread(found.mean_logits),
        is_top1=places.spread(found.likeliest),
        label_mask=places.asked,
    )
