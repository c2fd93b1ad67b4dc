"""What the routes work with: the engine's life, the adapters, who may ask and whose turn it is.

The way of a request: key → checked fields → version → the key's limits → a seat (fair admission) →
a lease on the loaded version → the engine.
"""

import hashlib
import hmac
import logging
import secrets
from collections import Counter
from dataclasses import dataclass, field

from fastapi import Request

from registry import DEFAULT_BASE, Base, Limits, Registry, Version
from serve.adapters import Adapters
from serve.admission import Admission
from serve.auth import Authenticator, Principal
from serve.engine import Engine
from serve.errors import EngineNotReady, RequestError
from serve.limits import KeyLimits, RateLimits
from serve.metrics import Metrics
from serve.registry_link import RegistryLink
from serve.scrape import Scrape
from serve.settings import ServeSettings
from serve.supervisor import Supervisor
from serve.worker_child import WorkerChild

logger = logging.getLogger(__name__)

DRAINING = "The server is draining; ask another one, or try again later."


@dataclass
class Service:
    """One a server; `request.app.state.service` in a route."""

    settings: ServeSettings
    engine: Engine
    registry: Registry
    link: RegistryLink
    base: Base
    metrics: Metrics
    adapters: Adapters
    admission: Admission
    limits: KeyLimits
    authenticator: Authenticator
    vocabulary: int | None
    supervisor: Supervisor = field(init=False)
    scrape: Scrape = field(init=False)
    worker: WorkerChild | None = None
    draining: bool = False
    uploading: Counter[str] = field(default_factory=Counter)
    """Files that are being received, by tenant."""
    _salt: bytes = field(default_factory=lambda: secrets.token_bytes(32))
    _held: list[Version] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.supervisor = Supervisor(
            self.engine,
            self.metrics,
            ping_seconds=self.settings.ping_seconds,
            hang_seconds=self.settings.hang_seconds,
            on_down=self._engine_down,
            on_up=self._engine_up,
        )
        self.scrape = Scrape(
            self.metrics,
            self.engine,
            self.adapters,
            self.admission,
            self.registry,
            self.link,
            self.base,
            self.settings,
            is_ready=lambda: self.ready,
        )

    @classmethod
    def create(
        cls, settings: ServeSettings, engine: Engine, registry: Registry, base: Base
    ) -> "Service":
        """Wire the parts; nothing starts."""
        metrics = Metrics(
            base.id, adapters=settings.metrics_adapters, tenants=settings.metrics_tenants
        )
        link = RegistryLink(registry)
        adapters = Adapters(
            registry,
            link,
            engine,
            base,
            metrics,
            limits=Limits(max_rank=settings.max_lora_rank),
            load_timeout=settings.load_timeout_seconds,
        )
        admission = Admission(
            seats=settings.max_num_seqs,
            slots=settings.max_loras,
            max_queue=settings.max_queue,
            max_queue_per_tenant=settings.max_queue_per_tenant,
            queue_seconds=settings.queue_seconds,
        )
        return cls(
            settings,
            engine,
            registry,
            link,
            base,
            metrics,
            adapters,
            admission,
            RateLimits(),
            Authenticator(link, settings.stale_seconds),
            base.vocabulary,
        )

    async def start(self) -> None:
        """Read the registry and begin to start the engine.

        The server listens meanwhile and says that it is not ready.
        """
        await self.link.start()
        self.supervisor.start()

    async def stop(self) -> None:
        """Stop the engine, also one that is still starting; what it still answers gets an error."""
        self.drain()
        await self.supervisor.stop()
        self.adapters.forget()
        await self.link.stop()

    def drain(self) -> None:
        """Admit nothing more; requests in flight go on."""
        self.draining = True
        self.admission.close(DRAINING, "draining")

    def resume(self) -> None:
        """Admit requests again after `drain`."""
        self.draining = False
        if self.supervisor.state == "up":
            self.admission.open()

    @property
    def ready(self) -> bool:
        """Whether requests can be answered."""
        up = self.supervisor.state == "up" and self.engine.alive
        return up and not self.draining and self.authenticator.believes_keys

    @property
    def status(self) -> str:
        """ready, starting, restarting, draining, failed, or registry away: keys are too old."""
        if self.draining:
            return "draining"
        if self.ready:
            return "ready"
        if self.supervisor.hopeless:
            return "failed"
        if self.supervisor.state == "starting":
            return "starting"
        return (
            "registry away" if self.supervisor.state == "up" and self.engine.alive else "restarting"
        )

    @property
    def base_place(self) -> str:
        """Where a worker, elsewhere too, finds the base: what `resolve_base` takes."""
        base = self.base
        if base.revision is not None:
            return f"{base.id}@{base.revision}"
        if base.path == self.registry.settings.bases / DEFAULT_BASE:
            return DEFAULT_BASE
        return str(base.path)

    def admit(self) -> None:
        """Raises: EngineNotReady."""
        if self.draining:
            raise EngineNotReady(DRAINING, refusal="draining")
        if not self.ready:
            raise EngineNotReady(f"The server is {self.status}; GET /ready says when it serves.")

    def cache_salt(self, tenant: str) -> str:
        """What keeps a tenant's part of the prefix cache its own; nobody else can know it."""
        return hmac.new(self._salt, tenant.encode(), hashlib.sha256).hexdigest()

    async def not_finite(self, version: Version | None) -> None:
        """The engine's output was not finite: the adapter's fault, or else the engine is sick."""
        reason = "its log-probabilities were not finite"
        if version is None:
            self.supervisor.restart(f"the base model is sick: {reason}")
        else:
            await self.adapters.quarantine(version, reason)

    def _engine_down(self, reason: str) -> None:
        self._held = self.adapters.forget() or self._held
        self.admission.close("The engine has stopped; it is started again, try in a moment.")

    async def _engine_up(self) -> None:
        """Bring the engine to what it held before, the most recently used versions first."""
        if not self.draining:
            self.admission.open()
        held, self._held = self._held, []
        for version in reversed(held):
            try:
                async with self.adapters.lease(version):
                    pass
            except RequestError as error:
                logger.error("%s was served before, and is not now: %s", version.reference, error)
            if not self.engine.alive:
                return


def service_of(request: Request) -> Service:
    """The service behind a request."""
    service: Service = request.app.state.service
    return service


def principal_of(request: Request) -> Principal:
    """Who a request is from."""
    principal: Principal = request.state.principal
    return principal
