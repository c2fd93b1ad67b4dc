"""The figures of a part of a run: of all of it, a stage, a tenant or a model."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from loadtests.answer import Answer

PERCENTILES = (50, 90, 95, 99)
FIGURES: Mapping[str, str] = {
    "requests": "requests that were due",
    "failures": "of those, that failed or were never sent",
    "failure_rate": "failures, of all requests (0 to 1)",
    "left": "answers that their reader left midway",
    "requests_per_second": "answered requests",
    "output_tokens_per_second": "tokens that arrived",
    "prompt_tokens_per_second": "prompt tokens of answered requests, as the server counts them",
    "late_p95": "sending after it was due, s",
    "late_max": "the latest sending, s",
} | {
    f"{kind}_{which}": f"{what}, s"
    for kind, what in {
        "ttft": "time to first token",
        "itl": "inter-token latency",
        "request": "the whole answer",
    }.items()
    for which in ("mean", *(f"p{percent}" for percent in PERCENTILES), "max")
}
"""Every figure that a report has and an SLO may name. Latencies count from when it was due."""

Figures = Mapping[str, float]


def figures(answers: Sequence[Answer], begin: float, end: float) -> dict[str, float]:
    """Of `answers`; tokens count that arrived from `begin` to `end`. NaN where nothing came."""
    good = [answer for answer in answers if answer.error is None]
    whole = [answer for answer in good if not answer.left and answer.arrivals]
    seconds = end - begin if end > begin else math.nan
    failures = len(answers) - len(good)
    found = {
        "requests": float(len(answers)),
        "failures": float(failures),
        "failure_rate": failures / len(answers) if answers else math.nan,
        "left": float(sum(answer.left for answer in good)),
        "requests_per_second": len(good) / seconds,
        "output_tokens_per_second": sum(a.tokens_between(begin, end) for a in answers) / seconds,
        "prompt_tokens_per_second": sum(answer.prompt_tokens for answer in good) / seconds,
    }
    late = [max(0.0, answer.sent - answer.started) for answer in answers if answer.sent is not None]
    found["late_p95"] = float(np.percentile(late, 95)) if late else math.nan
    found["late_max"] = max(late, default=math.nan)
    found |= _spread("ttft", ttfts(good))
    found |= _spread("itl", [gap for answer in good for gap in answer.gaps])
    found |= _spread("request", [answer.arrivals[-1] - answer.started for answer in whole])
    return found


def ttfts(answers: Sequence[Answer]) -> list[float]:
    """Of those that got a token, in seconds."""
    return [ttft for answer in answers if (ttft := answer.ttft) is not None]


def _spread(kind: str, values: Sequence[float]) -> dict[str, float]:
    names = ["mean", *(f"p{percent}" for percent in PERCENTILES), "max"]
    if not values:
        return {f"{kind}_{name}": math.nan for name in names}
    found = [np.mean(values), *np.percentile(values, PERCENTILES), max(values)]
    return {f"{kind}_{name}": float(value) for name, value in zip(names, found, strict=True)}
