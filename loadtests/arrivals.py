"""When requests come that do not wait for each other's answers: a Poisson process by stages.

Users who wait for an answer before they ask again slow down with the server, and leave out just
those requests that would have waited longest (coordinated omission). Arrivals come when they come;
a latency counts from the time at which the request was to be sent.
"""

import heapq
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from loadtests.shapes import Stage, bounds


@dataclass(frozen=True, slots=True, order=True)
class Arrival:
    """`seconds` from the begin of the run; whether it is the noisy tenant's."""

    seconds: float
    is_noise: bool = False


def arrivals(stages: Sequence[Stage], seed: str) -> Iterator[Arrival]:
    """All arrivals of both tenants, in order; levels are requests a second."""
    quiet = _process(stages, random.Random(f"{seed}/quiet"), is_noise=False)
    noise = _process(stages, random.Random(f"{seed}/noise"), is_noise=True)
    return heapq.merge(quiet, noise)


def _process(
    stages: Sequence[Stage], source: random.Random, *, is_noise: bool
) -> Iterator[Arrival]:
    """Gaps are exponential. As they have no memory, each stage may begin with a new one."""
    for stage, begin, end in bounds(stages):
        rate = stage.noise if is_noise else stage.level
        now = begin
        while rate > 0 and (now := now + source.expovariate(rate)) < end:
            yield Arrival(now, is_noise)
