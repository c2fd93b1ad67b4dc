"""The process around the application: the socket, uvicorn, the engine's end."""

import asyncio
import contextlib
import errno
import logging
import socket
from collections.abc import Callable

import uvicorn
from fastapi import FastAPI

from registry import Base, Registry
from serve.app import create_app
from serve.engine import Engine
from serve.errors import PortInUse, ServeError
from serve.service import Service
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)


def bind(host: str, port: int) -> socket.socket:
    """A listening socket, before anything expensive is started.

    Raises: PortInUse, ServeError.
    """
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise PortInUse(
                f"port {port} of {host} is in use", remedy=f"try --port {port + 1}"
            ) from error
        raise ServeError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            remedy="check --host and --port",
        ) from error
    return listener


def run(
    settings: ServeSettings,
    engine: Engine,
    registry: Registry,
    base: Base,
    listener: socket.socket,
    on_ready: Callable[[], None],
) -> None:
    """Serve until a signal ends it.

    Raises: EngineFailed when the engine does not start.
    """
    app = create_app(settings, engine, registry, base)
    config = uvicorn.Config(
        app,
        log_level="info" if settings.verbose else "warning",
        access_log=settings.verbose,
        timeout_graceful_shutdown=settings.drain_seconds,
        h11_max_incomplete_event_size=64 * 1024,
        server_header=False,
    )
    # uvicorn stops in good order on Ctrl-C and raises the signal again afterwards.
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(app, uvicorn.Server(config), listener, on_ready))


async def _serve(
    app: FastAPI, server: uvicorn.Server, listener: socket.socket, on_ready: Callable[[], None]
) -> None:
    service: Service = app.state.service

    async def announce() -> None:
        try:
            await service.wait_started()
        except Exception:
            server.should_exit = True
            return
        on_ready()

    announcement = asyncio.create_task(announce())
    await server.serve(sockets=[listener])
    announcement.cancel()
    await asyncio.gather(announcement, return_exceptions=True)
    if service.failure is not None:
        raise service.failure
