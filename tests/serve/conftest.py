"""An application on the echo engine and a registry with two published adapters."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI

from registry import Base, Registry, RegistrySettings, Version, resolve_base
from registry.finetuning.names import steps_adapter
from registry.finetuning.objects import RESULTS, Job
from serve.app import create_app
from serve.engine.echo import EchoEngine
from serve.server import bind
from serve.settings import ServeSettings

Publish = Callable[..., Version]


@pytest.fixture(scope="session")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """The tiny base, identified once."""
    return resolve_base(tiny_base, RegistrySettings(home=tmp_path_factory.mktemp("home")))


@pytest.fixture
def publish(
    registry: Registry, base: Base, tmp_path: Path, make_adapter: Callable[..., Path]
) -> Publish:
    """Publish a valid adapter; another seed gives another version."""

    def published(name: str, seed: int = 0, **options: Any) -> Version:
        folder = tmp_path / f"{name}-{seed}"
        make_adapter(folder, base, seed=seed, **options)
        return registry.publish(folder, name, base=base)

    return published


@pytest.fixture
def train(
    registry: Registry, base: Base, tmp_path: Path, make_adapter: Callable[..., Path]
) -> Callable[[], Job]:
    """Do what a worker does with the next job: two steps, a checkpoint, results, a model."""

    def trained() -> Job:
        checking = registry.queue.claim_validation("worker-1", lease_seconds=60)
        assert checking is not None
        checking.validated({"n_epochs": 1, "batch_size": 8, "learning_rate_multiplier": 1.0})
        claim = registry.queue.claim_training("worker-1", lease_seconds=60)
        assert claim is not None
        job = claim.job
        for step in (1, 2):
            figures = {"step": step, "total_steps": 2, "train_loss": 2.0 / step}
            claim.metrics(step, f"Step {step}/2: training loss={2.0 / step:.2f}", figures)
        made = make_adapter(tmp_path / job.id, base, seed=int(job.seed))
        owned: dict[str, Any] = {"base": base, "origin": "fine-tune", "tenant": job.tenant}
        step_2 = registry.publish(made, steps_adapter(job.adapter), **owned)
        claim.checkpoint(2, step_2, {"step": 2, "train_loss": 1.0})
        with registry.files.receiving() as incoming:
            incoming.write(b"step,train_loss\n1,2.0\n2,1.0\n")
            results = registry.files.add(
                incoming, tenant=job.tenant, purpose=RESULTS, filename="step_metrics.csv"
            )
        version = registry.publish(made, job.adapter, **owned)
        return claim.succeed(version, trained_tokens=99, result_files=[results.id])

    return trained


@pytest.fixture
def engine() -> EchoEngine:
    return EchoEngine()


class Running:
    """An application in its lifespan, and a client for it."""

    def __init__(self, app: FastAPI, client: httpx.AsyncClient) -> None:
        self.app, self.client = app, client
        self.service = app.state.service

    async def chat(self, model: str, text: str = "hello there", **fields: Any) -> httpx.Response:
        return await self.client.post(
            "/v1/chat/completions",
            json={"model": model, "messages": [{"role": "user", "content": text}], **fields},
        )


@pytest.fixture
def run(registry: Registry, base: Base, engine: EchoEngine) -> Callable[..., Any]:
    """`async with run(**settings) as running:` starts the application on the echo engine."""

    @asynccontextmanager
    async def running(
        engine: Any = engine, registry: Registry = registry, **settings: Any
    ) -> AsyncIterator[Running]:
        app = create_app(ServeSettings(engine="echo", **settings), engine, registry, base)
        transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://test") as client,
        ):
            await app.state.service.supervisor.wait_started()
            yield Running(app, client)

    return running


@pytest.fixture
def free_server() -> Callable[[FastAPI], Any]:
    """`async with free_server(app) as url:` serves an application that already runs."""

    @asynccontextmanager
    async def serving(app: FastAPI) -> AsyncIterator[str]:
        config = uvicorn.Config(app, port=0, lifespan="off", log_level="error")
        server = uvicorn.Server(config)
        with bind("127.0.0.1", 0) as listener:
            task = asyncio.create_task(server.serve(sockets=[listener]))
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            server.should_exit = True
            await task

    return serving


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
