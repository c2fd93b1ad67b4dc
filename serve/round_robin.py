"""Whose turn it is: deficit round robin over tenants, and within a tenant over its adapters.

The policy alone, without asyncio, in output tokens. After Shreedhar and Varghese, "Efficient Fair
Queuing using Deficit Round Robin" (SIGCOMM 1995), with the token counters of Sheng et al.,
"Fairness in Serving Large Language Models" (OSDI 2024).

*Rounds.* Each round gives every tenant that waits one quantum of tokens, the mean length of an
answer. A tenant with a deficit (what it was given and has not used) above zero may go, the largest
deficit first. It pays what its answer is expected to take (the mean of the flow's answers, or of
all until that is known, but not more than the request allows), and the difference once the length
is known, so a deficit may be negative. Rounds are counted, not walked: only the level that all have
been given is kept, and it rises when nobody who can go has a deficit. Who has nothing waiting and
nothing in flight is forgotten with its credit or debt, and starts at zero when it comes back; no
credit is larger than what fills all seats. A tenant's flows (tenant, adapter) share its turns in
the same way, and a flow is first in, first out.

*Head room.* While a known tenant (here within the last ten minutes) holds less than its part, which
is half of a fair share, those who hold theirs leave a quarter of the seats and one slot free. So a
quiet tenant finds both at once beside noisy ones, and still nothing stays unused when all are busy,
or when a tenant is alone.

*Slots.* An adapter in flight holds a slot; the base model needs none. A flow whose adapter has no
slot is passed by others until it lags as many quanta as one slot's part of the seats takes. Then an
adapter is drained for it: that one gets no new requests, and the slot it leaves is kept for the
flow that starved. It is the emptiest adapter of the flow's own tenant where that holds its fair
share of the slots, else of the tenant that holds the most.
"""

import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from serve.deficits import WEIGHT, Rounds, Share

KNOWN_SECONDS = 600.0
"""How long a tenant that was here counts for the head room."""
KNOWN_TENANTS = 1024
KNOWN_LENGTHS = 4096
"""Flows whose mean length is remembered."""
SEAT_CREDIT = 256.0
"""Tokens of credit that a tenant may have for each seat, or the mean of its answers if longer."""


@dataclass(eq=False, slots=True)
class Ticket:
    """A request's place in the queue, then its seat. `paid` is in tokens."""

    tenant: str
    adapter: str | None
    paid: float
    width: int = 1
    """Seats that it takes: one for each of its answers, a quarter of all at most."""
    in_flight: bool = False
    charged: bool = False
    """Whether `paid` is what it took, not an estimate."""


@dataclass(eq=False, slots=True)
class _Flow(Share):
    adapter: str | None = None
    queue: OrderedDict[Ticket, None] = field(default_factory=OrderedDict)
    in_flight: int = 0
    promised: bool = False
    """Whether an adapter is drained for it."""


@dataclass(eq=False, slots=True)
class _Known:
    """What outlives a tenant's stay."""

    last: float
    tokens: int = 0


@dataclass(eq=False, slots=True)
class _Tenant(Share):
    flows: dict[str | None, _Flow] = field(default_factory=dict)
    rounds: Rounds[_Flow] = field(default_factory=Rounds)
    queued: int = 0
    in_flight: int = 0
    taken: int = 0
    """Seats."""
    slots: int = 0
    """Adapters that it has in flight."""


