"""One engine on several GPUs: what is checked before vLLM is imported, and cores for its workers.

vLLM finds the same faults, a minute later and in words of its own.
"""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from registry import UsageError
from registry.base_shards import shard_problems, tensor_sizes
from serve.settings import ServeSettings

NUMA_NODES = Path("/sys/devices/system/node")


def check_parallelism(
    settings: ServeSettings, config: Mapping[str, Any], *, gpus: int, cores: int
) -> None:
    """See that the base of this config can be spread as `settings` say.

    `gpus` are those that this process sees (0: it computes on the CPU), `cores` those that it may
    run on. Raises UsageError.
    """
    tensor, pipeline = settings.tensor_parallel_size, settings.pipeline_parallel_size
    world = tensor * pipeline
    flags = f"--tensor-parallel-size {tensor} × --pipeline-parallel-size {pipeline}"
    ray = settings.distributed_executor_backend == "ray"
    if problems := shard_problems(config, tensor, pipeline):
        possible = ", ".join(map(str, tensor_sizes(config, max(gpus, 8))))
        raise UsageError(
            f"{flags}: the base cannot be cut like that: {'; '.join(problems)}",
            remedy=f"--tensor-parallel-size can be {possible}",
        )
    if settings.fully_sharded_loras and settings.max_lora_rank % tensor:
        raise UsageError(
            f"--fully-sharded-loras cuts --max-lora-rank {settings.max_lora_rank}, which cannot be "
            f"divided by --tensor-parallel-size {tensor}",
            remedy="leave --fully-sharded-loras out",
        )
    if ray and find_spec("ray") is None:
        raise UsageError(
            "--distributed-executor-backend ray: Ray is not installed",
            remedy="`make install` has it; or leave it out: mp, on one machine",
        )
    if not gpus:
        if ray:
            raise UsageError(
                "--distributed-executor-backend ray: vLLM has it for GPUs only, and there is none",
                remedy="leave it out: mp, on one machine",
            )
        if pipeline > 1:
            raise UsageError(
                f"--pipeline-parallel-size {pipeline}: on a CPU vLLM's engine ends at the first "
                "request of a pipeline",
                remedy=f"--tensor-parallel-size {pipeline}, or serve on a machine with GPUs",
            )
        if world > cores:
            raise UsageError(
                f"{flags} takes {world} workers, and there are {cores} cores for them",
                remedy=f"lower them to {cores} workers in all, or serve on a machine with GPUs",
            )
    elif world > gpus and not ray:
        raise UsageError(
            f"{flags} takes {world} GPUs, and {gpus} can be seen here",
            remedy="lower them, look at CUDA_VISIBLE_DEVICES, quantise the base (--quantization "
            "nf4), or span machines with --distributed-executor-backend ray",
        )


def visible_gpus() -> int:
    """The GPUs that the engine would find; asked of the driver, none is initialised."""
    import torch

    return torch.cuda.device_count()


def cores_of_workers(cores: Sequence[int], workers: int) -> str | None:
    """vLLM's VLLM_CPU_OMP_THREADS_BIND for several workers on a CPU: an even share for each.

    None where there is a NUMA node for each worker: vLLM gives each a node of its own.
    """
    if len(list(NUMA_NODES.glob("node[0-9]*"))) >= workers:
        return None
    share = max(1, len(cores) // workers)
    shares = [cores[index * share : (index + 1) * share] for index in range(workers)]
    return "|".join(",".join(map(str, some)) for some in shares)
