"""A child that dies with its parent, however the parent dies."""

import ctypes
import os
import signal

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
