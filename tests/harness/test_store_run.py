from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from harness.errors import InputError, IntegrityError
from harness.store import LockedError, Run
from harness.store.atomic import write_json
from harness.store.commit import staging


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "runs" / "first", schedule_yaml="name: x\n", info={"seed": 17})


def add(run: Run, name: str, *, kind: str = "ppo", loss: float = 0.5) -> None:
    stage, _, epoch = name.rpartition("-e")
    content = {"schema": 1, "name": name, "stage": stage, "kind": kind, "epoch": int(epoch)}
    with run.new_checkpoint(name) as folder:
        write_json(folder / "checkpoint.json", {**content, "training": {"loss": loss}})
        (folder / "adapter_model.safetensors").write_bytes(name.encode())


def add_evaluation(run: Run, checkpoint: str, name: str, digest: str) -> None:
    """A summary with one metric, as ``harness.evaluate`` commits it (no rows)."""
    estimate = {"value": 0.5, "low": 0.4, "high": 0.6, "n": 9, "unscored": 1}
    metric = {"all": estimate, "A": estimate, "B": estimate}
    metric |= {"better": "lower", "kind": "proportion", "doc": "d"}
    summary = {"schema": 1, "set": name, "hash": digest, "checkpoint": checkpoint}
    with staging(run.eval_folder(checkpoint, name, digest)) as folder:
        write_json(folder / "summary.json", {**summary, "metrics": {"rate": metric}})


