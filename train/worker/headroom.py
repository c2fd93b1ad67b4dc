"""Whether a device has room for a training, told before it starts: never by running out."""

from dataclasses import dataclass
from typing import Literal

from registry import LorikeetError, RegistrySettings
from registry.finetuning.objects import Job
from train.planner.architecture import Architecture
from train.planner.memory import Workload, training_memory
from train.planner.source import read_config
from train.settings import TrainSettings
from train.worker.devices import Device, Memory

_GIB = 1024**3
_HELP = {
    "cpu": "stop other programs, lower `lorikeet serve --kv-cache-gib`, or train at another time "
    "with --train-window",
    "cuda": "serve with `lorikeet serve --gpu-memory-utilization 0.6`, or train at another time "
    "with --train-window",
}


@dataclass(frozen=True, slots=True)
class Verdict:
    """`fits` now, `later` when others have given memory back, or `never` on this device."""

    when: Literal["fits", "later", "never"]
    message: str = ""


def judge(
    job: Job,
    training: TrainSettings,
    rows: dict[str, int],
    device: Device,
    settings: RegistrySettings,
) -> Verdict:
    """Compare what the job's training takes at its peak with what the device has.

    `rows` are the sizes of its rows, where they are known; else all are taken to be as long as may
    be. A model that the planner does not cover, or a driver that tells nothing, is let pass.
    """
    memory = device.memory()
    if memory is None:
        return Verdict("fits")
    try:
        config = read_config(job.base_place, settings)
        workload = Workload.of(
            training,
            dtype="float32" if device.kind == "cpu" else "bfloat16",
            device=device.kind,
            length=None if training.packing else rows.get("longest"),
            trained=None if training.packing else rows.get("trained"),
        )
        need = training_memory(Architecture.of(config), workload).total
    except LorikeetError:
        return Verdict("fits")
    return compared(need, memory, device)


def compared(need: int, memory: Memory, device: Device) -> Verdict:
    """The verdict on a training that takes `need` bytes at its peak."""
    figures = f"The training takes about {need / _GIB:.1f} GiB of memory at its peak; "
    if need > memory.total:
        return Verdict(
            "never",
            f"{figures}the server has {memory.total / _GIB:.1f} GiB in all. Lower batch_size (and "
            "raise lorikeet.gradient_accumulation), lorikeet.max_length or lorikeet.rank, or "
            "shorten the rows.",
        )
    if need > memory.free:
        return Verdict(
            "later",
            f"{figures}{memory.free / _GIB:.1f} of {memory.total / _GIB:.1f} GiB are free now. The "
            f"job waits for memory. What would help: {_HELP[device.kind]}.",
        )
    return Verdict("fits")
