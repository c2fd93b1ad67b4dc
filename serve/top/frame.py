"""What `lorikeet top` knows at one time: plain values, for the screen and for `--json`.

None is what is not known: a metric that the server does not have, a rate before the second look,
a quantile of nothing. Rates are per second, over the time between two looks.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from serve.top.change import Change
from serve.top.scrape import CREATED, KV_CACHE, STARTED, Scrape
from serve.top.source import Look, Residency
from serve.top.traffic import BY_MODEL, BY_TENANT, WHOLE, Traffic, traffic

STATES = ("base", "loading", "loaded", "cold", "quarantined")
"""What a model's state may be, in the order in which idle ones are shown."""
_FIGURES = {
    "step": "lorikeet_training_step",
    "steps": "lorikeet_training_steps",
    "loss": "lorikeet_training_loss",
    "step_seconds": "lorikeet_training_step_seconds",
    "tokens_per_second": "lorikeet_training_tokens_per_second",
    "silent_seconds": "lorikeet_training_last_event_age_seconds",
}
"""A running job's, by the field of Job."""


@dataclass(frozen=True, slots=True)
class Server:
    """The whole of it. `status` is `ready` or why it is not, refusals are by reason.

    Slots are the accelerator's; `loaded` versions are in the engine's memory, of `published` ones.
    """

    base: str | None
    version: str | None
    ready: bool | None
    status: str | None
    up_seconds: float | None
    slots_used: float | None
    slots_total: float | None
    loaded: float | None
    published: float | None
    quarantined: float | None
    kv_cache_used: float | None
    engine_restarts: float | None
    disk_free_bytes: float | None
    disk_total_bytes: float | None
    refusals_per_second: Mapping[str, float]
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Model:
    """The base, an adapter version, or `other`: all those without figures of their own.

    `state` is one of STATES; None where we may not ask.
    `warm` and `cold` are hits since the server started.
    """

    model: str
    state: str | None
    reason: str | None
    leases: int | None
    warm: float | None
    cold: float | None
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Tenant:
    """Whose keys ask."""

    tenant: str
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class Job:
    """A training that runs now; `silent_seconds` since it last said anything."""

    job: str
    step: float | None
    steps: float | None
    loss: float | None
    step_seconds: float | None
    tokens_per_second: float | None
    silent_seconds: float | None

    @property
    def left_seconds(self) -> float | None:
        """How long it has to go at this speed."""
        if self.step is None or self.steps is None or self.step_seconds is None:
            return None
        left = (self.steps - self.step) * self.step_seconds
        return max(0.0, left) if math.isfinite(left) else None


@dataclass(frozen=True, slots=True)
class Training:
    """Jobs by status, workers, and those that run; `current` is false while the registry is away
    and the figures are the last ones known."""

    jobs: Mapping[str, float]
    workers: float | None
    current: bool
    running: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """One picture; `seconds` is the time its rates are over.

    `away` says why the server did not answer; the rest is then what was known last, or None.
    """

    url: str
    time: datetime
    seconds: float | None = None
    server: Server | None = None
    models: tuple[Model, ...] = ()
    tenants: tuple[Tenant, ...] = ()
    training: Training | None = None
    away: str | None = None

    @classmethod
    def of(cls, url: str, look: Look, before: Scrape | None) -> "Frame":
        """What a look says, and how that changed since an earlier scrape."""
        change = Change(before, look.scrape)
        base = look.scrape.text("lorikeet_config_info", "base") or look.base
        return cls(
            url,
            datetime.now(UTC),
            change.seconds,
            _server(change, look, base),
            _models(change, look.adapters, base),
            _tenants(change),
            _training(look.scrape),
        )

    def gone(self, why: str) -> "Frame":
        """The same, of a server that does not answer now."""
        return replace(self, time=datetime.now(UTC), away=why)

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is not a finite number is null."""
        frame: dict[str, Any] = _plain(asdict(self)) | {"time": self.time.isoformat()}
        if self.training is not None:
            for job, told in zip(self.training.running, frame["training"]["running"], strict=True):
                told["left_seconds"] = job.left_seconds
        return frame


def _server(change: Change, look: Look, base: str | None) -> Server:
    scrape = look.scrape
    ready, started = scrape.total("lorikeet_ready"), scrape.total(STARTED) or scrape.total(CREATED)
    slots = scrape.by("lorikeet_slots", "state") or {}
    tiers = scrape.by("lorikeet_adapters", "tier") or {}
    cache = scrape.series.get(KV_CACHE, {})
    refused = change.rates("lorikeet_admission_refusals_total", "reason") or {}
    return Server(
        base=base,
        version=scrape.text("lorikeet_build_info", "version"),
        ready=look.status == "ready" if ready is None else ready > 0,
        status=look.status,
        up_seconds=max(0.0, look.clock - started) if started else None,
        slots_used=slots.get("used"),
        slots_total=slots.get("total"),
        loaded=tiers.get("cpu"),
        published=tiers.get("disk"),
        quarantined=scrape.total("lorikeet_adapters_quarantined"),
        kv_cache_used=max(cache.values(), default=None),
        engine_restarts=scrape.total("lorikeet_engine_restarts_total"),
        disk_free_bytes=scrape.total("lorikeet_disk_free_bytes"),
        disk_total_bytes=scrape.total("lorikeet_disk_total_bytes"),
        refusals_per_second={reason: rate for reason, rate in sorted(refused.items()) if rate > 0},
        traffic=traffic(change, WHOLE, [""])[""],
    )


def _models(
    change: Change, adapters: Mapping[str, Residency] | None, base: str | None
) -> tuple[Model, ...]:
    """The busiest first, then what is loaded, then by name."""
    hits = "lorikeet_adapter_hits_total"
    warm = change.after.by(hits, "model", kind="warm")
    cold = change.after.by(hits, "model", kind="cold")
    known = {*(adapters or ()), *(() if base is None else (base,))}
    models = []
    for name, its in traffic(change, BY_MODEL, known | {*(warm or ()), *(cold or ())}).items():
        here = (adapters or {}).get(name)
        if name == base:
            here = Residency("base", leases=None)
        models.append(
            Model(
                name,
                None if here is None else here.state,
                None if here is None else here.reason,
                None if here is None else here.leases,
                None if warm is None or name == base else warm.get(name, 0.0),
                None if cold is None or name == base else cold.get(name, 0.0),
                its,
            )
        )
    order = {state: place for place, state in enumerate(STATES)}
    return tuple(
        sorted(
            models,
            key=lambda model: (
                *(-figure for figure in model.traffic.busy),
                order.get(model.state or "", len(order)),
                model.model,
            ),
        )
    )


def _tenants(change: Change) -> tuple[Tenant, ...]:
    tenants = [Tenant(name, its) for name, its in traffic(change, BY_TENANT).items()]
    return tuple(
        sorted(tenants, key=lambda one: (*(-figure for figure in one.traffic.busy), one.tenant))
    )


def _training(scrape: Scrape) -> Training | None:
    """None where the server tells nothing of it."""
    if (jobs := scrape.by("lorikeet_training_jobs", "status")) is None:
        return None
    figures = {field: scrape.by(name, "training_job") or {} for field, name in _FIGURES.items()}
    running = sorted({job for column in figures.values() for job in column})
    return Training(
        {status: count for status, count in sorted(jobs.items()) if count},
        scrape.total("lorikeet_training_workers"),
        scrape.total("lorikeet_registry_up") != 0,
        tuple(Job(job, **{name: figures[name].get(job) for name in figures}) for job in running),
    )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
