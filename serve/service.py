"""What the routes work with: the settings, the engine, the registry and the adapters' life."""

import asyncio
import logging
from dataclasses import dataclass, field

from fastapi import Request

from registry import Base, Limits, Registry
from serve.adapters import Adapters
from serve.engine import Engine
from serve.errors import EngineNotReady, Overloaded
from serve.metrics import Metrics
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)


@dataclass
class Service:
    """One a server; `request.app.state.service` in a route."""

    settings: ServeSettings
    engine: Engine
    registry: Registry
    base: Base
    metrics: Metrics
    adapters: Adapters
    running: int = 0
    failure: Exception | None = None
    draining: bool = False
    _starting: asyncio.Task[None] | None = None
    _settled: asyncio.Event = field(default_factory=asyncio.Event)

    @classmethod
    def create(
        cls, settings: ServeSettings, engine: Engine, registry: Registry, base: Base
    ) -> "Service":
        """Wire the parts; nothing starts."""
        metrics = Metrics()
        adapters = Adapters(
            registry,
            engine,
            base,
            metrics,
            limits=Limits(max_rank=settings.max_lora_rank),
            load_timeout=settings.load_timeout_seconds,
        )
        metrics.engine_up.set_function(lambda: float(engine.alive))
        return cls(settings, engine, registry, base, metrics, adapters)

    def start(self) -> None:
        """Begin to start the engine; the server listens meanwhile and says that it is not ready."""
        self._starting = asyncio.create_task(self._start())

    async def _start(self) -> None:
        try:
            await self.engine.start(self.metrics.observe)
        except Exception as error:
            self.failure = error
            logger.error("%s", error)
        finally:
            self._settled.set()

    async def wait_started(self) -> None:
        """Return when the engine has started.

        Raises: what the engine's start raised.
        """
        await self._settled.wait()
        if self.failure is not None:
            raise self.failure

    async def stop(self) -> None:
        """Stop the engine, also one that is still starting."""
        self.draining = True
        if self._starting is not None:
            await asyncio.wait([self._starting])
        await self.engine.stop()

    @property
    def failed(self) -> bool:
        """Whether the engine did not start, or has died; only a restart helps."""
        return self._settled.is_set() and not self.engine.alive and not self.draining

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        return self.engine.alive and not self.draining

    def admit(self) -> None:
        """Raises: EngineNotReady, or Overloaded when the queue is full."""
        if not self.ready:
            state = "stopping" if self.draining else "not ready yet"
            raise EngineNotReady(f"The server is {state}; GET /ready says when it serves.")
        if self.running >= self.settings.max_queue:
            raise Overloaded("The server's queue is full; try again in a moment.")


def service_of(request: Request) -> Service:
    """The service behind a request."""
    service: Service = request.app.state.service
    return service
