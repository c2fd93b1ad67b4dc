"""One scrape: what is true at this moment, beside what was counted since the start."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

from registry import Base, Registry
from serve.adapters import Adapters, reference_of
from serve.admission import Admission
from serve.engine import Engine
from serve.errors import RequestError
from serve.metrics import Metrics
from serve.registry_link import RegistryLink
from serve.registry_watch import RegistryWatch
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)

CONFIG = (
    "engine",
    "max_loras",
    "max_loaded",
    "max_lora_rank",
    "max_num_seqs",
    "max_queue",
    "max_queue_per_tenant",
    "max_model_len",
)


class Scrape:
    """Makes the text of `/metrics`. Nothing that is broken elsewhere breaks it."""

    def __init__(
        self,
        metrics: Metrics,
        engine: Engine,
        adapters: Adapters,
        admission: Admission,
        registry: Registry,
        link: RegistryLink,
        base: Base,
        settings: ServeSettings,
        *,
        is_ready: Callable[[], bool],
    ) -> None:
        self._metrics = metrics
        self._engine = engine
        self._adapters = adapters
        self._admission = admission
        self._link = link
        self._watch = RegistryWatch(registry, link, base)
        self._is_ready = is_ready
        self._facts: dict[str, str] = {
            "dtype": settings.dtype,
            "quantization": settings.quantization,
        }
        self._config = {name: getattr(settings, name) for name in CONFIG}
        self._one_at_a_time = asyncio.Lock()
        metrics.min_replicas.set(settings.replicas)
        metrics.max_replicas.set(settings.most_replicas)

    async def text(self) -> bytes:
        """Lorikeet's metrics and the engine's, in Prometheus' text format."""
        async with self._one_at_a_time:
            await self._show_registry()
            self._show_engine()
            self._show_traffic()
            return await asyncio.to_thread(self._write)

    async def _show_registry(self) -> None:
        metrics, sight = self._metrics, await self._watch.sight()
        metrics.registry_up.set(self._link.away_seconds is None)
        metrics.store_up.set(self._link.store_away_since is None)
        if sight.standing is not None:
            metrics.show_standing(sight.standing, time.monotonic() - sight.at)
        if sight.disk is not None:
            metrics.disk_free.set(sight.disk[0])
            metrics.disk_total.set(sight.disk[1])

    def _show_engine(self) -> None:
        metrics = self._metrics
        metrics.engine_up.set(self._engine.alive)
        metrics.ready.set(self._is_ready())
        try:
            facts = self._engine.facts
        except RequestError:  # it has stopped: what it was started with stays true
            pass
        else:
            self._facts = {name: facts[name] for name in self._facts}
        metrics.show_config({"base": metrics.base, **self._facts, **self._config})

    def _show_traffic(self) -> None:
        metrics, now, waiting = self._metrics, self._admission.snapshot(), self._admission.waiting()
        metrics.requests_running.set(self._admission.in_flight)
        metrics.requests_queued.set(self._admission.queued)
        running, queued = Counter[str](), Counter[str]()
        tenants_queued = Counter[str]()
        for name, adapter in now["adapters"].items():
            running[reference_of(name)] += adapter["in_flight"]
        running[metrics.base] += self._admission.in_flight - running.total()
        for (tenant, adapter_name), count in waiting.items():
            model = metrics.base if adapter_name is None else reference_of(adapter_name)
            queued[model] += count
            tenants_queued[tenant] += count
        metrics.show_traffic(
            running=running,
            queued=queued,
            tenants_running={name: it["in_flight"] for name, it in now["tenants"].items()},
            tenants_queued=tenants_queued,
        )
        metrics.slots.labels("used").set(now["slots"]["in_use"])
        metrics.slots.labels("total").set(now["slots"]["total"])
        metrics.adapters.labels("engine").set(now["slots"]["in_use"])
        metrics.adapters.labels("cpu").set(len(self._adapters.loaded))
        metrics.leases.set(self._adapters.leases)

    def _write(self) -> bytes:
        ours = self._metrics.exposition()
        try:
            return ours + self._engine.metrics()
        except Exception:
            logger.exception("the engine's own metrics cannot be told")
            return ours
