"""What a few seeds say of a difference: a paired t interval, and the rule that makes a verdict.

The rule was fixed before any run. A variant and its baseline share a seed, and with it all that was
trained before they part, so the unit is the seed's difference, variant − baseline:

- ``shows``: the 95 % t interval of the mean difference excludes 0; where there is a claim about its
  direction, "as claimed" or "against the claim";
- ``shows nothing``: the interval contains 0, which is not the same as no effect;
- ``no interval``: every seed has the same difference and it is not 0, so there is no spread to make
  an interval of (outcomes that count whole epochs can do that); taken for nothing shown;
- ``not measured``: a value is missing.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from scipy.special import stdtrit

CONFIDENCE = 0.95
NO_SPREAD = 1e-12  # differences that are equal but for rounding

Direction = Literal[-1, 0, 1]  # what is claimed of variant − baseline; 0: nothing


@dataclass(frozen=True)
class Difference:
    """Variant − baseline: a value a seed, their mean, and its t interval (nan where there is no
    telling)."""

    values: tuple[float, ...]
    mean: float
    low: float
    high: float


def difference(
    variant: Sequence[float], baseline: Sequence[float], confidence: float = CONFIDENCE
) -> Difference:
    """The paired difference of two arms, in the order of the seeds.

    The interval is mean ± t · s/√n with n − 1 degrees of freedom, s the sample standard deviation.
    Bounds are nan for fewer than two seeds, for missing values, and for differences that are all
    alike, unless all are 0: then both bounds are 0. Raises ``ValueError`` for arms of unequal
    length.
    """
    values = tuple(after - before for after, before in zip(variant, baseline, strict=True))
    if len(values) < 2 or not all(math.isfinite(value) for value in values):
        mean = statistics.fmean(values) if values else math.nan
        return Difference(values, mean, math.nan, math.nan)
    mean = statistics.fmean(values)
    spread = statistics.stdev(values)
    if spread < NO_SPREAD:
        bound = 0.0 if abs(mean) < NO_SPREAD else math.nan
        return Difference(values, mean, bound, bound)
    quantile = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    half = quantile * spread / math.sqrt(len(values))
    return Difference(values, mean, mean - half, mean + half)


def verdict(found: Difference, claim: Direction = 0) -> str:
    """The rule of this module in words."""
    if len(found.values) < 2 or not all(math.isfinite(value) for value in found.values):
        return "not measured"
    if math.isnan(found.low):
        return "no interval"
    if found.low <= 0 <= found.high:
        return "shows nothing"
    if claim == 0:
        return "shows"
    return "shows, as claimed" if found.mean * claim > 0 else "shows, against the claim"
