"""The CUDA toolkit: what FlashInfer compiles its kernels with when they are called first.

vLLM samples with FlashInfer unless it is told otherwise, and finds out at its start that there is
no nvcc. The compiler that torch's wheels bring along is none that FlashInfer looks for.
"""

import os
import shutil
from pathlib import Path

DEFAULT_HOME = "/usr/local/cuda"
WITHOUT = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
"""What vLLM is told where there is no toolkit: torch and Triton sample, from the same odds."""


def has_toolkit() -> bool:
    """Whether FlashInfer can compile: nvcc where it looks for it, a C++ compiler and ninja."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if not home and shutil.which("nvcc") is None:
        home = DEFAULT_HOME
    nvcc = Path(home, "bin", "nvcc") if home else "nvcc"
    return None not in map(shutil.which, (nvcc, os.environ.get("CXX", "c++"), "ninja"))
