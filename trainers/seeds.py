"""Seeds of their own for everything random in a run."""

from __future__ import annotations

import hashlib
import json


def stage_seed(seed: int, stage: str, *purpose: str | int) -> int:
    """A seed of its own for every stage and purpose, in [0, 2³¹).

    Derived from the stage's name rather than its place, so that adding a stage to a schedule leaves
    the randomness of the others as it was.
    """
    text = json.dumps([seed, stage, *purpose])
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") >> 1
