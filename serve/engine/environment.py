"""The environment that vLLM reads when it is imported, here and in the processes it starts."""

import os
import warnings
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from serve import logs
from serve.engine import toolkit
from serve.engine.parallelism import cores_of_workers
from serve.settings import ServeSettings

SMALL_MACHINE = 4
"""Cores up to which the engine computes on all of them; vLLM's own default leaves one idle."""
FORCED = frozenset({"VLLM_PLUGINS", "VLLM_COMPUTE_NANS_IN_LOGITS", logs.ENGINE_FORMAT})


SHARED_METRICS = ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")


def keep_metrics_here() -> None:
    """Call before prometheus_client is imported: one process has all the metrics, vLLM's too.

    With these variables they would go through files that outlive the server, and those of whatever
    else uses the folder would be added to them.
    """
    for name in SHARED_METRICS:
        os.environ.pop(name, None)


def engine_environment(settings: ServeSettings, cache: Path) -> dict[str, str]:
    """The variables to set before vllm is imported.

    `cache` is the folder of what vLLM may keep between starts. The plug-in allow-list names ours
    (the CPU LoRA product) and the one that nf4 needs, and no other that may be installed.
    """
    plugins = ["lorikeet"] + (["bitsandbytes"] if settings.quantization == "nf4" else [])
    env = {
        "VLLM_PLUGINS": ",".join(plugins),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CACHE_ROOT": str(cache),
        "VLLM_LOGGING_LEVEL": "INFO" if settings.verbose else "ERROR",
        logs.ENGINE_FORMAT: settings.log_format,
        # The executor stays inside the engine's process: two processes instead of three.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # The base is a local folder by now; the engine has nothing to ask a hub.
        "HF_HUB_OFFLINE": "1",
        # The rows of logits that are not finite are counted, as serve.engine.worker says.
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    if settings.distributed_executor_backend != "ray":
        # Where the engine's processes talk to each other, nobody else is to listen.
        env |= {
            "VLLM_HOST_IP": "127.0.0.1",
            "VLLM_LOOPBACK_IP": "127.0.0.1",
            "GLOO_SOCKET_IFNAME": "lo",
        }
    if "VLLM_LOGGING_CONFIG_PATH" not in os.environ:
        env["VLLM_CONFIGURE_LOGGING"] = "0"  # its lines come out as ours do
    if not settings.verbose or settings.log_format == "json":  # torch has ways of its own to print
        env |= {"TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_LOGS": "-all"}
    if not settings.verbose:
        env["PYTHONWARNINGS"] = "ignore"
    if built_for_cpu():
        # With LoRA on, vLLM compiles no model on the CPU. What is left, the count for
        # log-probabilities, would stall everyone for 16 s at its first use, and end the engine
        # where there is no C++ compiler.
        env["TORCH_COMPILE_DISABLE"] = "1"
    elif not toolkit.has_toolkit():
        env |= toolkit.WITHOUT
    cores = sorted(os.sched_getaffinity(0))
    if settings.workers > 1:
        if (shares := cores_of_workers(cores, settings.workers)) is not None:
            env["VLLM_CPU_OMP_THREADS_BIND"] = shares
    elif len(cores) <= SMALL_MACHINE:
        env["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    return env


def built_for_cpu() -> bool:
    """Whether the vLLM that is installed computes on CPUs."""
    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True


def apply_engine_environment(settings: ServeSettings, cache: Path) -> None:
    """Set the variables; what the user has set himself stays, but for what others depend on."""
    if not settings.verbose:
        warnings.simplefilter("ignore")
    for key, value in engine_environment(settings, cache).items():
        if key in FORCED:
            os.environ[key] = value
        else:
            os.environ.setdefault(key, value)
    logs.set_vllm_level(os.environ)
