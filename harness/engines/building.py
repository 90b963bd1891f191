"""C files that are built into a library for the processor at hand, once a machine.

By the compiler that ``CC`` names, or cc, gcc or clang: it takes a second or two. The library is
kept where the folder's byte code would be, or in the user's cache; its name goes by the sources,
the flags and the processor, so that a change of any of them builds another one.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

_TARGET = "-march=native"
_FLAGS = ("-O3", "-std=gnu11", "-fno-math-errno", "-Wno-psabi", "-shared", "-fPIC", "-lm")


def built(source: Path) -> ctypes.CDLL | None:
    """The library of a folder's C files, or None where there is no compiler that makes one.

    OSError: it was made, and cannot be loaded.
    """
    state = hashlib.sha256(" ".join((_TARGET, *_FLAGS)).encode() + _processor())
    for file in sorted([*source.glob("*.c"), *source.glob("*.h")]):
        state.update(file.read_bytes())
    name = f"library-{state.hexdigest()[:16]}.so"
    for folder in _folders(source):
        if (folder / name).is_file():
            return ctypes.CDLL(str(folder / name))
    for folder in _folders(source):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=folder) as own:
                made = Path(own) / name
                if not _make(source, made):
                    return None
                # Other processes see it whole or not at all.
                made.replace(folder / name)
        except OSError:  # cannot be written
            continue
        return ctypes.CDLL(str(folder / name))
    return None


def _folders(source: Path) -> Iterator[Path]:
    yield source / "__pycache__"
    root = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    yield Path(root) / "aldente"


def _make(source: Path, target: Path) -> bool:
    """Whether there was a compiler that made ``target``; the first that is there is asked."""
    names = [name for name in (os.environ.get("CC"), "cc", "gcc", "clang") if name]
    compiler = next((found for name in names if (found := shutil.which(name))), None)
    if compiler is None:
        return False
    command = [compiler, _TARGET, *map(str, sorted(source.glob("*.c"))), "-o", str(target), *_FLAGS]
    try:
        done = subprocess.run(command, capture_output=True, timeout=120)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0 and target.is_file()


def _processor() -> bytes:
    """What the code is built for: another machine may share the folder."""
    known = [platform.machine(), platform.processor()]
    cpus = Path("/proc/cpuinfo")
    if cpus.is_file():
        lines = cpus.read_text(errors="replace").splitlines()
        known += sorted({x for x in lines if x.startswith(("flags", "Features", "model name"))})
    return "\n".join(known).encode()
