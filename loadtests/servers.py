"""The servers that are compared, each a child process that ends with the benchmark."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from registry import LorikeetError

START_SECONDS = 600
STOP_SECONDS = 30


class ServerFailed(LorikeetError):
    """A server of the comparison ended, or was not ready in time."""


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
    if cpu:
        command += ["--kv-cache-memory-bytes", str(int(capacity.kv_cache_gib * 1024**3))]
    command += ["--lora-modules", *(f"{adapter}={path}" for adapter, path in adapters.items())]
    environment = {"VLLM_PLUGINS": "", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    return ServerPlan(name, tuple(command), "/health", environment)


def lorikeet_plan(name: str, base: Path, home: Path, capacity: Capacity) -> ServerPlan:
    """`lorikeet serve` on a data folder of its own, with its defaults otherwise."""
    command = [sys.executable, "-m", "lorikeet", "serve", "--base", str(base)]
    command += ["--host", "127.0.0.1", *capacity.flags()]
    command += ["--kv-cache-gib", str(capacity.kv_cache_gib)]
    environment = {"LORIKEET_HOME": str(home), "LORIKEET_DATABASE_URL": ""}
    return ServerPlan(name, tuple(command), "/ready", environment)


@contextmanager
def running(plan: ServerPlan, log: Path) -> Iterator[str]:
    """Start the server, wait until it serves, give its URL, and end it whatever happens.

    The server has a process group of its own: Ctrl-C reaches the benchmark alone, which then ends
    the server. What it prints goes to `log`. Raises ServerFailed.
    """
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*plan.command, "--port", str(port)],
            env=os.environ | plan.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, plan, url, log)
        yield url
    finally:
        _end(process)


def _wait_until_ready(
    process: subprocess.Popen[bytes], plan: ServerPlan, url: str, log: Path
) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise ServerFailed(
                f"{plan.name} ended with exit code {process.returncode} before it served",
                remedy=f"read {log}",
            )
        try:
            if httpx.get(url + plan.ready_path, timeout=5, trust_env=False).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.5)
    raise ServerFailed(
        f"{plan.name} was not ready after {START_SECONDS} seconds", remedy=f"read {log}"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop; then end what is left of its own process group."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
