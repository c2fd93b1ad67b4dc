"""Whose turn it is: the rules of fair admission, by deterministic simulation."""

import heapq
import itertools
import random
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.round_robin import KNOWN_SECONDS, KNOWN_TENANTS, RoundRobin, Ticket

TOKEN_SECONDS = 0.05
START_SECONDS = 0.5
few = settings(max_examples=100, deadline=None, derandomize=True)


@dataclass
class Clients:
    """`count` connections of a tenant: each sends, waits for its answer, thinks, sends again."""

    tenant: str
    count: int
    adapters: tuple[str | None, ...]
    shortest: int
    longest: int
    cost: int = 256
    think: float = 0.001
    start: float = 0.0


@dataclass
class Simulation:
    """An engine whose answers take a time that their length gives, and clients of it."""

    seats: int
    slots: int
    seed: int = 0
    gives_up: float = 0.0
    """Share of the requests whose client leaves while they wait."""
    now: float = 0.0
    tokens: Counter[str] = field(default_factory=Counter)
    waits: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    passed: float = 0.0
    """The most tokens that were started while some ticket was the first of its flow."""

    def __post_init__(self) -> None:
        self.turns = RoundRobin(seats=self.seats, slots=self.slots, clock=lambda: self.now)
        self.random = random.Random(self.seed)
        self.running: dict[Ticket, int] = {}
        self.queues: dict[tuple[str, str | None], dict[Ticket, tuple[Clients, float]]] = {}
        self._heads: dict[Ticket, float] = {}
        self._started = 0.0
        self._events: list[tuple[float, int, str, Any]] = []
        self._ids = itertools.count()

    def run(self, clients: list[Clients], *, until: float, count_from: float = 0.0) -> None:
        for each in clients:
            for _ in range(each.count):
                self._at(each.start + self.random.random() / 100, "arrive", each)
        while self._events and self._events[0][0] < until:
            self.now, _, what, about = heapq.heappop(self._events)
            getattr(self, f"_{what}")(about)
            while (ticket := self.turns.next()) is not None:
                self._start(ticket)
            self._check()
            if self.now < count_from:
                self.tokens.clear()

    def end(self) -> None:
        """Take everything out, in any order."""
        tickets = [*self.running, *itertools.chain(*self.queues.values())]
        self.random.shuffle(tickets)
        for ticket in tickets:
            self.turns.remove(ticket)

    def share(self, tenant: str) -> float:
        return self.tokens[tenant] / self.tokens.total()

    def _at(self, time: float, what: str, about: Any) -> None:
        heapq.heappush(self._events, (time, next(self._ids), what, about))

    def _arrive(self, who: Clients) -> None:
        ticket = self.turns.add(who.tenant, self.random.choice(who.adapters), who.cost)
        queue = self.queues.setdefault((ticket.tenant, ticket.adapter), {})
        queue[ticket] = who, self.now
        self._heads.setdefault(next(iter(queue)), self._started)
        if self.random.random() < self.gives_up:
            self._at(self.now + self.random.random() * 5, "leave", ticket)

    def _start(self, ticket: Ticket) -> None:
        who, since = self._take(ticket)
        self.waits[who.tenant].append(self.now - since)
        length = self.random.randint(who.shortest, who.longest)
        self.running[ticket] = length
        self._started += length
        self._at(self.now + START_SECONDS + length * TOKEN_SECONDS, "finish", (ticket, who))

    def _finish(self, about: tuple[Ticket, Clients]) -> None:
        ticket, who = about
        length = self.running.pop(ticket)
        self.turns.charge(ticket, length)
        self.turns.remove(ticket)
        self.tokens[who.tenant] += length
        self._at(self.now + who.think, "arrive", who)

    def _leave(self, ticket: Ticket) -> None:
        if ticket in self.queues.get((ticket.tenant, ticket.adapter), ()):
            who, _ = self._take(ticket)
            self.turns.remove(ticket)
            self._at(self.now + who.think, "arrive", who)

    def _take(self, ticket: Ticket) -> tuple[Clients, float]:
        queue = self.queues[ticket.tenant, ticket.adapter]
        taken = queue.pop(ticket)
        if ticket in self._heads:
            self.passed = max(self.passed, self._started - self._heads.pop(ticket))
        if queue:
            self._heads.setdefault(next(iter(queue)), self._started)
        else:
            del self.queues[ticket.tenant, ticket.adapter]
        return taken

    def _check(self) -> None:
        """The caps hold, and what may go has gone."""
        adapters = {ticket.adapter for ticket in self.running} - {None}
        assert len(self.running) == self.turns.in_flight <= self.seats
        assert len(adapters) <= self.slots
        assert self.turns.queued == sum(map(len, self.queues.values()))
        if len(self.turns._known) == 1 and len(self.running) < self.seats:
            warm = adapters - self.turns._drains.keys() | {None}
            assert all(adapter not in warm for _, adapter in self.queues)


