"""One engine on several GPUs: what is refused before vLLM is imported, and what vLLM is told."""

from pathlib import Path
from typing import Any

import pytest
from model_configs import LLAMA

import serve.engine.parallelism as parallelism
from registry import Base, RegistrySettings, UsageError, resolve_base
from serve.engine.arguments import engine_arguments
from serve.engine.environment import engine_environment
from serve.engine.factory import create_engine
from serve.engine.parallelism import check_parallelism, cores_of_workers
from serve.settings import ServeSettings


def refused(gpus: int = 8, cores: int = 16, **settings: Any) -> str:
    with pytest.raises(UsageError) as caught:
        check_parallelism(ServeSettings(**settings), LLAMA, gpus=gpus, cores=cores)
    assert caught.value.remedy
    return caught.value.message


def test_what_fits_passes() -> None:
    for tensor, pipeline in ((1, 1), (8, 1), (4, 2), (1, 8)):
        settings = ServeSettings(tensor_parallel_size=tensor, pipeline_parallel_size=pipeline)
        check_parallelism(settings, LLAMA, gpus=8, cores=1)
    check_parallelism(ServeSettings(tensor_parallel_size=2), LLAMA, gpus=0, cores=2)


def test_a_base_that_cannot_be_cut() -> None:
    assert "32 (attention heads) cannot be divided by 3" in refused(tensor_parallel_size=3)
    assert "32 layers are too few" in refused(pipeline_parallel_size=40, gpus=64)


def test_too_few_gpus_or_cores() -> None:
    assert "takes 16 GPUs, and 8 can be seen" in refused(
        tensor_parallel_size=8, pipeline_parallel_size=2
    )
    assert "takes 4 workers, and there are 2 cores" in refused(
        gpus=0, cores=2, tensor_parallel_size=4
    )


def test_a_pipeline_needs_gpus() -> None:
    assert "on a CPU" in refused(gpus=0, pipeline_parallel_size=2)


def test_ray_needs_gpus_and_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallelism, "find_spec", lambda _: object())
    assert "for GPUs only" in refused(gpus=0, distributed_executor_backend="ray")
    on_several = ServeSettings(tensor_parallel_size=16, distributed_executor_backend="ray")
    check_parallelism(on_several, LLAMA, gpus=8, cores=16)  # the others are on other machines
    monkeypatch.setattr(parallelism, "find_spec", lambda _: None)
    assert "not installed" in refused(distributed_executor_backend="ray")


def test_ranks_that_fully_sharded_adapters_cannot_be_cut_into() -> None:
    said = refused(tensor_parallel_size=16, max_lora_rank=8, fully_sharded_loras=True, gpus=16)
    assert "--max-lora-rank 8" in said


def test_each_worker_has_cores_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(parallelism, "NUMA_NODES", tmp_path)
    assert cores_of_workers([0, 1], 2) == "0|1"
    assert cores_of_workers([0, 2, 4, 6, 8], 2) == "0,2|4,6"
    for node in range(2):
        (tmp_path / f"node{node}").mkdir()
    assert cores_of_workers([0, 1, 2, 3], 2) is None  # vLLM gives each a node
    env = engine_environment(ServeSettings(tensor_parallel_size=3), Path("/c"))
    assert env["VLLM_CPU_OMP_THREADS_BIND"].count("|") == 2


@pytest.fixture
def base(tiny_base: Path, home: Path) -> Base:
    return resolve_base(tiny_base, RegistrySettings(home=home))


def test_vllm_is_told(base: Base) -> None:
    told = engine_arguments(
        ServeSettings(
            tensor_parallel_size=2,
            pipeline_parallel_size=2,
            distributed_executor_backend="mp",
            fully_sharded_loras=True,
        ),
        base,
    )
    assert (told.tensor_parallel_size, told.pipeline_parallel_size) == (2, 2)
    assert told.distributed_executor_backend == "mp"
    assert told.fully_sharded_loras
    usual = engine_arguments(ServeSettings(), base)
    assert (usual.tensor_parallel_size, usual.distributed_executor_backend) == (1, None)


def test_it_is_refused_before_the_engine_is_begun(
    base: Base, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve.engine.process.begin", lambda: pytest.fail("it was begun"))
    with pytest.raises(UsageError, match="cannot be cut"):
        create_engine(ServeSettings(tensor_parallel_size=3), base, RegistrySettings(home=home))
