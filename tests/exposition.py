"""What a server says of itself in `/metrics`, as text, with figures that are known."""

from typing import Any

from serve.top.scrape import Scrape
from serve.top.source import Look

CLOCK = 1_800_000_000.0


def metrics(n: int) -> str:
    """An exposition in which `n` times as much has happened as in that of 1."""
    samples = [
        'info config_info{base="smol",dtype="float32"} 1',
        'info build_info{version="1.2",vllm="0.32"} 1',
        f"counter engine_restarts_total 0\ncounter engine_restarts_created {CLOCK - 100}",
        "gauge ready 1",
        "gauge requests_running 3",
        "gauge requests_queued 2",
        'gauge slots{state="used"} 2',
        'gauge slots{state="total"} 8',
        'gauge adapters{tier="cpu"} 4',
        'gauge adapters{tier="disk"} 9',
        "gauge adapters_quarantined 1",
        "gauge disk_free_bytes 5e9",
        "gauge disk_total_bytes 9e9",
        f'counter admission_refusals_total{{reason="queue_full"}} {5 * n}',
        'counter admission_refusals_total{reason="rate_limit"} 7',
        f'counter requests_total{{model="smol",endpoint="chat",status="200"}} {10 * n}',
        f'counter requests_total{{model="opl@1",endpoint="chat",status="200"}} {30 * n}',
        f'counter requests_total{{model="opl@1",endpoint="chat",status="503"}} {10 * n}',
        'gauge adapter_requests_running{model="opl@1"} 3',
        'gauge adapter_requests_queued{model="opl@1"} 1',
        f'counter prompt_tokens_total{{model="opl@1"}} {400 * n}',
        f'counter cached_prompt_tokens_total{{model="opl@1"}} {100 * n}',
        f'counter output_tokens_total{{model="opl@1"}} {200 * n}',
        *buckets('time_to_first_token_seconds', 'model="opl@1"', n),
        *buckets('inter_token_latency_seconds', 'model="opl@1"', n),
        'counter adapter_hits_total{model="opl@1",kind="warm"} 39',
        'counter adapter_hits_total{model="opl@1",kind="cold"} 1',
        f'counter tenant_requests_total{{tenant="acme",status="200"}} {20 * n}',
        'gauge tenant_requests_running{tenant="acme"} 3',
        'gauge tenant_requests_queued{tenant="acme"} 2',
        f'counter tenant_output_tokens_total{{tenant="acme"}} {100 * n}',
        *buckets('tenant_time_to_first_token_seconds', 'tenant="acme"', n),
        'gauge training_jobs{status="running"} 1',
        'gauge training_jobs{status="queued"} 2',
        'gauge training_jobs{status="failed"} 0',
        "gauge training_workers 1",
        'gauge training_step{training_job="ftjob-1"} 30',
        'gauge training_steps{training_job="ftjob-1"} 120',
        'gauge training_loss{training_job="ftjob-1"} 0.5',
        'gauge training_step_seconds{training_job="ftjob-1"} 2',
        'gauge training_tokens_per_second{training_job="ftjob-1"} 812',
        'gauge training_last_event_age_seconds{training_job="ftjob-1"} 3',
    ]  # fmt: skip
    return exposition("\n".join(samples))


def buckets(name: str, label: str, n: int) -> list[str]:
    """A histogram with half of its observations up to 0.1 and half up to 0.5."""
    counts = {"0.1": 10 * n, "0.5": 20 * n, "+Inf": 20 * n}
    return [f'histogram {name}_bucket{{{label},le="{le}"}} {count}' for le, count in counts.items()]


def exposition(samples: str) -> str:
    """Lines of `TYPE NAME{…} VALUE` in Prometheus' text format."""
    lines, typed = [], set()
    for line in samples.splitlines():
        kind, _, sample = line.partition(" ")
        family = sample.partition("{")[0].partition(" ")[0].removesuffix("_bucket")
        if family not in typed:
            typed.add(family)
            kind = "gauge" if kind == "info" or family.endswith("_created") else kind
            lines.append(f"# TYPE lorikeet_{family} {kind}")
        lines.append(f"lorikeet_{sample}")
    return "\n".join(lines) + "\n"


def look(text: str, at: float, adapters: Any = None) -> Look:
    """What a server said at `at`."""
    return Look(Scrape.parse(text, at), "ready", "smol", CLOCK, adapters)
