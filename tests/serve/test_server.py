"""The process: `lorikeet serve` on the echo engine, asked by `lorikeet ask`, stopped by signals."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from registry import Registry
from serve.child import child_server, free_port


def test_serve_ask_and_stop(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with child_server(["--engine", "echo"], log) as server:
        asked = [sys.executable, "-m", "lorikeet", "ask", "--url", f"{server.url}/v1"]
        answer = subprocess.run(
            [*asked, "smollm2-135m-instruct", "hello"], capture_output=True, text=True
        )
        assert answer.stdout == "smollm2-135m-instruct: hello\n"
        piped = subprocess.run(
            [*asked, "smollm2-135m-instruct"], input="from a file\n", capture_output=True, text=True
        )
        assert piped.stdout == "smollm2-135m-instruct: from a file\n"
        unknown = subprocess.run([*asked, "nobody", "hi"], capture_output=True, text=True)
        assert unknown.returncode == 1
        assert "`nobody` does not exist" in unknown.stderr
        assert "lorikeet adapters list" in unknown.stderr
    assert "Serving" in log.read_text()
    assert "stopped" in log.read_text()
    assert "Traceback" not in log.read_text()


LONG = "word " * 40
STREAM = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": LONG}],
    "stream": True,
}


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_streams_end_and_exits_with_0(
    home: Path, slow_server: Callable[..., Any], sent: signal.Signals
) -> None:
    with slow_server(token_seconds=0.05) as (process, url), httpx.Client(base_url=url) as client:
        with client.stream("POST", "/v1/chat/completions", json=STREAM) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(sent)
            time.sleep(0.5)
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{url}/ready")
            rest = [line for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        assert process.wait(20) == 0


def test_an_answer_that_outlives_the_drain_ends_with_an_error(
    home: Path, slow_server: Callable[..., Any]
) -> None:
    with (
        slow_server(token_seconds=0.5, drain_seconds=1) as (process, url),
        httpx.Client(base_url=url, timeout=30) as client,
    ):
        with client.stream("POST", "/v1/chat/completions", json=STREAM) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            last = [line for line in lines if line][-1]
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        assert process.wait(20) == 0


@pytest.fixture
def slow_server(home: Path) -> Callable[..., Any]:
    """`with slow_server(token_seconds=…) as (process, url)`: a server that takes its time."""

    @contextmanager
    def serving(*, token_seconds: float, drain_seconds: int = 30) -> Any:
        port = free_port()
        program = f"""
from registry import Registry, RegistrySettings, resolve_base
from serve.engine.echo import EchoEngine
from serve.server import bind, run
from serve.settings import ServeSettings
settings = ServeSettings(engine="echo", port={port}, drain_seconds={drain_seconds})
places = RegistrySettings()
with Registry.open(places) as registry, bind("127.0.0.1", {port}) as listener:
    engine = EchoEngine(token_seconds={token_seconds})
    base = resolve_base(settings.base, places)
    run(settings, engine, registry, base, listener, lambda: print("Serving", flush=True))
"""
        with subprocess.Popen(
            [sys.executable, "-c", program], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert "Serving" in process.stdout.readline()
            try:
                yield process, f"http://127.0.0.1:{port}"
            finally:
                process.kill()

    return serving


def test_another_host_needs_keys_or_insecure(home: Path) -> None:
    command = [sys.executable, "-m", "lorikeet", "serve", "--engine", "echo", "--port", "0"]
    refused = subprocess.run([*command, "--host", "0.0.0.0"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "lorikeet keys create" in refused.stderr
    with Registry.open() as registry:
        registry.keys.create("acme")
    with subprocess.Popen(
        [*command, "--host", "0.0.0.0"], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        assert any("Serving" in line for line in process.stderr)
        process.send_signal(signal.SIGTERM)
        process.stderr.read()
    assert process.returncode == 0
