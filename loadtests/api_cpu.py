"""CPU time of the API process for a request and for a streamed token.

Two loads, one of many short answers and one of few long ones, give two equations for the two.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from loadtests.process import cpu_seconds
from loadtests.servers import OURS, STOCK
from loadtests.swarm import Crowd, Swarm
from loadtests.verdict import Verdict, ratio
from serve.child import Child


@dataclass(frozen=True, slots=True)
class Spent:
    """What the API process of a server spent on a load; its children are not counted."""

    server: str
    requests: int
    failures: int
    tokens: int
    cpu_seconds: float


@dataclass(frozen=True, slots=True)
class Cost:
    """CPU seconds."""

    request: float
    token: float


def measure_load(
    server: str, child: Child, models: Sequence[str], crowd: Crowd, records: Path
) -> Spent:
    """Let the crowd ask until its last answer has ended, and read the process's clock."""
    with Swarm(crowd, child.url, models, records) as swarm:
        before = cpu_seconds(child.pid)
        answers = swarm.join()
        spent = cpu_seconds(child.pid) - before
    failures = sum(answer.error is not None for answer in answers)
    return Spent(server, len(answers), failures, sum(a.tokens for a in answers), spent)


def cost(loads: Sequence[Spent]) -> Cost:
    """The least squares over a server's loads; not numbers where they are too much alike."""
    if not loads:
        return Cost(math.nan, math.nan)
    amounts = np.array([[load.requests, load.tokens] for load in loads], dtype=float)
    solution, _, known, _ = np.linalg.lstsq(amounts, np.array([s.cpu_seconds for s in loads]))
    return Cost(*map(float, solution)) if known == 2 else Cost(math.nan, math.nan)


def verdicts(loads: Sequence[Spent]) -> list[Verdict]:
    """Ours over stock's, where both were measured."""
    if not {STOCK, OURS} <= {load.server for load in loads}:
        return []
    ours, stock = (cost(_of(loads, server)) for server in (OURS, STOCK))
    promise = f"CPU time of the API process for a {{}}, of {STOCK}'s"
    return [
        Verdict(promise.format("request"), ratio(ours.request, stock.request), 1.1, at_most=True),
        Verdict(promise.format("token"), ratio(ours.token, stock.token), 1.1, at_most=True),
    ]


def table(loads: Sequence[Spent]) -> Table:
    """For a terminal."""
    shown = Table(title="CPU time of the API process")
    for heading in ("server", "a request", "a streamed token", "requests", "tokens"):
        shown.add_column(heading, justify="left" if heading == "server" else "right")
    for server in dict.fromkeys(load.server for load in loads):
        own = _of(loads, server)
        solved = cost(own)
        failures = sum(load.failures for load in own)
        shown.add_row(
            server,
            f"{solved.request * 1000:.2f} ms",
            f"{solved.token * 1000:.3f} ms",
            f"{sum(load.requests for load in own)}"
            + (f" [red]({failures} failed)[/]" if failures else ""),
            str(sum(load.tokens for load in own)),
        )
    return shown


def _of(loads: Sequence[Spent], server: str) -> list[Spent]:
    return [load for load in loads if load.server == server]
