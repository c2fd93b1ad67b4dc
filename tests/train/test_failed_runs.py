"""What goes wrong in a run is told, publishes nothing, and keeps what was good."""

import errno
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from small_runs import QUICK, ROWS, Listener, WriteRows, left_in

from registry import (
    BadReference,
    DiskFull,
    Registry,
    RegistrySettings,
    RegistryUnavailable,
    UnknownBase,
    UsageError,
)
from train import answer_trainer
from train.errors import (
    DataError,
    DataFileMissing,
    LossNotFinite,
)
from train.progress import Step
from train.run import TrainRequest, resume, run
from train.runs.checkpoints import Checkpoints
from train.runs.folder import list_runs


class FullDisk(Listener):
    """From step 3 on no file may be longer than 16 KiB: the kernel refuses the write."""

    def step(self, step: Step) -> None:
        super().step(step)
        if step.number == 3:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (16 << 10, hard))


@pytest.mark.parametrize(
    ("number", "what", "expected"),
    [
        (errno.ENOSPC, "write_rows", DiskFull),
        (errno.EDQUOT, "_save", DiskFull),
        (errno.EACCES, "_keep", RegistryUnavailable),
    ],
)
def test_what_the_system_refuses_to_write_is_an_error_of_ours(
    home: Path,
    tiny_base: Path,
    write_rows: WriteRows,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    what: str,
    expected: type[Exception],
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(f"train.run.{what}", refuse)
    settings = QUICK.model_copy(update={"max_steps": 1, "baselines": False})
    with pytest.raises(expected):
        run(TrainRequest(write_rows(*ROWS), "a", tiny_base, settings))
    assert list_runs(RegistrySettings())[0].record.status != "succeeded"


def test_a_full_disk_at_a_checkpoint_keeps_the_last_good_one(
    home: Path, tiny_base: Path, write_rows: WriteRows
) -> None:
    settings = QUICK.model_copy(update={"epochs": 2, "checkpoint_steps": 2, "baselines": False})
    request = TrainRequest(write_rows(*ROWS), "colours", tiny_base, settings)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(DiskFull, match="checkpoint of step 4; that of step 2 stays") as caught:
            run(request, FullDisk())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    [folder] = list_runs(RegistrySettings(home=home))
    assert f"lorikeet train --resume {folder.id}" in str(caught.value.remedy)
    assert folder.record.status == "failed"
    assert "no disk space" in str(folder.record.error)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["checkpoint-2"]
    listener = Listener()
    assert resume(folder.id, reporter=listener).version is not None
    assert listener.steps == [3, 4, 5, 6]
    assert folder.record.error is None


@pytest.mark.parametrize("factor", [float("nan"), 1e38])
def test_divergence_keeps_the_last_good_checkpoint_and_publishes_nothing(
    home: Path,
    tiny_base: Path,
    write_rows: WriteRows,
    monkeypatch: pytest.MonkeyPatch,
    factor: float,
) -> None:
    """A loss that is not a number, and one that is but whose gradient's norm is infinite."""
    settings = QUICK.model_copy(update={"epochs": 2, "checkpoint_steps": 2})
    original, calls = answer_trainer.answer_loss, []

    def answer_loss(*arguments: Any) -> Any:
        calls.append(1)
        return original(*arguments) * (factor if len(calls) > 3 else 1.0)

    monkeypatch.setattr(answer_trainer, "answer_loss", answer_loss)
    with pytest.raises(LossNotFinite, match="step 4") as caught:
        run(TrainRequest(write_rows(*ROWS), "colours", tiny_base, settings))
    [folder] = list_runs(RegistrySettings(home=home))
    kept = Checkpoints(folder.checkpoints).latest()
    assert kept is not None
    assert kept.step == 2
    assert str(Checkpoints(folder.checkpoints).path(2)) in str(caught.value.remedy)
    assert "lower learning_rate" in str(caught.value.remedy)
    assert folder.record.status == "failed"
    assert not folder.adapter.exists()
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert registry.list() == []


def test_a_loss_that_is_not_finite_publishes_nothing(
    home: Path, tiny_base: Path, write_rows: WriteRows, tmp_path: Path, scratch: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_base, broken)
    tensors = load_file(broken / "model.safetensors")
    tensors["model.norm.weight"][0] = float("nan")
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(LossNotFinite):
        run(TrainRequest(write_rows(*ROWS), "colours", broken, QUICK))
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert registry.list() == []
    assert left_in(scratch) == []


def test_bad_input_is_refused_before_any_model_is_loaded(
    home: Path, write_rows: WriteRows, tmp_path: Path
) -> None:
    good = write_rows(*ROWS)
    bad = write_rows(*ROWS[:2], {"prompt": "a"}, name="bad.jsonl")
    settings = QUICK
    with pytest.raises(BadReference):
        run(TrainRequest(good, "No Name", "none", settings))
    with pytest.raises(UsageError, match="named like its base"):
        run(TrainRequest(good, "none", "none", settings))
    with pytest.raises(DataFileMissing):
        run(TrainRequest(tmp_path / "missing.jsonl", "colours", "none", settings))
    with pytest.raises(DataError, match="line 3: no answer"):
        run(TrainRequest(bad, "colours", "none", settings))
    with pytest.raises(DataError, match="every held-out row is among the training rows"):
        run(TrainRequest(good, "colours", "none", settings, eval_data=good))
    with pytest.raises(UnknownBase, match="none"):
        run(TrainRequest(good, "colours", "none", settings))
    assert not (home / "adapters").exists() or list((home / "adapters").glob("*/*")) == []
