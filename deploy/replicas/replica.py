"""A replica: the server's own application on an engine of its own, in a Ray Serve replica."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

from ray import ObjectRef, serve
from ray.serve.handle import DeploymentHandle
from starlette.types import Message, Scope

from deploy.replicas.exchange import exchange
from deploy.replicas.kept_limits import KeptLimits
from deploy.replicas.router import RANK, READY
from registry import Registry, RegistrySettings, resolve_base
from serve import logs
from serve.app import create_app
from serve.auth import Principal
from serve.engine.environment import keep_metrics_here
from serve.engine.factory import create_engine
from serve.errors import EngineFailed, PortInUse, RequestError
from serve.metrics_server import serving_metrics
from serve.server import bind
from serve.service import Service
from serve.settings import ServeSettings

PORT_SECONDS = 20.0
"""After its drain a replica has ended by then."""
LOOK_SECONDS = 0.5
ACCEPTED: Message = {"type": "lorikeet.accepted"}
"""Who asks knows now that a replica has the request, however long it waits there."""


class Replica:
    """A Ray Serve deployment; it counts as started once its engine answers."""

    async def __init__(  # type: ignore[misc]  # Ray Serve awaits it
        self, settings: ServeSettings, keeper: DeploymentHandle[Any]
    ) -> None:
        self._stack = AsyncExitStack()
        try:
            self._app, self._service = await self._started(settings, keeper)
        except BaseException:
            await self._stack.aclose()
            raise

    async def _started(
        self, settings: ServeSettings, keeper: DeploymentHandle[Any]
    ) -> tuple[Any, Service]:
        context, enter = serve.get_replica_context(), self._stack.enter_context
        enter(logs.to_standard_error(settings.log_format, verbose=settings.verbose))
        keep_metrics_here()
        places = RegistrySettings()
        registry = enter(Registry.open(places))
        base = await asyncio.to_thread(resolve_base, settings.base, places)
        app = create_app(settings, create_engine(settings, base, places), registry, base)
        service: Service = app.state.service
        service.limits = await self._stack.enter_async_context(
            KeptLimits(keeper, context.replica_tag)
        )
        await self._stack.enter_async_context(app.router.lifespan_context(app))
        await service.supervisor.wait_started()
        listener = await _metrics_listener(settings, context.rank.rank)
        if listener is not None:
            enter(listener)
        await self._stack.enter_async_context(serving_metrics(service.scrape, listener))
        return app, service

    async def __del__(self) -> None:
        """Ray Serve calls it once the answers under way have ended, or their time has."""
        await self._stack.aclose()

    async def answer(
        self, adapter: str | None, scope: Scope, body: Sequence[bytes | ObjectRef]
    ) -> AsyncIterator[Message]:
        """ACCEPTED, then the ASGI messages that answer a request; the router reads `adapter`."""
        yield ACCEPTED
        pieces = [partial(_fetch, piece) for piece in body]
        async for message in exchange(self._app, scope, pieces):
            yield message

    async def caller(self, authorization: str) -> Principal | None:
        """Who sends this Authorization header; None where the server would refuse it."""
        try:
            return await self._service.authenticator.principal(authorization)
        except RequestError:
            return None

    def record_replica_metadata(self) -> dict[str, Any]:
        """What the routers hear of this replica once."""
        return {RANK: serve.get_replica_context().rank.rank}

    def record_routing_stats(self) -> dict[str, Any]:
        """What they hear of it every second."""
        return {READY: self._service.ready}

    def check_health(self) -> None:
        """Ray Serve replaces a replica for which this raises.

        Raises: EngineFailed when the engine does not come up again by itself.
        """
        if self._service.supervisor.hopeless:
            raise EngineFailed("the engine does not start", remedy="read the replica's log")


async def _metrics_listener(settings: ServeSettings, rank: int) -> socket.socket | None:
    """On the port of the rank, or another of the replicas' that is free.

    One that is upgraded keeps its port until its last answers have ended.
    Raises: PortInUse.
    """
    ports = settings.metrics_ports
    if not ports:
        return None
    deadline = time.monotonic() + settings.drain_seconds + PORT_SECONDS
    while True:
        for port in (ports[rank % len(ports)], *ports):
            try:
                return bind(settings.host, port, "--metrics-port")
            except PortInUse:
                if time.monotonic() > deadline:
                    raise
        await asyncio.sleep(LOOK_SECONDS)


async def _fetch(piece: bytes | ObjectRef) -> bytes:
    if isinstance(piece, bytes):
        return piece
    fetched: bytes = await piece
    return fetched
