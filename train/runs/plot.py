"""The course of a run as a picture: loss, held-out loss and learning rate by optimiser step."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from registry.files import replacing
from train.runs.metrics import Metrics

SMOOTHING = 0.9
"""Weight of what was before in the smoothed line, as TensorBoard's slider has it."""
_SIZE = 9.0, 4.5
_DPI = 110
_LOSS, _HELD_OUT, _RATE = "#1f5fa8", "#c2410c", "#8a8a8a"

Points = tuple[list[int], list[float]]
"""Steps and the values at them."""


def write_loss_plot(metrics: Path, target: Path) -> None:
    """Draw `metrics` (metrics.jsonl) as the PNG `target`, which is there whole or not at all.

    Losses are in nats a trained token. Figures that are not numbers are left out, and a run
    without any gives a picture that says so. Raises OSError.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = Metrics(metrics).lines()
    figure = Figure(figsize=_SIZE, dpi=_DPI, layout="constrained")
    canvas = FigureCanvasAgg(figure)
    _draw(figure.add_subplot(), lines)
    with replacing(target) as file:
        canvas.print_png(file)


def points(lines: Sequence[dict[str, Any]], key: str) -> Points:
    """The finite values of `key`, with their steps."""
    found = [
        (int(line["step"]), float(line[key]))
        for line in lines
        if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
    return [step for step, _ in found], [value for _, value in found]


def smoothed(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """The exponential moving average of `values`, corrected for its start at zero.

    The correction is Adam's (D. P. Kingma and J. Ba, ICLR 2015, section 3): the mean so far is
    divided by 1 - weight^n.
    """
    mean, result = 0.0, []
    for number, value in enumerate(values, start=1):
        mean = weight * mean + (1 - weight) * value
        result.append(mean / (1 - weight**number))
    return result


def _draw(axes: Any, lines: Sequence[dict[str, Any]]) -> None:
    from matplotlib.ticker import MaxNLocator

    steps, losses = points(lines, "loss")
    held_steps, held_losses = points(lines, "held_out_loss")
    rate_steps, rates = points(lines, "learning_rate")
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("loss (nats a trained token)")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.25)
    if not losses and not held_losses:
        axes.text(0.5, 0.5, "no loss was measured", ha="center", transform=axes.transAxes)
        return
    few = {"marker": "o", "markersize": 3} if len(steps) < 3 else {}
    shown = axes.plot(steps, losses, color=_LOSS, alpha=0.35, linewidth=1, label="loss", **few)
    shown += axes.plot(steps, smoothed(losses), color=_LOSS, linewidth=2, label="loss, smoothed")
    if held_losses:
        style = {"marker": "D", "markersize": 5, "linestyle": "--", "linewidth": 1}
        shown += axes.plot(held_steps, held_losses, color=_HELD_OUT, label="held-out loss", **style)
    axes.set_ylim(bottom=0)
    if rates:
        right = axes.twinx()
        right.set_ylabel("learning rate", color=_RATE)
        right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
        shown += right.plot(
            rate_steps, rates, color=_RATE, linewidth=1, linestyle=":", label="learning rate"
        )
        right.set_ylim(bottom=0)
    axes.legend(handles=shown, loc="upper right", frameon=False)
