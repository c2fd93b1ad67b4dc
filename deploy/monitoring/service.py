"""The service as its users feel it: objectives, traffic, latency, the engine."""

from deploy.monitoring.grafana import Dashboard, Panel, Query, Row, Unit
from deploy.monitoring.objectives import (
    COUNTED,
    FAILED,
    FAILURES,
    FIRST_TOKEN,
    RESPONSES,
    SLOW,
    Objectives,
)
from deploy.monitoring.promql import increase, mean, quantile, rate, select, share, total

TTFT = "lorikeet_time_to_first_token_seconds"
ITL = "lorikeet_inter_token_latency_seconds"
REQUESTS = "lorikeet_requests_total"


def service(objectives: Objectives) -> Dashboard:
    """The first page to look at."""
    return Dashboard(
        "service",
        "Is it up, is it fast, is it full? Begin here.",
        (
            Row("Now", _now(objectives)),
            Row("Error budget: 1 spends it just in time, above 14.4 somebody is paged", _budget()),
            Row("Traffic", _TRAFFIC),
            Row("Latency", _LATENCY),
            Row("Tokens", _TOKENS),
            Row("Engine (vLLM's own figures)", _ENGINE),
            Row("What runs", _WHAT_RUNS),
        ),
    )


def quantiles(
    title: str, description: str, histogram: str, *, width: int = 8, unit: Unit = "s"
) -> Panel:
    """Median, 95th and 99th percentile of all requests."""
    shown = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
    queries = tuple(Query(quantile(q, histogram), name) for name, q in shown)
    return Panel(title, description, queries, unit=unit, width=width)


def _now(objectives: Objectives) -> tuple[Panel, ...]:
    failed = share(increase(RESPONSES, where=FAILURES), increase(RESPONSES, where=COUNTED))
    budget = 1 - objectives.availability
    return (
        Panel(
            "Servers ready",
            "Servers that answer requests: started, not draining, engine alive.",
            (Query(total("lorikeet_ready")),),
            kind="stat",
            width=3,
            height=4,
            bounds=(1, 0.5),
        ),
        Panel(
            "Engines down",
            "Engines that cannot answer at the moment. They are started again by themselves.",
            (Query(f"count({select('lorikeet_engine_up')}) - {total('lorikeet_engine_up')}"),),
            kind="stat",
            width=3,
            height=4,
            bounds=(0.5, 1),
        ),
        Panel(
            "Engine restarts",
            "In the time that is shown. Each one failed the requests under way.",
            (Query(increase("lorikeet_engine_restarts_total")),),
            kind="stat",
            width=3,
            height=4,
            bounds=(0.5, 3),
        ),
        Panel(
            "Failed requests",
            f"Share answered with 5xx, of all but 4xx, in the time that is shown; the objective is "
            f"{budget:.2%}.",
            (Query(failed),),
            kind="stat",
            unit="percentunit",
            width=4,
            height=4,
            bounds=(budget, 10 * budget),
        ),
        Panel(
            "Time to first token, p95",
            f"The objective: {objectives.first_token:g} of all requests within "
            f"{objectives.first_token_seconds:g} s.",
            (Query(quantile(0.95, FIRST_TOKEN)),),
            kind="stat",
            unit="s",
            width=4,
            height=4,
            bounds=(objectives.first_token_seconds, 2 * objectives.first_token_seconds),
        ),
        Panel(
            "Registry and store",
            "0: the database or the shared store of adapters is away; what is known is served on.",
            (
                Query(f"min({select('lorikeet_registry_up')})", "database"),
                Query(f"min({select('lorikeet_store_up')})", "store"),
            ),
            kind="stat",
            width=3,
            height=4,
            bounds=(1, 0.5),
        ),
        Panel(
            "Disk free",
            "Of the data folder. A full disk refuses publications, uploads and training.",
            (Query(f"min({_free_share()})"),),
            kind="stat",
            unit="percentunit",
            width=4,
            height=4,
            bounds=(0.15, 0.05),
        ),
    )


def _free_share() -> str:
    return share(select("lorikeet_disk_free_bytes"), select("lorikeet_disk_total_bytes"))


def _budget() -> tuple[Panel, ...]:
    panels = []
    for title, sli, what in (
        ("Availability", FAILED, "requests answered with 5xx"),
        ("First token", SLOW, "requests whose first token came too late"),
    ):
        queries = tuple(
            Query(f'max({sli.burn(window)}{{job=~"$job"}})', window)
            for window in ("5m", "1h", "6h", "3d")
        )
        description = (
            f"How many times faster than allowed the {what} spend the month's error budget, "
            "over each window. From recorded series."
        )
        panels.append(Panel(title, description, queries, width=12, bounds=(1, 14.4)))
    return tuple(panels)


