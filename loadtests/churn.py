"""The tokens of a steady stream while adapters load beside it.

Each load is one short request to an adapter that was never loaded, and such a request takes compute
of its own. The reference is therefore the same requests to loaded adapters, so that nothing but
the loading differs; the stream with nothing beside it is measured too.
"""

import math
import random
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from rich.table import Table

from loadtests.answer import Answer
from loadtests.chat import ask, connect
from loadtests.servers import OURS
from loadtests.traffic import chat_request
from loadtests.verdict import Verdict, ratio

ALONE, WARM, COLD = "nothing", "requests to loaded adapters", "requests to cold adapters"
"""What goes on beside the stream."""
INTERVAL_SECONDS = 0.3
"""From one short request to the next, whether or not that was answered."""
SHORT_TOKENS = 2
STREAM_TOKENS = 256
SETTLE_SECONDS = 1.0
"""For the stream to be under way when a phase begins."""
SENDERS = 8
"""Short requests that may be open at the same time."""


@dataclass(frozen=True, slots=True)
class Phase:
    """The stream beside `beside`: seconds between its tokens, and how the short requests fared."""

    beside: str
    gaps: tuple[float, ...]
    requests: int
    failures: int


def measure_phase(url: str, stream: str, beside: str, models: Sequence[str]) -> Phase:
    """One phase: as long as it takes to send a short request to each of `models` in step.

    `stream` is the model whose answers are read meanwhile, one after the other. With ALONE the
    time passes and nothing is sent.
    """
    source = random.Random(beside)
    with (
        _steady_stream(url, stream) as answers,
        connect(url) as client,
        ThreadPoolExecutor(SENDERS) as senders,
    ):
        begin = time.perf_counter()
        sent = []
        for number, model in enumerate(models, start=1):
            if beside != ALONE:
                body = chat_request(model, source, max_tokens=SHORT_TOKENS, whole=True)
                sent.append(senders.submit(ask, client, body))
            time.sleep(max(0.0, begin + number * INTERVAL_SECONDS - time.perf_counter()))
        short = [future.result() for future in sent]
        end = time.perf_counter()
    failures = sum(answer.error is not None for answer in [*short, *answers])
    return Phase(beside, tuple(gaps_between(answers, begin, end)), len(short), failures)


@contextmanager
def _steady_stream(url: str, model: str) -> Iterator[list[Answer]]:
    """Read one long answer after the other; whoever leaves waits for the end of the last one."""
    answers: list[Answer] = []
    ended = threading.Event()
    source = random.Random(model)

    def read() -> None:
        with connect(url) as client:
            while not ended.is_set():
                body = chat_request(model, source, max_tokens=STREAM_TOKENS, whole=True)
                answers.append(ask(client, body))
                if answers[-1].error is not None:
                    ended.wait(INTERVAL_SECONDS)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        time.sleep(SETTLE_SECONDS)
        yield answers
    finally:
        ended.set()
        reader.join()


def gaps_between(answers: Sequence[Answer], begin: float, end: float) -> Iterator[float]:
    """The gaps between tokens that both came in this time."""
    for answer in answers:
        for earlier, later in pairwise(answer.arrivals):
            if begin <= earlier and later <= end:
                yield later - earlier


def verdicts(phases: Sequence[Phase]) -> list[Verdict]:
    """Of the gaps of all rounds together."""
    p99 = {beside: _percentile(phases, beside, 99) for beside in (ALONE, WARM, COLD)}
    if not phases:
        return []
    promise = f"{OURS}: p99 ITL of a stream while cold adapters load, of that"
    failures = sum(phase.failures for phase in phases)
    return [
        Verdict(
            f"{promise} beside the same requests to loaded ones",
            ratio(p99[COLD], p99[WARM]),
            1.3,
            at_most=True,
        ),
        Verdict(f"{promise} with nothing beside it", ratio(p99[COLD], p99[ALONE])),
        Verdict(f"{OURS}: failed requests while cold adapters load", failures, 0, at_most=True),
    ]


def table(phases: Sequence[Phase]) -> Table:
    """For a terminal."""
    shown = Table(title="A steady stream while adapters load")
    for heading in ("beside it", "ITL median", "ITL p99", "tokens", "requests"):
        shown.add_column(heading, justify="left" if heading == "beside it" else "right")
    for beside in dict.fromkeys(phase.beside for phase in phases):
        own = [phase for phase in phases if phase.beside == beside]
        shown.add_row(
            beside,
            f"{_percentile(phases, beside, 50) * 1000:.0f} ms",
            f"{_percentile(phases, beside, 99) * 1000:.0f} ms",
            str(sum(len(phase.gaps) for phase in own)),
            str(sum(phase.requests for phase in own)),
        )
    return shown


def _percentile(phases: Sequence[Phase], beside: str, percent: float) -> float:
    gaps = [gap for phase in phases if phase.beside == beside for gap in phase.gaps]
    return float(np.percentile(gaps, percent)) if gaps else math.nan
