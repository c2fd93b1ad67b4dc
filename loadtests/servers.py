"""The servers that are compared: how each is started, alike but for what is compared."""

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from serve.engine import toolkit

STOCK, BOUND, OURS = "stock vLLM", "stock vLLM, all cores", "Lorikeet"


@dataclass(frozen=True, slots=True)
class Capacity:
    """What every server of a comparison is given alike."""

    dtype: str
    max_loras: int
    max_lora_rank: int
    max_num_seqs: int
    max_model_len: int
    kv_cache_gib: float

    def flags(self) -> list[str]:
        """The flags that have one name in both command lines."""
        values = {
            "--dtype": self.dtype,
            "--max-loras": self.max_loras,
            "--max-lora-rank": self.max_lora_rank,
            "--max-num-seqs": self.max_num_seqs,
            "--max-model-len": self.max_model_len,
        }
        return [str(part) for pair in values.items() for part in pair]


@dataclass(frozen=True, slots=True)
class ServerPlan:
    """How to start a server: everything but its port, which is free when it starts."""

    name: str
    command: tuple[str, ...]
    ready_path: str
    environment: Mapping[str, str] = field(default_factory=dict)


def stock_plan(
    name: str,
    base: Path,
    model: str,
    adapters: Mapping[str, Path],
    capacity: Capacity,
    *,
    cpu: bool,
) -> ServerPlan:
    """vLLM's own server with the same flags and slots, and none of our plugins."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += ["--model", str(base), "--served-model-name", model, "--host", "127.0.0.1"]
    command += ["--enable-lora", "--max-cpu-loras", str(max(len(adapters), capacity.max_loras))]
    command += capacity.flags()
    environment = {"VLLM_PLUGINS": "", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    if cpu:
        command += ["--kv-cache-memory-bytes", str(int(capacity.kv_cache_gib * 1024**3))]
    elif not toolkit.has_toolkit():
        environment |= toolkit.WITHOUT
    if adapters:
        command += ["--lora-modules", *(f"{name}={path}" for name, path in adapters.items())]
    return ServerPlan(name, tuple(command), "/health", environment)


def bound_plan(stock: ServerPlan, cores: Iterable[int]) -> ServerPlan:
    """The same server with its compute threads bound to these cores; vLLM leaves one idle."""
    bound = {"VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(cores)))}
    return replace(stock, name=BOUND, environment={**stock.environment, **bound})


def lorikeet_plan(name: str, base: Path, home: Path, capacity: Capacity) -> ServerPlan:
    """`lorikeet serve` on a data folder of its own, with its defaults otherwise."""
    command = [sys.executable, "-m", "lorikeet", "serve", "--base", str(base)]
    command += ["--host", "127.0.0.1", *capacity.flags()]
    command += ["--kv-cache-gib", str(capacity.kv_cache_gib)]
    environment = {
        "LORIKEET_HOME": str(home),
        "LORIKEET_DATABASE_URL": "",
        "LORIKEET_STORE_URL": "",
    }
    return ServerPlan(name, tuple(command), "/ready", environment)
