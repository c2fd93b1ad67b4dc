"""Every metric of the server, declared once. Names and units follow Prometheus' conventions.

The model label is the base's id or `name@version`: as many values as there are published versions.
"""

from importlib.metadata import version

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, generate_latest

from serve.engine import GenerationStats

TTFT_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TPOT_BUCKETS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1)
SECONDS_BUCKETS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """One set a server, in a registry of its own."""

    def __init__(self) -> None:
        registry = CollectorRegistry()
        model = ["model"]
        self._registry = registry
        self.requests = Counter(
            "lorikeet_requests",
            "Requests by model, endpoint and HTTP status.",
            ["model", "endpoint", "status"],
            registry=registry,
        )
        self.requests_running = Gauge(
            "lorikeet_requests_running",
            "Requests in the engine.",
            registry=registry,
        )
        self.requests_queued = Gauge(
            "lorikeet_requests_queued", "Requests waiting for their turn.", registry=registry
        )
        self.prompt_tokens = Counter(
            "lorikeet_prompt_tokens", "Prompt tokens, cached ones too.", model, registry=registry
        )
        self.cached_tokens = Counter(
            "lorikeet_cached_prompt_tokens",
            "Prompt tokens that the prefix cache already held.",
            model,
            registry=registry,
        )
        self.output_tokens = Counter(
            "lorikeet_output_tokens", "Generated tokens.", model, registry=registry
        )
        self.generations = Counter(
            "lorikeet_generations",
            "Finished generations by reason.",
            ["model", "finish_reason"],
            registry=registry,
        )
        self.ttft = Histogram(
            "lorikeet_time_to_first_token_seconds",
            "From arrival to the first token.",
            model,
            buckets=TTFT_BUCKETS,
            registry=registry,
        )
        self.tpot = Histogram(
            "lorikeet_time_per_output_token_seconds",
            "Mean inter-token latency of a generation.",
            model,
            buckets=TPOT_BUCKETS,
            registry=registry,
        )
        self.queue = Histogram(
            "lorikeet_queue_seconds",
            "Wait for the engine's scheduler.",
            model,
            buckets=TTFT_BUCKETS,
            registry=registry,
        )
        self.seconds = Histogram(
            "lorikeet_generation_seconds",
            "From arrival to the last token.",
            model,
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.adapters_loaded = Gauge(
            "lorikeet_adapters_loaded", "Adapter versions in the engine.", registry=registry
        )
        self.adapter_load_seconds = Histogram(
            "lorikeet_adapter_load_seconds",
            "Cold loads of an adapter: check and engine.",
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self.adapter_load_failures = Counter(
            "lorikeet_adapter_load_failures", "Loads that failed.", registry=registry
        )
        self.adapter_evictions = Counter(
            "lorikeet_adapter_evictions", "Versions unloaded to make room.", registry=registry
        )
        self.quarantines = Counter(
            "lorikeet_adapter_quarantines",
            "Versions quarantined because their output was not finite.",
            registry=registry,
        )
        self.engine_restarts = Counter(
            "lorikeet_engine_restarts",
            "Times that the engine was started again after it died or hung.",
            registry=registry,
        )
        self.engine_up = Gauge(
            "lorikeet_engine_up", "1 while the engine can answer.", registry=registry
        )
        Info("lorikeet_build", "What runs here.", registry=registry).info(
            {"version": version("lorikeet")}
        )

    def observe(self, stats: GenerationStats) -> None:
        """Count one finished generation."""
        label = stats.model
        self.count_tokens(stats)
        self.generations.labels(label, stats.finish_reason).inc()
        self.ttft.labels(label).observe(stats.ttft_seconds)
        self.queue.labels(label).observe(stats.queue_seconds)
        self.seconds.labels(label).observe(stats.seconds)
        if (tpot := stats.time_per_output_token) is not None:
            self.tpot.labels(label).observe(tpot)

    def count_tokens(self, stats: GenerationStats) -> None:
        """Count the tokens alone: of a sequence that was scored nobody waits for a first token."""
        self.prompt_tokens.labels(stats.model).inc(stats.prompt_tokens)
        self.cached_tokens.labels(stats.model).inc(stats.cached_tokens)
        self.output_tokens.labels(stats.model).inc(stats.output_tokens)

    def exposition(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)
