"""Child servers: started, awaited, and ended whatever happens."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from serve.child import ChildFailed, running

SERVER = """
import os, signal, subprocess, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers()
        self.wfile.write(f"{os.getpid()} {child.pid} {os.environ['MARK']}".encode())
    def log_message(self, *_): pass
signal.signal(signal.SIGINT, lambda *_: os._exit(0))
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""
"""A server with a process of its own that it leaves behind when it ends."""

COMMAND = (sys.executable, "-c", SERVER)
ENV = {"MARK": "here"}


def pids(url: str) -> list[int]:
    *numbers, mark = httpx.get(url, trust_env=False).text.split()
    assert mark == "here"
    return [int(number) for number in numbers]


def gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z":
            return True
        time.sleep(0.05)
    return False


def test_a_server_ends_with_its_block_and_so_does_what_it_started(tmp_path: Path) -> None:
    with running(COMMAND, tmp_path / "log", ready_path="/", env=ENV) as server:
        own = pids(server.url)
    assert all(gone(pid) for pid in own)


def test_a_server_ends_when_the_block_fails(tmp_path: Path) -> None:
    own: list[int] = []

    def use() -> None:
        with running(COMMAND, tmp_path / "log", ready_path="/", env=ENV) as server:
            own.extend(pids(server.url))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        use()
    assert len(own) == 2
    assert all(gone(pid) for pid in own)


def test_ctrl_c_ends_the_server(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from serve.child import running\n"
        f"log = Path({str(tmp_path / 'log')!r})\n"
        f"with running({COMMAND!r}, log, ready_path='/', env={ENV!r}) as server:\n"
        "    print(server.url, flush=True)\n"
        "    time.sleep(600)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as bench:
        assert bench.stdout is not None
        own = pids(bench.stdout.readline().strip())
        bench.send_signal(signal.SIGINT)
        assert bench.wait(30) != 0
    assert all(gone(pid) for pid in own)


def test_a_server_that_dies_is_told_with_its_log(tmp_path: Path) -> None:
    command = (sys.executable, "-c", "print('no memory'); raise SystemExit(3)")
    log = tmp_path / "log"
    with (
        pytest.raises(ChildFailed, match="no memory") as caught,
        running(command, log, ready_path="/"),
    ):
        pass
    assert caught.value.remedy == f"read {log}"
    assert log.read_text().startswith("no memory")