def own(prefix: str, count: int) -> tuple[str, ...]:
    return tuple(f"{prefix}{number}" for number in range(count))


@st.composite
def busy_tenants(draw: st.DrawFn, seats: int) -> Clients:
    """A tenant with more connections than it can get seats, so that it always has work."""
    shortest = draw(st.integers(20, 80))
    prefix = draw(st.sampled_from(["a", "b"]))
    return Clients(
        "",
        draw(st.integers(seats + 8, 4 * seats)),
        draw(st.sampled_from([(None,), own(prefix, 1), own(prefix, 3), own(prefix, 8)])),
        shortest,
        draw(st.integers(shortest, 4 * shortest)),
        cost=draw(st.sampled_from([256, 400, 8192])),
    )


@few
@given(one=busy_tenants(32), other=busy_tenants(32), seed=st.integers(0, 9))
def test_two_busy_tenants_share_the_tokens(one: Clients, other: Clients, seed: int) -> None:
    one.tenant, other.tenant = "one", "other"
    simulation = Simulation(seats=32, slots=8, seed=seed)
    longest = max(one.longest, other.longest)
    until = 60 * (START_SECONDS + longest * TOKEN_SECONDS)
    simulation.run([one, other], until=until, count_from=until / 6)
    assert simulation.share("one") == pytest.approx(0.5, abs=0.05)


def test_a_third_tenant_gets_a_third() -> None:
    simulation = Simulation(seats=32, slots=8)
    clients = [
        Clients("many", 200, own("a", 8), 20, 60),
        Clients("few", 24, own("b", 1), 10, 30),
        Clients("long", 40, (None,), 200, 400, cost=8192),
    ]
    simulation.run(clients, until=1500, count_from=200)
    for each in clients:
        assert simulation.share(each.tenant) == pytest.approx(1 / 3, abs=0.03)


@pytest.mark.parametrize("noisy", [1, 2, 3])
def test_a_quiet_tenant_goes_at_once(noisy: int) -> None:
    simulation = Simulation(seats=32, slots=8)
    clients = [Clients(f"noisy{n}", 64, own(f"n{n}", 8), 20, 100) for n in range(noisy)]
    quiet = Clients("quiet", 1, ("q",), 20, 60, think=3.0, start=5.0)
    simulation.run([*clients, quiet], until=400)
    first, *later = simulation.waits["quiet"]
    assert first < 6  # nobody knew of it
    assert len(later) > 50
    assert max(later) < 0.01


def test_a_tenant_alone_uses_everything() -> None:
    simulation = Simulation(seats=16, slots=4)
    simulation.run([Clients("default", 64, own("a", 4), 20, 60)], until=50)
    assert simulation.turns.in_flight == 16
    assert simulation.turns.snapshot()["slots"] == {"total": 4, "in_use": 4}


clients = st.builds(
    Clients,
    st.sampled_from("tuvw"),
    st.integers(1, 40),
    st.sampled_from([(None,), ("a",), own("a", 3), own("b", 6), ("a0", None, "b0"), own("c", 12)]),
    st.integers(1, 20),
    st.integers(20, 300),
    cost=st.sampled_from([1, 256, 8192]),
    think=st.sampled_from([0.001, 1.0, 30.0]),
    start=st.sampled_from([0.0, 10.0]),
)


