"""How much load when: the stages of a run, for users that wait and for arrivals that do not.

A level is a number of users (closed loop), or of requests a second (open loop, `--rate`).
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

RAMP_STEPS = 6
"""Each has twice the level of the one before."""
BURSTS = 3
CALM = 0.25
"""The level between bursts, in parts of theirs."""
FLAT = 1.05
"""A step of a ramp that brings less than this, in parts of the best before, brings nothing."""
FLAT_STEPS = 2
"""So many of those in a row are saturation."""


@dataclass(frozen=True, slots=True)
class Stage:
    """A time of one load; `noise` is the level of the noisy tenant."""

    name: str
    seconds: float
    level: float
    noise: float = 0.0


@dataclass(frozen=True, slots=True)
class Passed:
    """A stage that was run, from `begin` to `end` on the clock of the answers, in seconds."""

    name: str
    level: float
    noise: float
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Order:
    """What a shape is made from: its highest level, its length, and the noisy tenant's level."""

    level: float
    seconds: float
    noise: float = 0.0
    whole: bool = True
    """Whether levels are users, which come in whole numbers."""


def steady(order: Order) -> list[Stage]:
    """One level from begin to end."""
    return [Stage("steady", order.seconds, order.level, order.noise)]


def ramp(order: Order) -> list[Stage]:
    """From a small level to the highest, doubled at each step, until the server is saturated."""
    levels = dict.fromkeys(
        _rounded(order, order.level / 2**step) for step in reversed(range(RAMP_STEPS))
    )
    seconds = order.seconds / len(levels)
    return [Stage(f"{level:g}", seconds, level) for level in levels]


def burst(order: Order) -> list[Stage]:
    """Calm, then suddenly the full level, again and again; calm at the end."""
    seconds = order.seconds / (2 * BURSTS + 1)
    calm = _rounded(order, order.level * CALM)
    pairs = [
        stage
        for number in range(1, BURSTS + 1)
        for stage in (
            Stage(f"calm {number}", seconds, calm),
            Stage(f"burst {number}", seconds, order.level),
        )
    ]
    return [*pairs, Stage(f"calm {BURSTS + 1}", seconds, calm)]


def noisy(order: Order) -> list[Stage]:
    """A quiet tenant alone, then beside a noisy one, then alone again."""
    third = order.seconds / 3
    return [
        Stage("before", third, order.level),
        Stage("beside noise", third, order.level, order.noise),
        Stage("after", third, order.level),
    ]


SHAPES: Mapping[str, Callable[[Order], list[Stage]]] = {
    "steady": steady,
    "ramp": ramp,
    "burst": burst,
    "noisy": noisy,
}


def _rounded(order: Order, level: float) -> float:
    return max(1.0, float(round(level))) if order.whole else level


def bounds(stages: Sequence[Stage]) -> Iterator[tuple[Stage, float, float]]:
    """Each stage with its begin and its end, in seconds from the begin of the run."""
    begin = 0.0
    for stage in stages:
        yield stage, begin, begin + stage.seconds
        begin += stage.seconds


def stage_at(stages: Sequence[Stage], seconds: float) -> int | None:
    """The number of the stage at this time; None once all are over."""
    for number, (_, _, end) in enumerate(bounds(stages)):
        if seconds < end:
            return number
    return None


def is_saturated(throughputs: Sequence[float]) -> bool:
    """Whether the last steps of a ramp brought no more output than a step before them."""
    if len(throughputs) <= FLAT_STEPS:
        return False
    earlier, last = throughputs[:-FLAT_STEPS], throughputs[-FLAT_STEPS:]
    best = max(earlier)
    return best > 0 and math.isfinite(best) and max(last) < FLAT * best
