"""The adapters' life in the engine: reference → immutable version → loaded, leased, evicted.

A request takes a lease on its version for as long as it is answered. A version that nobody has
asked for is loaded by the first request that names it (single flight: the others wait for the same
load); when the house is full, the least recently used version without a lease makes room. A version
that fails is quarantined, and the engine hears no more of it.
"""

import asyncio
import contextlib
import hashlib
import itertools
import logging
import random
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from registry import (
    Base,
    Limits,
    Reference,
    Registry,
    UnknownAdapter,
    Version,
)
from serve.adapter_files import AdapterFiles
from serve.auth import Principal
from serve.engine import Engine, EngineAdapter
from serve.errors import (
    AdapterQuarantined,
    AdapterUnavailable,
    BadRequest,
    EngineNotReady,
    ModelNotFound,
    RequestError,
)
from serve.metrics import LoadFailure, Metrics
from serve.quarantine import Quarantine
from serve.registry_link import RegistryLink

logger = logging.getLogger(__name__)


@dataclass
class _Loaded:
    """A version in the engine, or on its way there."""

    version: Version
    adapter: EngineAdapter
    ready: asyncio.Task[None]
    stages: dict[str, float]
    files: contextlib.ExitStack
    """Closed when the engine needs the version's files no more."""
    leases: int = 0


@dataclass(frozen=True)
class Lease:
    """The right to use a version until the lease ends."""

    version: Version
    adapter: EngineAdapter
    load: Literal["warm", "cold"]
    """Whether the version was loaded already."""
    stages: Mapping[str, float]
    """Seconds of the load that it began itself, by stage; else empty."""


