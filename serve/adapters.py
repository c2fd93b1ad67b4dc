"""The adapters' life in the engine: reference → immutable version → loaded, leased, evicted.

A request takes a lease on its version for as long as it is answered. A version that nobody has
asked for is loaded by the first request that names it (single flight: the others wait for the same
load); when the house is full, the least recently used version without a lease makes room.
"""

import asyncio
import itertools
import logging
import time
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial

from registry import (
    BadReference,
    Base,
    Limits,
    LorikeetError,
    Reference,
    Registry,
    UnknownAdapter,
    Version,
    check_adapter,
)
from serve.engine import Engine, EngineAdapter
from serve.errors import AdapterUnavailable, BadRequest, ModelNotFound
from serve.metrics import Metrics

logger = logging.getLogger(__name__)


@dataclass
class _Loaded:
    """A version in the engine, or on its way there."""

    adapter: EngineAdapter
    ready: asyncio.Task[None]
    leases: int = 0


@dataclass(frozen=True)
class Lease:
    """The right to use a version until the lease ends."""

    version: Version
    adapter: EngineAdapter


class Adapters:
    """Brings the engine to what requests need. All methods run on the event loop."""

    def __init__(
        self,
        registry: Registry,
        engine: Engine,
        base: Base,
        metrics: Metrics,
        *,
        limits: Limits,
        load_timeout: float,
    ) -> None:
        self._registry = registry
        self._engine = engine
        self._base = base
        self._metrics = metrics
        self._limits = limits
        self._load_timeout = load_timeout
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()  # least recently used first
        self._leaving = 0
        self._ids = itertools.count(1)
        self._freed = asyncio.Condition()

    @property
    def loaded(self) -> list[str]:
        """Names of the versions in the engine."""
        return [entry.adapter.name for entry in self._loaded.values() if entry.ready.done()]

    async def resolve(self, model: str) -> Version:
        """The version that a client's model name means now.

        Raises: ModelNotFound; BadRequest for a version that was made for another base.
        """
        try:
            reference = Reference.parse(model)
            version = await asyncio.to_thread(self._registry.get, reference)
        except (BadReference, UnknownAdapter) as error:
            raise _not_found(model) from error
        if version.manifest.base.digest != self._base.digest:
            raise BadRequest(
                f"The adapter `{version.reference}` was made for the base model "
                f"`{version.manifest.base.id}`; this server runs `{self._base.id}`.",
                param="model",
                code="adapter_for_another_base",
            )
        return version

    @asynccontextmanager
    async def lease(self, version: Version) -> AsyncIterator[Lease]:
        """Load the version if need be and keep it until the context ends.

        Raises: BadRequest when its files do not pass the preflight, AdapterUnavailable.
        """
        name = engine_name(version)
        entry = await self._entry(name, version)
        entry.leases += 1
        try:
            # Shielded: a client that goes away does not end the load that others wait for.
            await asyncio.shield(entry.ready)
            yield Lease(version, entry.adapter)
        finally:
            entry.leases -= 1
            async with self._freed:
                self._freed.notify_all()

    async def _entry(self, name: str, version: Version) -> _Loaded:
        deadline = time.monotonic() + self._load_timeout
        while name not in self._loaded:
            if len(self._loaded) + self._leaving < self._engine.max_loaded:
                adapter = EngineAdapter(name, next(self._ids), version.path)
                task = asyncio.create_task(self._load(adapter, version))
                task.add_done_callback(partial(self._settled, name))
                self._loaded[name] = _Loaded(adapter, task)
                break
            await self._make_room(deadline)
        self._loaded.move_to_end(name)
        return self._loaded[name]

    async def _load(self, adapter: EngineAdapter, version: Version) -> None:
        started = time.perf_counter()
        try:
            async with asyncio.timeout(self._load_timeout):
                await asyncio.to_thread(self._verify, version)
                await self._engine.load(adapter)
        except TimeoutError as error:
            self._metrics.adapter_load_failures.inc()
            raise AdapterUnavailable(
                f"The adapter `{version.reference}` was not loaded within "
                f"{self._load_timeout:g} s; try again."
            ) from error
        except LorikeetError:
            self._metrics.adapter_load_failures.inc()
            raise
        self._metrics.adapter_load_seconds.observe(time.perf_counter() - started)
        self._metrics.adapters_loaded.inc()
        logger.info("loaded %s", adapter.name)

    def _verify(self, version: Version) -> None:
        """Everything that could hurt the engine, from the files; it warms the page cache too."""
        try:
            self._registry.verify(version)
            problems = check_adapter(version.path, self._base, self._limits)
        except LorikeetError as error:
            raise _refused(version, error.message) from error
        errors = [p for p in problems if p.severity == "error"]
        if errors:
            raise _refused(version, "; ".join(f"{p.message} ({p.remedy})" for p in errors))

    def _settled(self, name: str, task: asyncio.Task[None]) -> None:
        """A load that failed leaves nothing behind; the next request tries again."""
        if task.cancelled() or task.exception() is not None:
            self._loaded.pop(name, None)

    async def _make_room(self, deadline: float) -> None:
        """Unload the least recently used version without a lease, or wait for one."""
        idle = next((n for n, e in self._loaded.items() if e.leases == 0 and e.ready.done()), None)
        if idle is not None:
            entry = self._loaded.pop(idle)
            self._leaving += 1  # its place is taken until the engine has let go of it
            try:
                await self._engine.unload(entry.adapter)
            finally:
                self._leaving -= 1
            self._metrics.adapter_evictions.inc()
            self._metrics.adapters_loaded.dec()
            logger.info("unloaded %s to make room", idle)
            return
        remaining = deadline - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, remaining)), self._freed:
                await self._freed.wait()
        except TimeoutError as error:
            raise AdapterUnavailable(
                "Every place for an adapter is in use; try again in a moment."
            ) from error


def engine_name(version: Version) -> str:
    """The engine's name of a version, `name@version+digest`: never reused for other weights."""
    return f"{version.reference}+{version.digest.removeprefix('sha256:')[:12]}"


def _not_found(model: str) -> ModelNotFound:
    return ModelNotFound(
        f"The model `{model[:128]}` does not exist. GET /v1/models lists the models.",
        param="model",
        code="model_not_found",
    )


def _refused(version: Version, reason: str) -> BadRequest:
    return BadRequest(
        f"The adapter `{version.reference}` cannot be served: {reason}",
        param="model",
        code="adapter_refused",
    )