@few
@given(
    crowd=st.lists(clients, min_size=1, max_size=5),
    seats=st.integers(1, 16),
    slots=st.integers(1, 6),
    seed=st.integers(0, 9),
)
def test_caps_hold_nobody_starves_and_everything_comes_back(
    crowd: list[Clients], seats: int, slots: int, seed: int
) -> None:
    simulation = Simulation(seats=seats, slots=slots, seed=seed, gives_up=0.2)
    simulation.run(crowd, until=300)
    simulation.passed = max(
        simulation.passed,
        *(simulation._started - since for since in simulation._heads.values()),
        0,
    )
    flows = len({(each.tenant, adapter) for each in crowd for adapter in each.adapters})
    # The most credit that a flow has, and the most it has in flight, is what fills all seats.
    assert simulation.passed <= 2 * (flows + seats) * seats * 300
    simulation.end()
    snapshot = simulation.turns.snapshot()
    assert snapshot["queued"] == snapshot["seats"]["in_use"] == snapshot["slots"]["in_use"] == 0
    for inner in ("_tenants", "_seated", "_adapters", "_drains", "_kept"):
        assert not getattr(simulation.turns, inner)


def test_a_cold_flow_passes_an_endless_stream_on_warm_ones() -> None:
    turns = RoundRobin(seats=4, slots=1)
    running = []
    for _ in range(40):
        turns.add("tenant", "hot", 10)
    cold = turns.add("tenant", "cold", 10)
    for _ in range(40):
        while (ticket := turns.next()) is not None:
            running.append(ticket)
            turns.add("tenant", "hot", 10)
        if cold.in_flight:
            break
        done = running.pop(0)
        turns.charge(done, 10)
        turns.remove(done)
    assert cold.in_flight


def test_newcomers_without_end_do_not_keep_a_debtor_waiting() -> None:
    turns = RoundRobin(seats=1, slots=1)
    first = turns.add("debtor", None, 1000)
    assert turns.next() is first
    waiting = turns.add("debtor", None, 1000)
    turns.charge(first, 1000)
    turns.remove(first)
    for number in range(3):
        turns.add(f"early{number}", None, 10)
    for number in range(4 * 1000 // 10):  # four wait for as many rounds as pay the debt
        turns.add(f"newcomer{number}", None, 10)
        ticket = turns.next()
        assert ticket is not None
        if ticket is waiting:
            break
        turns.charge(ticket, 10)
        turns.remove(ticket)
    assert waiting.in_flight


def test_each_answer_of_a_request_takes_a_seat() -> None:
    turns = RoundRobin(seats=8, slots=4)
    wide = [turns.add("a", None, 100, width=16) for _ in range(9)]
    started = list(iter(turns.next, None))
    assert started == wide[:4]  # a quarter of the seats each, at most
    narrow = turns.add("b", None, 100)
    assert turns.next() is None
    turns.remove(started.pop())
    assert turns.next() is narrow
    for ticket in [*started, narrow, *wide[4:]]:
        turns.remove(ticket)
    assert (turns.taken, turns.in_flight, turns.queued) == (0, 0, 0)


def test_idle_tenants_keep_neither_credit_nor_memory() -> None:
    now = 0.0
    turns = RoundRobin(seats=4, slots=4, clock=lambda: now)
    for number in range(3 * KNOWN_TENANTS):
        ticket = turns.add(f"t{number}", f"a{number}", 10)
        assert turns.next() is ticket
        turns.charge(ticket, 5)
        turns.remove(ticket)
    assert len(turns._known) == KNOWN_TENANTS
    assert not turns._tenants
    now = KNOWN_SECONDS + 1
    alone = [turns.add("alone", None, 10) for _ in range(4)]
    assert [turns.next() for _ in alone] == alone
    assert list(turns.snapshot()["tenants"]) == ["alone"]


def test_thousands_may_wait() -> None:
    turns = RoundRobin(seats=8, slots=4)
    for number in range(5000):
        turns.add(f"t{number % 50}", f"a{number % 200}", 10)
    running: list[Ticket] = []
    served = 0
    while turns.queued or running:
        while (ticket := turns.next()) is not None:
            running.append(ticket)
        done = running.pop(0)
        turns.charge(done, 7)
        turns.remove(done)
        served += 1
    assert served == 5000
