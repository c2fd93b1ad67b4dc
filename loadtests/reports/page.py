"""report.html: a run of load on one page that needs no other file and runs no script."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtests.reports.plots import pictures
from registry.files import replacing

_TEMPLATE = "load.html.jinja"
_COLUMNS: Mapping[str, tuple[str, float, str]] = {
    "requests": ("requests", 1, ",.0f"),
    "failures": ("failed", 1, ",.0f"),
    "requests_per_second": ("requests/s", 1, ".2f"),
    "output_tokens_per_second": ("output tokens/s", 1, ".1f"),
    "ttft_p50": ("TTFT p50, ms", 1000, ",.0f"),
    "ttft_p95": ("p95", 1000, ",.0f"),
    "ttft_p99": ("p99", 1000, ",.0f"),
    "itl_p50": ("ITL p50, ms", 1000, ",.0f"),
    "itl_p95": ("p95", 1000, ",.0f"),
    "request_p50": ("answer p50, s", 1, ".2f"),
    "request_p95": ("p95", 1, ".2f"),
}
"""Figures in a table: heading, factor, format."""

Rows = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Grid:
    """Rows under headings."""

    title: str
    headings: Sequence[str]
    rows: Rows


def write_page(document: Mapping[str, Any], path: Path) -> None:
    """Write the page of a report (`summary`'s document), whole or not at all. Raises OSError."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    page = templates.get_template(_TEMPLATE).render(
        title=f"Load: {document.get('scenario') or 'run'}",
        about=facts({key: document.get(key) for key in ("date", "load", "server", "machine")}),
        saturated=document["saturated"],
        cut_short=document.get("cut_short"),
        grids=list(_grids(document)),
        verdicts=document.get("verdicts") or [],
        skipped=document.get("skipped") or [],
        pictures={
            title: base64.b64encode(picture).decode()
            for title, picture in pictures(document).items()
        },
        errors=document["errors"],
    )
    with replacing(path) as file:
        file.write(page.encode())


def facts(values: Mapping[str, Any], within: str = "") -> list[tuple[str, str]]:
    """Nested objects as lines, each with the names that lead to it."""
    found: list[tuple[str, str]] = []
    for key, value in values.items():
        name = f"{within}{key}".replace("_", " ")
        if isinstance(value, Mapping):
            found += facts(value, f"{name}: ")
        elif isinstance(value, list | tuple):
            found.append((name, " ".join(map(str, value))))
        elif value not in (None, ""):
            found.append((name, str(value)))
    return found


def shown(figures: Mapping[str, Any]) -> list[str]:
    """The cells of a table for these figures; empty where there is no number."""
    return [
        "" if (value := figures.get(key)) is None else f"{value * factor:{form}}"
        for key, (_, factor, form) in _COLUMNS.items()
    ]


def headings(first: str) -> list[str]:
    """Of a table of figures."""
    return [first, *(heading for heading, _, _ in _COLUMNS.values())]


def _grids(document: Mapping[str, Any]) -> Iterator[Grid]:
    yield Grid("The whole run", headings(""), [["all", *shown(document["total"])]])
    stages = document["stages"]
    if len(stages) > 1:
        rows = [[stage["name"], *shown(stage["figures"])] for stage in stages]
        yield Grid("Stages", headings("stage"), rows)
    if document["tenants"]:
        rows = [[name, *shown(found)] for name, found in document["tenants"].items()]
        yield Grid("Tenants", headings("tenant"), rows)
        rows = [
            [f"{stage['name']}: {name}", *shown(found)]
            for stage in stages
            for name, found in stage.get("tenants", {}).items()
            if found["requests"]
        ]
        yield Grid("Tenants by stage", headings("stage: tenant"), rows)
    models = document["models"]
    if models["figures"]:
        rows = [[name, *shown(found)] for name, found in models["figures"].items()]
        more = models["asked"] - len(rows)
        title = f"Models ({more:,} more were asked)" if more > 0 else "Models"
        yield Grid(title, headings("model"), rows)
