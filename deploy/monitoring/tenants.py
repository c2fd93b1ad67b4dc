"""The tenants: who takes what, who waits, who is turned away."""

from deploy.monitoring.grafana import SERVERS, Dashboard, Panel, Query, Row, Variable
from deploy.monitoring.promql import increase, quantile, rate, share, total

TENANT = 'tenant=~"$tenant"'
REQUESTS = "lorikeet_tenant_requests_total"
TTFT = "lorikeet_tenant_time_to_first_token_seconds"
PROMPT = "lorikeet_tenant_prompt_tokens_total"
CACHED = "lorikeet_tenant_cached_prompt_tokens_total"
OUTPUT = "lorikeet_tenant_output_tokens_total"
NAME = "{{tenant}}"


def tenants() -> Dashboard:
    """By tenant; `other` is all that are not among the busiest."""
    tenant = Variable("tenant", "Tenant", f'{REQUESTS}{{job=~"$job"}}', "tenant")
    return Dashboard(
        "tenants",
        "What each tenant asks for, gets and waits for.",
        (
            Row("Use", _USE),
            Row("Traffic", _TRAFFIC),
            Row("What they feel", _FELT),
            Row("Tokens", _TOKENS),
        ),
        (*SERVERS, tenant),
    )


_USE = (
    Panel(
        "Tenants",
        "In the time that is shown, as rates make it out: the first requests of a series are not "
        "in it. For bills add up the access log.",
        (
            Query(increase(REQUESTS, "tenant", where=TENANT), "Requests"),
            Query(increase(PROMPT, "tenant", where=TENANT), "Prompt tokens"),
            Query(increase(CACHED, "tenant", where=TENANT), "Cached prompt tokens"),
            Query(increase(OUTPUT, "tenant", where=TENANT), "Output tokens"),
        ),
        kind="table",
        width=24,
    ),
)
_TRAFFIC = (
    Panel(
        "Requests",
        "Answers by tenant, of any status.",
        (Query(rate(REQUESTS, "tenant", where=TENANT), NAME),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Requests that were not answered",
        "429: over the key's limits or the tenant's part of the queue. 4xx: a client in error. "
        "5xx: our fault.",
        (
            Query(
                rate(REQUESTS, "tenant", "status", where=f'{TENANT}, status!~"2.."'),
                "{{tenant}} {{status}}",
            ),
        ),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Refusals by reason",
        "Of all tenants. rate_limit, token_limit, concurrency: `lorikeet keys` sets them.",
        (Query(rate("lorikeet_admission_refusals_total", "reason"), "{{reason}}"),),
        unit="reqps",
        stacked=True,
    ),
    Panel(
        "Running",
        "Requests in the engine.",
        (Query(total("lorikeet_tenant_requests_running", "tenant", where=TENANT), NAME),),
        stacked=True,
    ),
    Panel(
        "Queued",
        "Requests that wait for their turn. A noisy tenant waits for itself: the others' queues "
        "stay short.",
        (Query(total("lorikeet_tenant_requests_queued", "tenant", where=TENANT), NAME),),
        stacked=True,
    ),
    Panel(
        "Share of the output tokens",
        "Tenants that always have work get equal shares.",
        (
            Query(
                f"{rate(OUTPUT, 'tenant', where=TENANT)} / ignoring (tenant) group_left () "
                f"{rate(OUTPUT)}",
                NAME,
            ),
        ),
        unit="percentunit",
        stacked=True,
    ),
)
_FELT = (
    Panel(
        "Time to first token, p50",
        "From arrival, the queue included.",
        (Query(quantile(0.5, TTFT, "tenant", where=TENANT), NAME),),
        unit="s",
    ),
    Panel(
        "Time to first token, p95",
        "One tenant alone is slow: look at its queue. All of them: at the service.",
        (Query(quantile(0.95, TTFT, "tenant", where=TENANT), NAME),),
        unit="s",
    ),
    Panel(
        "Whole request, p95",
        "From arrival to the last byte.",
        (
            Query(
                quantile(0.95, "lorikeet_tenant_request_seconds", "tenant", where=TENANT),
                NAME,
            ),
        ),
        unit="s",
    ),
)
_TOKENS = (
    Panel(
        "Prompt tokens",
        "Cached ones too.",
        (Query(rate(PROMPT, "tenant", where=TENANT), NAME),),
        unit="ops",
        stacked=True,
    ),
    Panel(
        "Output tokens",
        "What fairness is counted in.",
        (Query(rate(OUTPUT, "tenant", where=TENANT), NAME),),
        unit="ops",
        stacked=True,
    ),
    Panel(
        "Prompt tokens from the cache",
        "Tenants share nothing of it: each has a prefix cache of its own.",
        (
            Query(
                share(
                    rate(CACHED, "tenant", where=TENANT),
                    rate(PROMPT, "tenant", where=TENANT),
                ),
                NAME,
            ),
        ),
        unit="percentunit",
    ),
)
