"""Where trainings run: the machine's GPUs, or its CPU; each is one place, held by a lock."""

import os
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]
from filelock import FileLock, Timeout

from registry import RegistrySettings, UsageError

_MIB = 1024**2
_QUERY_SECONDS = 20
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: those that nobody uses now, and all that the device has."""

    free: int
    total: int


@dataclass(frozen=True, slots=True)
class Device:
    """`cpu`, or a GPU by its number (or its id)."""

    name: str

    @property
    def kind(self) -> str:
        """`cpu` or `cuda`, as the planner has it."""
        return "cpu" if self.name == "cpu" else "cuda"

    @property
    def environment(self) -> dict[str, str]:
        """What a child has to be given so that it computes here and nowhere else."""
        name = "" if self.name == "cpu" else self.name
        return {"CUDA_VISIBLE_DEVICES": name, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}  # nvidia-smi's

    def memory(self) -> Memory | None:
        """The memory as it is now; None where the driver does not tell."""
        return _machine() if self.name == "cpu" else _gpu(self.name)

    @contextmanager
    def held(self, settings: RegistrySettings) -> Iterator[bool]:
        """Hold the device for a training; False, at once, where somebody on this machine has it."""
        folder = settings.home / "workers"
        folder.mkdir(parents=True, exist_ok=True)
        name = re.sub(r"[^A-Za-z0-9.-]", "_", f"{socket.gethostname()}-{self.name}")
        lock = FileLock(folder / f"{name}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def find_devices(wanted: Sequence[str]) -> list[Device]:
    """The devices of `--devices`. Raises UsageError for a GPU that is not there."""
    gpus = _gpus()
    if list(wanted) == ["auto"]:
        return [Device(name) for name in gpus] or [Device("cpu")]
    for name in wanted:
        if name != "cpu" and name not in gpus:
            raise UsageError(
                f"there is no GPU {name} here"
                + (f", only {', '.join(gpus)}" if gpus else ", and no other"),
                remedy="--devices auto takes what is there",
            )
    return [Device(name) for name in dict.fromkeys(wanted)]


def _gpus() -> list[str]:
    """Of those that CUDA_VISIBLE_DEVICES leaves, as it names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    found = [line.strip() for line in _nvidia_smi("index", None)]
    if visible is None:
        return found
    return [name.strip() for name in visible.split(",") if name.strip()] if found else []


def _gpu(name: str) -> Memory | None:
    for line in _nvidia_smi("memory.free,memory.total", name):
        free, _, total = line.partition(",")
        try:
            return Memory(int(free) * _MIB, int(total) * _MIB)
        except ValueError:
            return None
    return None


def _nvidia_smi(query: str, name: str | None) -> list[str]:
    """A line for each GPU; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    if name is not None:
        command += ["-i", name]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()


def _machine() -> Memory:
    """The machine's, or what a container's limit leaves of it."""
    memory = psutil.virtual_memory()
    free, total = memory.available, memory.total
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text())
        counts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no container, or one without a limit
        return Memory(free, total)
    used -= int(counts.get("inactive_file", 0))  # given back when it is needed
    return Memory(min(free, max(0, limit - used)), min(total, limit))