class RoundRobin:
    """Gives `seats` and `slots` to tickets in turn. See the module for the rules."""

    def __init__(
        self, *, seats: int, slots: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.seats, self.slots = seats, slots
        self.queued = self.in_flight = self.taken = 0
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._seated: dict[str, _Tenant] = {}  # those with requests in flight
        self._rounds: Rounds[_Tenant] = Rounds()
        self._known: OrderedDict[str, _Known] = OrderedDict()  # longest away first
        self._lengths: OrderedDict[tuple[str, str | None], float] = OrderedDict()
        self._adapters: Counter[str] = Counter()  # requests in flight
        self._drains: dict[str, _Flow] = {}  # adapter → for whom
        self._kept: set[_Flow] = set()  # each has a free slot kept for it

    def queued_of(self, tenant: str) -> int:
        """Tickets of one tenant that wait."""
        return self._tenants[tenant].queued if tenant in self._tenants else 0

    @property
    def waiting_tenants(self) -> int:
        """Tenants with tickets that wait."""
        return len(self._rounds.waiting)

    def add(self, tenant: str, adapter: str | None, cost: float, width: int = 1) -> Ticket:
        """Queue a request for `width` answers that takes `cost` output tokens at most.

        A wide one goes as soon as one seat is free, so that narrow ones cannot keep it waiting.
        """
        self._see(tenant)
        who = self._tenants.setdefault(tenant, _Tenant())
        flow = who.flows.setdefault(adapter, _Flow(adapter=adapter))
        expected = self._lengths.get((tenant, adapter), self._rounds.quantum)
        width = min(width, max(1, self.seats // 4))
        ticket = Ticket(tenant, adapter, max(1.0, min(cost, expected)), width)
        flow.queue[ticket] = None
        if not flow.waits:
            who.rounds.join(flow)
        if not who.waits:
            self._rounds.join(who)
        who.queued += 1
        self.queued += 1
        return ticket

    def next(self) -> Ticket | None:
        """The ticket whose turn it is, in flight from now on; None where nothing can go."""
        if self.taken >= self.seats:
            return None
        seated = self._seated.values()
        free_seats = self.seats - self.taken
        free_slots = self.slots - len(self._adapters) - len(self._kept)
        spare_seats = free_seats - self._reserve(
            (tenant.taken for tenant in seated), self.seats, self.seats // 4
        )
        spare_slots = free_slots - self._reserve((tenant.slots for tenant in seated), self.slots, 1)
        for tenant in self._rounds.waiting:
            if spare_seats <= 0 and self._has_part(tenant.taken, self.seats):
                continue
            slots = spare_slots if self._has_part(tenant.slots, self.slots) else free_slots
            if (flow := self._next_flow(tenant, slots > 0)) is not None:
                return self._start(tenant, flow)
        return None

    def charge(self, ticket: Ticket, tokens: float) -> None:
        """Say how many output tokens a ticket in flight took so far."""
        tenant = self._tenants[ticket.tenant]
        tokens = max(1.0, tokens)
        self._pay(tenant, tenant.flows[ticket.adapter], tokens - ticket.paid)
        if ticket.tenant in self._known:
            known = self._known[ticket.tenant]
            known.tokens += round(tokens - (ticket.paid if ticket.charged else 0))
        ticket.paid, ticket.charged = tokens, True

    def remove(self, ticket: Ticket) -> None:
        """Take a ticket out of the queue, or give its seat back."""
        tenant = self._tenants[ticket.tenant]
        flow = tenant.flows[ticket.adapter]
        if ticket.in_flight:
            self._end(tenant, flow, ticket)
        else:
            self._unqueue(tenant, flow, ticket)
        if not flow.queue and not flow.in_flight:
            del tenant.flows[ticket.adapter]
        if not tenant.flows:
            del self._tenants[ticket.tenant]

    def snapshot(self) -> dict[str, Any]:
        """What waits and what is in flight, by tenant and adapter; tokens of tenants known."""
        names = {**self._known, **self._tenants}
        return {
            "seats": {"total": self.seats, "in_use": self.taken},
            "slots": {"total": self.slots, "in_use": len(self._adapters)},
            "queued": self.queued,
            "adapters": {
                adapter: {"in_flight": count, "draining": adapter in self._drains}
                for adapter, count in self._adapters.items()
            },
            "tenants": {name: self._tenant_snapshot(name) for name in names},
        }

    def _tenant_snapshot(self, name: str) -> dict[str, int]:
        tenant, known = self._tenants.get(name), self._known.get(name)
        return {
            "queued": tenant.queued if tenant else 0,
            "in_flight": tenant.in_flight if tenant else 0,
            "tokens": known.tokens if known else 0,
        }

    def _see(self, tenant: str) -> None:
        now = self._clock()
        known = self._known.setdefault(tenant, _Known(now))
        known.last = now
        self._known.move_to_end(tenant)
        while True:
            name, oldest = next(iter(self._known.items()))
            if len(self._known) <= KNOWN_TENANTS and now - oldest.last < KNOWN_SECONDS:
                return
            if name in self._tenants and len(self._known) <= KNOWN_TENANTS:
                oldest.last = now
                self._known.move_to_end(name)
            else:
                del self._known[name]

    def _reserve(self, held: Iterable[int], total: int, reserve: int) -> int:
        """What those who have their part leave free, while somebody known does not have it."""
        content = sum(self._has_part(count, total) for count in held)
        return max(1, reserve) if content < len(self._known) else 0

    def _has_part(self, held: int, total: int) -> bool:
        """Whether `held` of `total` are half of a fair share or more."""
        return held * 2 * len(self._known) >= total

    def _next_flow(self, tenant: _Tenant, slot: bool) -> _Flow | None:
        """The flow whose turn it is in a tenant; starts to drain for those who starve."""
        patience = tenant.rounds.quantum * self.seats / max(1, tenant.slots)
        for flow in tenant.rounds.waiting:
            if self._can_go(flow, slot):
                return flow
            if tenant.rounds.deficit(flow) > patience:
                self._drain(tenant, flow)
        if self._rounds.deficit(tenant) > self._rounds.quantum * max(1, self.seats / self.slots):
            self._drain(tenant, tenant.rounds.waiting[0])
        return None

    def _can_go(self, flow: _Flow, slot: bool) -> bool:
        if flow.adapter is None:
            return True
        if flow.adapter in self._adapters:
            return flow.adapter not in self._drains
        return slot or flow in self._kept

    def _drain(self, tenant: _Tenant, starved: _Flow) -> None:
        """Free a slot for a flow, in time. At most a quarter of the slots at once."""
        if starved.promised or starved in self._kept:
            return
        if len(self._drains) >= max(1, self.slots // 4):
            return
        owner = tenant
        if tenant.slots * len(self._known) < self.slots:
            owner = max(self._seated.values(), key=lambda t: t.slots, default=tenant)
        flows = {name: flow for name, flow in owner.flows.items() if name not in self._drains}
        busy = [name for name, flow in flows.items() if name is not None and flow.in_flight]
        if busy:
            emptiest = min(
                busy, key=lambda name: (len(flows[name].queue) > 0, flows[name].in_flight)
            )
            self._drains[emptiest] = starved
            starved.promised = True

    def _start(self, tenant: _Tenant, flow: _Flow) -> Ticket:
        self._rounds.rise(tenant)
        tenant.rounds.rise(flow)
        ticket = next(iter(flow.queue))
        self._unqueue(tenant, flow, ticket)
        self._kept.discard(flow)
        self._pay(tenant, flow, ticket.paid)
        ticket.in_flight = True
        self._seated[ticket.tenant] = tenant
        if flow.adapter is not None:
            self._adapters[flow.adapter] += 1
            tenant.slots += flow.in_flight == 0
        flow.in_flight += 1
        tenant.in_flight += 1
        tenant.taken += ticket.width
        self.in_flight += 1
        self.taken += ticket.width
        return ticket

    def _end(self, tenant: _Tenant, flow: _Flow, ticket: Ticket) -> None:
        self.in_flight -= 1
        self.taken -= ticket.width
        tenant.in_flight -= 1
        tenant.taken -= ticket.width
        flow.in_flight -= 1
        if not tenant.in_flight:
            del self._seated[ticket.tenant]
        if flow.adapter is not None:
            tenant.slots -= flow.in_flight == 0
            self._adapters[flow.adapter] -= 1
            if not self._adapters[flow.adapter]:
                self._free_slot(flow.adapter)
        ticket.in_flight = False
        if ticket.charged:
            self._learn(ticket)
            self._rounds.learn(ticket.paid)
            tenant.rounds.learn(ticket.paid)

    def _free_slot(self, adapter: str) -> None:
        del self._adapters[adapter]
        starved = self._drains.pop(adapter, None)
        if starved is None:
            return
        starved.promised = False
        warm = starved.adapter in self._adapters and starved.adapter not in self._drains
        if starved.queue and not warm:
            self._kept.add(starved)

    def _unqueue(self, tenant: _Tenant, flow: _Flow, ticket: Ticket) -> None:
        del flow.queue[ticket]
        tenant.queued -= 1
        self.queued -= 1
        if not flow.queue:
            tenant.rounds.leave(flow)
            self._kept.discard(flow)
        if not tenant.queued:
            self._rounds.leave(tenant)

    def _pay(self, tenant: _Tenant, flow: _Flow, tokens: float) -> None:
        keep = self.seats * max(SEAT_CREDIT, tenant.rounds.quantum)
        self._rounds.pay(tenant, tokens, keep)
        tenant.rounds.pay(flow, tokens, keep)

    def _learn(self, ticket: Ticket) -> None:
        """Expect of the flow's next answers what this one took."""
        key = ticket.tenant, ticket.adapter
        mean = self._lengths.pop(key, ticket.paid)
        self._lengths[key] = mean + WEIGHT * (ticket.paid - mean)
        if len(self._lengths) > KNOWN_LENGTHS:
            self._lengths.popitem(last=False)
