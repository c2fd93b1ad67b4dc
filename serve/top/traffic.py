"""What is asked and answered, of the whole server or by model or tenant."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from serve.top.change import Change


@dataclass(frozen=True, slots=True)
class Traffic:
    """Requests in the engine and waiting, rates, and quantiles of TTFT and inter-token latency.

    Failed requests are those not answered with 2xx. A quantile is None where nothing was
    measured between the two looks.
    """

    running: float | None = None
    queued: float | None = None
    requests_per_second: float | None = None
    failed_per_second: float | None = None
    prompt_tokens_per_second: float | None = None
    cached_tokens_per_second: float | None = None
    output_tokens_per_second: float | None = None
    ttft_p50_seconds: float | None = None
    ttft_p95_seconds: float | None = None
    itl_p50_seconds: float | None = None

    @property
    def busy(self) -> tuple[float, float, float]:
        """For sorting: the busiest has the largest."""
        here = (self.running or 0.0) + (self.queued or 0.0)
        return self.requests_per_second or 0.0, here, self.output_tokens_per_second or 0.0


@dataclass(frozen=True, slots=True)
class Names:
    """The metrics that tell it, all with the label of that name."""

    label: str
    running: str
    queued: str
    requests: str
    prompt_tokens: str
    cached_tokens: str
    output_tokens: str
    ttft: str
    itl: str


BY_MODEL = Names(
    label="model",
    running="lorikeet_adapter_requests_running",
    queued="lorikeet_adapter_requests_queued",
    requests="lorikeet_requests_total",
    prompt_tokens="lorikeet_prompt_tokens_total",
    cached_tokens="lorikeet_cached_prompt_tokens_total",
    output_tokens="lorikeet_output_tokens_total",
    ttft="lorikeet_time_to_first_token_seconds",
    itl="lorikeet_inter_token_latency_seconds",
)
BY_TENANT = Names(
    label="tenant",
    running="lorikeet_tenant_requests_running",
    queued="lorikeet_tenant_requests_queued",
    requests="lorikeet_tenant_requests_total",
    prompt_tokens="lorikeet_tenant_prompt_tokens_total",
    cached_tokens="lorikeet_tenant_cached_prompt_tokens_total",
    output_tokens="lorikeet_tenant_output_tokens_total",
    ttft="lorikeet_tenant_time_to_first_token_seconds",
    itl="",
)
WHOLE = Names(
    label="",
    running="lorikeet_requests_running",
    queued="lorikeet_requests_queued",
    requests=BY_MODEL.requests,
    prompt_tokens=BY_MODEL.prompt_tokens,
    cached_tokens=BY_MODEL.cached_tokens,
    output_tokens=BY_MODEL.output_tokens,
    ttft=BY_MODEL.ttft,
    itl=BY_MODEL.itl,
)


def traffic(change: Change, names: Names, groups: Iterable[str] = ()) -> dict[str, Traffic]:
    """By the label's values: of `groups`, and of each that has a series of these metrics.

    With the empty label all is in the one group ''.
    """
    label, now = names.label, change.after
    columns: dict[str, Mapping[str, float] | None] = {
        "running": now.by(names.running, label),
        "queued": now.by(names.queued, label),
        "requests_per_second": change.rates(names.requests, label),
        "failed_per_second": change.rates(names.requests, label, _failed),
        "prompt_tokens_per_second": change.rates(names.prompt_tokens, label),
        "cached_tokens_per_second": change.rates(names.cached_tokens, label),
        "output_tokens_per_second": change.rates(names.output_tokens, label),
    }
    quantiles: dict[str, Mapping[str, float]] = {
        "ttft_p50_seconds": change.quantiles(0.5, names.ttft, label),
        "ttft_p95_seconds": change.quantiles(0.95, names.ttft, label),
        "itl_p50_seconds": change.quantiles(0.5, names.itl, label),
    }
    found = {*groups, *(now.by(names.requests, label) or ())}
    found.update(group for column in columns.values() for group in column or ())
    return {
        group: Traffic(
            **{name: _at(column, group) for name, column in columns.items()},
            **{name: column.get(group) for name, column in quantiles.items()},
        )
        for group in found
    }


def _at(column: Mapping[str, float] | None, group: str) -> float | None:
    """What is known and has no series is 0."""
    return None if column is None else column.get(group, 0.0)


def _failed(labels: Mapping[str, str]) -> bool:
    return not labels.get("status", "2").startswith("2")
