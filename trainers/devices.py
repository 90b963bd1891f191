"""Where a schedule may run: graphics cards by name, and this machine's memory."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from harness.errors import InputError, nearest

GIB = 2**30
# What the process holds beside tensors: on a GPU its context, kernels and cuBLAS's workspaces
# (0.5 GiB in the reports of out-of-memory errors, rounded up); on a CPU Python and its libraries.
_CONTEXT = round(0.6 * GIB)
_PROCESS = round(0.7 * GIB)
_SHOWN = 20  # characters of a name in a message
_LEAST, _MOST = 0.1, 10_000.0  # GiB that a card may be said to have: a slip of the pen is outside


@dataclass(frozen=True, slots=True)
class Device:
    """Something with memory. ``bytes``: what PyTorch reports as its total capacity, which is less
    than the number in its name."""

    name: str
    bytes: int
    cuda: bool = True
    # Below compute capability 8 no fused attention takes bfloat16: PyTorch then holds all scores.
    fused_bfloat16: bool = True

    @property
    def process_bytes(self) -> int:
        """Taken before the first tensor is made."""
        return _CONTEXT if self.cuda else _PROCESS


# Capacities as PyTorch reports them, the smallest seen (error correction takes some).
CARDS = (
    Device("T4 16 GB", round(14.75 * GIB), fused_bfloat16=False),
    Device("A10G 24 GB", round(22.0 * GIB)),
    Device("RTX 4090 24 GB", round(23.6 * GIB)),
    Device("A100 40 GB", round(39.4 * GIB)),
    Device("A100 80 GB", round(79.1 * GIB)),
    Device("H100 80 GB", round(79.1 * GIB)),
    Device("H200 141 GB", round(139.8 * GIB)),
)


def this_machine() -> Device:
    """The CPU and its memory."""
    return Device("this CPU", psutil.virtual_memory().total, cuda=False)


def devices(names: Sequence[str] = ()) -> tuple[Device, ...]:
    """The devices of these names; without names all cards and this machine.

    A name may leave out what makes no difference (``a100-80``, ``4090``, ``cpu``); ``48GB`` is any
    modern card of so many GiB. Raises ``InputError`` for a name that is none, or several, for a
    number that is neither a card's nor has a unit, and for a size that no card has.
    """
    every = (*CARDS, this_machine())
    return tuple(_named(name, every) for name in names) if names else every


def _named(name: str, every: Sequence[Device]) -> Device:
    size = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*(gb|gib)?", name.strip().lower())
    if size is not None and size[2]:
        return _of_size(name, size[1])
    if size is not None:
        found = [device for device in every if _number(device) == size[1]]
        if not found:
            raise InputError(
                f"{_short(name)!r} is no card in the table, and a size needs a unit",
                field="--device",
                expected=f"a size such as 48GB, or one of {', '.join(d.name for d in every)}",
            )
    else:
        wanted = _letters(name)
        found = [device for device in every if wanted and wanted in _letters(device.name)]
    if len(found) == 1:
        return found[0]
    names = [device.name for device in found or every]
    raise InputError(
        f"{name!r} may be several devices" if found else f"no device {name!r} in the table",
        field="--device",
        expected=f"one of {', '.join(names)}" + ("" if found else "; or a size such as 48GB"),
        nearest=None if found else nearest(name, names),
    )


def _of_size(name: str, number: str) -> Device:
    gigabytes = float(number)  # inf for hundreds of digits
    if not _LEAST <= gigabytes <= _MOST:
        raise InputError(
            f"{_short(name)!r} is the memory of no card",
            field="--device",
            expected=f"a size from {_LEAST:g}GB to {_MOST:g}GB",
        )
    return Device(f"{number} GB card", round(gigabytes * GIB))


def _number(device: Device) -> str:
    """What a card's name ends in before its size: 4090 of ``RTX 4090 24 GB``."""
    found = re.search(r"([0-9]+) [0-9]+ GB$", device.name)
    return found[1] if found else ""


def _short(name: str) -> str:
    return name if len(name) <= _SHOWN else name[:_SHOWN] + "…"


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())
