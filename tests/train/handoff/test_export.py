"""An exported folder is whole, checked and read by Hugging Face's own loaders, or not there."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from registry import Base, DiskFull, RegistrySettings, UsageError, resolve_base
from train.errors import TrainingFailed
from train.handoff import cli, export
from train.handoff.export import Exported, ExportRequest, export_version
from train.progress import SilentReporter
from train.settings import TrainSettings

Export = Callable[..., Exported]


@pytest.fixture
def exported(base: Base, tmp_path: Path) -> Export:
    def run(**options: Any) -> Exported:
        options = {"out": tmp_path / "out", "base": str(base.path)} | options
        return export_version(ExportRequest("opl@1", **options), SilentReporter())

    return run


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if "out" in path.name)


def test_pefts_files_come_as_they_are_with_a_card(
    publish: Any, exported: Export, base: Base, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    version = publish()
    found = exported()
    assert found.as_dict()["files"] == [
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        assert (found.folder / name).read_bytes() == (version.path / name).read_bytes()
    assert version.digest in (found.folder / "README.md").read_text()
    model = AutoModelForCausalLM.from_pretrained(base.path)
    assert PeftModel.from_pretrained(model, found.folder).peft_config["default"].r == 8
    assert left(tmp_path) == ["out"]


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_a_merged_model_is_a_base_that_says_what_the_adapter_says(
    publish: Any, exported: Export, base: Base, home: Path, tmp_path: Path, dtype: str | None
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    publish()
    found = exported(format="merged", dtype=dtype)
    assert found.dtype == (dtype or "float32")
    assert found.agreement is not None
    assert found.agreement.tokens > 40
    assert found.agreement.max < (1e-3 if dtype is None else 0.2)
    weights = load_file(found.folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {getattr(torch, found.dtype)}
    original = load_file(base.path / "model.safetensors")
    embedding = "model.embed_tokens.weight"
    assert torch.equal(weights[embedding], original[embedding].to(weights[embedding].dtype))
    config = json.loads((found.folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert str(base.path) not in json.dumps(config)
    merged = resolve_base(found.folder, RegistrySettings(home=home))
    assert merged.tokenizer_digest == base.tokenizer_digest
    assert merged.template_digest == base.template_digest
    assert merged.digest != base.digest
    tokenizer = AutoTokenizer.from_pretrained(found.folder)
    model = AutoModelForCausalLM.from_pretrained(found.folder)
    assert model(**tokenizer("hello", return_tensors="pt")).logits.isfinite().all()
    assert left(tmp_path) == ["out"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_where_training_computes_in_bfloat16_finer_weights_are_merged_in_float32(
    publish: Any, exported: Export, dtype: str
) -> None:
    settings = TrainSettings(rank=4, dtype="bfloat16").model_dump(mode="json")
    publish(training={"settings": settings, "steps": 3})
    found = exported(format="merged", dtype=dtype)
    assert found.agreement is not None
    assert found.agreement.max < (1e-3 if dtype == "float32" else 0.02)


def test_what_is_written_wrong_never_gets_the_name(
    publish: Any, exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish()
    real = export.load_merged

    def spoilt(*arguments: Any, **options: Any) -> Any:
        import torch

        merged = real(*arguments, **options)
        with torch.no_grad():
            merged.model.layers[0].mlp.down_proj.weight.mul_(-1)
        return merged

    monkeypatch.setattr(export, "load_merged", spoilt)
    with pytest.raises(TrainingFailed, match="says other things than the adapter"):
        exported(format="merged")
    assert left(tmp_path) == []


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (OSError(28, "No space left on device"), DiskFull),
        (PermissionError(13, "Permission denied"), UsageError),
    ],
)
def test_what_goes_wrong_leaves_nothing(
    publish: Any,
    exported: Export,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    expected: type[BaseException],
) -> None:
    publish()

    def fail(*_: Any) -> None:
        raise raised

    monkeypatch.setattr(export, "model_card", fail)
    with pytest.raises(expected):
        exported()
    assert left(tmp_path) == []


def test_a_small_disk_is_refused_before_and_while_weights_are_written(
    publish: Any, exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError
    from transformers import PreTrainedModel

    publish()

    def full(*_: Any, **__: Any) -> None:
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    with monkeypatch.context() as patched:
        patched.setattr(PreTrainedModel, "save_pretrained", full)
        with pytest.raises(DiskFull, match="no space left"):
            exported(format="merged")
    assert left(tmp_path) == []
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1 << 20))
    with pytest.raises(DiskFull, match="are needed in"):
        exported()
    assert left(tmp_path) == []


def test_only_a_new_or_an_empty_folder_is_taken(
    publish: Any, exported: Export, tmp_path: Path
) -> None:
    publish()
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").write_text("dear to me")
    with pytest.raises(UsageError, match="is there already"):
        exported()
    assert [path.name for path in out.iterdir()] == ["mine"]
    (out / "mine").unlink()
    assert exported().folder == out
    with pytest.raises(UsageError, match="there is no folder"):
        exported(out=tmp_path / "a" / "b")
    with pytest.raises(UsageError, match="is there already"):
        exported(out=out / "README.md")
    with pytest.raises(UsageError, match="in the dtype that it has"):
        exported(out=tmp_path / "again", dtype="float32")


def test_what_a_killed_export_left_is_swept_and_a_live_one_is_not(
    publish: Any, exported: Export, tmp_path: Path
) -> None:
    from filelock import FileLock

    publish()
    draft = tmp_path / ".out.draft"
    draft.mkdir()
    (draft / "half").write_text("half a model")
    with FileLock(tmp_path / ".out.lock"), pytest.raises(UsageError, match="is under way"):
        exported()
    assert (draft / "half").exists()
    assert not (exported().folder / "half").exists()
    assert left(tmp_path) == ["out"]


def test_the_command(publish: Any, base: Base, home: Path, tmp_path: Path) -> None:
    publish()
    app = typer.Typer()
    app.command()(cli.export)
    arguments = ["opl@1", str(tmp_path / "out"), "--base", str(base.path)]
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["reference"] == "opl@1"
    assert json.loads(done.stdout)["check"] is None
    again = CliRunner().invoke(app, arguments)
    assert isinstance(again.exception, UsageError)
