"""Whole runs on the tiny base: what is published, and that failures publish nothing."""

import errno
import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

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
from train.data.parts import read_part
from train.errors import (
    DataError,
    DataFileMissing,
    Interrupted,
    LossNotFinite,
    NameBusy,
    NothingToResume,
    RunChanged,
    SettingsError,
    UnknownRun,
)
from train.progress import SilentReporter, Step
from train.run import TrainRequest, resume, run
from train.runs.checkpoints import Checkpoints
from train.runs.epochs import kept_epochs
from train.runs.folder import RunFolder, list_runs
from train.runs.lock import hold_name
from train.runs.metrics import Metrics
from train.settings import TrainSettings
from train.settings_file import load_settings

COLOURS = ("blue", "green", "white")
ROWS = [{"prompt": f"What colour is thing {n}?", "completion": COLOURS[n % 3]} for n in range(12)]
QUICK = TrainSettings(
    epochs=1, batch_size=4, learning_rate=2e-2, rank=4, eval_fraction=0.25, threads=1
)

WriteRows = Callable[..., Path]


class Listener(SilentReporter):
    """Remembers what it was told, and presses Ctrl-C at a step where it is asked to."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.steps: list[int] = []
        self.evaluated: dict[str, tuple[int, int]] = {}
        self._stop_at = stop_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def step(self, step: Step) -> None:
        self.steps.append(step.number)
        if step.number == self._stop_at:
            raise KeyboardInterrupt

    def answered(self, what: str, done: int, total: int) -> None:
        self.evaluated[what] = (done, total)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for temporary files, to see that nothing stays in it."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def left_in(scratch: Path) -> list[str]:
    """The names in the folder but for torch's own cache."""
    return [path.name for path in scratch.iterdir() if not path.name.startswith("torchinductor")]


def test_a_run_publishes_a_version_with_its_training_and_evaluation(
    home: Path, tiny_base: Path, write_rows: WriteRows, scratch: Path
) -> None:
    listener = Listener()
    data = write_rows(*ROWS)
    result = run(TrainRequest(data, "colours", tiny_base, QUICK), listener)
    with Registry.open(RegistrySettings(home=home)) as registry:
        version = registry.get("colours")
    assert result.version is not None
    assert version.reference == result.version.reference == "colours@1"
    manifest = version.manifest
    assert (manifest.origin, manifest.rank, manifest.alpha) == ("train", 4, 8)
    assert manifest.base.id == "tiny"
    assert manifest.data_digest is not None
    assert manifest.data_digest.startswith("sha256:")
    assert manifest.training is not None
    assert (manifest.training["rows"], manifest.training["steps"]) == (9, 3)
    assert manifest.training["settings"]["learning_rate"] == 2e-2
    assert manifest.training["seed"] == QUICK.seed
    assert len(manifest.training["losses"]) == 3
    assert manifest.evaluation is not None
    assert [manifest.evaluation[who]["rows"] for who in ("base", "few_shot", "adapter")] == [3] * 3
    assert manifest.evaluation["few_shot_examples"] == 5
    assert manifest.evaluation["adapter"]["loss"] < manifest.evaluation["base"]["loss"]
    assert set(listener.evaluated.values()) == {(6, 6), (3, 3)}
    assert "9 rows" in listener.notes[-1]
    assert json.loads(json.dumps(result.as_dict()))["version"] == "colours@1"
    assert str(tiny_base) not in version.path.joinpath("adapter_config.json").read_text()
    assert left_in(scratch) == []
    folder = RunFolder(result.run)
    assert manifest.training["run"] == folder.id == result.as_dict()["run"]
    assert folder.record.version == "colours@1"
    assert json.loads(folder.evaluation.read_text()) == manifest.evaluation