class Adapters:
    """Brings the engine to what requests need. All methods run on the event loop."""

    def __init__(
        self,
        registry: Registry,
        link: RegistryLink,
        engine: Engine,
        base: Base,
        metrics: Metrics,
        *,
        limits: Limits,
        load_timeout: float,
    ) -> None:
        self._registry = registry
        self._link = link
        self._engine = engine
        self._base = base
        self._metrics = metrics
        self.limits = limits
        self._load_timeout = load_timeout
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()  # least recently used first
        self._leaving = 0
        self._unloading: set[asyncio.Task[None]] = set()
        self._ids = itertools.count(1)
        self._freed = asyncio.Condition()
        self._quarantine = Quarantine()
        self._files = AdapterFiles(registry, base, limits)

    @property
    def loaded(self) -> list[str]:
        """Names of the versions in the engine."""
        return [entry.adapter.name for entry in self._loaded.values() if entry.ready.done()]

    @property
    def leases(self) -> int:
        """Requests that hold a version."""
        return sum(entry.leases for entry in self._loaded.values())

    def residency(self, version: Version) -> dict[str, Any]:
        """Where a version is: `state` (loaded, loading, cold, quarantined), `leases`, `reason`."""
        name = engine_name(version)
        reason = version.quarantine or self._quarantine.reason(name)
        if reason is not None:
            return {"state": "quarantined", "leases": 0, "reason": reason}
        entry = self._loaded.get(name)
        if entry is None:
            return {"state": "cold", "leases": 0, "reason": None}
        state = "loaded" if entry.ready.done() else "loading"
        return {"state": state, "leases": entry.leases, "reason": None}

    async def find(self, model: str, principal: Principal, user: str | None = None) -> Version:
        """The version that a client's model name means now, whether it can be served or not.

        An alias with a canary gives the same version to the same `user`, or else to the same key.
        Raises: ModelNotFound, also for what the caller may not see.
        """
        try:
            draw = _draw(model.partition("@")[0], principal, user)
            version = (await self._link.fresh()).get(model, draw=draw)
        except UnknownAdapter as error:
            raise _not_found(model) from error
        if not principal.sees(version.name, version.tenant):
            raise _not_found(model)
        return version

    async def resolve(self, model: str, principal: Principal, user: str | None = None) -> Version:
        """The version that `find` gives, where it can be served.

        Raises: ModelNotFound; BadRequest for a version that was made for another base;
        AdapterQuarantined.
        """
        version = await self.find(model, principal, user)
        self.check(version)
        return version

    def check(self, version: Version) -> None:
        """Raises: what `resolve` raises of a version that cannot be served."""
        if version.manifest.base.digest != self._base.digest:
            raise BadRequest(
                f"The adapter `{version.reference}` was made for the base model "
                f"`{version.manifest.base.id}`; this server runs `{self._base.id}`.",
                param="model",
                code="adapter_for_another_base",
            )
        if version.quarantine is not None:
            raise _quarantined(version, version.quarantine)

    async def quarantine(self, version: Version, reason: str) -> None:
        """Keep a version that failed while it was served away from every server, and unload it."""
        name = engine_name(version)
        if self._as_known(version).quarantine is not None:  # of a request that began before
            return
        if not self._quarantine.hold(name, _quarantined(version, reason)):  # here, from now on
            return
        logger.error("quarantined %s: %s", version.reference, reason)
        self._metrics.quarantines.inc()
        task = asyncio.create_task(self._unload_when_idle(name))
        self._unloading.add(task)
        task.add_done_callback(self._unloading.discard)
        # Once it is the registry's, that may release it.
        await self._link.record(
            partial(self._registry.quarantine, version.name, version.number, reason),
            then=partial(self._quarantine.let_go, name),
        )

    async def release(self, version: Version) -> Version:
        """Let a quarantined version be tried again."""
        released = await self._link.call(self._registry.release, version.name, version.number)
        self._quarantine.clear(engine_name(version))
        self._quarantine.let_go(engine_name(version))
        return released

    @asynccontextmanager
    async def lease(
        self, version: Version, resolve_seconds: float | None = None
    ) -> AsyncIterator[Lease]:
        """Load the version if need be and keep it until the context ends.

        `resolve_seconds` is what it took to find the version: the first stage of a load.
        Raises: BadRequest when its files do not pass the preflight, AdapterQuarantined,
        AdapterUnavailable, EngineNotReady.
        """
        name = engine_name(version)
        self._quarantine.check(name)
        self.check(self._as_known(version))  # it may have waited for its turn since it was found
        known = self._loaded.get(name)
        load: Literal["warm", "cold"] = "warm" if known and known.ready.done() else "cold"
        entry, begun = await self._entry(name, version, resolve_seconds)
        entry.leases += 1
        try:
            # Shielded: a client that goes away does not end the load that others wait for.
            await asyncio.shield(entry.ready)
            yield Lease(version, entry.adapter, load, dict(entry.stages) if begun else {})
        except asyncio.CancelledError:
            if entry.ready.cancelled():  # the load was given up, not this request
                raise EngineNotReady("The engine has stopped; try again in a moment.") from None
            raise
        finally:
            entry.leases -= 1
            async with self._freed:
                self._freed.notify_all()

    async def unload(self, version: Version) -> bool:
        """Unload a version that no request uses; whether it was loaded.

        Raises: AdapterUnavailable while it is in use.
        """
        entry = self._loaded.get(engine_name(version))
        if entry is None:
            return False
        if entry.leases or not entry.ready.done():
            raise AdapterUnavailable(f"The adapter `{version.reference}` is in use.")
        await self._unload(entry)
        return True

    def forget(self) -> list[Version]:
        """The engine is gone with all it held; the versions it held, least recently used first."""
        held = [entry.version for entry in self._loaded.values()]
        for entry in self._loaded.values():
            entry.ready.cancel()
            entry.files.close()
        self._loaded.clear()
        return held

    def _as_known(self, version: Version) -> Version:
        """A version as the registry was last seen to have it; as it was found where it is gone."""
        try:
            return self._link.known.get(Reference(version.name, version=version.number))
        except UnknownAdapter:
            return version

    async def _entry(
        self, name: str, version: Version, resolve_seconds: float | None
    ) -> tuple[_Loaded, bool]:
        """The version's place, and whether its load began with this call."""
        begun = False
        deadline = time.monotonic() + self._load_timeout
        while name not in self._loaded:
            if len(self._loaded) + self._leaving < self._engine.max_loaded:
                adapter = EngineAdapter(name, next(self._ids), version.path)
                stages = {} if resolve_seconds is None else {"resolve": resolve_seconds}
                files = contextlib.ExitStack()
                task = asyncio.create_task(self._load(adapter, version, stages, files))
                entry = self._loaded[name] = _Loaded(version, adapter, task, stages, files)
                task.add_done_callback(partial(self._settled, name, entry))
                begun = True
                break
            await self._make_room(deadline)
        self._loaded.move_to_end(name)
        return self._loaded[name], begun

    async def _load(
        self,
        adapter: EngineAdapter,
        version: Version,
        stages: dict[str, float],
        files: contextlib.ExitStack,
    ) -> None:
        """Fills in the seconds of its stages."""
        started = time.monotonic()
        try:
            async with asyncio.timeout(self._load_timeout):
                await self._files.fetch(version, files)
                fetched = time.monotonic()
                await self._files.check(version)
                verified = time.monotonic()
                in_memory = await self._engine.load(adapter)
        except TimeoutError as error:
            raise self._failed(
                adapter.name,
                "timeout",
                AdapterUnavailable(
                    f"The adapter `{version.reference}` was not loaded within "
                    f"{self._load_timeout:g} s; try again."
                ),
            ) from error
        except (BadRequest, AdapterUnavailable) as error:
            outcome: LoadFailure = "refused" if isinstance(error, BadRequest) else "failed"
            raise self._failed(adapter.name, outcome, error) from error.__cause__
        except BaseException:  # the engine's end, or ours
            self._metrics.failed("interrupted")
            raise
        stages["fetch"] = fetched - started
        stages["verify"] = verified - fetched
        stages["warm"] = in_memory
        stages["engine"] = max(0.0, time.monotonic() - verified - in_memory)
        self._quarantine.clear(adapter.name)
        self._metrics.loaded(stages)
        logger.info("loaded %s", adapter.name)

    def _failed(self, name: str, outcome: LoadFailure, error: RequestError) -> RequestError:
        self._metrics.failed(outcome)
        self._quarantine.failed(name, error)
        return error

    def _settled(self, name: str, entry: _Loaded, task: asyncio.Task[None]) -> None:
        """A load that failed leaves nothing behind."""
        if task.cancelled() or task.exception() is not None:
            entry.files.close()
            if self._loaded.get(name) is entry:
                del self._loaded[name]

    async def _unload(self, entry: _Loaded) -> None:
        del self._loaded[entry.adapter.name]
        self._leaving += 1  # its place is taken until the engine has let go of it
        try:
            await self._engine.unload(entry.adapter)
        finally:
            entry.files.close()
            self._leaving -= 1
            async with self._freed:
                self._freed.notify_all()
        logger.info("unloaded %s", entry.adapter.name)

    async def _unload_when_idle(self, name: str) -> None:
        """Unload a version once its last lease has ended."""
        entry = self._loaded.get(name)
        if entry is None:
            return
        async with self._freed:
            await self._freed.wait_for(lambda: entry.leases == 0)
        if self._loaded.get(name) is entry:
            with contextlib.suppress(RequestError):  # the engine may be gone meanwhile
                await self._unload(entry)

    async def _make_room(self, deadline: float) -> None:
        """Unload the least recently used version without a lease, or wait for one."""
        idle = next((e for e in self._loaded.values() if e.leases == 0 and e.ready.done()), None)
        if idle is not None:
            await self._unload(idle)
            self._metrics.evictions.inc()
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


def reference_of(name: str) -> str:
    """The `name@version` in an engine's name."""
    return name.partition("+")[0]


def _draw(name: str, principal: Principal, user: str | None) -> float:
    """The place in [0, 1) of a user, or else of a key, among all who ask for `name`."""
    who = user or (principal.key.id if principal.key else None)
    if who is None:
        return random.random()
    digest = hashlib.sha256("\0".join((name, principal.tenant, who)).encode()).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _quarantined(version: Version, reason: str) -> AdapterQuarantined:
    return AdapterQuarantined(
        f"The adapter `{version.reference}` is quarantined: {reason}.",
        param="model",
        code="adapter_quarantined",
    )


def _not_found(model: str) -> ModelNotFound:
    return ModelNotFound(
        f"The model `{model[:128]}` does not exist. GET /v1/models lists the models.",
        param="model",
        code="model_not_found",
    )
