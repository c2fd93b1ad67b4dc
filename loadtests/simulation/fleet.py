"""Many replicas under one trace: who gets which request, and what comes of it."""

import random
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import simpy

from loadtests.simulation.replica import Capacity, Replica, Served
from loadtests.simulation.timing import Timing
from loadtests.simulation.trace import Request
from serve.affinity import adapter_of, ranked

Policy = Callable[[Request, Mapping[str, int], int], str]
"""The replica that takes a request, from what each has to do and the room of each."""


def affinity(request: Request, loads: Mapping[str, int], room: int) -> str:
    """As `lorikeet serve --replicas` routes."""
    adapter = None if request.adapter is None else adapter_of(request.adapter)
    return ranked(adapter, loads, room)[0]


def least_loaded(request: Request, loads: Mapping[str, int], room: int) -> str:
    """The one with the fewest requests, whatever it has loaded."""
    return ranked(None, loads, room)[0]


def anywhere(request: Request, loads: Mapping[str, int], room: int) -> str:
    """Any; the order of the loads is random."""
    return next(iter(loads))


POLICIES: Mapping[str, Policy] = {
    "affinity": affinity,
    "least-loaded": least_loaded,
    "random": anywhere,
}


@dataclass(frozen=True, slots=True)
class Figures:
    """What a trace got; times are in seconds, not a number where nothing was answered."""

    requests: int
    refused: int
    warm_rate: float
    ttft_p50: float
    ttft_p99: float
    tokens_per_second: float
    seconds: float
    """From the first request to the last token."""

    def to_json(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def simulate(
    trace: Sequence[Request],
    replicas: int,
    capacity: Capacity,
    timing: Timing,
    policy: Policy,
    seed: int = 0,
) -> list[Served]:
    """Play the trace: what became of each of its requests, in their order."""
    world, source = simpy.Environment(), random.Random(seed)
    fleet = {str(rank): Replica(world, str(rank), capacity, timing) for rank in range(replicas)}
    served: list[Served] = []

    def arrive() -> Generator[simpy.Event, Any, None]:
        for request in trace:
            yield world.timeout(request.at - world.now)
            names = source.sample(list(fleet), len(fleet))
            loads = {name: fleet[name].load for name in names}
            replica = fleet[policy(request, loads, capacity.room)]
            served.append(Served(request, replica.name))
            world.process(replica.serve(served[-1]))

    world.process(arrive())
    world.run()
    return served


def figures(served: Sequence[Served], since: float = 0.0) -> Figures:
    """Of the requests from `since` (seconds) on; the first find nothing loaded, as on a start."""
    served = [it for it in served if it.request.at >= since]
    good = [it for it in served if not it.refused]
    with_adapter = [it for it in good if it.request.adapter is not None]
    ttfts = [it.ttft for it in good] or [float("nan")]
    begin = min((it.request.at for it in served), default=0.0)
    seconds = max((it.ended for it in good), default=begin) - begin
    tokens = sum(it.request.output for it in good)
    return Figures(
        requests=len(served),
        refused=len(served) - len(good),
        warm_rate=float(np.mean([float(it.warm) for it in with_adapter] or [float("nan")])),
        ttft_p50=float(np.percentile(ttfts, 50)),
        ttft_p99=float(np.percentile(ttfts, 99)),
        tokens_per_second=tokens / seconds if seconds else float("nan"),
        seconds=seconds,
    )


def fewest_replicas(
    trace: Sequence[Request],
    capacity: Capacity,
    timing: Timing,
    policy: Policy,
    *,
    goal: float,
    most: int,
    since: float = 0.0,
) -> int | None:
    """The fewest replicas with a p99 TTFT of at most `goal` seconds and nothing refused.

    None where `most` are not enough. It is searched by halves: more replicas are never worse, up
    to chance.
    """

    def enough(replicas: int) -> bool:
        found = figures(simulate(trace, replicas, capacity, timing, policy), since)
        return not found.refused and found.ttft_p99 <= goal

    few, many = 0, 1
    while not enough(many):
        if many == most:
            return None
        few, many = many, min(2 * many, most)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (few, middle) if enough(middle) else (middle, many)
    return many
