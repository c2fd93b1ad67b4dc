"""Giving the memory of freed tensors back to the operating system, on a CPU with glibc.

PyTorch asks for aligned blocks, and glibc cannot give a freed one to the next request of the same
size: holes stay, small blocks that live on settle in them, and a step's resident memory becomes
twice (with recomputed activations eight times) what its tensors take. Blocks above a fixed
threshold are mapped one by one instead, and gone when they are freed. That costs page faults.
"""

import ctypes

_M_MMAP_THRESHOLD = -3
_THRESHOLD_BYTES = 256 * 1024


def give_back_freed_memory() -> bool:
    """Have tensors above 256 KiB mapped one by one from now on; False where libc is not glibc."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        return False
    return bool(libc.mallopt(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES))
