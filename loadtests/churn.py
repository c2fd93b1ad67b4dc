"""The tokens of a steady stream while adapters load beside it.

An admin has them loaded one after the other. Then one short request is sent to each, for
information: such requests take compute of their own, so that the same requests to adapters that
stay loaded are measured as well.
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
from typing import Any

import httpx
import numpy as np
from rich.table import Table

from loadtests.answer import Answer
from loadtests.chat import ask, connect
from loadtests.servers import OURS
from loadtests.traffic import chat_request
from loadtests.verdict import Verdict, ratio

ALONE, LOADS = "nothing", "loads of adapters"
WARM, COLD = "requests to loaded adapters", "requests to cold adapters"
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


def measure_phase(
    url: str, stream: str, beside: str, models: Sequence[str], api_key: str = ""
) -> Phase:
    """One phase: as long as it takes to send a short request to each of `models` in step.

    `stream` is the model whose answers are read meanwhile, one after the other. With ALONE the
    time passes and nothing is sent, with LOADS `api_key` is an admin's.
    """
    source = random.Random(beside)
    with (
        _steady_stream(url, stream, api_key) as answers,
        connect(url, api_key) as client,
        ThreadPoolExecutor(SENDERS) as senders,
    ):
        begin = time.perf_counter()
        sent = []
        for number, model in enumerate(models, start=1):
            if beside == LOADS:
                sent.append(senders.submit(_load, client, model))
            elif beside != ALONE:
                body = chat_request(model, source, max_tokens=SHORT_TOKENS, whole=True)
                sent.append(senders.submit(_answered, client, body))
            time.sleep(max(0.0, begin + number * INTERVAL_SECONDS - time.perf_counter()))
        good = [future.result() for future in sent]
        end = time.perf_counter()
    failures = good.count(False) + sum(answer.error is not None for answer in answers)
    return Phase(beside, tuple(gaps_between(answers, begin, end)), len(good), failures)


def unload(url: str, models: Sequence[str], api_key: str) -> None:
    """Make adapters cold again. Raises: httpx.HTTPError."""
    with connect(url, api_key) as client:
        for model in models:
            client.post(f"/admin/adapters/{model}/unload").raise_for_status()


def _load(client: httpx.Client, model: str) -> bool:
    return client.post(f"/admin/adapters/{model}/load").is_success


def _answered(client: httpx.Client, body: dict[str, Any]) -> bool:
    return ask(client, body).error is None


@contextmanager
def _steady_stream(url: str, model: str, api_key: str) -> Iterator[list[Answer]]:
    """Read one long answer after the other; whoever leaves waits for the end of the last one."""
    answers: list[Answer] = []
    ended = threading.Event()
    source = random.Random(model)

    def read() -> None:
        with connect(url, api_key) as client:
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
    p99 = {beside: _percentile(phases, beside, 99) for beside in (ALONE, LOADS, WARM, COLD)}
    if not phases:
        return []
    promise = f"{OURS}: p99 ITL of a stream"
    failures = sum(phase.failures for phase in phases)
    return [
        Verdict(
            f"{promise} while adapters load, of that without",
            ratio(p99[LOADS], p99[ALONE]),
            1.3,
            at_most=True,
        ),
        Verdict(
            f"{promise} beside requests to cold adapters, of that beside loaded ones",
            ratio(p99[COLD], p99[WARM]),
        ),
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