def test_the_folder_of_a_run_holds_what_it_takes_to_repeat_it(
    home: Path, tiny_base: Path, write_rows: WriteRows
) -> None:
    data = write_rows(*ROWS)
    result = run(TrainRequest(data, "colours", tiny_base, QUICK, publish=False))
    folder = RunFolder.open(RegistrySettings(home=home), result.run.name)
    assert folder.path == home / "runs" / folder.id
    record = folder.record
    assert (record.status, record.version, record.publish) == ("succeeded", None, False)
    assert (record.base, record.data) == (str(tiny_base), str(data))
    assert load_settings(folder.settings_file) == QUICK
    inputs = json.loads(folder.data_file.read_text())
    assert (inputs["data"]["rows"], inputs["held_out"]["rows"]) == (9, 3)
    assert inputs["data"]["sha256"] == inputs["held_out"]["sha256"]
    assert 0 < inputs["data"]["trained_tokens"] < inputs["data"]["tokens"]
    held_out = read_part(folder.held_out, QUICK).chats
    assert len(held_out) == 3
    assert len(read_part(folder.few_shot, QUICK).chats) == 5
    lines = [json.loads(line) for line in folder.metrics.read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 3]
    assert set(lines[0]) == {
        *("step", "total_steps", "epoch", "loss", "mean_token_accuracy", "grad_norm"),
        *("learning_rate", "tokens", "trained_tokens", "seconds"),
    }
    assert lines[2]["tokens"] == inputs["data"]["tokens"]
    assert result.evaluation is not None
    assert lines[3] == {"step": 3, "held_out_loss": result.evaluation.adapter.loss}
    assert {path.name for path in folder.adapter.iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
    }
    assert not folder.checkpoints.exists()
    with pytest.raises(NothingToResume, match="has succeeded"):
        resume(folder.id)


def test_the_held_out_file_is_the_one_evaluated_and_publishing_can_be_off(
    home: Path, tiny_base: Path, write_rows: WriteRows
) -> None:
    held_out = write_rows({"prompt": "What colour?", "completion": "blue"}, name="held.jsonl")
    settings = QUICK.model_copy(update={"baselines": False, "max_rows": 4})
    request = TrainRequest(
        write_rows(*ROWS), "colours", tiny_base, settings, eval_data=held_out, publish=False
    )
    result = run(request)
    assert result.version is None
    assert result.training["rows"] == 4
    assert result.evaluation is not None
    assert result.evaluation.adapter.rows == 1
    assert result.evaluation.base is None
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert registry.list() == []


def test_ctrl_c_publishes_nothing_and_the_run_can_be_gone_on_with(
    home: Path, tiny_base: Path, write_rows: WriteRows, scratch: Path
) -> None:
    settings = QUICK.model_copy(update={"checkpoint_steps": 1})
    request = TrainRequest(write_rows(*ROWS), "colours", tiny_base, settings)
    with pytest.raises(Interrupted, match="nothing was published") as caught:
        run(request, Listener(stop_at=2))
    assert caught.value.exit_code == 130
    [folder] = list_runs(RegistrySettings(home=home))
    assert caught.value.remedy == f"go on after step 1 with: lorikeet train --resume {folder.id}"
    assert folder.record.status == "stopped"
    with Registry.open(RegistrySettings(home=home)) as registry:
        assert registry.list() == []
    assert left_in(scratch) == []
    listener = Listener()
    result = resume(folder.path, reporter=listener)
    assert listener.steps == [2, 3]
    assert result.version is not None
    assert result.version.reference == "colours@1"
    assert len(result.training["losses"]) == 3


def test_a_jobs_run_stops_when_it_is_asked_to_and_has_every_epochs_adapter_in_the_end(
    home: Path, tiny_base: Path, write_rows: WriteRows
) -> None:
    settings = QUICK.model_copy(update={"epochs": 4, "baselines": False})
    request = TrainRequest(
        write_rows(*ROWS), "colours", tiny_base, settings, publish=False, job="ftjob-1"
    )
    listener = Listener()
    # 9 rows: 3 steps an epoch. The last epochs' adapters are kept; step 6 ends the second one.
    with pytest.raises(Interrupted), hold_name(RegistrySettings(home=home), "colours"):
        run(request, listener, asked_to_stop=lambda: 5 in listener.steps)
    folder = RunFolder.open(RegistrySettings(home=home), "ftjob-1")
    assert listener.steps == [1, 2, 3, 4, 5, 6]  # the step that it was in is ended
    stopped = Checkpoints(folder.checkpoints).latest()
    assert stopped is not None
    assert (stopped.step, stopped.done, folder.record.status) == (6, False, "stopped")
    assert list(kept_epochs(folder)) == [6]
    assert list(kept_epochs(folder, ended=True)) == [3, 6]  # had it stopped early
    result = resume(folder.path)
    assert list(kept_epochs(folder)) == [6, 9, 12]
    assert len(list(folder.epochs.iterdir())) == 3
    weights = "adapter_model.safetensors"
    last = kept_epochs(folder)[12]
    assert (last / weights).read_bytes() == (folder.adapter / weights).read_bytes()
    assert (last / weights).read_bytes() != (kept_epochs(folder)[9] / weights).read_bytes()
    measured = [line for line in Metrics(folder.metrics).lines() if "held_out_loss" in line]
    assert [line["step"] for line in measured] == [3, 6, 9, 12]
    assert all(0 <= line["held_out_token_accuracy"] <= 1 for line in measured)
    assert result.evaluation is not None
    assert measured[-1]["held_out_loss"] == pytest.approx(result.evaluation.adapter.loss, rel=1e-5)
    assert json.loads(folder.training.read_text()) == result.training
    assert (folder.record.status, folder.record.version) == ("succeeded", None)


