"""The pictures of a report, as PNG: its course, throughput against latency, TTFT, memory."""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

_SIZE = 9.0, 3.8
_DPI = 110
_BLUE, _RED, _GREY = "#1f5fa8", "#c2410c", "#8a8a8a"
_COLORS = (_BLUE, _RED, "#15803d", "#7e22ce")

Document = Mapping[str, Any]


def pictures(document: Document) -> dict[str, bytes]:
    """Title and PNG of each picture that the report has figures for."""
    drawn: dict[str, Callable[[Any, Document], None]] = {
        "Output and time to first token, as the run went on": _course,
        "Time to first token: share of the answers that have begun": _curves,
    }
    if len(document["stages"]) > 1:
        drawn["Throughput against latency, stage by stage"] = _latencies
    if document.get("samples"):
        drawn["Memory of the processes"] = _memory
    return {title: _png(draw, document) for title, draw in drawn.items()}


def _png(draw: Callable[[Any, Document], None], document: Document) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    draw(figure.add_subplot(), document)
    file = io.BytesIO()
    canvas.print_png(file)
    return file.getvalue()


def _course(axes: Any, document: Document) -> None:
    times = document["times"]
    seconds = [time["seconds"] for time in times]
    axes.set_xlabel("seconds")
    axes.set_ylabel("output tokens/s")
    axes.grid(alpha=0.25)
    rates = _numbers(time["output_tokens_per_second"] for time in times)
    shown = axes.plot(seconds, rates, color=_BLUE, label="output tokens/s")
    right = axes.twinx()
    right.set_ylabel("TTFT, median (s)", color=_RED)
    firsts = _numbers(time["ttft_p50"] for time in times)
    style = {"color": _RED, "linewidth": 1, "marker": ".", "markersize": 4}
    shown += right.plot(seconds, firsts, label="TTFT, median", **style)
    for stage in document["stages"][1:]:
        axes.axvline(stage["begin"], color=_GREY, linestyle=":", linewidth=1)
    if 1 < len(document["stages"]) <= 8:
        for stage in document["stages"]:
            where = stage["begin"], 1.0
            place = {"xycoords": ("data", "axes fraction"), "xytext": (3, -3)}
            axes.annotate(
                _plain(stage["name"]),
                where,
                textcoords="offset points",
                va="top",
                fontsize=8,
                color=_GREY,
                **place,
            )
    axes.set_ylim(bottom=0)
    right.set_ylim(bottom=0)
    axes.legend(handles=shown, loc="best", frameon=False)


def _curves(axes: Any, document: Document) -> None:
    axes.set_xlabel("TTFT (s)")
    axes.set_ylabel("share of answers")
    axes.grid(alpha=0.25)
    curves = {name: points for name, points in document["ttft_curves"].items() if points}
    if not curves:
        axes.text(0.5, 0.5, "no answer began", ha="center", transform=axes.transAxes)
        return
    for number, (name, points) in enumerate(curves.items()):
        shares = [position / max(1, len(points) - 1) for position in range(len(points))]
        color = _COLORS[number % len(_COLORS)]
        axes.step(points, shares, where="post", color=color, label=_plain(name) or "all")
    highest = max(points[-1] for points in curves.values())
    lowest = min(points[0] for points in curves.values())
    if lowest > 0 and highest / lowest > 20:
        axes.set_xscale("log")
    axes.set_ylim(0, 1.02)
    if len(curves) > 1:
        axes.legend(loc="lower right", frameon=False)


def _latencies(axes: Any, document: Document) -> None:
    axes.set_xlabel("output tokens/s")
    axes.set_ylabel("seconds")
    axes.grid(alpha=0.25)
    stages = document["stages"]
    rates = _numbers(stage["figures"]["output_tokens_per_second"] for stage in stages)
    for key, label, color in (
        ("ttft_p50", "TTFT, median", _BLUE),
        ("ttft_p95", "TTFT, p95", _RED),
        ("request_p50", "whole answer, median", _GREY),
    ):
        values = _numbers(stage["figures"][key] for stage in stages)
        axes.plot(rates, values, marker="o", markersize=4, color=color, label=label)
    for stage, rate, value in zip(
        stages, rates, _numbers(s["figures"]["ttft_p95"] for s in stages), strict=True
    ):
        if math.isfinite(rate) and math.isfinite(value):
            axes.annotate(
                _plain(stage["name"]),
                (rate, value),
                textcoords="offset points",
                xytext=(4, 4),
                fontsize=8,
            )
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", frameon=False)


def _memory(axes: Any, document: Document) -> None:
    samples = document["samples"]
    seconds = [sample["seconds"] for sample in samples]
    axes.set_xlabel("seconds")
    axes.set_ylabel("MiB in RAM")
    axes.grid(alpha=0.25)
    for number, (key, label) in enumerate((("server_mib", "server"), ("engine_mib", "engine"))):
        values = _numbers(sample[key] for sample in samples)
        axes.plot(seconds, values, color=_COLORS[number], label=label)
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower right", frameon=False)


def _numbers(values: Any) -> Sequence[float]:
    """As matplotlib wants them: a gap where there is none."""
    return [math.nan if value is None else float(value) for value in values]


def _plain(text: str) -> str:
    """Text that matplotlib does not take for mathematics."""
    return text.replace("$", r"\$")
