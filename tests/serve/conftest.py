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
from serve.app import create_app
from serve.engine.echo import EchoEngine
from serve.server import bind
from serve.settings import ServeSettings

Publish = Callable[..., Version]


@pytest.fixture
def base(tiny_base: Path, home: Path) -> Base:
    return resolve_base(tiny_base, RegistrySettings(home=home))


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
    async def running(engine: Any = engine, **settings: Any) -> AsyncIterator[Running]:
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
