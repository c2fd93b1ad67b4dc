"""When the engine's process dies: told at once, in the open stream and to whoever asks next."""

import json
import os
import signal
import time
from pathlib import Path

import httpx
import psutil

from serve.child import child_server


def test_a_killed_engine_is_told_at_once(home: Path, tiny_base: Path, tmp_path: Path) -> None:
    options = ["--base", str(tiny_base), "--kv-cache-gib", "0.2"]
    with (
        child_server(options, tmp_path / "log") as server,
        httpx.Client(base_url=server.url, timeout=60) as client,
    ):
        body = {
            "model": tiny_base.name,
            "messages": [{"role": "user", "content": "hi"}],
            "max_tokens": 1900,
            "ignore_eos": True,
        }
        (engine,) = (
            process
            for process in psutil.Process(server.pid).children(recursive=True)
            if "EngineCore" in " ".join(process.cmdline())
        )
        events: list[str] = []
        with client.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as stream:
            for line in stream.iter_lines():
                events += [line] if line else []
                if len(events) == 5:
                    os.kill(engine.pid, signal.SIGKILL)
        error = json.loads(events[-1].removeprefix("data: "))["error"]
        assert error["type"] == "server_error"

        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 503
        assert answer.headers["retry-after"]
        deadline = time.monotonic() + 10
        while client.get("/health").status_code != 503:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert client.get("/ready").status_code == 503
