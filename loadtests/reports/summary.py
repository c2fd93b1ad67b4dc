"""What came of a run of load, as one JSON document: report.json."""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from loadtests.answer import Answer
from loadtests.reports.figures import figures, ttfts
from loadtests.shapes import Passed
from registry import LorikeetError, UsageError
from registry.files import replacing

KIND, FORMAT = "lorikeet-load", 1
MODELS = 20
"""Those with the most requests have figures of their own; the others are counted."""
ERRORS = 10
"""Kinds of failure that are listed."""
CURVE_POINTS = 101
TIMES = 60
"""Intervals that the run is cut into, to show its course."""


def read_course(path: Path) -> tuple[list[Passed], bool, str | None]:
    """The stages that a run went through, whether a ramp ended because of saturation, and why
    else it ended before its time."""
    try:
        document = json.loads(path.read_text())
        stages = [Passed(**stage) for stage in document["stages"]]
        return stages, bool(document["saturated"]), document["cut_short"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LorikeetError(f"the run left no course: {error}", remedy=f"look at {path}") from error


def summary(
    about: Mapping[str, Any],
    answers: Sequence[Answer],
    stages: Sequence[Passed],
    *,
    saturated: bool = False,
    cut_short: str | None = None,
) -> dict[str, Any]:
    """The document; `about` says what was loaded, how, on what machine and when, `cut_short`
    why the run ended before its time.

    Answers that began in a stage are the stage's; its tokens/s are those that arrived in its time.
    """
    if not stages:
        raise LorikeetError("no stage was run", remedy="read the load's log beside the report")
    begin, end = stages[0].begin, stages[-1].end
    tenants = sorted({answer.tenant for answer in answers if answer.tenant})
    groups = {name: [a for a in answers if a.tenant == name] for name in tenants}
    curves = groups or {"": list(answers)}
    return {
        "kind": KIND,
        "format": FORMAT,
        **about,
        "seconds": end - begin,
        "saturated": saturated,
        "cut_short": cut_short,
        "total": figures(answers, begin, end),
        "stages": [_stage(stage, answers, begin, tenants) for stage in stages],
        "tenants": {name: figures(own, begin, end) for name, own in groups.items()},
        "models": _models(answers, begin, end),
        "errors": _errors(answers),
        "ttft_curves": {name: _curve(ttfts(own)) for name, own in curves.items()},
        "times": _times(answers, begin, end),
    }


def write_summary(document: Mapping[str, Any], path: Path) -> None:
    """Put it in place whole; what is not a number is null."""
    text = json.dumps(finite(document), indent=1, ensure_ascii=False)
    with replacing(path) as file:
        file.write(text.encode() + b"\n")


def read_summary(path: Path) -> dict[str, Any]:
    """A report of this format. Raises UsageError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read the report {path}: {error}", remedy="name the report.json of a run"
        ) from error
    if not isinstance(document, dict) or document.get("kind") != KIND:
        raise UsageError(
            f"{path} is not the report of a load", remedy="name the report.json of a run"
        )
    if document.get("format") != FORMAT:
        raise UsageError(
            f"{path} has format {document.get('format')}, this reads {FORMAT}",
            remedy="read it with the version that wrote it",
        )
    return document


def finite(value: Any) -> Any:
    """`value` without what JSON does not know."""
    if isinstance(value, Mapping):
        return {key: finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _stage(
    stage: Passed, answers: Sequence[Answer], begin: float, tenants: Sequence[str]
) -> dict[str, Any]:
    own = [answer for answer in answers if stage.begin <= answer.started < stage.end]
    found = {
        **asdict(stage),
        "begin": stage.begin - begin,
        "end": stage.end - begin,
        "figures": _in_stage(own, answers, stage),
    }
    if tenants:
        found["tenants"] = {
            name: _in_stage(
                [answer for answer in own if answer.tenant == name],
                [answer for answer in answers if answer.tenant == name],
                stage,
            )
            for name in tenants
        }
    return found


def _in_stage(own: Sequence[Answer], answers: Sequence[Answer], stage: Passed) -> dict[str, float]:
    """Latencies of what began in the stage, tokens of whatever arrived in it."""
    arrived = sum(answer.tokens_between(stage.begin, stage.end) for answer in answers)
    seconds = stage.end - stage.begin
    rate = arrived / seconds if seconds > 0 else math.nan
    return figures(own, stage.begin, stage.end) | {"output_tokens_per_second": rate}


def _models(answers: Sequence[Answer], begin: float, end: float) -> dict[str, Any]:
    counts = Counter(answer.model for answer in answers)
    shown = [model for model, _ in counts.most_common(MODELS)]
    return {
        "asked": len(counts),
        "figures": {
            model: figures([answer for answer in answers if answer.model == model], begin, end)
            for model in shown
        },
    }


def _errors(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    counts = Counter(answer.error for answer in answers if answer.error is not None)
    return [{"error": error, "count": count} for error, count in counts.most_common(ERRORS)]


def _curve(values: Sequence[float]) -> list[float]:
    """The quantiles from 0 to 1 in even steps; nothing without values."""
    if not values:
        return []
    return [float(value) for value in np.quantile(values, np.linspace(0, 1, CURVE_POINTS))]


def _times(answers: Sequence[Answer], begin: float, end: float) -> list[dict[str, float]]:
    """Interval by interval: tokens/s, requests that were due, and the median TTFT of those."""
    if end <= begin:
        return []
    edges = np.linspace(begin, end, TIMES + 1)
    width = float(edges[1] - edges[0])
    due = np.array([answer.started for answer in answers])
    first = np.array([math.nan if a.ttft is None else a.ttft for a in answers])
    tokens = np.zeros(TIMES)
    for answer in answers:
        if answer.arrivals:
            counts, _ = np.histogram(answer.arrivals, bins=edges)
            tokens += counts * (answer.tokens / len(answer.arrivals))
    found = []
    for number in range(TIMES):
        inside = (due >= edges[number]) & (due < edges[number + 1])
        known = first[inside & np.isfinite(first)]
        found.append(
            {
                "seconds": float(edges[number] - begin) + width / 2,
                "output_tokens_per_second": float(tokens[number]) / width,
                "requests_per_second": float(inside.sum()) / width,
                "ttft_p50": float(np.median(known)) if len(known) else math.nan,
            }
        )
    return found
