"""The worker of `lorikeet serve --with-worker`: a child process that is started again when it ends.

It runs at a lower CPU priority, its lines come out on standard error behind `worker |`, Ctrl-C
in the terminal does not reach it, and it never outlives the server.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any

from serve.settings import ServeSettings

logger = logging.getLogger(__name__)

NICE = 10
"""The worker's processes get what the server leaves of the CPUs."""
LOOK_SECONDS = 0.25
FIRST_PAUSE_SECONDS = 1.0
"""Before it is started again; each pause is twice as long as the one before."""
LONGEST_PAUSE_SECONDS = 60.0
CALM_SECONDS = 300.0
"""Up for so long, the worker's next end is the first again."""
STOP_SECONDS = 70.0
"""For ending a step, saving a checkpoint (its own bound is a minute) and giving the job back."""


def worker_command(settings: ServeSettings, listener: socket.socket) -> list[str]:
    """`lorikeet worker` for the server behind `listener`, on the same data folder and database."""
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    command = [sys.executable, "-m", "lorikeet", "worker", "--server", url, "--nice", str(NICE)]
    if settings.train_window is not None:
        command += ["--train-window", settings.train_window]
    return command


class WorkerChild:
    """Keeps `command` running from `start` to `stop`, which are called in the main thread.

    The child gets the environment as it is when this object is made: the engine changes it later.
    `show` is called with each line that it prints.
    """

    def __init__(self, command: Sequence[str], show: Callable[[str], None] | None = None) -> None:
        self._command = list(command)
        self._show = show or _print
        self._environment = dict(os.environ)
        self._process: subprocess.Popen[str] | None = None
        self._task: asyncio.Task[None] | None = None
        self._stopping = asyncio.Event()
        self._starts = 0

    def start(self) -> None:
        """Start the worker, and watch it; not after `stop`."""
        if not self._stopping.is_set():
            self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """Ask the worker to stop, and kill it where it takes too long; idempotent."""
        self._stopping.set()
        task, self._task = self._task, None
        if task is None:
            return
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.terminate()
        done, _ = await asyncio.wait([task], timeout=STOP_SECONDS)
        if not done:
            logger.warning("the worker did not stop within %.0f s: killed", STOP_SECONDS)
            self.kill()
        await task

    def kill(self) -> None:
        """Kill the worker and what it has started, without more ado."""
        if self._process is not None:
            _kill_group(self._process)

    def status(self) -> dict[str, Any]:
        """For `/admin/status`: `running`, `waiting` to be started again, or `stopped`."""
        process = self._process
        ended = self._stopping.is_set() or self._task is None
        state = "running" if process is not None else "stopped" if ended else "waiting"
        return {
            "state": state,
            "pid": None if process is None else process.pid,
            "restarts": max(0, self._starts - 1),
        }

    async def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._stopping.is_set():
            began = time.monotonic()
            ended = await self._until_ended()
            if self._stopping.is_set():
                return
            if time.monotonic() - began > CALM_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            logger.error("the worker has ended (%s); it is started again in %g s", ended, pause)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _until_ended(self) -> str:
        """Run the worker once; returns how it ended."""
        try:
            self._process = process = self._begin()
        except OSError as error:  # no memory, no process left
            return error.strerror or str(error)
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                if process.poll() is not None:
                    return f"exit code {process.returncode}"
        finally:
            _kill_group(process)
            self._process = None

    def _begin(self) -> subprocess.Popen[str]:
        self._starts += 1
        process = subprocess.Popen(
            [sys.executable, "-m", "serve.tied", str(os.getpid()), *self._command],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        threading.Thread(target=_pass_on, args=[process.stdout, self._show], daemon=True).start()
        return process


def _kill_group(process: subprocess.Popen[str]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _pass_on(lines: IO[str], show: Callable[[str], None]) -> None:
    """Show the worker's lines. A standard error that is gone must not stop the worker."""
    with lines:
        for line in lines:
            with contextlib.suppress(OSError, ValueError):
                show(line.rstrip())


def _print(line: str) -> None:
    sys.stderr.write(f"worker | {line}\n")
    sys.stderr.flush()
