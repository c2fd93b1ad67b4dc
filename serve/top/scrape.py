"""One reading of a server's `/metrics`, as far as `lorikeet top` shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

STARTED = "process_start_time_seconds"
CREATED = "lorikeet_engine_restarts_created"
KV_CACHE = "vllm:kv_cache_usage_perc"
_WANTED = ("lorikeet_", KV_CACHE, STARTED)

Labels = tuple[tuple[str, str], ...]
"""A series' labels in the order of their names."""


@dataclass(frozen=True, slots=True)
class Scrape:
    """`at` is a monotonic clock's time in seconds; `series` is sample name → labels → value.

    `declared` has the names of all metrics, also of those that have no series yet: what is
    declared and absent is 0, what is not declared is not known.
    """

    at: float
    series: Mapping[str, Mapping[Labels, float]]
    declared: frozenset[str]

    @classmethod
    def parse(cls, text: str, at: float) -> Self:
        """Read Prometheus' text format. Of the engine's many metrics only those shown are parsed.

        Raises: ValueError for what is not in that format.
        """
        wanted = [
            line
            for line in text.split("\n")
            if line.removeprefix("# TYPE ").removeprefix("# HELP ").startswith(_WANTED)
        ]
        series: dict[str, dict[Labels, float]] = {}
        declared = set()
        for family in text_string_to_metric_families("\n".join(wanted) + "\n"):
            declared.add(family.name)
            for sample in family.samples:
                labels = tuple(sorted(sample.labels.items()))
                series.setdefault(sample.name, {})[labels] = float(sample.value)
        return cls(at, series, frozenset(declared))

    def knows(self, name: str) -> bool:
        """Whether the server has this metric, with or without series."""
        return name in self.declared or name.removesuffix("_total") in self.declared

    def total(self, name: str, **labels: str) -> float | None:
        """The sum over the series with these labels; None where the metric is not known."""
        if not self.knows(name):
            return None
        series = self.series.get(name, {}).items()
        return sum(value for key, value in series if labels.items() <= dict(key).items())

    def by(self, name: str, label: str, **labels: str) -> dict[str, float] | None:
        """The sum by a label's values, of the series with `labels`; None: not known."""
        if not self.knows(name):
            return None
        return summed(
            {
                key: value
                for key, value in self.series.get(name, {}).items()
                if labels.items() <= dict(key).items()
            },
            label,
        )

    def text(self, name: str, label: str) -> str | None:
        """A label's value in the first series of an info metric."""
        for key in self.series.get(name, {}):
            return dict(key).get(label)
        return None


def summed(series: Mapping[Labels, float], label: str) -> dict[str, float]:
    """What `sum by (label)` of PromQL gives; a series without the label counts under ''."""
    sums: dict[str, float] = {}
    for key, value in series.items():
        group = dict(key).get(label, "")
        sums[group] = sums.get(group, 0.0) + value
    return sums
