"""The compiled functions for this processor and for older ones, and what holds them to account."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from harness.engines import building
from harness.engines.compiled import Compiled, compiled

# The vectors' widths: of this processor, of 8 numbers, of 4.
TARGETS = ["-march=native", "-march=x86-64-v3", "-march=x86-64"]


@pytest.fixture(scope="module", params=TARGETS)
def functions(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Compiled:
    if compiled() is None:
        pytest.skip("no C compiler here")
    folder = tmp_path_factory.mktemp("compiled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "_TARGET", request.param)
        patch.setattr(building, "_folders", lambda source: iter([folder]))
        found = compiled.__wrapped__()
    if found is None:
        pytest.skip(f"the compiler does not know {request.param}")
    assert [path.suffix for path in folder.iterdir()] == [".so"]
    return found


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found.double(), expected.detach(), rtol=1e-4, atol=1e-5)
