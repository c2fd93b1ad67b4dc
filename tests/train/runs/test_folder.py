"""The files of a run's folder: written whole or not at all, read again, refused when damaged."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from registry import DiskFull, RegistrySettings
from train.data.chat import Chat, Message
from train.data.parts import read_part
from train.errors import NameBusy, RunChanged, RunDamaged, UnknownRun
from train.hardware import Hardware
from train.libraries import is_disk_full
from train.runs import checkpoints as checkpoints_module
from train.runs.checkpoints import Checkpoints, Progress
from train.runs.cli import app as runs
from train.runs.folder import (
    RunFolder,
    RunRecord,
    environment,
    list_runs,
    replace_file,
    write_json,
    write_rows,
)
from train.runs.inputs import check_environment
from train.runs.lock import hold_name, is_under_way
from train.runs.metrics import Metrics
from train.settings import TrainSettings
from train.settings_file import load_settings

RECORD = RunRecord(id="", name="support", base="tiny", data="/rows.jsonl")


@pytest.fixture
def settings(tmp_path: Path) -> RegistrySettings:
    """A fresh data folder."""
    return RegistrySettings(home=tmp_path / "home")


def test_ids_are_name_date_time_and_never_the_same(settings: RegistrySettings) -> None:
    folders = [RunFolder.create(settings, RECORD, TrainSettings()) for _ in range(3)]
    assert len({folder.id for folder in folders}) == 3
    for folder in folders:
        assert folder.id.startswith("support-2")
        assert folder.record.id == folder.id
        assert folder.record.status == "running"
        assert RunFolder.open(settings, folder.id).path == folder.path
        assert RunFolder.open(settings, folder.path).record == folder.record
    assert {folder.id for folder in list_runs(settings)} == {folder.id for folder in folders}
    done = folders[0].finish("failed", error="no")
    assert (folders[0].record, done.status, done.error) == (done, "failed", "no")
    assert done.finished_at is not None
    with pytest.raises(UnknownRun, match="no run 'none'"):
        RunFolder.open(settings, "none")


def test_every_setting_is_read_again_as_it_was(
    settings: RegistrySettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    chosen = TrainSettings(
        rank=4,
        targets=("q_proj", "v_proj"),
        report_to=("wandb",),
        few_shot_data=Path("shots.jsonl"),
        early_stopping=3,
        rslora=True,
        learning_rate=3.3e-4,
    )
    folder = RunFolder.create(settings, RECORD, chosen)
    read = load_settings(folder.settings_file)
    assert read == chosen.model_copy(update={"few_shot_data": tmp_path / "shots.jsonl"})


@pytest.mark.parametrize("content", ["", "{", "[]", '{"id": 1}', "\xff"])
def test_a_damaged_record_is_one_error(settings: RegistrySettings, content: str) -> None:
    folder = RunFolder.create(settings, RECORD, TrainSettings())
    (folder.path / "run.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RunDamaged, match=r"run\.json cannot be read"):
        _ = folder.record


def test_the_environment_names_what_decides_the_numbers(settings: RegistrySettings) -> None:
    folder = RunFolder.create(settings, RECORD, TrainSettings())
    now = environment(Hardware("cpu", "test", "float32", threads=2), processes=1)
    assert now["libraries"]["torch"].startswith("2.")
    assert now["python"].count(".") == 2
    assert check_environment(folder, now) == []
    write_json(folder.environment_file, now)
    assert check_environment(folder, now) == []
    other = environment(Hardware("cpu", "test", "float32", threads=8), processes=1)
    assert check_environment(folder, other) == ["threads was 2, is 8"]
    with pytest.raises(RunChanged, match="began with 1 processes, these are 2"):
        check_environment(folder, {**now, "processes": 2})
    folder.environment_file.write_text("{")
    with pytest.raises(RunDamaged, match=r"environment\.json cannot be read"):
        check_environment(folder, now)


def test_a_damaged_run_does_not_hide_the_others(
    settings: RegistrySettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORIKEET_HOME", str(settings.home))
    good, bad = (RunFolder.create(settings, RECORD, TrainSettings()) for _ in range(2))
    (bad.path / "run.json").write_text("{")
    assert [folder.id for folder in list_runs(settings)] == [good.id, bad.id]
    listing = json.loads(CliRunner().invoke(runs, ["list", "--json"]).stdout)
    assert [run["status"] for run in listing] == ["killed", "damaged"]
    assert CliRunner().invoke(runs, ["list"]).exit_code == 0


def test_rows_are_written_so_that_they_can_be_read_again(tmp_path: Path) -> None:
    turns = (Message("user", "¿Qué?"), Message("assistant", "Así"))
    write_rows(tmp_path / "none.jsonl", [])
    assert not (tmp_path / "none.jsonl").exists()
    function = {"name": "weather", "description": "Says it", "parameters": {}}
    tool = {"type": "function", "function": function}
    untrained = (*turns[:1], Message("assistant", "No", trained=False), *turns)
    chats = [Chat(1, turns), Chat(2, untrained), Chat(3, turns, (tool,))]
    write_rows(tmp_path / "rows.jsonl", chats)
    assert list(read_part(tmp_path / "rows.jsonl", TrainSettings()).chats) == chats


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "file"
    replace_file(target, "old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("registry.files.os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(target, "new")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_metrics_forget_what_is_cut_short_and_what_will_come_again(tmp_path: Path) -> None:
    metrics = Metrics(tmp_path / "metrics.jsonl")
    assert metrics.lines() == []
    for step in (1, 2, 3, 4):
        metrics.append({"step": step, "loss": step / 2})
        if step % 2 == 0:
            metrics.append({"step": step, "held_out_loss": step / 4})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    assert metrics.losses() == [0.5, 1.0, 1.5, 2.0]
    metrics.cut(3)
    assert metrics.losses() == [0.5, 1.0, 1.5]
    assert metrics.held_out() == {2: 0.5}
    metrics.cut(0)
    assert not (tmp_path / "metrics.jsonl").exists()


def _write(checkpoints: Checkpoints, step: int, best: int | None = None) -> Progress:
    path = checkpoints.path(step)
    (path / "inner").mkdir(parents=True)
    (path / "weights").write_bytes(b"x" * 100)
    progress = Progress(step, step * 10, step, float(step), best)
    checkpoints.seal(progress)
    return progress


def test_the_last_good_checkpoint_stays_until_the_next_is_whole(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.latest() is None
    first = _write(checkpoints, 2)
    checkpoints.path(9).mkdir()
    (checkpoints.path(9) / "weights").write_bytes(b"half")
    assert checkpoints.latest() == first
    checkpoints.remove_unfinished()
    assert [path.name for path in checkpoints.folder.iterdir()] == ["checkpoint-2"]
    second = _write(checkpoints, 10, best=10)  # 10 comes after 9 and after 2
    assert checkpoints.latest() == second
    assert not checkpoints.path(2).exists()
    _write(checkpoints, 12, best=10)
    third = _write(checkpoints, 14, best=10)
    assert checkpoints.latest() == third
    assert {path.name for path in checkpoints.folder.iterdir()} == {
        "checkpoint-10",
        "checkpoint-14",
    }
    checkpoints.clear()
    assert checkpoints.latest() is None


def test_a_checkpoint_half_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    _write(checkpoints, 2)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoints_module.shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        _write(checkpoints, 4)
    assert (checkpoints.path(2) / "weights").exists()
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 4
    assert checkpoints._progress(checkpoints.path(2)) is None


@pytest.mark.parametrize(
    ("error", "is_full"),
    [
        (OSError(28, "No space left on device"), True),
        (OSError(122, "Disk quota exceeded"), True),
        (RuntimeError("[enforce fail at inline_container.cc:603] . file write failed"), True),
        (Exception("Error while serializing: I/O error: No space left on device"), True),
        (OSError(5, "Input/output error"), False),
        (RuntimeError("shapes differ"), False),
    ],
)
def test_a_full_disk_is_told_from_other_failures(
    tmp_path: Path, error: Exception, is_full: bool
) -> None:
    assert is_disk_full(error) is is_full
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    _write(checkpoints, 2)

    def write() -> None:
        with checkpoints.writing(4, "run-1"):
            checkpoints.path(4).mkdir()
            raise error

    with pytest.raises(DiskFull if is_full else type(error)) as caught:
        write()
    assert not checkpoints.path(4).exists()
    assert checkpoints.path(2).exists()
    if isinstance(caught.value, DiskFull):
        assert "that of step 2 stays" in caught.value.message
        assert "--resume run-1" in str(caught.value.remedy)


def test_a_name_is_held_by_one_run_at_a_time(settings: RegistrySettings) -> None:
    with hold_name(settings, "support") as lock:
        with pytest.raises(NameBusy, match="just starting"), hold_name(settings, "support"):
            pass
        lock.announce("support-1")
        with pytest.raises(NameBusy, match="run support-1 trains") as caught:
            hold_name(settings, "support").__enter__()
        assert caught.value.remedy is not None
        assert is_under_way(settings, "support", "support-1")
        assert not is_under_way(settings, "support", "support-0")
        with hold_name(settings, "other"):
            pass
    assert not is_under_way(settings, "support", "support-1")
    with hold_name(settings, "support"):
        pass
