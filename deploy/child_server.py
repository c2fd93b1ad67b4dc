"""`lorikeet serve` as a child process on a free loopback port, for the demo and for tests."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx

from registry import LorikeetError


class ChildFailed(LorikeetError):
    """A child process ended with an error; its own words are above or in its log."""


@contextmanager
def child_server(
    options: Sequence[str],
    log: Path,
    *,
    env: Mapping[str, str] | None = None,
    seconds: float = 300,
    on_wait: Callable[[float], None] | None = None,
) -> Iterator[str]:
    """The address (`http://127.0.0.1:PORT`) of a server that is ready; it ends with the context.

    `log` takes what the server prints. `on_wait` is called with the seconds waited so far.

    Raises: ChildFailed with the end of the log when the server ends or is not ready in `seconds`.
    """
    port = free_port()
    command = [sys.executable, "-m", "lorikeet", "serve", "--port", str(port), *options]
    url = f"http://127.0.0.1:{port}"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env={**os.environ, **(env or {})}
        )
    try:
        _wait_ready(process, url, log, seconds, on_wait)
        yield url
    finally:
        _end(process)


def free_port() -> int:
    """A port of the loopback address that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_ready(
    process: subprocess.Popen[bytes],
    url: str,
    log: Path,
    seconds: float,
    on_wait: Callable[[float], None] | None,
) -> None:
    started = time.monotonic()
    while process.poll() is None:
        waited = time.monotonic() - started
        if waited > seconds:
            raise ChildFailed(
                f"the server was not ready within {seconds:g} s: {_tail(log)}",
                remedy=f"read {log}",
            )
        if on_wait:
            on_wait(waited)
        try:
            if httpx.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.25)
    raise ChildFailed(f"the server ended before it was ready: {_tail(log)}", remedy=f"read {log}")


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _tail(log: Path) -> str:
    return log.read_text(errors="replace").strip()[-2000:] or "it printed nothing"
