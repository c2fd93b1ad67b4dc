"""Fair admission on a real loop: the waiting, its bounds and its end."""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.admission import Admission
from serve.errors import EngineNotReady, Overloaded, RequestError, TooManyRequests

few = settings(max_examples=100, deadline=None, derandomize=True)


def admission(**options: Any) -> Admission:
    bounds = {"seats": 1, "slots": 1, "max_queue": 4, "max_queue_per_tenant": 2}
    return Admission(**{**bounds, "queue_seconds": 5.0, **options})


async def hold(house: Admission, tenant: str, adapter: str | None = None) -> None:
    async with house.seat(tenant, adapter, 10):
        await asyncio.sleep(60)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def started(house: Admission, *tenants: str) -> list[asyncio.Task[None]]:
    return [asyncio.create_task(hold(house, tenant)) for tenant in tenants]


async def ended(tasks: list[asyncio.Task[None]]) -> list[BaseException | None]:
    for task in tasks:
        task.cancel()
    return await asyncio.gather(*tasks, return_exceptions=True)


@pytest.mark.anyio
async def test_a_seat_is_waited_for_and_charged() -> None:
    house = admission()
    async with house.seat("a", "x", 10) as seat:
        waiting = started(house, "b")
        await settle()
        assert (house.in_flight, house.queued) == (1, 1)
        seat.charge(3)
        seat.charge(7)
        snapshot = house.snapshot()
        assert snapshot["tenants"]["a"] == {"queued": 0, "in_flight": 1, "tokens": 7}
        assert snapshot["adapters"] == {"x": {"in_flight": 1, "draining": False}}
    await settle()
    assert (house.in_flight, house.queued) == (1, 0)
    seat.charge(100)  # too late
    assert house.snapshot()["tenants"]["a"]["tokens"] == 7
    await ended(waiting)
    assert house.in_flight == 0


@pytest.mark.anyio
async def test_full_queues_refuse_with_retry_after() -> None:
    house = admission()
    tasks = started(house, "a", "a", "a", "b", "b")
    await settle()
    with pytest.raises(TooManyRequests) as own_queue:
        await hold(house, "b")
    assert "2 requests of yours" in own_queue.value.message
    with pytest.raises(Overloaded) as all_full:
        await hold(house, "c")
    for error in (own_queue.value, all_full.value):
        assert 1 <= (error.retry_after or 0) <= 60
        assert f"{error.retry_after} s" in (error.remedy or "")
    await ended(tasks)
    assert (house.in_flight, house.queued) == (0, 0)


@pytest.mark.anyio
async def test_retry_after_follows_the_recent_rate() -> None:
    now = 0.0
    house = admission(clock=lambda: now, max_queue=3, max_queue_per_tenant=3)
    for _ in range(5):
        now += 4.0
        async with house.seat("a", None, 10):
            pass
    tasks = started(house, "a", "a", "a", "a")
    await settle()
    now += 4.0
    with pytest.raises(Overloaded) as refused:
        await hold(house, "b")
    assert refused.value.retry_after == 3 * 5  # three wait, five seconds for each of four
    await ended(tasks)


@pytest.mark.anyio
async def test_the_wait_has_an_end() -> None:
    house = admission(queue_seconds=0.05)
    tasks = started(house, "a")
    await settle()
    with pytest.raises(Overloaded, match=r"waited 0\.05 s"):
        await hold(house, "b")
    assert (house.in_flight, house.queued) == (1, 0)
    await ended(tasks)


@pytest.mark.anyio
async def test_close_refuses_who_waits_and_open_admits_again() -> None:
    house = admission()
    tasks = started(house, "a", "b", "c")
    await settle()
    house.close("The engine has stopped.")
    await settle()
    assert (house.in_flight, house.queued) == (1, 0)
    with pytest.raises(EngineNotReady, match="has stopped"):
        await hold(house, "d")
    house.open()
    tasks += started(house, "d")
    results = await ended(tasks)
    assert [type(result) for result in results] == [
        asyncio.CancelledError,
        EngineNotReady,
        EngineNotReady,
        asyncio.CancelledError,
    ]
    assert (house.in_flight, house.queued) == (0, 0)


@few
@given(seed=st.integers(0, 10**6))
def test_everything_comes_back_whoever_leaves(seed: int) -> None:
    """Clients that leave, errors, time-outs, close and open at any step of the loop."""
    chance = random.Random(seed)

    async def client(house: Admission) -> None:
        tenant, adapter = chance.choice("abc"), chance.choice(["x", "y", "z", None])
        try:
            async with house.seat(tenant, adapter, 10) as seat:
                for _ in range(chance.randrange(4)):
                    await asyncio.sleep(0)
                    seat.charge(chance.randrange(20))
                if chance.random() < 0.2:
                    raise Overloaded("an error inside")
        except RequestError:
            pass

    async def storm() -> None:
        house = admission(seats=3, slots=2, max_queue=20, max_queue_per_tenant=10)
        tasks = []
        async with AsyncExitStack() as stack:
            stack.callback(house.open)
            for _ in range(120):
                tasks.append(asyncio.create_task(client(house)))
                if chance.random() < 0.3:
                    chance.choice(tasks).cancel()
                if chance.random() < 0.05:
                    house.close("closed")
                if chance.random() < 0.2:
                    house.open()
                for _ in range(chance.randrange(3)):
                    await asyncio.sleep(0)
        await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 5)
        assert (house.in_flight, house.queued) == (0, 0)
        assert not house._waiting
        assert not house._turns._tenants

    asyncio.run(storm())
