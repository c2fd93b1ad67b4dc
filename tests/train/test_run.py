"""Whole runs on the tiny base: what is published, and that failures publish nothing."""

import json
import shutil
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file
from small_runs import QUICK, ROWS, Listener, WriteRows, left_in

from registry import (
    Registry,
    RegistrySettings,
)
from train.data.parts import read_part
from train.errors import (
    Interrupted,
    NameBusy,
    NothingToResume,
    RunChanged,
    SettingsError,
    UnknownRun,
)
from train.run import TrainRequest, resume, run
from train.runs.checkpoints import Checkpoints
from train.runs.epochs import kept_epochs
from train.runs.folder import RunFolder, list_runs
from train.runs.lock import hold_name
from train.runs.metrics import Metrics
from train.settings_file import load_settings


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
