"""vLLM's own metrics as it declares them, and none of ours: those would be there twice.

`vllm:lora_requests_info` says in its labels which adapters run and which wait; each combination
stays for ever. Those who read it, such as the inference gateway of Kubernetes, take the newest: so
that one is told, with the names that clients use, and the others are forgotten.
"""

from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Gauge, Metric, generate_latest
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample
from vllm.v1.metrics.prometheus import get_prometheus_registry

LORA_INFO = "vllm:lora_requests_info"
ADAPTERS = ("running_lora_adapters", "waiting_lora_adapters")
MOST_COMBINATIONS = 64


def vllm_metrics() -> bytes:
    """`vllm:*` and what Python tells of its process, in Prometheus' text format."""
    text: bytes = generate_latest(_View(get_prometheus_registry()))
    _forget_combinations()
    return text


class _View(Collector):
    """What is told of a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            if family.name == LORA_INFO and family.samples:
                newest = max(family.samples, key=lambda sample: sample.value)
                family.samples = [_with_public_names(newest)]
            if not family.name.startswith("lorikeet_"):
                yield family


def _with_public_names(sample: Sample) -> Sample:
    labels = dict(sample.labels)
    for label in ADAPTERS:
        names = labels.get(label, "").split(",")
        labels[label] = ",".join(name.partition("+")[0] for name in names)
    return sample._replace(labels=labels)


def _forget_combinations() -> None:
    gauge = REGISTRY._names_to_collectors.get(LORA_INFO)
    if isinstance(gauge, Gauge) and len(gauge._metrics) > MOST_COMBINATIONS:
        gauge.clear()  # the next step of the engine tells the one that is
