from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from harness.errors import IntegrityError
from harness.store.commit import commit, is_committed, manifest, staging, verify


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A committed folder with two files."""
    path = tmp_path / "ppo-e001"
    with staging(path) as inside:
        (inside / "weights").write_bytes(b"abc")
        (inside / "trainer").mkdir()
        (inside / "trainer" / "rng.json").write_text("{}")
    return path


def test_a_folder_is_listed_and_committed(folder: Path) -> None:
    assert is_committed(folder)
    assert verify(folder) == []
    assert manifest(folder) == {
        "trainer/rng.json": {"sha256": hashlib.sha256(b"{}").hexdigest(), "size": 2},
        "weights": {"sha256": hashlib.sha256(b"abc").hexdigest(), "size": 3},
    }
    assert json.loads((folder / "MANIFEST.json").read_text()) == manifest(folder)
    assert [p.name for p in folder.parent.iterdir()] == [folder.name]


def test_nothing_is_seen_before_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with staging(path) as inside:
        (inside / "x").write_text("x")
        assert not path.exists()
        assert not is_committed(path)
    assert is_committed(path)


def test_an_error_leaves_nothing(tmp_path: Path) -> None:
    def fail_halfway() -> None:
        with staging(tmp_path / "a") as inside:
            (inside / "x").write_text("x")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_halfway()
    assert list(tmp_path.iterdir()) == []


def test_a_committed_folder_is_never_overwritten(folder: Path) -> None:
    with pytest.raises(FileExistsError), staging(folder):
        pytest.fail("must not be entered")
    with pytest.raises(FileExistsError):
        commit(folder)
    assert verify(folder) == []


def test_what_a_kill_left_is_replaced(tmp_path: Path) -> None:
    """Before the rename: the staging folder. After it: the folder without COMMIT."""
    for name in (".a.staging", "a"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "half").write_text("h")
    assert not is_committed(tmp_path / "a")
    with staging(tmp_path / "a") as inside:
        (inside / "x").write_text("x")
    assert list(manifest(tmp_path / "a")) == ["x"]
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_commit_in_place(tmp_path: Path) -> None:
    (tmp_path / "samples.parquet").write_bytes(b"p")
    (tmp_path / ".summary.json.1234.tmp").write_bytes(b"half")
    commit(tmp_path)
    assert list(manifest(tmp_path)) == ["samples.parquet"]
    assert verify(tmp_path) == []


def test_scratch_goes_once_the_rest_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(_: Path) -> None:
        raise KeyboardInterrupt

    for name in ("samples.jsonl", "samples.parquet"):
        (tmp_path / name).write_text(name)
    with monkeypatch.context() as patch:
        patch.setattr("harness.store.commit._write_commit", killed)
        with pytest.raises(KeyboardInterrupt):
            commit(tmp_path, scratch=("samples.jsonl",))
    assert (tmp_path / "samples.jsonl").exists()
    commit(tmp_path, scratch=("samples.jsonl",))
    assert list(manifest(tmp_path)) == ["samples.parquet"]
    assert verify(tmp_path) == []


def test_an_empty_folder_is_not_committed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing to commit"), staging(tmp_path / "a"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_links_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only plain files"), staging(tmp_path / "a") as inside:
        (inside / "link").symlink_to("/etc/hostname")


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda f: (f / "weights").write_bytes(b"abd"), "weights: its content has changed"),
        (lambda f: (f / "weights").write_bytes(b"ab"), "weights: has 2 bytes, expected 3"),
        (lambda f: (f / "weights").unlink(), "weights: is missing"),
        (lambda f: (f / "new").write_text("n"), "new: is not in the manifest"),
        (lambda f: (f / "MANIFEST.json").unlink(), "MANIFEST.json is missing"),
        (lambda f: (f / "MANIFEST.json").write_text("{}"), "not the one that was committed"),
        (lambda f: (f / "COMMIT").unlink(), "not committed"),
    ],
)
def test_damage_is_found(folder: Path, damage, problem: str) -> None:
    damage(folder)
    problems = verify(folder)
    assert len(problems) == 1
    assert problem in problems[0]


def test_the_manifest_of_an_uncommitted_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IntegrityError, match="not committed"):
        manifest(tmp_path)
