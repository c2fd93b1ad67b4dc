"""`lorikeet serve --replicas`: its end by Ctrl-C, by the death of Ray, and what it refuses."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.replicas import machine
from serve.child import free_port
from serve.settings import ServeSettings

BODY = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "word " * 40}],
    "stream": True,
}
SERVE = [sys.executable, "-m", "lorikeet", "serve", "--engine", "echo", "--replicas", "1"]
SERVE += ["--max-replicas", "1"]


@contextmanager
def replicas(log: Path) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    port = free_port()
    environment = {**os.environ, "LORIKEET_SERVE_ECHO_TOKEN_SECONDS": "0.05"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*SERVE, "--port", str(port)], stderr=output, stdout=output, env=environment
        )
    try:
        while "Serving" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.2)
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def family(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def gone(processes: list[psutil.Process]) -> bool:
    """Whether none of them runs; an orphan that ended may wait to be reaped."""
    deadline = time.monotonic() + 10
    while alive := [it for it in processes if it.is_running() and it.status() != "zombie"]:
        if time.monotonic() > deadline:
            print("left:", alive)
            return False
        time.sleep(0.1)
    return True


def told(log: Path, words: str) -> bool:
    """Whether a line with these words comes."""
    deadline = time.monotonic() + 20
    while words not in log.read_text():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def test_ctrl_c_lets_streams_end_and_leaves_no_process(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with replicas(log) as (process, url), httpx.Client(base_url=url, timeout=30) as client:
        everything = family(process)
        client.get("/v1/models")
        client.get("/metrics")
        assert told(log, "serve.access_log: GET /v1/models 200")
        assert told(log, "deploy.replicas.ingress: GET /metrics 404")
        with client.stream("POST", "/v1/chat/completions", json=BODY) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGINT)
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert process.wait(60) == 0
        assert gone(everything)
    assert "stopped" in log.read_text()
    assert "Traceback" not in log.read_text()


def test_a_ray_head_that_dies_ends_the_command_with_an_error(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with replicas(log) as (process, _):
        everything = family(process)
        (head,) = (child for child in everything if child.name() == "gcs_server")
        head.kill()
        assert process.wait(30) == 1
        assert gone(everything)
    assert "error: Ray has ended" in log.read_text()


def test_ctrl_c_counts_while_the_base_is_prepared(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.01)

    monkeypatch.setattr(machine, "resolve_base", prepared)
    settings = ServeSettings(engine="echo", replicas=2, port=free_port())
    with pytest.raises(KeyboardInterrupt):
        machine.serve_replicas(settings)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--replicas", "2", "--with-worker"], "lorikeet worker"),
        (["--replicas", "2", "--max-replicas", "1"], "at least replicas"),
        (["--replicas", "2", "--port", "0"], "--port"),
        (["--replicas", "2", "--metrics-port", "0"], "--metrics-port"),
        (["--replicas", "2", "--port", "9101", "--metrics-port", "9100"], "9100 to 9101"),
        (["--replicas", "2", "--host", "0.0.0.0"], "lorikeet keys create"),
    ],
)
def test_mistakes_are_told_before_ray_starts(home: Path, options: list[str], words: str) -> None:
    done = subprocess.run([*SERVE[:6], *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert words in done.stderr


def test_a_metrics_port_in_use_is_told_before_ray_starts(home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        options = ["--port", str(free_port()), "--metrics-port", str(port)]
        done = subprocess.run([*SERVE, *options], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert f"--metrics-port {port + 1}" in done.stderr
