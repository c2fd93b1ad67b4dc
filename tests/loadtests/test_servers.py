"""Servers under comparison: started, awaited, and ended whatever happens."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from loadtests.servers import Capacity, ServerFailed, ServerPlan, lorikeet_plan, running, stock_plan

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

CAPACITY = Capacity("float32", 8, 16, 32, 2048, 1.0)


@pytest.fixture
def plan() -> ServerPlan:
    return ServerPlan("fake", (sys.executable, "-c", SERVER), "/ready", {"MARK": "here"})


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


def test_a_server_ends_with_its_block_and_so_does_what_it_started(
    plan: ServerPlan, tmp_path: Path
) -> None:
    with running(plan, tmp_path / "log") as url:
        own = pids(url)
    assert all(gone(pid) for pid in own)


def test_a_server_ends_when_the_block_fails(plan: ServerPlan, tmp_path: Path) -> None:
    own: list[int] = []

    def use() -> None:
        with running(plan, tmp_path / "log") as url:
            own.extend(pids(url))
            raise RuntimeError

    with pytest.raises(RuntimeError):
        use()
    assert len(own) == 2
    assert all(gone(pid) for pid in own)


def test_ctrl_c_ends_the_server(plan: ServerPlan, tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from loadtests.servers import ServerPlan, running\n"
        f"plan = ServerPlan('fake', {plan.command!r}, '/ready', {dict(plan.environment)!r})\n"
        f"with running(plan, Path({str(tmp_path / 'log')!r})) as url:\n"
        "    print(url, flush=True)\n"
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
    plan = ServerPlan(
        "fake", (sys.executable, "-c", "print('no memory'); raise SystemExit(3)"), "/"
    )
    log = tmp_path / "log"
    with pytest.raises(ServerFailed, match="exit code 3") as caught, running(plan, log):
        pass
    assert caught.value.remedy == f"read {log}"
    assert log.read_text().startswith("no memory")


def test_both_servers_get_the_same_slots_and_stock_none_of_our_plugins(tmp_path: Path) -> None:
    stock = stock_plan(
        "stock", tmp_path / "base", "base", {"a": tmp_path / "a"}, CAPACITY, cpu=True
    )
    ours = lorikeet_plan("ours", tmp_path / "base", tmp_path / "home", CAPACITY)
    for plan in (stock, ours):
        given = dict(zip(plan.command, plan.command[1:], strict=False))
        assert given["--max-loras"] == "8"
        assert given["--max-lora-rank"] == "16"
        assert given["--max-num-seqs"] == "32"
        assert given["--dtype"] == "float32"
    assert stock.environment["VLLM_PLUGINS"] == ""
    assert f"a={tmp_path / 'a'}" in stock.command
    assert str(2**30) in stock.command
    assert ours.environment["LORIKEET_HOME"] == str(tmp_path / "home")
    assert os.environ.get("LORIKEET_HOME") != str(tmp_path / "home")
