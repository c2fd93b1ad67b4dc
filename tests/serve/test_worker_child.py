"""The worker beside the server: started with it, started again, stopped and never left behind."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import ValidationError

import serve.worker_child
from registry import Registry
from serve.child import free_port
from serve.server import bind
from serve.settings import ServeSettings
from serve.worker_child import NICE, WorkerChild, worker_command
from train.worker.settings import WorkerSettings

pytestmark = pytest.mark.anyio

WORKER = """
import os, signal, sys, time
from pathlib import Path
folder, how = Path(sys.argv[1]), sys.argv[2]
def given_back(*_):
    (folder / "given-back").touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN if how == "deaf" else given_back)
print(f"{how} in {os.environ.get('MARK')}", flush=True)
child = os.fork()
if child == 0:
    time.sleep(600)
with (folder / "pids").open("a") as file:
    file.write(f"{os.getpid()} {child}\\n")
if how == "dying":
    sys.exit(3)
time.sleep(600)
"""
"""Ends as told, and has a child of its own."""


def command(folder: Path, how: str) -> list[str]:
    return [sys.executable, "-c", WORKER, str(folder), how]


async def pids(folder: Path, starts: int = 1) -> list[int]:
    """Of the worker and its child, by its newest start."""
    file = folder / "pids"
    async with asyncio.timeout(20):
        while not file.exists() or file.read_text().count("\n") < starts:
            await asyncio.sleep(0.02)
    return [int(number) for number in file.read_text().splitlines()[-1].split()]


async def gone(*numbers: int) -> bool:
    """Whether all of them end within a while."""
    deadline = time.monotonic() + 10
    while any(map(_lives, numbers)) and time.monotonic() < deadline:
        await asyncio.sleep(0.02)
    return not any(map(_lives, numbers))


async def get(url: str, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(trust_env=False) as client:
        return await client.get(url, **options)


async def get_until_refused(url: str) -> None:
    while True:
        await asyncio.sleep(0.05)
        await get(url)


def _lives(number: int) -> bool:
    stat = Path(f"/proc/{number}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def test_it_is_asked_to_stop_and_leaves_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MARK", "its own environment")
    worker = WorkerChild(command(tmp_path, "well"))
    monkeypatch.setenv("MARK", "the engine's")
    worker.start()
    own = await pids(tmp_path)
    assert worker.status() == {"state": "running", "pid": own[0], "restarts": 0}
    assert os.getsid(own[0]) == own[0]
    await worker.stop()
    assert (tmp_path / "given-back").exists()
    assert await gone(*own)
    assert worker.status()["state"] == "stopped"
    assert "worker | well in its own environment\n" in capfd.readouterr().err
    worker.start()
    assert worker.status()["state"] == "stopped"


async def test_one_that_dies_is_started_again_after_growing_pauses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(serve.worker_child, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(serve.worker_child, "LONGEST_PAUSE_SECONDS", 0.02)
    monkeypatch.setattr(serve.worker_child, "LOOK_SECONDS", 0.01)
    worker = WorkerChild(command(tmp_path, "dying"))
    worker.start()
    await pids(tmp_path, starts=3)
    assert worker.status()["restarts"] >= 2
    await worker.stop()
    orphans = [int(line.split()[1]) for line in (tmp_path / "pids").read_text().splitlines()]
    assert await gone(*orphans)
    told = [r.getMessage() for r in caplog.records if "exit code 3" in r.getMessage()]
    pauses = [message.rpartition(" in ")[2] for message in told]
    assert pauses[:3] in (["0.01 s", "0.02 s"], ["0.01 s", "0.02 s", "0.02 s"])


async def test_a_stop_does_not_wait_for_a_pause_to_end(tmp_path: Path) -> None:
    worker = WorkerChild(["/nowhere/worker"])
    worker.start()
    async with asyncio.timeout(20):
        while worker.status()["state"] != "waiting":
            await asyncio.sleep(0.02)
        await worker.stop()
    assert worker.status()["state"] == "stopped"


async def test_one_that_does_not_stop_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve.worker_child, "STOP_SECONDS", 0.1)
    worker = WorkerChild(command(tmp_path, "deaf"))
    worker.start()
    own = await pids(tmp_path)
    await worker.stop()
    assert not (tmp_path / "given-back").exists()
    assert await gone(*own)


@pytest.mark.parametrize(
    ("host", "url"), [("127.0.0.1", "http://127.0.0.1"), ("0.0.0.0", "http://127.0.0.1")]
)
def test_the_command_names_the_server(host: str, url: str) -> None:
    with bind(host, 0) as listener:
        port = listener.getsockname()[1]
        settings = ServeSettings(with_worker=True, train_window="22:00-06:00")
        options = worker_command(settings, listener)[1:]
        expected = ["-m", "lorikeet", "worker", "--server", f"{url}:{port}", "--nice", str(NICE)]
        assert options == [*expected, "--train-window", "22:00-06:00"]
        assert worker_command(ServeSettings(with_worker=True), listener)[1:] == expected


@pytest.mark.parametrize(
    "window", ["22:00", "24:00-06:00", "22:00-06:60", "22:00-22:00", "06:00-6:00", "night", ""]
)
def test_windows_that_are_none_are_refused_as_the_worker_does(window: str) -> None:
    with pytest.raises(ValidationError, match="22:00-06:00"):
        ServeSettings(with_worker=True, train_window=window)
    with pytest.raises(ValidationError):
        WorkerSettings(train_window=window)  # type: ignore[arg-type]


@pytest.mark.parametrize("window", ["22:00-06:00", "8:00-17:30", "24h"])
def test_the_worker_takes_what_the_server_takes(window: str) -> None:
    assert ServeSettings(with_worker=True, train_window=window).train_window == window
    assert WorkerSettings(train_window=window)  # type: ignore[arg-type]


def test_a_window_without_a_worker_is_refused() -> None:
    with pytest.raises(ValidationError, match="--with-worker"):
        ServeSettings(train_window="22:00-06:00")


@pytest.fixture
def served(home: Path, tmp_path: Path) -> Callable[..., Any]:
    """`with served(how) as (process, url)`: a server with such a worker, until it is killed."""

    @contextmanager
    def serving(how: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
        port = free_port()
        program = f"""
