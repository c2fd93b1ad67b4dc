"""What a run computes on follows the machine and the settings."""

import os
import subprocess
import sys

import pytest
import torch

from train.errors import TrainingFailed
from train.hardware import detect, usable_cores, yield_idle_cores
from train.settings import TrainSettings


def test_a_cpu_computes_in_float32_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    hardware = detect(TrainSettings())
    assert (hardware.device, hardware.dtype, hardware.torch_dtype) == (
        "cpu",
        "float32",
        torch.float32,
    )
    assert hardware.threads == usable_cores() >= 1
    forced = detect(TrainSettings(dtype="bfloat16", threads=1))
    assert (forced.torch_dtype, forced.threads) == (torch.bfloat16, 1)


@pytest.mark.parametrize(
    ("has_bfloat16", "asked", "dtype"),
    [(True, "auto", "bfloat16"), (False, "auto", "float32"), (True, "float32", "float32")],
)
def test_a_gpu_computes_in_bfloat16_where_it_can(
    monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool, asked: str, dtype: str
) -> None:
    _gpu(monkeypatch, has_bfloat16)
    hardware = detect(TrainSettings(dtype=asked))
    assert (hardware.device, hardware.name, hardware.dtype) == ("cuda", "A GPU", dtype)


def test_bfloat16_on_a_gpu_without_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    _gpu(monkeypatch, has_bfloat16=False)
    with pytest.raises(TrainingFailed, match="A GPU has no bfloat16"):
        detect(TrainSettings(dtype="bfloat16"))


def _gpu(monkeypatch: pytest.MonkeyPatch, has_bfloat16: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "A GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has_bfloat16)


def test_idle_threads_sleep_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    yield_idle_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "active"
    monkeypatch.delenv("OMP_WAIT_POLICY")
    yield_idle_cores()
    assert os.environ["OMP_WAIT_POLICY"] == "passive"


def test_the_command_line_imports_no_heavy_library() -> None:
    code = (
        "import sys, train.cli, train.settings, train.hardware, train.progress, train.data.parts\n"
        "heavy = {'torch', 'transformers', 'trl', 'peft', 'bitsandbytes', 'datasets'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
