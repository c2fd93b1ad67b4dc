"""What dashboards and rules ask Prometheus for, and what the server declares."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from prometheus_client.metrics import MetricWrapperBase

from deploy.monitoring.files import dashboards, groups
from deploy.monitoring.objectives import Objectives
from deploy.monitoring.rules import Alert, Recorded
from serve.metrics import Metrics

NAME = re.compile(r"(?<![\w:])(?:lorikeet_\w+|(?:lorikeet|vllm):[\w:]+)")
LEGEND = re.compile(r"\{\{(\w+)\}\}")
TEXT = re.compile(r"\$labels\.(\w+)")
DASHBOARDS = dashboards(Objectives())
RULES: tuple[Recorded | Alert, ...] = tuple(
    rule for group in groups(Objectives()) for rule in group.rules
)


@dataclass(frozen=True)
class Shown:
    """A query of a panel, and the labels that its legend names."""

    where: str
    expr: str
    labels: frozenset[str]

    def __str__(self) -> str:
        return self.where


PANELS = tuple(
    Shown(
        f"{page.name}/{panel.title}/{number}",
        query.expr,
        frozenset(LEGEND.findall(query.legend)),
    )
    for page in DASHBOARDS
    for panel in page.panels
    for number, query in enumerate(panel.queries)
)


def named(expressions: Iterable[str]) -> set[str]:
    """The series that expressions name: ours, recorded ones and vLLM's."""
    return {name for expression in expressions for name in NAME.findall(expression)}


def labels_in_texts(alert: Alert) -> set[str]:
    """The labels that an alert's texts name."""
    return set(TEXT.findall(" ".join((alert.summary, alert.felt, alert.look, alert.do))))


@cache
def declared() -> dict[str, frozenset[str]]:
    """Every series that the server can expose, with the labels that it declares."""
    suffixes = {
        "counter": ("_total",),
        "histogram": ("_bucket", "_sum", "_count"),
        "info": ("_info",),
    }
    series = {}
    for collector in Metrics()._registry._collector_to_names:
        for name, kind, labels in _families(collector):
            for suffix in suffixes.get(kind, ("",)):
                series[name + suffix] = frozenset(labels)
    return series


def _families(collector: Any) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Name, type and labels of a metric, or of those that a collector makes at each scrape."""
    if isinstance(collector, MetricWrapperBase):
        yield collector._name, collector._type, collector._labelnames
        return
    describe = getattr(collector, "describe", collector.collect)
    for family in describe():
        yield family.name, family.type, family._labelnames
