"""The process around the application: the socket, uvicorn, the engine's end."""

import asyncio
import errno
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn
import uvloop

from registry import Base, Registry
from serve.app import create_app
from serve.engine import Engine
from serve.errors import PortInUse, ServeError
from serve.metrics_server import serving_metrics
from serve.service import Service
from serve.settings import ServeSettings
from serve.worker_child import WorkerChild

ERROR_SECONDS = 5
"""For telling the clients whose answers are cut at the end of the drain."""


def bind(host: str, port: int, option: str = "--port") -> socket.socket:
    """A listening socket, before anything expensive is started; `option` is what `port` was given.

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
                f"port {port} of {host} is in use", remedy=f"try {option} {port + 1}"
            ) from error
        raise ServeError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            remedy=f"check --host and {option}",
        ) from error
    return listener


def run(
    settings: ServeSettings,
    engine: Engine,
    registry: Registry,
    base: Base,
    listener: socket.socket,
    on_ready: Callable[[], None],
    worker: WorkerChild | None = None,
    metrics_listener: socket.socket | None = None,
) -> None:
    """Serve until a signal ends it; `worker` runs from the first moment of readiness to the drain.

    `metrics_listener` is where `/metrics` is alone, if anywhere.
    Raises: EngineFailed when the engine does not start.
    """
    app = create_app(settings, engine, registry, base)
    config = uvicorn.Config(
        app,
        log_config=None,  # its lines come out as ours do
        log_level="info" if settings.verbose else "warning",
        access_log=False,
        timeout_graceful_shutdown=settings.drain_seconds + ERROR_SECONDS,
        h11_max_incomplete_event_size=64 * 1024,
        server_header=False,
    )
    app.state.service.worker = worker
    server = _Server(config, app.state.service)
    uvloop.run(_serve(server, listener, on_ready, metrics_listener))


async def _serve(
    server: "_Server",
    listener: socket.socket,
    on_ready: Callable[[], None],
    metrics_listener: socket.socket | None,
) -> None:
    service = server.service

    async def announce() -> None:
        try:
            await service.supervisor.wait_started()
        except Exception:
            server.should_exit = True
            return
        on_ready()
        if service.worker is not None:
            service.worker.start()

    announcement = asyncio.create_task(announce())
    async with serving_metrics(service.scrape, metrics_listener):
        await server.serve(sockets=[listener])
    announcement.cancel()
    await asyncio.gather(announcement, return_exceptions=True)
    if service.supervisor.failure is not None:
        raise service.supervisor.failure


class _Server(uvicorn.Server):
    """Ends on SIGTERM and Ctrl-C in good order, with exit code 0.

    What waits is refused at once; answers under way may take `drain_seconds`, then they end with an
    error. A second Ctrl-C does not wait.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """As uvicorn's, but the signal is not raised again at the end."""
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True
        if self.force_exit and self.service.worker is not None:
            self.service.worker.kill()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop admission and the worker, wait for the answers, stop the engine."""
        self.service.drain()
        cut = asyncio.create_task(self._cut_answers())
        worker = asyncio.create_task(self._stop_worker())
        await super().shutdown(sockets)
        cut.cancel()
        await worker

    async def _stop_worker(self) -> None:
        if self.service.worker is not None:
            await self.service.worker.stop()

    async def _cut_answers(self) -> None:
        await asyncio.sleep(self.service.settings.drain_seconds)
        await self.service.supervisor.stop()
