"""Ray's own processes, once Ray was shut down in this one."""

import gc
import subprocess
import time

END_SECONDS = 20.0


def forget_rays_processes() -> None:
    """Wait for them, so that no later test is told of a child that nobody has waited for.

    Ray ends its processes and does not look whether they have ended.
    """
    started = [it for it in gc.get_objects() if isinstance(it, subprocess.Popen)]
    deadline = time.monotonic() + END_SECONDS
    for process in started:
        if "/ray/" in " ".join(map(str, process.args if isinstance(process.args, list) else ())):
            process.wait(max(0.1, deadline - time.monotonic()))
