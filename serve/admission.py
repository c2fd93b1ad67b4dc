"""Fair admission in front of the engine: whose request it takes next, and how many wait for that.

`RoundRobin` has the rules; here are the waiting, its bounds and its end. All on one event loop:
nothing here is awaited but a ticket's own turn.
"""

import asyncio
import math
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from serve.errors import EngineNotReady, Overloaded, Refusal, TooManyRequests
from serve.round_robin import RoundRobin, Ticket

RECENT = 64
"""Answers from whose ends the rate is taken that Retry-After is estimated by."""
MAX_RETRY_SECONDS = 60
UNKNOWN_RETRY_SECONDS = 5


class Seat:
    """A request's place in the engine."""

    def __init__(self, turns: RoundRobin, ticket: Ticket) -> None:
        self._turns, self._ticket = turns, ticket

    def charge(self, tokens: int) -> None:
        """The output tokens that the request took so far, instead of what was expected.

        After the seat was given back it changes nothing.
        """
        if self._ticket.in_flight:
            self._turns.charge(self._ticket, tokens)


class Admission:
    """At most `seats` requests and `slots` distinct adapters in flight; the others wait in turn.

    `max_queue` requests wait in all and `max_queue_per_tenant` of one tenant, each for
    `queue_seconds` at most.
    """

    def __init__(
        self,
        *,
        seats: int,
        slots: int,
        max_queue: int,
        max_queue_per_tenant: int,
        queue_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._turns = RoundRobin(seats=seats, slots=slots, clock=clock)
        self._max_queue = max_queue
        self._max_queue_per_tenant = max_queue_per_tenant
        self._queue_seconds = queue_seconds
        self._clock = clock
        self._waiting: dict[Ticket, asyncio.Future[EngineNotReady | None]] = {}
        self._ends: deque[float] = deque(maxlen=RECENT)
        self._closed: Callable[[], EngineNotReady] | None = None

    @property
    def queued(self) -> int:
        """Requests that wait for their turn."""
        return self._turns.queued

    @property
    def in_flight(self) -> int:
        """Requests that have a seat."""
        return self._turns.in_flight

    def snapshot(self) -> dict[str, Any]:
        """Seats, slots, adapters in flight, and by tenant: queued, in_flight, tokens (output)."""
        return self._turns.snapshot()

    def waiting(self) -> Counter[tuple[str, str | None]]:
        """How many requests wait, by tenant and adapter (None: the base)."""
        return Counter((ticket.tenant, ticket.adapter) for ticket in self._waiting)

    def close(self, reason: str, refusal: Refusal = "engine_down") -> None:
        """Refuse who waits and who comes, until `open`; requests in flight go on."""
        self._closed = partial(EngineNotReady, reason, refusal=refusal)
        while self._waiting:
            ticket, turn = self._waiting.popitem()
            self._turns.remove(ticket)
            if not turn.done():
                turn.set_result(self._closed())

    def open(self) -> None:
        """Admit again after `close`."""
        self._closed = None

    @asynccontextmanager
    async def seat(
        self, tenant: str, adapter: str | None, cost: float, width: int = 1
    ) -> AsyncIterator[Seat]:
        """Wait for a turn and hold a seat until the context ends.

        `cost` is the most output tokens that the request is expected to take, `width` the number
        of its answers, which are generated at the same time.
        Raises: Overloaded, TooManyRequests, EngineNotReady.
        """
        self._check(tenant)
        ticket = self._turns.add(tenant, adapter, cost, width)
        turn = self._waiting[ticket] = asyncio.get_running_loop().create_future()
        try:
            self._dispatch()
            if not turn.done():
                await self._wait(turn)
            if (refusal := turn.result()) is not None:
                raise refusal
            yield Seat(self._turns, ticket)
        finally:
            self._leave(ticket)

    def _check(self, tenant: str) -> None:
        if self._closed is not None:
            raise self._closed()
        if (queued := self._turns.queued_of(tenant)) >= self._max_queue_per_tenant:
            seconds = self._estimate(queued * self._turns.waiting_tenants)
            raise TooManyRequests(
                f"{queued} requests of yours wait for their turn already, which is the most.",
                remedy=f"Send fewer at the same time, or try again in {seconds} s.",
                code="rate_limit_exceeded",
                retry_after=seconds,
                refusal="tenant_queue_full",
            )
        if self.queued >= self._max_queue:
            seconds = self._estimate(self.queued)
            raise Overloaded(
                f"{self.queued} requests wait for their turn already, which is the most.",
                remedy=f"Try again in {seconds} s.",
                code="overloaded",
                retry_after=seconds,
                refusal="queue_full",
            )

    async def _wait(self, turn: asyncio.Future[EngineNotReady | None]) -> None:
        try:
            async with asyncio.timeout(self._queue_seconds):
                await turn
        except TimeoutError as error:
            seconds = self._estimate(self.queued)
            raise Overloaded(
                f"The request has waited {self._queue_seconds:g} s in the queue.",
                remedy=f"Try again in {seconds} s.",
                code="overloaded",
                retry_after=seconds,
                refusal="queue_timeout",
            ) from error

    def _dispatch(self) -> None:
        while (ticket := self._turns.next()) is not None:
            turn = self._waiting.pop(ticket)
            if not turn.done():  # else its task is being cancelled, and gives the seat back
                turn.set_result(None)

    def _leave(self, ticket: Ticket) -> None:
        """Give back the ticket or its seat, unless `close` has taken it out."""
        if ticket.in_flight:
            self._turns.remove(ticket)
            self._ends.append(self._clock())
        elif self._waiting.pop(ticket, None) is not None:
            self._turns.remove(ticket)
        self._dispatch()

    def _estimate(self, ahead: int) -> int:
        """Seconds, rounded up, that `ahead` requests take at the recent rate."""
        if len(self._ends) < 2:
            return UNKNOWN_RETRY_SECONDS
        seconds = (self._clock() - self._ends[0]) / (len(self._ends) - 1)
        return min(MAX_RETRY_SECONDS, max(1, math.ceil(seconds * ahead)))
