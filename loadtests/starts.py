"""How long a server takes from the start of its process until it is ready, and what it weighs.

The same starts tell what registered adapters cost: ours is started with none and with many, and
lists them all page by page.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
from rich.table import Table

from loadtests.chat import connect
from loadtests.process import resident_mib
from loadtests.servers import OURS, STOCK, ServerPlan
from loadtests.verdict import Verdict, ratio
from registry import LorikeetError
from serve.child import running

ADAPTERS = 1000
"""How many are many."""
OURS_MANY = f"{OURS}, {ADAPTERS:,} adapters"
PAGE = 100
"""Models on a page of the list."""
MAX_PAGES = 100
PASSES = 3
"""Times the whole list is read: the first fills what the server keeps in memory."""


@dataclass(frozen=True, slots=True)
class Start:
    """`seconds` until the first 200, and the memory of the API process once its list was read."""

    server: str
    seconds: float
    resident_mib: float
    models: int
    whole_list_seconds: float
    first_pass: tuple[float, ...] = field(default=())
    """Seconds of each page when the list is read for the first time."""
    pages: tuple[float, ...] = field(default=())
    """The same of the passes after it."""


def measure_start(plan: ServerPlan, log: Path, *, pages: bool) -> Start:
    """Start the server, read its list of models, and stop it. `pages`: it lists by pages."""
    begin = time.perf_counter()
    with running(plan.command, log, ready_path=plan.ready_path, env=plan.environment) as child:
        seconds = time.perf_counter() - begin
        with connect(child.url) as client:
            passes = [_read_pages(client) for _ in range(PASSES)] if pages else [()]
            begin = time.perf_counter()
            models = len(client.get("/v1/models").raise_for_status().json()["data"])
            whole = time.perf_counter() - begin
        later = tuple(page for listed in passes[1:] for page in listed)
        return Start(plan.name, seconds, resident_mib(child.pid), models, whole, passes[0], later)


def _read_pages(client: httpx.Client) -> tuple[float, ...]:
    """Seconds of each page of the list of models."""
    times: list[float] = []
    after: dict[str, str] = {}
    while len(times) < MAX_PAGES:
        begin = time.perf_counter()
        answer = client.get("/v1/models", params={"limit": str(PAGE), **after})
        times.append(time.perf_counter() - begin)
        listed = answer.raise_for_status().json()
        if not listed.get("has_more"):
            return tuple(times)
        after = {"after": listed["data"][-1]["id"]}
    raise LorikeetError(f"the list of models has not ended after {MAX_PAGES} pages")


def verdicts(starts: Sequence[Start]) -> list[Verdict]:
    """The last start of each server counts: the ones before it have warmed its caches."""
    last = {start.server: start for start in starts}
    stock, ours, many = last.get(STOCK), last.get(OURS), last.get(OURS_MANY)
    judged = []
    if ours and stock:
        share = ratio(ours.seconds, stock.seconds)
        judged.append(Verdict(f"start to ready of {STOCK}'s", share, 0.65, at_most=True))
    if ours and many:
        added = f"{ADAPTERS:,} adapters"
        judged += [
            Verdict(f"{added}: start, seconds more", many.seconds - ours.seconds, 2, at_most=True),
            Verdict(
                f"{added}: memory of the API process, MiB more",
                many.resident_mib - ours.resident_mib,
                100,
                at_most=True,
            ),
            Verdict(
                f"{added}: a page of {PAGE} models, ms (95th percentile)",
                float(np.percentile(many.pages, 95)) * 1000,
                100,
                at_most=True,
            ),
            Verdict(f"{added}: the slowest page when first read, ms", max(many.first_pass) * 1000),
            Verdict(f"{added}: the whole list, ms", many.whole_list_seconds * 1000),
        ]
    return judged


def table(starts: Sequence[Start]) -> Table:
    """For a terminal."""
    shown = Table(title="From the start of the process until it is ready")
    for heading in ("server", "ready after", "API process", "models", "a page", "whole list"):
        shown.add_column(heading, justify="left" if heading == "server" else "right")
    for start in starts:
        page = f"{statistics.median(start.pages) * 1000:.0f} ms" if start.pages else ""
        shown.add_row(
            start.server,
            f"{start.seconds:.1f} s",
            f"{start.resident_mib:.0f} MiB",
            str(start.models),
            page,
            f"{start.whole_list_seconds * 1000:.0f} ms",
        )
    return shown
