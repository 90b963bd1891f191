"""How many tokens layers that are written out compute."""

from __future__ import annotations

import pytest
from torch import Tensor

from harness.engines.attention import Padding


def counted_tokens(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A list that gets a number from each forward of at most ``trunk._TOKENS`` tokens."""
    computed: list[int] = []
    tokens = Padding.tokens

    def counted(self: Padding, input_ids: Tensor) -> Tensor:
        found = tokens(self, input_ids)
        computed.append(len(found))
        return found

    monkeypatch.setattr(Padding, "tokens", counted)
    return computed
