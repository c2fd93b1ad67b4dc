"""Keeps products that are too small for a team of threads on the calling one.

The BLAS under torch splits even a product of a few microseconds over all cores, and each split
waits for the slowest of them. Where another process has a core just then, that is a time slice of
the scheduler, hundreds of times a step. torch.set_num_threads isn't for this: it is slow, and vLLM
switches it off in its workers.
"""

import ctypes
from collections.abc import Callable
from pathlib import Path

import torch


class OneThread:
    """`with` it, MKL computes on the calling thread alone; a microsecond to enter and to leave.

    Does nothing where torch was built without MKL. One instance must not be entered twice.
    """

    def __init__(self) -> None:
        self._set_threads = _mkl_set_threads()
        self._before = 0

    def __enter__(self) -> None:
        self._before = self._set_threads(1)

    def __exit__(self, *exception: object) -> None:
        self._set_threads(self._before)


def _mkl_set_threads() -> Callable[[int], int]:
    """MKL's own function: sets the caller's number of threads, and returns the one before."""
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        function = ctypes.PyDLL(str(library)).MKL_Set_Num_Threads_Local
    except (OSError, AttributeError):
        return int
    function.argtypes, function.restype = [ctypes.c_int], ctypes.c_int
    threads: Callable[[int], int] = function
    return threads