def test_a_run_that_is_asked_to_stop_in_its_last_step_is_evaluated_when_it_is_taken_up_again(
    home: Path, tiny_base: Path, write_rows: WriteRows
) -> None:
    settings = QUICK.model_copy(update={"baselines": False})
    request = TrainRequest(write_rows(*ROWS), "colours", tiny_base, settings)
    listener = Listener()
    with pytest.raises(Interrupted):
        run(request, listener, asked_to_stop=lambda: 3 in listener.steps)
    [folder] = list_runs(RegistrySettings(home=home))
    assert not folder.evaluation.exists()
    listener = Listener()
    assert resume(folder.path, reporter=listener).version is not None
    assert listener.steps == []
    assert folder.evaluation.exists()


def test_a_run_whose_data_or_base_changed_is_not_gone_on_with(
    home: Path, tiny_base: Path, write_rows: WriteRows, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    data, held_out = write_rows(*ROWS), write_rows(ROWS[0], {**ROWS[1], "prompt": "?"}, name="h")
    held_out = held_out.rename(tmp_path / "held.jsonl")
    request = TrainRequest(data, "colours", base, QUICK, eval_data=held_out)
    with pytest.raises(Interrupted):
        run(request, Listener(stop_at=2))
    [folder] = list_runs(RegistrySettings(home=home))
    for path, what in ((data, "training data"), (held_out, "held-out data")):
        content = path.read_bytes()
        path.write_bytes(content + b"\n")
        with pytest.raises(RunChanged, match=rf"the {what} of run .* has changed.*{path.name}"):
            resume(folder.id)
        path.write_bytes(content)
    tensors = load_file(base / "model.safetensors")
    tensors["model.norm.weight"][0] = 2
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(RunChanged, match="the base of run"):
        resume(folder.id)
    with pytest.raises(UnknownRun):
        resume("colours-1")


class Clock(datetime):
    """Says that it is so many days later."""

    days = 0

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + timedelta(days=cls.days)


def test_a_template_with_the_date_has_that_of_the_runs_begin(
    home: Path,
    tiny_base: Path,
    write_rows: WriteRows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Clock)
    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    config = json.loads((base / "tokenizer_config.json").read_text())
    (base / "chat_template.jinja").unlink(missing_ok=True)
    template = (
        "{{ strftime_now('%d %B %Y') }}\n{% for m in messages %}<|im_start|>{{ m['role'] }}\n"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    settings = QUICK.model_copy(update={"baselines": False})
    listener = Listener(stop_at=2)
    with pytest.raises(Interrupted):
        run(TrainRequest(write_rows(*ROWS), "dated", base, settings), listener)
    assert any("tells the date" in note for note in listener.notes)
    [folder] = list_runs(RegistrySettings(home=home))
    monkeypatch.setattr(Clock, "days", 3)
    template = template.replace("%d", "the %d")
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    with pytest.raises(RunChanged, match="other token ids"):
        resume(folder.id)
    template = template.replace("the %d", "%d")
    (base / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    assert resume(folder.id).version is not None


def test_two_runs_of_one_name_do_not_meet(
    home: Path, tiny_base: Path, write_rows: WriteRows
) -> None:
    request = TrainRequest(write_rows(*ROWS), "colours", tiny_base, QUICK)
    with hold_name(RegistrySettings(home=home), "colours") as lock:
        lock.announce("colours-1")
        with pytest.raises(NameBusy, match="run colours-1 trains an adapter named colours"):
            run(request)
    assert list_runs(RegistrySettings(home=home)) == []


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


def test_rslora_is_published_and_early_stopping_needs_held_out_rows(
    home: Path, tiny_base: Path, write_rows: WriteRows
) -> None:
    data = write_rows(*ROWS)
    update = {"rslora": True, "rank": 64, "baselines": False, "max_steps": 1}
    result = run(TrainRequest(data, "colours", tiny_base, QUICK.model_copy(update=update)))
    assert result.version is not None
    config = json.loads((result.version.path / "adapter_config.json").read_text())
    assert (config["use_rslora"], config["r"]) == (True, 64)
    settings = QUICK.model_copy(update={"early_stopping": 2, "eval_fraction": 0.0})
    with pytest.raises(SettingsError, match="early_stopping: there are no held-out rows"):
        run(TrainRequest(data, "colours", tiny_base, settings))


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
