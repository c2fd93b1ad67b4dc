"""`--metrics-port`: `/metrics` on a port of its own, without keys, and nothing else there."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import uvicorn
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from serve.scrape import Scrape

STOP_SECONDS = 2
"""For a scrape that is under way at the end."""


def metrics_app(scrape: Scrape) -> Starlette:
    """The application that Prometheus asks."""

    async def metrics(_: Request) -> Response:
        return Response(await scrape.text(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/metrics", metrics)])


@asynccontextmanager
async def serving_metrics(scrape: Scrape, listener: socket.socket | None) -> AsyncIterator[None]:
    """Answers on `listener`, which may be None, until the context ends."""
    if listener is None:
        yield
        return
    config = uvicorn.Config(
        metrics_app(scrape),
        log_config=None,
        log_level="warning",
        access_log=False,
        lifespan="off",
        server_header=False,
        limit_concurrency=64,
        timeout_graceful_shutdown=STOP_SECONDS,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await task


class _Server(uvicorn.Server):
    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """They are for the server beside this one."""
        yield