class TestCreateAndOpen:
    def test_a_new_run_can_be_opened(self, run: Run) -> None:
        again = Run.open(run.path)
        assert again.name == "first"
        assert again.info()["seed"] == 17
        assert again.info()["schema"] == 1
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", again.info()["created"])
        assert again.schedule_yaml() == "name: x\n"
        assert (again.checkpoints(), again.events(), again.selection()) == ([], [], None)

    def test_a_moved_run_still_opens(self, run: Run) -> None:
        add(run, "ppo-e001")
        run.append("epoch_done", checkpoint="ppo-e001")
        moved = run.path.rename(run.path.with_name("moved"))
        assert Run.open(moved).checkpoints()[0].folder == moved / "checkpoints" / "ppo-e001"
        for file in (p for p in moved.rglob("*") if p.is_file()):
            assert str(run.path).encode() not in file.read_bytes()

    def test_no_run_twice(self, run: Run) -> None:
        with pytest.raises(InputError, match="there is a run here already"):
            Run.create(run.path, schedule_yaml="", info={})
        assert run.schedule_yaml() == "name: x\n"

    def test_nobody_elses_folder(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.tex").write_text("…")
        with pytest.raises(InputError, match=r"not empty and not a run .*thesis\.tex"):
            Run.create(tmp_path, schedule_yaml="", info={})
        (tmp_path / "file").write_text("")
        with pytest.raises(InputError, match="is a file"):
            Run.create(tmp_path / "file", schedule_yaml="", info={})

    def test_a_killed_creation_can_be_repeated(self, tmp_path: Path) -> None:
        for name in ("LOCK", "schedule.yaml", ".run.json.ab12.tmp"):
            (tmp_path / name).write_text("")
        with pytest.raises(InputError, match="no run here"):
            Run.open(tmp_path)
        Run.create(tmp_path, schedule_yaml="name: y\n", info={})
        assert Run.open(tmp_path).schedule_yaml() == "name: y\n"

    def test_open_names_the_nearest(self, run: Run) -> None:
        with pytest.raises(InputError, match="no run here; did you mean 'first'"):
            Run.open(run.path.with_name("frist"))

    def test_a_later_schema_is_refused(self, run: Run) -> None:
        write_json(run.path / "run.json", {"schema": 2})
        with pytest.raises(InputError, match=r"run\.json: schema: this run is of schema 2; exp"):
            Run.open(run.path)

    def test_a_damaged_run_json(self, run: Run) -> None:
        (run.path / "run.json").write_text("{")
        with pytest.raises(IntegrityError, match="not JSON"):
            Run.open(run.path)


class TestCheckpoints:
    def test_in_the_order_of_the_run(self, run: Run) -> None:
        for stage in ("sft", "ppo", "again"):
            run.append("stage_started", stage=stage)
        for name in ("ppo-e010", "ppo-e002", "again-e001", "sft-e001", "late-e001"):
            add(run, name)
        names = [c.name for c in run.checkpoints()]
        assert names == ["sft-e001", "ppo-e002", "ppo-e010", "again-e001", "late-e001"]

    def test_what_it_says(self, run: Run) -> None:
        add(run, "my-sft_2-e003", kind="sft", loss=0.25)
        found = run.checkpoints()[0]
        assert (found.stage, found.epoch, found.kind) == ("my-sft_2", 3, "sft")
        assert found.training == {"loss": 0.25}
        assert found.folder == run.checkpoint_folder("my-sft_2-e003")

    def test_uncommitted_ones_are_not_seen(self, run: Run) -> None:
        add(run, "ppo-e001")
        for name in (".ppo-e002.staging", "ppo-e003"):
            (run.path / "checkpoints" / name).mkdir()
            (run.path / "checkpoints" / name / "checkpoint.json").write_text("{")
        assert [c.name for c in run.checkpoints()] == ["ppo-e001"]

    def test_a_folder_must_say_its_own_name(self, run: Run) -> None:
        with pytest.raises(ValueError, match="calls it 'ppo-e002'"):
            _wrong_name(run)
        assert run.checkpoints() == []

    @pytest.mark.parametrize("name", ["ppo", "ppo-e1", "../x-e001", "Ppo-e001", "a/b-e001", ""])
    def test_other_names_are_refused(self, run: Run, name: str) -> None:
        with pytest.raises(InputError, match="no checkpoint's name"):
            run.checkpoint_folder(name)


def _wrong_name(run: Run) -> None:
    with run.new_checkpoint("ppo-e001") as folder:
        write_json(folder / "checkpoint.json", {"name": "ppo-e002"})


class TestEvaluations:
    def test_only_committed_ones_are_read(self, run: Run) -> None:
        add(run, "ppo-e001")
        assert run.evaluation("ppo-e001") is None
        add_evaluation(run, "ppo-e001", "borderline", "a" * 64)
        half = run.eval_folder("ppo-e001", "harmful", "b" * 64)
        half.mkdir()
        (half / "samples.jsonl").write_text('{"row_id": "1"}\n')
        found = run.evaluation("ppo-e001")
        assert found is not None
        assert found.names() == ["borderline.rate"]
        assert found.metric("borderline.rate").value == 0.5

    def test_the_folder_names_the_version(self, run: Run) -> None:
        folder = run.eval_folder("ppo-e001", "gold", "0123456789abcdef")
        assert folder == run.path / "evals" / "ppo-e001" / "gold@0123456789ab"

    @pytest.mark.parametrize("name", ["pocket/gold", ".gold"])
    def test_names_that_are_no_folder_are_refused(self, run: Run, name: str) -> None:
        with pytest.raises(InputError, match="cannot be an eval set's name"):
            run.eval_folder("ppo-e001", name, "0" * 64)

    def test_two_versions_of_a_set(self, run: Run) -> None:
        add_evaluation(run, "ppo-e001", "gold", "a" * 64)
        add_evaluation(run, "ppo-e001", "gold", "b" * 64)
        with pytest.raises(InputError, match="two versions of 'gold'"):
            run.evaluation("ppo-e001")
        found = run.evaluation("ppo-e001", {"gold": "b" * 64})
        assert found is not None
        assert found.sets["gold"].hash == "b" * 64
        assert run.evaluation("ppo-e001", {"gold": "c" * 64}) is None

    def test_run_json_may_say_which_version(self, tmp_path: Path) -> None:
        info = {"evalsets": {"gold": "b" * 64}}
        run = Run.create(tmp_path / "r", schedule_yaml="", info=info)
        for digest in ("a" * 64, "b" * 64):
            add_evaluation(run, "ppo-e001", "gold", digest)
        found = run.evaluation("ppo-e001")
        assert found is not None
        assert found.sets["gold"].hash == "b" * 64


class TestEventsAndState:
    def test_events_have_a_time_and_a_name(self, run: Run) -> None:
        record = run.append("epoch_done", checkpoint="ppo-e001", training={"loss": float("nan")})
        assert run.events()[0]["training"] == {"loss": None}
        assert run.events()[0]["time"] == record["time"]
        assert list(run.events()[0]) == ["time", "event", "checkpoint", "training"]

    def test_state_is_derived(self, run: Run) -> None:
        assert run.state() == "interrupted"
        with run.lock():
            assert run.state() == "running"
        run.append("run_started")
        assert run.state() == "interrupted"
        run.append("done", picked="ppo-e001", stopped_by=None)
        assert run.state() == "finished"
        run.append("picked", picked="ppo-e001")
        assert run.state() == "finished"
        run.append("run_started")
        assert run.state() == "interrupted"
        run.append("done", picked=None, stopped_by="borderline.false_refusal at most 0.2")
        assert run.state() == "stopped"

    def test_only_one_writer(self, run: Run) -> None:
        with run.lock(), pytest.raises(LockedError), Run.open(run.path).lock():
            pytest.fail("must not be entered")

    def test_selection(self, run: Run) -> None:
        run.write_selection({"picked": "ppo-e001", "candidates": ()})
        assert run.selection() == {"picked": "ppo-e001", "candidates": []}
        assert json.loads((run.path / "selection.json").read_text())["schema"] == 1


class TestHousekeeping:
    def test_clean_removes_only_what_a_kill_left(self, run: Run) -> None:
        add(run, "ppo-e001")
        folder = run.path / "checkpoints"
        scrap = [folder / ".ppo-e002.staging", folder / "ppo-e003", run.path / ".run.json.ab.tmp"]
        for path in scrap[:2]:
            path.mkdir()
            (path / "half").write_text("h")
        scrap[2].write_text("{")
        half = run.eval_folder("ppo-e001", "gold", "a" * 64)
        half.mkdir(parents=True)
        (half / "samples.jsonl").write_text('{"row_id": "1"}\n')
        add_evaluation(run, "ppo-e001", "harmful", "b" * 64)
        scrap.append(run.eval_folder("ppo-e001", "harmful", "b" * 64) / "samples.jsonl")
        scrap[-1].write_text('{"row_id": "1"}\n')
        with run.lock():
            assert run.clean() == sorted(scrap)
            assert run.clean() == []
        assert [c.name for c in run.checkpoints()] == ["ppo-e001"]
        assert (half / "samples.jsonl").exists()
        assert run.verify() == []

    def test_verify_reads_every_byte(self, run: Run) -> None:
        add(run, "ppo-e001")
        add_evaluation(run, "ppo-e001", "gold", "a" * 64)
        run.append("epoch_done", checkpoint="ppo-e001")
        assert run.verify() == []
        (run.checkpoint_folder("ppo-e001") / "adapter_model.safetensors").write_bytes(b"other")
        (run.eval_folder("ppo-e001", "gold", "a" * 64) / "summary.json").unlink()
        run.append("epoch_done", checkpoint="ppo-e002")
        run.append("evaluated", checkpoint="ppo-e002")
        problems = run.verify()
        assert len(problems) == 3
        assert any("adapter_model.safetensors" in p for p in problems)
        assert any("summary.json: is missing" in p for p in problems)
        assert any("ppo-e002 is in events.jsonl but not committed" in p for p in problems)

    def test_verify_reports_a_damaged_log(self, run: Run) -> None:
        (run.path / "events.jsonl").write_text("{\n{}\n")
        assert any("events.jsonl:1" in p for p in run.verify())
