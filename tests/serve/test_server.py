"""The process: `lorikeet serve` on the echo engine, asked by `lorikeet ask`, stopped by signals."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import httpx

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


def test_sigterm_stops_in_good_order(home: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "lorikeet", "serve", "--engine", "echo", "--port", str(port)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if "Serving" in line:
                break
        assert httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
        process.send_signal(signal.SIGTERM)
        assert "Traceback" not in process.stderr.read()
    assert process.returncode in (0, -signal.SIGTERM)
