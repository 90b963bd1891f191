"""A CUDA device for tests on a machine without one: see ``device.cpp``.

``pretend()`` comes before anything that imports torch. ``python -m tests.pretended_gpu`` is the
command line with such a device.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

_SOURCE = Path(__file__).parent / "device.cpp"
_FLAGS = ("-std=c++20", "-O1", "-fPIC", "-shared", "-w")
_BYTES = 80 * 2**30


def library() -> Path | None:
    """The device, compiled if it is not yet (half a minute); None without a C++ compiler."""
    compiler = shutil.which(os.environ.get("CXX", "g++"))
    found = importlib.util.find_spec("torch")
    assert found is not None
    assert found.origin is not None
    torch = Path(found.origin).parent
    version = (torch / "version.py").read_bytes()
    name = hashlib.sha256(_SOURCE.read_bytes() + version + " ".join(_FLAGS).encode()).hexdigest()
    folder = _SOURCE.parent / "__pycache__"
    target = folder / f"device-{name[:16]}.so"
    if target.is_file():
        return target
    if compiler is None:
        return None
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as own:
        made = Path(own) / target.name
        include = torch / "include"
        command = [compiler, *_FLAGS, f"-I{include}", f"-I{include}/torch/csrc/api/include"]
        command += [str(_SOURCE), "-o", str(made), f"-L{torch}/lib", "-lc10", "-ltorch_cpu"]
        subprocess.run([*command, f"-Wl,-rpath,{torch}/lib"], check=True)
        made.replace(target)  # other processes see it whole or not at all
    return target


class Memory:
    """Bytes of the device's tensors."""

    def __init__(self, device: ctypes.CDLL) -> None:
        self._device = device
        for name in ("live_bytes", "peak_bytes"):
            getattr(device, name).restype = ctypes.c_int64

    @property
    def live(self) -> int:
        return int(self._device.live_bytes())

    @property
    def peak(self) -> int:
        """The most since the last ``reset``."""
        return int(self._device.peak_bytes())

    def reset(self) -> None:
        self._device.reset_peak()

    @contextlib.contextmanager
    def uncounted(self) -> Iterator[None]:
        """Inside, tensors are made that a kernel would not make."""
        self._device.count(False)
        try:
            yield
        finally:
            self._device.count(True)


def pretend() -> Memory:
    """Make this process believe that it has a GPU, ``cuda:0``. Once, before torch is imported."""
    made = library()
    if made is None:
        raise RuntimeError("a C++ compiler is needed")
    # bitsandbytes' default kernels compile themselves, each for a minute.
    os.environ["TORCHDYNAMO_DISABLE"] = "1"
    memory = Memory(ctypes.CDLL(str(made)))
    # While there seems to be none, lest it look for its own library of CUDA kernels.
    importlib.import_module("bitsandbytes")
    _believe(memory)
    return memory


def _believe(memory: Memory) -> None:
    """Replace what the Python side of ``torch.cuda`` asks of a library that is not there."""
    import torch
    from torch.cuda import random

    properties = types.SimpleNamespace(
        name="pretended", major=9, minor=0, total_memory=_BYTES, multi_processor_count=132
    )
    numbers: dict[str, Callable[..., Any]] = {
        "get_rng_state": lambda device=None: torch.get_rng_state(),
        "set_rng_state": lambda state, device=None: None,
        "get_rng_state_all": lambda: [torch.get_rng_state()],
        "set_rng_state_all": lambda states: None,
    }
    numbers |= dict.fromkeys(("manual_seed", "manual_seed_all"), lambda seed: None)
    answers: dict[str, Callable[..., Any]] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "_lazy_init": lambda: None,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "set_device": lambda device: None,
        "get_device_capability": lambda device=None: (properties.major, properties.minor),
        "get_device_name": lambda device=None: properties.name,
        "get_device_properties": lambda device=None: properties,
        "is_bf16_supported": lambda including_emulation=True: True,
        "is_current_stream_capturing": lambda: False,
        "empty_cache": lambda: None,
        "synchronize": lambda device=None: None,
        "mem_get_info": lambda device=None: (_BYTES - memory.live, _BYTES),
        "reset_peak_memory_stats": lambda device=None: memory.reset(),
    }
    for kind in ("allocated", "reserved"):
        answers[f"memory_{kind}"] = lambda device=None: memory.live
        answers[f"max_memory_{kind}"] = lambda device=None: memory.peak
    for module, functions in ((torch.cuda, {**answers, **numbers}), (random, numbers)):
        for name, function in functions.items():
            setattr(module, name, function)

    class Device(contextlib.nullcontext[None]):
        def __init__(self, device: Any) -> None:
            super().__init__()

    torch.cuda.device = Device  # type: ignore[assignment,misc]

    def restored(storage: Any, location: str) -> Any:
        if not location.startswith("cuda"):
            return None
        numbers = torch.empty(storage.nbytes(), dtype=torch.uint8, device="cuda")
        numbers.copy_(torch.empty(0, dtype=torch.uint8).set_(storage))
        return numbers.untyped_storage()

    torch.serialization.register_package(1, lambda storage: None, restored)
