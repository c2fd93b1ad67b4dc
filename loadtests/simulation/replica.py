"""One simulated replica: the server's own admission, its adapters, its engine."""

from collections import Counter, OrderedDict
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

import simpy

from loadtests.simulation.timing import Timing
from loadtests.simulation.trace import Request
from serve.round_robin import RoundRobin, Ticket

Wait = Generator[simpy.Event, Any, None]


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of a replica, as the flags of `lorikeet serve` have it."""

    max_num_seqs: int = 32
    max_loras: int = 8
    max_loaded: int = 64
    max_queue: int = 256

    @property
    def room(self) -> int:
        """Requests that it runs at once whatever adapters they are for."""
        return min(self.max_num_seqs, self.max_loras)


@dataclass(slots=True)
class Served:
    """What became of a request; times are in seconds from the begin of the trace."""

    request: Request
    replica: str
    refused: bool = False
    warm: bool = True
    first_token: float = 0.0
    ended: float = 0.0

    @property
    def ttft(self) -> float:
        """Time to first token."""
        return self.first_token - self.request.at


@dataclass(slots=True)
class _Loaded:
    ready: simpy.Event
    leases: int = 0


class Replica:
    """Serves requests as processes of `world`. Loads do not slow each other down."""

    def __init__(
        self, world: simpy.Environment, name: str, capacity: Capacity, timing: Timing
    ) -> None:
        self.name = name
        self._world = world
        self._capacity = capacity
        self._timing = timing
        self._turns = RoundRobin(
            seats=capacity.max_num_seqs, slots=capacity.max_loras, clock=lambda: world.now
        )
        self._waiting: dict[Ticket, simpy.Event] = {}
        self._loaded: OrderedDict[str, _Loaded] = OrderedDict()  # least recently used first
        self._freed = world.event()
        self._batch: Counter[str | None] = Counter()

    @property
    def load(self) -> int:
        """Requests, running and waiting."""
        return self._turns.in_flight + self._turns.queued

    def serve(self, served: Served) -> Wait:
        """Answer a request, and fill in when and how."""
        if self._turns.queued >= self._capacity.max_queue:
            served.refused = True
            return
        request = served.request
        ticket = self._turns.add(request.tenant, request.adapter, request.output)
        turn = self._waiting[ticket] = self._world.event()
        self._dispatch()
        yield turn
        if request.adapter is not None:
            yield from self._lease(request.adapter, served)
        yield from self._generate(served)
        if request.adapter is not None:
            self._loaded[request.adapter].leases -= 1
            self._free()
        self._turns.charge(ticket, request.output)
        self._turns.remove(ticket)
        self._dispatch()

    def _dispatch(self) -> None:
        while (ticket := self._turns.next()) is not None:
            self._waiting.pop(ticket).succeed()

    def _lease(self, adapter: str, served: Served) -> Wait:
        """Load the adapter if need be; the least recently used idle one makes room."""
        while adapter not in self._loaded:
            if len(self._loaded) < self._capacity.max_loaded:
                self._loaded[adapter] = _Loaded(
                    self._world.timeout(self._timing.measured.cold_load_seconds)
                )
                break
            if (idle := self._idle()) is None:
                yield self._freed
            else:
                del self._loaded[idle]
        self._loaded.move_to_end(adapter)
        entry = self._loaded[adapter]
        entry.leases += 1
        served.warm = entry.ready.processed
        if not served.warm:
            yield entry.ready

    def _idle(self) -> str | None:
        entries = self._loaded.items()
        return next(
            (it for it, entry in entries if not entry.leases and entry.ready.processed), None
        )

    def _free(self) -> None:
        freed, self._freed = self._freed, self._world.event()
        freed.succeed()

    def _generate(self, served: Served) -> Wait:
        """Each token takes what a step takes with the sequences that are there when it begins."""
        world, request, measured = self._world, served.request, self._timing.measured
        yield world.timeout(
            measured.overhead_seconds + request.prompt * measured.prompt_token_seconds
        )
        self._batch[request.adapter] += 1
        for token in range(request.output):
            adapters = len(self._batch) - (None in self._batch)
            yield world.timeout(self._timing.step(self._batch.total(), adapters))
            if token == 0:
                served.first_token = world.now
        self._batch[request.adapter] -= 1
        if not self._batch[request.adapter]:
            del self._batch[request.adapter]
        served.ended = world.now
