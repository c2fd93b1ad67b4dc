"""Replicas by Ray Serve on this machine, with adapters and keys of their own, for tests."""

import asyncio
import json
import random
import re
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from ray_processes import forget_rays_processes

from loadtests.data_folder import DataFolder
from loadtests.traffic import Zipf
from registry import Registry, RegistrySettings, resolve_base
from serve.child import free_port
from serve.settings import ServeSettings

ADAPTERS = tuple(f"tenant-{number:02}" for number in range(1, 65))
READY_SECONDS = 180


@dataclass
class Fleet:
    """Two replicas; `admin` is a key."""

    settings: ServeSettings
    base: str
    admin: str
    router: str = ""
    """The class that routes; "" before the first deployment."""

    def deploy(self, router: Any = None, **changes: Any) -> None:
        """Deploy, or upgrade to changed settings; returns when all replicas are new."""
        from ray import serve

        from deploy.replicas.application import application
        from deploy.replicas.router import AffinityRouter

        self.settings = self.settings.model_copy(update=changes)
        router = router or AffinityRouter
        serve.run(application(self.settings, self.base, router), name="lorikeet")
        self.router = router.__name__
        self.wait_ready()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.port}"

    @property
    def ports(self) -> list[int]:
        """Of the replicas' metrics, by rank."""
        first = self.settings.metrics_port or 0
        return [first + rank for rank in range(self.settings.replicas)]

    def client(self, key: str | None = None) -> httpx.AsyncClient:
        headers = {"authorization": f"Bearer {key or self.admin}"}
        return httpx.AsyncClient(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def metric(self, port: int, name: str, **labels: str) -> float:
        """The sum of a replica's series of that name with these labels."""
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=10, trust_env=False).text
        wanted = [f'{label}="{value}"' for label, value in labels.items()]
        lines = [line for line in text.splitlines() if re.match(rf"{name}[ {{]", line)]
        return sum(float(it.rpartition(" ")[2]) for it in lines if all(w in it for w in wanted))

    def hits(self) -> tuple[float, float]:
        """Requests so far that found their adapter loaded, and those that waited for it."""
        warm, cold = (
            sum(self.metric(port, "lorikeet_adapter_hits_total", kind=kind) for port in self.ports)
            for kind in ("warm", "cold")
        )
        return warm, cold

    def processes(self) -> dict[int, psutil.Process]:
        """The replicas' processes, by their metrics port."""
        family = psutil.Process().children(recursive=True)
        listening = {}
        for process in family:
            if process.name().startswith("ray::"):
                for connection in process.net_connections("inet"):
                    listening[connection.laddr.port] = process
        return {port: listening[port] for port in self.ports if port in listening}

    def processes_named(self, name: str) -> list[psutil.Process]:
        """Ray's processes of that name."""
        family = psutil.Process().children(recursive=True)
        return [process for process in family if process.name().startswith(name)]

    def wait_ready(self) -> None:
        """Until each replica says that it is ready."""
        deadline = time.monotonic() + READY_SECONDS
        while True:
            try:
                if all(self.metric(port, "lorikeet_ready") == 1 for port in self.ports):
                    break
            except httpx.TransportError:
                pass
            assert time.monotonic() < deadline, "the replicas are not ready"
            time.sleep(0.1)


def body(model: str, words: int = 64, **fields: Any) -> dict[str, Any]:
    """Of a chat request whose answer has about so many tokens, 100 a second."""
    text = " ".join(f"w{number}" for number in range(words))
    return {"model": model, "messages": [{"role": "user", "content": text}], **fields}


async def chat(client: httpx.AsyncClient, model: str, **fields: Any) -> httpx.Response:
    return await client.post("/v1/chat/completions", json=body(model, **fields))


async def stream(
    client: httpx.AsyncClient,
    model: str,
    on_event: Callable[[], None] = lambda: None,
    **fields: Any,
) -> list[str]:
    """The data of each event of a streamed answer; of an error its body."""
    asked = body(model, stream=True, **fields)
    async with client.stream("POST", "/v1/chat/completions", json=asked) as response:
        if response.status_code != 200:
            return [(await response.aread()).decode()]
        events = []
        async for line in response.aiter_lines():
            if line.startswith("data: "):
                events.append(line.removeprefix("data: "))
                on_event()
        return events


def failed(events: Sequence[str]) -> bool:
    """Whether a streamed answer ended in an error that says what to do."""
    if events[-1] == "[DONE]":
        return False
    assert json.loads(events[-1])["error"]["type"] == "server_error", events
    return True


async def zipf_traffic(fleet: Fleet, requests: int, exponent: float, seed: int) -> None:
    """Ask for adapters as Zipf says, eight at a time; each must be answered."""
    zipf, source = Zipf(ADAPTERS, exponent), random.Random(seed)
    models = iter([zipf.draw(source) for _ in range(requests)])

    async def user(client: httpx.AsyncClient) -> None:
        for model in models:
            answer = await chat(client, model, max_tokens=1)
            assert answer.status_code == 200, answer.text

    async with fleet.client() as client:
        await gather(user(client) for _ in range(8))


async def gather(work: Iterator[Coroutine[Any, Any, Any]] | Any) -> list[Any]:
    return list(await asyncio.gather(*work))


@contextmanager
def running_fleet(folder: Path, base: Path) -> Iterator[Fleet]:
    """Start Ray, and two replicas of the echo engine on `base`, with 64 published adapters."""
    places = RegistrySettings(home=folder / "home", database_url=None)
    identified = resolve_base(base, places)
    data = DataFolder(places.home, identified)
    data.publish_alike(ADAPTERS, rank=2, modules=1)
    metrics = free_port()
    settings = ServeSettings(
        base=str(base),
        engine="echo",
        port=free_port(),
        replicas=2,
        metrics_port=metrics,
        max_loras=32,
        max_loaded=32,
        max_num_seqs=8,
        drain_seconds=20,
        echo_token_seconds=0.01,
        access_log=False,
    )
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("LORIKEET_HOME", str(places.home))
        environment.delenv("LORIKEET_DATABASE_URL", raising=False)
        for who in ("HANDLE", "REPLICA"):  # else they tell how much they have to do every 10 s
            environment.setenv(f"RAY_SERVE_{who}_AUTOSCALING_METRIC_PUSH_INTERVAL_S", "0.5")
        from deploy.replicas.head import ray_head

        with ray_head(cpus=4):
            from ray import serve

            serve.start(
                proxy_location="HeadOnly",
                http_options={"host": "127.0.0.1", "port": settings.port},
            )
            yield Fleet(settings, identified.id, data.key("ops", admin=True))
            serve.shutdown()
        forget_rays_processes()


def key_of(tenant: str, **limits: int) -> str:
    """A new key."""
    with Registry.open() as registry:
        return registry.keys.create(tenant, **limits)[1]
