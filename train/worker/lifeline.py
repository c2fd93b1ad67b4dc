"""A child that dies with its parent, however the parent dies, and before others for memory."""

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Be killed when the process `parent`, which has to be this one's parent, is gone.

    Linux only; elsewhere a child of a killed worker works on until it notices.
    """
    try:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it died before the kernel knew of us
        os.kill(os.getpid(), signal.SIGKILL)


def die_first() -> None:
    """Where the machine's memory runs out, be killed rather than a server (Linux only)."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
