"""What vLLM is told through its environment."""

import os
from pathlib import Path

import pytest

import serve.engine.environment as environment
from serve.engine import toolkit
from serve.engine.environment import apply_engine_environment, engine_environment
from serve.settings import ServeSettings


def test_only_our_plugins_are_let_in() -> None:
    env = engine_environment(ServeSettings(), Path("/c"))
    assert env["VLLM_PLUGINS"] == "lorikeet"
    env = engine_environment(ServeSettings(quantization="nf4"), Path("/c"))
    assert env["VLLM_PLUGINS"] == "lorikeet,bitsandbytes"


def test_an_engine_on_one_machine_talks_to_nobody_else() -> None:
    assert engine_environment(ServeSettings(), Path("/c"))["VLLM_HOST_IP"] == "127.0.0.1"
    several = ServeSettings(distributed_executor_backend="ray")
    assert (
        not {"VLLM_HOST_IP", "GLOO_SOCKET_IFNAME"} & engine_environment(several, Path("/c")).keys()
    )


def test_small_machines_compute_on_every_core(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    assert engine_environment(ServeSettings(), Path("/c"))["VLLM_CPU_OMP_THREADS_BIND"] == "0,1"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert "VLLM_CPU_OMP_THREADS_BIND" not in engine_environment(ServeSettings(), Path("/c"))


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of programs, the only one that is on the path; no toolkit is anywhere else."""
    monkeypatch.setattr(toolkit, "DEFAULT_HOME", str(tmp_path / "cuda"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX"):
        monkeypatch.delenv(name, raising=False)
    for name in ("c++", "ninja"):
        _program(tmp_path / "bin" / name)
    return tmp_path / "bin"


def _program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o755)


def test_a_toolkit_is_nvcc_where_flashinfer_looks_a_cpp_compiler_and_ninja(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not toolkit.has_toolkit()
    _program(tmp_path / "cuda" / "bin" / "nvcc")
    assert toolkit.has_toolkit()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "elsewhere"))
    assert not toolkit.has_toolkit()
    _program(tmp_path / "elsewhere" / "bin" / "nvcc")
    assert toolkit.has_toolkit()
    (programs / "ninja").unlink()
    assert not toolkit.has_toolkit()
    _program(programs / "ninja")
    (programs / "c++").unlink()
    assert not toolkit.has_toolkit()


def test_nvcc_on_the_path_is_a_toolkits(programs: Path) -> None:
    _program(programs / "nvcc")
    assert toolkit.has_toolkit()


def test_without_a_toolkit_a_gpu_does_not_sample_with_flashinfer(
    programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in engine_environment(ServeSettings(), Path("/c"))
    monkeypatch.setattr(environment, "built_for_cpu", lambda: False)
    env = engine_environment(ServeSettings(), Path("/c"))
    assert env["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    _program(programs / "nvcc")
    assert "VLLM_USE_FLASHINFER_SAMPLER" not in engine_environment(ServeSettings(), Path("/c"))


def test_the_users_own_variables_stay_but_for_those_we_depend_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in engine_environment(ServeSettings(), Path("/c")):
        monkeypatch.setenv(key, "mine")
    apply_engine_environment(ServeSettings(verbose=True), Path("/c"))
    assert os.environ["VLLM_CACHE_ROOT"] == "mine"
    assert os.environ["VLLM_PLUGINS"] == "lorikeet"
    assert os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] == "1"