from registry import Registry, RegistrySettings, resolve_base
from serve.engine.echo import EchoEngine
from serve.server import bind, run
from serve.settings import ServeSettings
from serve.worker_child import WorkerChild
settings = ServeSettings(engine="echo", port={port}, with_worker=True)
places = RegistrySettings()
with Registry.open(places) as registry, bind("127.0.0.1", {port}) as listener:
    base = resolve_base(settings.base, places)
    worker = WorkerChild({command(tmp_path, how)!r})
    run(settings, EchoEngine(), registry, base, listener, lambda: print("Serving", flush=True),
        worker)
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


async def test_it_lives_with_the_server_from_readiness_to_drain(
    served: Callable[..., Any], tmp_path: Path, registry: Registry
) -> None:
    _, secret = registry.keys.create("ops", admin=True)
    with served("well") as (process, url):
        own = await pids(tmp_path)
        headers = {"authorization": f"Bearer {secret}"}
        status = await get(f"{url}/admin/status", headers=headers)
        assert status.json()["worker"] == {"state": "running", "pid": own[0], "restarts": 0}
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert (tmp_path / "given-back").exists()
    assert await gone(*own)


async def test_it_ends_with_a_server_that_is_killed(
    served: Callable[..., Any], tmp_path: Path
) -> None:
    with served("deaf") as (process, _):
        worker, child = await pids(tmp_path)
        process.kill()
        assert await gone(worker)
    os.kill(child, signal.SIGKILL)


async def test_a_second_ctrl_c_kills_it(served: Callable[..., Any], tmp_path: Path) -> None:
    with served("deaf") as (process, url):
        own = await pids(tmp_path)
        process.send_signal(signal.SIGINT)
        with pytest.raises(httpx.ConnectError):
            await get_until_refused(f"{url}/ready")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    assert await gone(*own)


async def test_a_server_is_ready_whatever_becomes_of_its_worker(
    served: Callable[..., Any], tmp_path: Path
) -> None:
    with served("dying") as (_, url):
        await pids(tmp_path)
        assert (await get(f"{url}/ready")).status_code == 200
