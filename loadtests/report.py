"""From the answers of each turn to the table and the verdicts."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from rich.table import Table

from loadtests.answer import Answer

STOCK, BOUND, OURS = "stock vLLM", "stock vLLM, all cores", "Lorikeet"
BASE, ONE, MANY = "base", "1 adapter", "adapters"
"""Kinds of traffic; `MANY` is one adapter for each slot."""


@dataclass(frozen=True, slots=True)
class Turn:
    """What one kind of traffic got from one server in one turn; times in seconds."""

    server: str
    traffic: str
    answers: int
    failures: int
    tokens_per_second: float
    ttft_median: float
    ttft_p95: float
    itl_median: float


def measure(server: str, traffic: str, answers: Sequence[Answer], seconds: float) -> Turn:
    """The figures of a turn of `seconds`, which begins with its first request.

    Answers that were still streaming at its end count with the tokens that came in time.
    """
    good = [answer for answer in answers if answer.error is None and answer.arrivals]
    if not good:
        return Turn(server, traffic, 0, len(answers), 0.0, *(float("nan"),) * 3)
    begin = min(answer.started for answer in answers)
    tokens = sum(answer.tokens_between(begin, begin + seconds) for answer in good)
    ttfts = [answer.arrivals[0] - answer.started for answer in good]
    gaps = [gap for answer in good for gap in answer.gaps]
    return Turn(
        server,
        traffic,
        len(good),
        len(answers) - len(good),
        tokens / seconds,
        statistics.median(ttfts),
        float(np.percentile(ttfts, 95)),
        statistics.median(gaps) if gaps else float("nan"),
    )


@dataclass(frozen=True, slots=True)
class Row:
    """A server's turns with one kind of traffic, put together by their medians."""

    server: str
    traffic: str
    answers: int
    failures: int
    tokens_per_second: float
    ttft_median: float
    ttft_p95: float
    itl_median: float
    of_base: float
    """Output tokens/s in parts of the base traffic's on this server: median over the rounds."""


def rows(turns: Sequence[Turn]) -> list[Row]:
    """One row for each server and kind of traffic, in the order of their first turns."""
    keys = dict.fromkeys((turn.server, turn.traffic) for turn in turns)
    return [_row(turns, server, traffic) for server, traffic in keys]


def _row(turns: Sequence[Turn], server: str, traffic: str) -> Row:
    own = _of(turns, server, traffic)
    base = _of(turns, server, BASE)
    shares = [
        _ratio(turn.tokens_per_second, reference.tokens_per_second)
        for turn, reference in zip(own, base, strict=False)
    ]

    def middle(values: Iterable[float]) -> float:
        return statistics.median(values)

    return Row(
        server,
        traffic,
        sum(turn.answers for turn in own),
        sum(turn.failures for turn in own),
        middle(turn.tokens_per_second for turn in own),
        middle(turn.ttft_median for turn in own),
        middle(turn.ttft_p95 for turn in own),
        middle(turn.itl_median for turn in own),
        middle(shares) if shares else float("nan"),
    )


@dataclass(frozen=True, slots=True)
class Verdict:
    """One promise, what came of it, and whether it was kept."""

    promise: str
    goal: float
    value: float
    at_most: bool = False

    @property
    def kept(self) -> bool:
        """False also for a figure that could not be measured."""
        return self.value <= self.goal if self.at_most else self.value >= self.goal


def verdicts(table: Sequence[Row]) -> list[Verdict]:
    """The promises that the measured servers allow to judge."""
    found = {(row.server, row.traffic): row for row in table}
    judged = []
    for traffic, goal in ((ONE, 0.85), (MANY, 0.65)):
        if row := found.get((OURS, traffic)):
            promise = f"{OURS}: {traffic}, output tokens/s of base traffic's"
            judged.append(Verdict(promise, goal, row.of_base))
    for stock, goal in ((STOCK, 2.5), (BOUND, 1.8)):
        for traffic in (ONE, MANY):
            ours, theirs = found.get((OURS, traffic)), found.get((stock, traffic))
            if ours and theirs:
                speedup = _ratio(ours.tokens_per_second, theirs.tokens_per_second)
                judged.append(Verdict(f"{traffic}: output tokens/s of {stock}'s", goal, speedup))
                wait = _ratio(ours.ttft_median, theirs.ttft_median)
                if stock == STOCK:
                    promise = f"{traffic}: median TTFT of {stock}'s"
                    judged.append(Verdict(promise, 0.3, wait, at_most=True))
    return judged


def figures_table(table: Sequence[Row]) -> Table:
    """For a terminal."""
    shown = Table(title="Output of each server under the same load")
    shown.add_column("server")
    shown.add_column("traffic")
    for heading in ("tokens/s", "of base", "TTFT median", "TTFT p95", "ITL median", "answers"):
        shown.add_column(heading, justify="right")
    previous = None
    for row in table:
        if previous not in (None, row.server):
            shown.add_section()
        failures = f" [red]({row.failures} failed)[/]" if row.failures else ""
        shown.add_row(
            row.server if row.server != previous else "",
            row.traffic,
            f"{row.tokens_per_second:.1f}",
            f"{row.of_base:.2f}",
            f"{row.ttft_median:.2f} s",
            f"{row.ttft_p95:.2f} s",
            f"{row.itl_median * 1000:.0f} ms",
            f"{row.answers}{failures}",
        )
        previous = row.server
    return shown


def verdicts_table(judged: Sequence[Verdict]) -> Table:
    """For a terminal."""
    shown = Table(title="What was promised")
    shown.add_column("promise")
    shown.add_column("goal", justify="right")
    shown.add_column("measured", justify="right")
    for verdict in judged:
        color = "green" if verdict.kept else "red"
        sign = "≤" if verdict.at_most else "≥"
        shown.add_row(
            verdict.promise, f"{sign} {verdict.goal:.2f}", f"[{color}]{verdict.value:.2f}[/]"
        )
    return shown


def as_json(turns: Sequence[Turn]) -> dict[str, Any]:
    """The turns, the rows and the verdicts."""
    table = rows(turns)
    return {
        "turns": [asdict(turn) for turn in turns],
        "rows": [asdict(row) for row in table],
        "verdicts": [asdict(verdict) | {"kept": verdict.kept} for verdict in verdicts(table)],
    }


def _of(turns: Sequence[Turn], server: str, traffic: str) -> list[Turn]:
    return [turn for turn in turns if (turn.server, turn.traffic) == (server, traffic)]


def _ratio(value: float, reference: float) -> float:
    return value / reference if reference else float("nan")
