"""Memory of the CPU engine that is zero without being written: the KV cache and the LoRA slots.

vLLM writes zeros into all of it, gigabytes, before it serves. Fresh pages of the kernel are zeros
already. They are asked for here, and made real by a thread that stands back (`fill`) after the
server has opened: whoever comes first does not pay for them, nor does the start.
"""

import ctypes
import functools
import mmap
from collections.abc import Callable, Mapping
from typing import Any

import torch
import vllm.v1.worker.gpu_model_runner as runner
from torch.overrides import TorchFunctionMode
from vllm.lora.model_manager import LoRAModelManager

SMALLEST = 256 << 10
PIECE = 1 << 20
POPULATE_WRITE = 23
"""madvise's MADV_POPULATE_WRITE, from Linux 5.14 on: pages become real, their contents stay."""

_regions: list[tuple[int, int]] = []


def install() -> None:
    """Have vLLM take what it makes of zeros from fresh pages; in EngineCore's process."""
    runner.allocate_kv_cache = _from_fresh_pages(runner.allocate_kv_cache)
    LoRAModelManager._create_lora_modules = _from_fresh_pages(LoRAModelManager._create_lora_modules)


def fill() -> None:
    """Make the pages real, a piece at a time. Where the kernel cannot, use makes them so."""
    advise = ctypes.CDLL(None).madvise
    advise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    while _regions:
        start, size = _regions.pop()
        for offset in range(0, size, PIECE):
            if advise(start + offset, min(PIECE, size - offset), POPULATE_WRITE):
                return


class FreshPages(TorchFunctionMode):
    """While it is on, `torch.zeros` on the CPU writes nothing."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """See TorchFunctionMode."""
        kwargs = kwargs or {}
        if func is not torch.zeros or str(kwargs.get("device", "cpu")) != "cpu":
            return func(*args, **kwargs)
        shape = torch.empty(*args, **{**kwargs, "device": "meta"})
        if shape.nbytes < SMALLEST:
            return func(*args, **kwargs)
        pages = mmap.mmap(-1, shape.nbytes)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            pages.madvise(mmap.MADV_HUGEPAGE)
        flat = torch.frombuffer(pages, dtype=shape.dtype)
        _regions.append((flat.data_ptr(), shape.nbytes))
        return flat.view(shape.shape)


def _from_fresh_pages(function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def with_fresh_pages(*args: Any, **kwargs: Any) -> Any:
        with FreshPages():
            return function(*args, **kwargs)

    return with_fresh_pages
