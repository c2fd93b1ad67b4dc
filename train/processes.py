"""The processes of one run: one, or several that `accelerate launch` started.

    accelerate launch -m lorikeet train …

Each of them trains on its share of every batch. The first one alone writes the run's folder,
prints and publishes.
"""

import os
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Processes:
    """This process's place: `index` of `count`, `local_index` on its machine.

    `sharded` where the model is split over the processes (FSDP), not copied to each.
    """

    index: int = 0
    local_index: int = 0
    count: int = 1
    local_count: int = 1
    sharded: bool = False

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes, prints and publishes."""
        return self.index == 0

    def tell(self, value: T) -> T:
        """The first process's `value`, in every process; waits until all have come here."""
        if self.count == 1:
            return value
        import torch
        from accelerate import PartialState
        from accelerate.utils import broadcast_object_list

        PartialState(cpu=not torch.cuda.is_available())
        told = [value]
        broadcast_object_list(told)
        return told[0]


def launched() -> Processes:
    """What the launcher's variables (torchrun's and accelerate's) say; one process without any."""
    count = int(os.environ.get("WORLD_SIZE", "1"))
    return Processes(
        index=int(os.environ.get("RANK", "0")) if count > 1 else 0,
        local_index=int(os.environ.get("LOCAL_RANK", "0")) if count > 1 else 0,
        count=count,
        local_count=int(os.environ.get("LOCAL_WORLD_SIZE", str(count))),
        sharded=os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true",
    )
