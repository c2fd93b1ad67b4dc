"""Become a command that is killed when the process that started it ends, however that ends.

    python -m serve.tied PARENT COMMAND…

`PARENT` is the process id of who starts this, which has to do so from its main thread: Linux ties
a process to the thread that made it. Elsewhere than on Linux the command is not tied.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: str, *command: str) -> None:
    """Tie this process and run `command` in its place."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the process that started this has ended")
    os.execv(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
