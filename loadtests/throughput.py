"""What each server writes under the same load, by kind of traffic: from answers to verdicts."""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from loadtests.answer import Answer
from loadtests.servers import BOUND, OURS, STOCK
from loadtests.swarm import Crowd, Swarm
from loadtests.verdict import Verdict, ratio

BASE, ONE, MANY, ZIPF = "base", "1 adapter", "1 adapter a slot", "4 adapters a slot, Zipf"
"""Kinds of traffic."""


@dataclass(frozen=True, slots=True)
class Figures:
    """What came of a load; times in seconds, not a number where nothing came."""

    answers: int
    failures: int
    tokens_per_second: float
    ttft_median: float = math.nan
    ttft_p95: float = math.nan
    itl_median: float = math.nan

    @classmethod
    def of(cls, answers: Sequence[Answer], seconds: float) -> "Figures":
        """Of a turn of `seconds`, which begins with its first request.

        Answers that were still streaming at its end count with the tokens that came in time.
        """
        good = [answer for answer in answers if answer.error is None and answer.arrivals]
        if not good:
            return cls(0, len(answers), 0.0)
        begin = min(answer.started for answer in answers)
        tokens = sum(answer.tokens_between(begin, begin + seconds) for answer in good)
        ttfts = [answer.arrivals[0] - answer.started for answer in good]
        gaps = [gap for answer in good for gap in answer.gaps]
        return cls(
            len(good),
            len(answers) - len(good),
            tokens / seconds,
            statistics.median(ttfts),
            float(np.percentile(ttfts, 95)),
            statistics.median(gaps) if gaps else math.nan,
        )

    @classmethod
    def middle(cls, rounds: Sequence["Figures"]) -> "Figures":
        """The medians of several turns, and the sums of their answers and failures."""

        def median(of: Callable[[Figures], float]) -> float:
            return statistics.median(map(of, rounds))

        return cls(
            sum(figures.answers for figures in rounds),
            sum(figures.failures for figures in rounds),
            median(lambda figures: figures.tokens_per_second),
            median(lambda figures: figures.ttft_median),
            median(lambda figures: figures.ttft_p95),
            median(lambda figures: figures.itl_median),
        )


@dataclass(frozen=True, slots=True)
class Turn:
    """What one kind of traffic got from one server in one turn."""

    server: str
    traffic: str
    figures: Figures


@dataclass(frozen=True, slots=True)
class Row:
    """A server's turns with one kind of traffic, put together."""

    server: str
    traffic: str
    figures: Figures
    of_base: float
    """Output tokens/s in parts of the base traffic's on this server: median over the rounds."""


def take_turn(
    server: str, url: str, traffic: str, models: Sequence[str], crowd: Crowd, records: Path
) -> Turn:
    """Let the crowd ask; `models` are the locustfile's options that make this traffic."""
    with Swarm(crowd, url, models, records) as swarm:
        return Turn(server, traffic, Figures.of(swarm.join(), crowd.seconds))


def rows(turns: Sequence[Turn]) -> list[Row]:
    """One row for each server and kind of traffic, in the order of their first turns."""
    keys = dict.fromkeys((turn.server, turn.traffic) for turn in turns)
    return [_row(turns, server, traffic) for server, traffic in keys]


def _row(turns: Sequence[Turn], server: str, traffic: str) -> Row:
    own, base = _of(turns, server, traffic), _of(turns, server, BASE)
    shares = [
        ratio(figures.tokens_per_second, reference.tokens_per_second)
        for figures, reference in zip(own, base, strict=False)
    ]
    share = statistics.median(shares) if shares else math.nan
    return Row(server, traffic, Figures.middle(own), share)


def _of(turns: Sequence[Turn], server: str, traffic: str) -> list[Figures]:
    return [turn.figures for turn in turns if (turn.server, turn.traffic) == (server, traffic)]


def verdicts(turns: Sequence[Turn]) -> list[Verdict]:
    """The promises that the measured servers allow to judge."""
    found = {(row.server, row.traffic): row for row in rows(turns)}
    judged = []
    for traffic, stock, goal in (
        (BASE, STOCK, 1.4),
        (ONE, STOCK, None),
        (MANY, STOCK, 2.7),
        (BASE, BOUND, None),
        (ONE, BOUND, None),
        (MANY, BOUND, 2.0),
        (ZIPF, STOCK, 2.5),
    ):
        ours, theirs = found.get((OURS, traffic)), found.get((stock, traffic))
        if ours and theirs:
            speedup = ratio(ours.figures.tokens_per_second, theirs.figures.tokens_per_second)
            judged.append(Verdict(f"{traffic}: output tokens/s of {stock}'s", speedup, goal))
            if stock == STOCK:
                wait = ratio(ours.figures.ttft_median, theirs.figures.ttft_median)
                promise = f"{traffic}: median TTFT of {stock}'s"
                bar = 0.75 if traffic == BASE else None
                judged.append(Verdict(promise, wait, bar, at_most=True))
    for traffic, goal in ((ONE, None), (MANY, 0.7)):
        if row := found.get((OURS, traffic)):
            promise = f"{OURS}: {traffic}, output tokens/s of base traffic's"
            judged.append(Verdict(promise, row.of_base, goal))
    if row := found.get((OURS, ZIPF)):
        promise = f"{OURS}: {ZIPF}, failed requests"
        judged.append(Verdict(promise, row.figures.failures, 0, at_most=True))
    return judged


def table(turns: Sequence[Turn]) -> Table:
    """For a terminal."""
    shown = Table(title="Output under the same load")
    shown.add_column("server")
    shown.add_column("traffic")
    for heading in ("tokens/s", "of base", "TTFT median", "TTFT p95", "ITL median", "answers"):
        shown.add_column(heading, justify="right")
    previous = None
    for row in rows(turns):
        if previous not in (None, row.server):
            shown.add_section()
        figures = row.figures
        failures = f" [red]({figures.failures} failed)[/]" if figures.failures else ""
        shown.add_row(
            row.server if row.server != previous else "",
            row.traffic,
            f"{figures.tokens_per_second:.1f}",
            "" if math.isnan(row.of_base) else f"{row.of_base:.2f}",
            f"{figures.ttft_median:.2f} s",
            f"{figures.ttft_p95:.2f} s",
            f"{figures.itl_median * 1000:.0f} ms",
            f"{figures.answers}{failures}",
        )
        previous = row.server
    return shown
