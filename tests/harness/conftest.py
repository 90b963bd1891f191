"""Lets the tests of this folder import its helpers, ``stub_engine`` and ``probe_runs``; and lets
them run with compiled functions and without."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from harness.engines import adapted, attention, compiled_decoding, compiled_layers, operators
from harness.engines.compiled import compiled

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(params=["layers", "steps", "torch"])
def either_way(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By compiled layers and by compiled steps, where there is a compiler, and by torch's
    operators."""
    if request.param == "torch":
        for module in (adapted, attention, compiled_decoding, compiled_layers, operators):
            monkeypatch.setattr(module, "compiled", lambda: None)
    elif compiled() is None:
        pytest.skip("no C compiler here")
    elif request.param == "steps":
        monkeypatch.setattr(compiled_layers, "FITS", 0)
