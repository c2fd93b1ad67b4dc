"""What goes wrong at night, on the real engine: killed, hung, disk full, files gone, clients gone.

In each case the clients are told, nothing else is hurt, and everything is served again without an
operator.
"""

import asyncio
import json
import os
import resource
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from registry import Registry, RegistrySettings


@pytest.fixture(scope="module")
def served(serve: Any) -> Iterator[Any]:
    """One server for all that a server survives."""
    with serve() as running:
        yield running


def until(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.1)


def _stream(served: Any, model: str, tokens: int, on_event: Callable[[], None]) -> list[str]:
    """The events of a long answer; `on_event` is called after the first."""
    events: list[str] = []
    body = served.body(model, max_tokens=tokens, stream=True)
    with (
        httpx.Client(base_url=served.url, headers=served.client.headers, timeout=90) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as stream,
    ):
        for line in stream.iter_lines():
            if line:
                events.append(line.removeprefix("data: "))
                on_event()
    return events


def test_an_engine_killed_or_hung_under_load_comes_back(served: Any) -> None:
    with ThreadPoolExecutor(8) as pool:
        before = served.answers()
        for sent in (signal.SIGKILL, signal.SIGSTOP):
            started = [0]

            def count(started: list[int] = started) -> None:
                started[0] += 1

            core = served.engine()
            streams = [
                pool.submit(_stream, served, model, 1900, count)
                for model in (served.base.id, "a", "b", served.base.id)
            ]
            until(lambda started=started: started[0] > 20)  # type: ignore[misc]
            os.kill(core.pid, sent)
            for stream in streams:
                error = json.loads(stream.result(timeout=60)[-1])["error"]
                assert error["type"] == "server_error"
                assert "Traceback" not in error["message"]
            refused = served.ask("a")
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            ready = served.client.get("/ready")
            assert (ready.status_code, ready.json()["status"]) == (503, "restarting")
            assert served.client.get("/health").status_code == 200
            served.wait_ready()
            assert not core.is_running() or core.status() == psutil.STATUS_ZOMBIE
            assert served.answers() == before
        assert served.metric("lorikeet_engine_restarts_total") == 2
        assert served.metric('lorikeet_adapters{tier="cpu"}') == 3


def test_clients_files_and_disks_that_go(served: Any, make_adapter: Any, tmp_path: Path) -> None:
    """200 clients disconnect; an adapter's folder is removed; the disk is full for an upload."""
    before = served.answers()

    async def leave(number: int) -> None:
        model = served.models[number % len(served.models)]
        body = served.body(model, max_tokens=1900, stream=number % 2 == 0)
        async with httpx.AsyncClient(base_url=served.url, headers=served.client.headers) as one:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2 + number % 5 / 10):
                    await one.post("/v1/chat/completions", json=body)

    async def all_leave() -> None:
        for first in range(0, 200, 50):
            await asyncio.gather(*(leave(first + n) for n in range(50)))

    asyncio.run(all_leave())
    until(lambda: served.metric("lorikeet_requests_running") == 0)
    assert served.metric("lorikeet_requests_queued") == 0
    rows = served.client.get("/admin/adapters").json()["data"]
    assert {row["leases"] for row in rows} == {0}
    assert served.answers() == before
    until(lambda: served.metric("vllm:num_requests_running") == 0)

    with Registry.open(RegistrySettings(home=served.home, database_url=None)) as registry:
        folder = registry.get("a").path
        kept = tmp_path / "kept"
        shutil.copytree(folder, kept)
        _remove(folder)
        assert served.answers() == before  # the engine holds what it loaded
        assert served.client.post("/admin/adapters/a/unload").status_code == 200
        gone = served.ask("a")
        assert (gone.status_code, gone.json()["error"]["code"]) == (400, "adapter_refused")
        assert str(served.home) not in gone.text
        assert served.ask("b").status_code == 200
        shutil.copytree(kept, folder)
        assert served.client.post("/admin/adapters/a/release").status_code == 200
        assert served.answers() == before

    adapter = make_adapter(tmp_path / "large", served.base, rank=64, seed=9)
    files = [
        ("file", (name, (adapter / name).read_bytes()))
        for name in ("adapter_config.json", "adapter_model.safetensors")
    ]
    limit = resource.prlimit(served.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(served.pid, resource.RLIMIT_FSIZE, (100_000, limit[1]))
    full = served.client.post("/admin/adapters/large", files=files)
    resource.prlimit(served.pid, resource.RLIMIT_FSIZE, limit)
    assert full.status_code == 503, full.text
    assert served.answers() == before
    assert served.client.post("/admin/adapters/large", files=files).status_code == 201
    assert served.ask("large").status_code == 200


def test_a_killed_server_leaves_no_engine_and_the_next_one_serves_the_same(
    served: Any, serve: Any
) -> None:
    """And that one, told to stop under load, lets streams end."""
    before = served.answers()
    family = psutil.Process(served.pid).children(recursive=True)
    os.kill(served.pid, signal.SIGKILL)
    _, alive = psutil.wait_procs(family, timeout=20)
    assert alive == []
    with serve() as again, ThreadPoolExecutor(8) as pool:
        assert again.answers() == before
        started = [0]

        def count() -> None:
            started[0] += 1

        streams = [
            pool.submit(_stream, again, model, 200, count) for model in again.models for _ in "xy"
        ]
        until(lambda: started[0] > 10)

        def arrived() -> float:
            done = sum(stream.done() for stream in streams)
            waiting = again.metric("lorikeet_requests_queued")
            return done + waiting + again.metric("lorikeet_requests_running")

        until(lambda: arrived() >= len(streams))
        process = psutil.Process(again.pid)
        process.send_signal(signal.SIGTERM)
        finished = [stream.result(timeout=60) for stream in streams]
        # Those that were answered end whole; those that still waited are told.
        whole = [events for events in finished if events[-1] == "[DONE]"]
        assert len(whole) >= 4
        for events in finished:
            assert events[-1] == "[DONE]" or "error" in json.loads(events[-1])
        until(lambda: not process.is_running() or process.status() == psutil.STATUS_ZOMBIE)


def _remove(folder: Path) -> None:
    folder.chmod(0o755)
    shutil.rmtree(folder)
