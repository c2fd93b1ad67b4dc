"""The adapters: who is asked, how fast, what is loaded and what loading costs."""

from deploy.monitoring.grafana import SERVERS, Dashboard, Panel, Query, Row, Variable
from deploy.monitoring.promql import highest, increase, quantile, rate, select, share, total

MODEL = 'model=~"$model"'
REQUESTS = "lorikeet_requests_total"
TTFT = "lorikeet_time_to_first_token_seconds"
HITS = "lorikeet_adapter_hits_total"
COLD = 'kind="cold"'
_STATUS = "{{model}} {{status}}"


def adapters() -> Dashboard:
    """By model version; `other` is all that are not among the busiest."""
    model = Variable("model", "Model", 'lorikeet_requests_total{job=~"$job"}', "model")
    return Dashboard(
        "adapters",
        "Traffic and latency by adapter version, and the adapters' life in the engine.",
        (
            Row("Models", _TABLE),
            Row("Traffic and latency by model", _TRAFFIC),
            Row("Warm and cold", _LOADS),
            Row("Places and quarantine", _PLACES),
        ),
        (*SERVERS, model),
    )


def _over_range(q: float, histogram: str) -> str:
    buckets = increase(f"{histogram}_bucket", "le", "model", where=MODEL)
    return f"histogram_quantile({q:g}, {buckets})"


_TABLE = (
    Panel(
        "Models",
        "In the time that is shown: requests, tokens written, 95th percentiles.",
        (
            Query(increase(REQUESTS, "model", where=MODEL), "Requests"),
            Query(increase("lorikeet_output_tokens_total", "model", where=MODEL), "Output tokens"),
            Query(_over_range(0.95, TTFT), "TTFT p95 (s)"),
            Query(_over_range(0.95, "lorikeet_inter_token_latency_seconds"), "ITL p95 (s)"),
        ),
        kind="table",
        width=24,
    ),
)
_TRAFFIC = (
    Panel(
        "Requests",
        "Answers by model version, of any status.",
        (Query(rate(REQUESTS, "model", where=MODEL), "{{model}}"),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Failed requests",
        "By model and status. One model alone: its adapter is at fault. All of them: the engine.",
        (Query(rate(REQUESTS, "model", "status", where=f'{MODEL}, status!~"2.."'), _STATUS),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Running",
        "Requests in the engine by model.",
        (Query(total("lorikeet_adapter_requests_running", "model", where=MODEL), "{{model}}"),),
        stacked=True,
    ),
    Panel(
        "Queued",
        "Requests that wait for their turn by model: for a seat, or for a slot.",
        (Query(total("lorikeet_adapter_requests_queued", "model", where=MODEL), "{{model}}"),),
        stacked=True,
    ),
    Panel(
        "Time to first token, p95",
        "A model that is often cold stands out.",
        (Query(quantile(0.95, TTFT, "model", where=MODEL), "{{model}}"),),
        unit="s",
    ),
    Panel(
        "Inter-token latency, p95",
        "Higher ranks take longer.",
        (
            Query(
                quantile(0.95, "lorikeet_inter_token_latency_seconds", "model", where=MODEL),
                "{{model}}",
            ),
        ),
        unit="s",
    ),
    Panel(
        "Whole request, p95",
        "From arrival to the last byte.",
        (
            Query(
                quantile(0.95, "lorikeet_request_seconds", "model", where=MODEL),
                "{{model}}",
            ),
        ),
        unit="s",
    ),
    Panel(
        "Tokens written",
        "By model.",
        (Query(rate("lorikeet_output_tokens_total", "model", where=MODEL), "{{model}}"),),
        unit="ops",
        stacked=True,
    ),
    Panel(
        "Answers cut at max_tokens",
        "Share of a model's generations. A jump after a promotion: it has forgotten how to stop.",
        (
            Query(
                share(
                    rate(
                        "lorikeet_generations_total",
                        "model",
                        where=f'{MODEL}, finish_reason="length"',
                    ),
                    rate("lorikeet_generations_total", "model", where=MODEL),
                ),
                "{{model}}",
            ),
        ),
        unit="percentunit",
    ),
)
_LOADS = (
    Panel(
        "Warm and cold requests",
        "warm: the version was in the engine. cold: the request waited for it to be loaded.",
        (Query(rate(HITS, "kind"), "{{kind}}"),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Cold requests by model",
        "Who waits for loads.",
        (Query(rate(HITS, "model", where=f"{MODEL}, {COLD}"), "{{model}}"),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Loads",
        "By outcome. Failed ones are refused for a while and then tried again.",
        (Query(rate("lorikeet_adapter_loads_total", "outcome"), "{{outcome}}"),),
        unit="ops",
        stacked=True,
    ),
    Panel(
        "Seconds of a load by stage, p95",
        "resolve: the registry. fetch: files from the shared store, digests. verify: preflight. "
        "warm: files into memory. "
        "engine: vLLM. total: what the first request waits.",
        (Query(quantile(0.95, "lorikeet_adapter_load_seconds", "stage"), "{{stage}}"),),
        unit="s",
    ),
    Panel(
        "Evictions",
        "Versions unloaded to make room. Many of them beside many cold requests: raise "
        "--max-loaded.",
        (Query(rate("lorikeet_adapter_evictions_total"), "evictions"),),
        unit="ops",
    ),
    Panel(
        "Share of cold requests",
        "Below 5 % nobody minds.",
        (Query(share(rate(HITS, where=COLD), rate(HITS)), "cold"),),
        unit="percentunit",
        bounds=(0.05, 0.2),
    ),
)
_PLACES = (
    Panel(
        "Adapters by tier",
        "engine: in a slot of the accelerator. cpu: in the engine's memory. disk: published.",
        (Query(total("lorikeet_adapters", "instance", "tier"), "{{tier}} {{instance}}"),),
    ),
    Panel(
        "Slots",
        "Adapters that one batch can hold, and those in use. All used, and a queue: raise "
        "--max-loras.",
        (Query(total("lorikeet_slots", "state"), "{{state}}"),),
    ),
    Panel(
        "Leases",
        "Requests that hold an adapter. With no traffic this must be 0.",
        (Query(total("lorikeet_leases", "instance"), "{{instance}}"),),
    ),
    Panel(
        "Quarantined versions",
        "Kept away from the engine until `lorikeet adapters release`.",
        (Query(highest("lorikeet_adapters_quarantined"), "quarantined"),),
        kind="stat",
        bounds=(0.5, 1),
    ),
    Panel(
        "Quarantines",
        "Versions whose output turned NaN or infinite, counted by server.",
        (
            Query(
                total("lorikeet_adapter_quarantines_total", "instance"),
                "{{instance}}",
            ),
        ),
    ),
    Panel(
        "Adapters in a slot",
        "By server.",
        (Query(select("lorikeet_slots", 'state="used"'), "{{instance}}"),),
    ),
)
