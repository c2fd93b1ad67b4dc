"""A server as a child process on a free loopback port: for the demo, the benchmark and tests.

with child_server(["--max-loras", "4"], log=Path("server.log")) as server:
    httpx.get(f"{server.url}/v1/models")
"""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from serve.errors import ServeError

STOP_SECONDS = 60
"""How long a server may take to stop before it is killed."""


class ChildFailed(ServeError):
    """A child process ended, or was not ready in time."""


@dataclass(frozen=True)
class Child:
    """A server that is ready. `url` is `http://127.0.0.1:PORT`."""

    url: str
    pid: int


@contextmanager
def child_server(
    options: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    on_wait: Callable[[float], None] | None = None,
) -> Iterator[Child]:
    """`lorikeet serve` with `options`; see `running`."""
    command = [sys.executable, "-m", "lorikeet", "serve", *options]
    with running(command, log, ready_path="/ready", env=env, on_wait=on_wait) as child:
        yield child


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    *,
    ready_path: str,
    env: Mapping[str, str] | None = None,
    seconds: float = 600,
    on_wait: Callable[[float], None] | None = None,
) -> Iterator[Child]:
    """Run `command --port PORT`, wait until GET `ready_path` is 200, and end it with the context.

    The child has a process group of its own: Ctrl-C reaches the caller alone, which then ends the
    child. `log` takes what it prints, `on_wait` is called with the seconds waited so far.

    Raises: ChildFailed with the end of the log.
    """
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*command, "--port", str(port)],
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        url = f"http://127.0.0.1:{port}"
        _wait_until_ready(process, url + ready_path, log, seconds, on_wait)
        yield Child(url, process.pid)
    finally:
        _end(process)


def free_port() -> int:
    """A port of the loopback address that nobody listens on at the moment."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


def _wait_until_ready(
    process: subprocess.Popen[bytes],
    url: str,
    log: Path,
    seconds: float,
    on_wait: Callable[[float], None] | None,
) -> None:
    started = time.monotonic()
    while (waited := time.monotonic() - started) < seconds:
        if process.poll() is not None:
            raise ChildFailed(
                f"the server ended with exit code {process.returncode} before it served: "
                f"{_tail(log)}",
                remedy=f"read {log}",
            )
        if on_wait:
            on_wait(waited)
        with suppress(httpx.TransportError):
            if httpx.get(url, timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(0.25)
    raise ChildFailed(
        f"the server was not ready after {seconds:g} seconds: {_tail(log)}", remedy=f"read {log}"
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop; then end what is left of its own process group."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-2000:] or "it printed nothing"