_TRAFFIC = (
    Panel(
        "Requests by status",
        "Answers by HTTP status. 429: a tenant's own limits. 503: queue, engine or an adapter.",
        (Query(rate(REQUESTS, "status"), "{{status}}"),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Requests by endpoint",
        "Answers by route.",
        (Query(rate(REQUESTS, "endpoint"), "{{endpoint}}"),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Running and queued",
        "In the engine, and waiting for their turn. A queue that does not empty is saturation.",
        (
            Query(total("lorikeet_requests_running"), "running"),
            Query(total("lorikeet_requests_queued"), "queued"),
        ),
        stacked=True,
    ),
    Panel(
        "Refusals by reason",
        "Requests that were turned away before the engine.",
        (Query(rate("lorikeet_admission_refusals_total", "reason"), "{{reason}}"),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Generations by end",
        "stop: the model was done. length: cut at max_tokens. abort: the client went away.",
        (Query(rate("lorikeet_generations_total", "finish_reason"), "{{finish_reason}}"),),
        unit="ops",
        stacked=True,
    ),
    Panel(
        "Time in the queue",
        "Wait for a turn and for the engine's scheduler: the part that more machines take away.",
        (
            Query(quantile(0.5, "lorikeet_queue_seconds"), "p50"),
            Query(quantile(0.95, "lorikeet_queue_seconds"), "p95"),
        ),
        unit="s",
    ),
)
_LATENCY = (
    quantiles(
        "Time to first token",
        "From a request's arrival to its first token, or to when its client gave up waiting; the "
        "queue and a cold load are in it.",
        TTFT,
    ),
    quantiles(
        "Inter-token latency",
        "Between two tokens of an answer: how fast the text runs.",
        ITL,
    ),
    quantiles(
        "Whole request",
        "From arrival to the last byte. Long answers take long: compare with the tokens.",
        "lorikeet_request_seconds",
    ),
    Panel(
        "Time to first token, all of them",
        "How many requests fell into each span: two bands tell cold from warm.",
        (Query(rate(f"{TTFT}_bucket", "le"), "{{le}}"),),
        kind="heatmap",
        width=24,
    ),
)
_TOKENS = (
    Panel(
        "Tokens",
        "Prompt tokens read (cached ones too) and tokens written.",
        (
            Query(rate("lorikeet_prompt_tokens_total"), "prompt"),
            Query(rate("lorikeet_cached_prompt_tokens_total"), "of them cached"),
            Query(rate("lorikeet_output_tokens_total"), "output"),
        ),
        unit="ops",
    ),
    Panel(
        "Prompt tokens from the cache",
        "Share that the prefix cache already held.",
        (
            Query(
                share(
                    rate("lorikeet_cached_prompt_tokens_total"),
                    rate("lorikeet_prompt_tokens_total"),
                ),
                "cached",
            ),
        ),
        unit="percentunit",
    ),
    Panel(
        "Mean inter-token latency",
        "Its inverse is the speed of one answer in tokens/s.",
        (Query(mean(ITL), "mean"),),
        unit="s",
    ),
)
_ENGINE = (
    Panel(
        "KV cache in use",
        "At 100 % the engine interrupts requests; they start again later.",
        (Query(select("vllm:kv_cache_usage_perc"), "{{instance}}"),),
        unit="percentunit",
        bounds=(0.9, 0.98),
    ),
    Panel(
        "In the engine",
        "Sequences in the batch, and admitted ones that wait inside the engine.",
        (
            Query(total("vllm:num_requests_running"), "running"),
            Query(total("vllm:num_requests_waiting"), "waiting"),
        ),
        stacked=True,
    ),
    Panel(
        "Preemptions",
        "Requests that lost their place because the KV cache was full: give it more memory.",
        (Query(rate("vllm:num_preemptions_total"), "preemptions"),),
        unit="ops",
    ),
    Panel(
        "Engine restarts by server",
        "In all. A rising line is an engine that dies again and again.",
        (Query(total("lorikeet_engine_restarts_total", "instance"), "{{instance}}"),),
    ),
    Panel(
        "Engine up",
        "1 while the engine can answer; starting: for the first time.",
        (
            Query(select("lorikeet_engine_up"), "{{instance}}"),
            Query(select("lorikeet_engine_starting"), "{{instance}} starting"),
        ),
    ),
    Panel(
        "Disk free by server",
        "Share of the data folder's disk.",
        (Query(_free_share(), "{{instance}}"),),
        unit="percentunit",
        bounds=(0.15, 0.05),
    ),
)
_WHAT_RUNS = (
    Panel(
        "Replicas",
        "Servers that answer Prometheus, and the bounds between which requests move their number.",
        (
            Query(f"count({select('lorikeet_build_info')})", "there"),
            Query(f"max({select('lorikeet_min_replicas')})", "at least"),
            Query(f"max({select('lorikeet_max_replicas')})", "at most"),
        ),
    ),
    Panel(
        "Versions",
        "What is installed, by server.",
        (Query(select("lorikeet_build_info")),),
        kind="table",
        width=16,
        hidden=("__name__", "job"),
    ),
    Panel(
        "Configuration",
        "What each server was started with.",
        (Query(select("lorikeet_config_info")),),
        kind="table",
        width=24,
        hidden=("__name__", "job"),
    ),
)
