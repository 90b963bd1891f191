"""Folders that are there whole or not at all.

A folder is filled under a temporary name (``staging``) or in place (``commit``); then its files are
listed with size and sha256 in MANIFEST.json, everything is forced to the disk, and last of all the
file COMMIT appears, holding the sha256 of the manifest. A reader asks ``is_committed``: without
COMMIT a folder is scrap, whatever else is in it. ``verify`` re-reads every byte.

A kill leaves either no COMMIT or everything. Two writers of one folder at the same time are not
provided for; the run's lock keeps them apart.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from harness.errors import IntegrityError
from harness.store.atomic import TEMPORARY, make_folder, sync, write_json, write_text

MANIFEST = "MANIFEST.json"
COMMIT = "COMMIT"
STAGING = ".staging"  # .<name>.staging beside the folder that it becomes


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A new empty folder to fill; it becomes ``folder``, committed, when the block ends well.

    After an error nothing is left. What a killed writer left of the same folder is removed first.
    Raises FileExistsError if ``folder`` is committed already: that is never overwritten.
    """
    if is_committed(folder):
        raise FileExistsError(f"{folder} is committed already")
    temporary = folder.with_name(f".{folder.name}{STAGING}")
    for leftover in (temporary, folder):
        if leftover.exists():
            shutil.rmtree(leftover)
    make_folder(temporary)
    try:
        yield temporary
        _write_manifest(temporary)
        os.rename(temporary, folder)
    finally:
        if temporary.exists():
            shutil.rmtree(temporary)
    sync(folder.parent)
    _write_commit(folder)


def commit(folder: Path, *, scratch: Collection[str] = ()) -> None:
    """Commit a folder that was filled in place, such as an evaluation that streamed its samples.

    The files named ``scratch`` are not part of it and go once it is committed, not before: a kill
    just before COMMIT leaves what is needed to resume.
    """
    if is_committed(folder):
        raise FileExistsError(f"{folder} is committed already")
    for leftover in folder.rglob(f".*{TEMPORARY}"):  # of a killed writer
        leftover.unlink()
    _write_manifest(folder, scratch)
    sync(folder.parent)
    _write_commit(folder)
    for name in scratch:
        (folder / name).unlink(missing_ok=True)


def is_committed(folder: Path) -> bool:
    """Whether the folder was finished. Cheap: trusts the disk; ``verify`` does not."""
    return (folder / COMMIT).is_file()


def manifest(folder: Path) -> dict[str, dict[str, int | str]]:
    """``{file: {"sha256": hex, "size": bytes}}`` of a committed folder, paths relative to it.

    Raises IntegrityError if the folder is not committed or its manifest is not the one committed.
    """
    if not is_committed(folder):
        raise IntegrityError(f"{folder}: not committed")
    try:
        content = (folder / MANIFEST).read_bytes()
    except FileNotFoundError as error:
        raise IntegrityError(f"{folder}: {MANIFEST} is missing") from error
    promised = (folder / COMMIT).read_text(encoding="ascii", errors="replace").strip()
    if hashlib.sha256(content).hexdigest() != promised:
        raise IntegrityError(f"{folder}: {MANIFEST} is not the one that was committed")
    listed: dict[str, dict[str, int | str]] = json.loads(content)
    return listed


def verify(folder: Path) -> list[str]:
    """What is wrong with a committed folder, a line each; empty if every byte is as committed."""
    try:
        listed = manifest(folder)
    except IntegrityError as error:
        return [str(error)]
    problems = []
    for name, entry in listed.items():
        path = folder / name
        if not path.is_file():
            problems.append(f"{path}: is missing")
        elif path.stat().st_size != entry["size"]:
            problems.append(f"{path}: has {path.stat().st_size} bytes, expected {entry['size']}")
        elif hash_file(path) != entry["sha256"]:
            problems.append(f"{path}: its content has changed since it was committed")
    problems += [
        f"{folder / name}: is not in the manifest" for name in _files(folder) if name not in listed
    ]
    return problems


def hash_file(path: Path) -> str:
    """The sha256 of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_manifest(folder: Path, scratch: Collection[str] = ()) -> None:
    names = [name for name in _files(folder) if name not in scratch]
    if not names:
        raise ValueError(f"{folder}: there is nothing to commit")
    entries = {}
    for name in names:
        path = folder / name
        sync(path)
        entries[name] = {"sha256": hash_file(path), "size": path.stat().st_size}
    for inner in sorted({(folder / name).parent for name in names}):
        sync(inner)
    write_json(folder / MANIFEST, entries)


def _write_commit(folder: Path) -> None:
    write_text(folder / COMMIT, hash_file(folder / MANIFEST) + "\n")


def _files(folder: Path) -> list[str]:
    """Every file below the folder but the two of this module, as sorted relative POSIX paths."""
    found = []
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path}: only plain files and folders can be committed")
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in (MANIFEST, COMMIT):
            found.append(name)
    return sorted(found)
