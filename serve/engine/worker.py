"""What runs inside the engine's worker, beside vLLM: its methods are reached by `collective_rpc`.

Between two steps everyone waits, so nothing long may happen there. An adapter is read and built in
a thread (`prepare_lora`), looked for (`lora_prepared`), and then only handed over
(`register_lora`); it gets into a slot when a step needs it.
"""

import ctypes
import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch
import vllm.v1.worker.gpu_model_runner as runner_v1
from vllm.lora.request import LoRARequest
from vllm.platforms import current_platform

from serve.engine.cpu_lora import LoraProbe

NICE = 10
"""How far the preparing thread stands back behind those that compute."""
SWITCH_SECONDS = 0.0005
"""How long it may keep the interpreter when the engine's loop wants it; Python's own is 5 ms."""


class WorkerExtension(LoraProbe):
    """What vLLM adds to its worker (`--worker-extension-cls`)."""

    def start_lorikeet(self) -> None:
        """Have the logits watched, and be ready to prepare adapters; called once, before all."""
        runner_v1.count_nans_per_row = not_finite_rows
        if getattr(self, "use_v2_model_runner", False):
            import vllm.v1.worker.gpu.sample.sampler as sampler_v2

            sampler_v2.get_num_nans = not_finite_rows
        self._loras = self.model_runner.lora_manager  # type: ignore[attr-defined]
        self._preparing: dict[int, Future[Any]] = {}
        sys.setswitchinterval(SWITCH_SECONDS)
        self._thread = ThreadPoolExecutor(1, "prepare-lora", _stand_back)
        if current_platform.is_cpu():
            from serve.engine.memory import fill
            from serve.engine.slots import SlotManager

            SlotManager.take_over(self._loras._adapter_manager)
            ThreadPoolExecutor(1, "fill-memory", _stand_back).submit(fill)

    def prepare_lora(self, name: str, lora_id: int, path: str) -> None:
        """Begin to read and build an adapter; returns at once."""
        request = LoRARequest(name, lora_id, path)
        self._preparing[lora_id] = self._thread.submit(self._build, request)

    def lora_prepared(self, lora_id: int) -> bool:
        """Whether `register_lora` will not have to wait."""
        return self._preparing[lora_id].done()

    def register_lora(self, lora_id: int) -> None:
        """Let requests use an adapter that was prepared.

        Raises: what its preparation raised.
        """
        lora = self._preparing.pop(lora_id).result()
        self._loras._adapter_manager.add_adapter(lora)

    def forget_lora(self, lora_id: int) -> bool:
        """Drop an adapter, however far it has come; whether it is gone."""
        preparing = self._preparing.pop(lora_id, None)
        if preparing is not None:
            preparing.cancel()
        self._loras.remove_adapter(lora_id)
        return lora_id not in self._loras.list_adapters()

    def _build(self, request: LoRARequest) -> Any:
        lora = self._loras._load_adapter(request)
        # Packs q, k, v and gate, up, and multiplies the scaling in; the second time, which is when
        # the adapter is registered, it finds nothing to do.
        self._loras._adapter_manager._create_merged_loras_inplace(lora)
        return lora


def not_finite_rows(logits: torch.Tensor) -> torch.Tensor:
    """1 for each row of `logits` (rows, vocabulary) that comes of broken numbers, else 0.

    The largest logit is NaN where any is, and infinite where one is +inf or all are -inf (a single
    -inf is a token that is masked out). All are equal where the square of a hidden state was
    infinite: the norm then makes zeros of everything. Two passes that keep nothing.
    """
    largest = logits.amax(dim=-1)
    sound = largest.isfinite() & (largest > logits.amin(dim=-1))
    return sound.logical_not_().to(torch.int32)


def _stand_back() -> None:
    """This thread computes alone and only when a core is free."""
    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
    set_threads = getattr(ctypes.CDLL(None), "omp_set_num_threads", None)
    if set_threads is not None:  # of this thread only, unlike torch's own
        set_threads(1)
