"""What a run computes on: the device, the number format of its arithmetic, the CPU threads."""

import os
import platform
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from train.errors import TrainingFailed
from train.processes import launched
from train.settings import TrainSettings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Hardware:
    """The device ("cpu" or "cuda"), its name, the dtype of the arithmetic, the CPU threads."""

    device: Literal["cpu", "cuda"]
    name: str
    dtype: Literal["float32", "bfloat16"]
    threads: int

    @property
    def torch_dtype(self) -> "torch.dtype":
        """`dtype` as torch's own."""
        import torch

        return torch.float32 if self.dtype == "float32" else torch.bfloat16

    def for_weights(self, dtype: str) -> "Hardware":
        """The same with arithmetic that loses nothing of weights in `dtype`: that, or float32."""
        return self if dtype == self.dtype else replace(self, dtype="float32")


def usable_cores() -> int:
    """The cores that this process may run on, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def yield_idle_cores() -> None:
    """Let threads that wait for each other sleep; call it before torch is imported.

    OpenMP's threads spin while they wait. Beside another busy process (a server, a second run) each
    then takes the cores that the other waits for: a step on two cores took up to 87 s of processor
    time instead of 5. Sleeping threads cost about a quarter of the speed of a run that has the
    machine to itself; OMP_WAIT_POLICY, where it is set already, is left as it is.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def detect(settings: TrainSettings) -> Hardware:
    """The hardware to train on: this process's CUDA device where there is one, else the CPU.

    Several processes on one machine share its cores out.

    `dtype: auto` is float32 on every CPU (bfloat16 products are 10 to 100 times slower on one
    without AVX-512 BF16) and on a GPU older than Ampere, and bfloat16 on any other GPU.
    """
    import torch

    processes = launched()
    threads = settings.threads or max(1, usable_cores() // processes.local_count)
    if not torch.cuda.is_available():
        if processes.sharded:
            raise TrainingFailed(
                "FSDP shares a model out over GPUs, and there is none here",
                remedy="launch without FSDP",
            )
        dtype = "float32" if settings.dtype == "auto" else settings.dtype
        return Hardware("cpu", _cpu_name(), dtype, threads)
    has_bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if settings.dtype == "bfloat16" and not has_bfloat16:
        raise TrainingFailed(
            f"{torch.cuda.get_device_name(processes.local_index)} has no bfloat16",
            remedy="--set dtype=float32",
        )
    if settings.dtype == "auto":
        dtype = "bfloat16" if has_bfloat16 else "float32"
    else:
        dtype = settings.dtype
    return Hardware("cuda", str(torch.cuda.get_device_name(processes.local_index)), dtype, threads)


def _cpu_name() -> str:
    return platform.processor() or platform.machine() or "CPU"
