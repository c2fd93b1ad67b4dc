"""What vLLM is told through its environment."""

import os
from pathlib import Path

import pytest

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


def test_the_users_own_variables_stay_but_for_those_we_depend_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for key in engine_environment(ServeSettings(), Path("/c")):
        monkeypatch.setenv(key, "mine")
    apply_engine_environment(ServeSettings(verbose=True), Path("/c"))
    assert os.environ["VLLM_CACHE_ROOT"] == "mine"
    assert os.environ["VLLM_PLUGINS"] == "lorikeet"
    assert os.environ["VLLM_COMPUTE_NANS_IN_LOGITS"] == "1"
