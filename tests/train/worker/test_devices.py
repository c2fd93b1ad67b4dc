"""Devices: which there are, what memory they have, and one training on each."""

import os
from pathlib import Path

import pytest

from registry import RegistrySettings, UsageError
from train.worker import devices
from train.worker.devices import Device, Memory, find_devices

MIB = 1024**2


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An nvidia-smi that tells of two GPUs, the second one half full."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        "  *query-gpu=index*) printf '0\\n1\\n' ;;\n"
        "  *'-i 1') printf '40000, 80000\\n' ;;\n"
        "  *'-i 0') printf '[N/A], 80000\\n' ;;\n"
        "esac\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return program


def test_every_gpu_or_those_that_are_named(driver: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_devices(("auto",)) == [Device("0"), Device("1")]
    assert find_devices(("1",)) == [Device("1")]
    assert find_devices(("cpu",)) == [Device("cpu")]
    with pytest.raises(UsageError, match="no GPU 2 here, only 0, 1"):
        find_devices(("2",))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert find_devices(("auto",)) == [Device("1")]


def test_without_a_gpu_it_is_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert find_devices(("auto",)) == [Device("cpu")]
    assert Device("0").memory() is None
    with pytest.raises(UsageError, match="no GPU 0"):
        find_devices(("0",))


def test_the_memory_of_a_gpu_is_what_the_driver_says(driver: Path) -> None:
    assert Device("1").memory() == Memory(40000 * MIB, 80000 * MIB)
    assert Device("0").memory() is None
    driver.write_text("#!/bin/sh\nexit 9\n")
    assert Device("1").memory() is None


def test_a_child_sees_its_device_alone() -> None:
    assert Device("1").environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert Device("cpu").environment["CUDA_VISIBLE_DEVICES"] == ""


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "_CGROUP", tmp_path)
    plain = Device("cpu").memory()
    assert plain is not None
    assert 0 < plain.free <= plain.total
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{60 * MIB}\n")
    (tmp_path / "memory.stat").write_text(f"anon 1\ninactive_file {20 * MIB}\n")
    unlimited = Device("cpu").memory()
    assert unlimited is not None
    assert unlimited.total == plain.total
    (tmp_path / "memory.max").write_text(f"{100 * MIB}\n")
    assert Device("cpu").memory() == Memory(60 * MIB, 100 * MIB)


def test_one_training_on_a_device_at_a_time(tmp_path: Path) -> None:
    settings = RegistrySettings(home=tmp_path)
    with Device("0").held(settings) as ours:
        assert ours
        with Device("0").held(settings) as theirs:
            assert not theirs
        with Device("1").held(settings) as other:
            assert other
    with Device("0").held(settings) as again:
        assert again
