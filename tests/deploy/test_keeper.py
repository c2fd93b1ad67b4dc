"""The one count of what API keys use, without the processes around it."""

import asyncio
from collections.abc import Mapping

import pytest

from deploy.replicas.keeper import Admitted, Keeper

pytestmark = pytest.mark.anyio
NONE: Mapping[str, int | None] = {"rpm": None, "tpm": None, "concurrency": None}


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def keeper() -> Keeper:
    return Keeper()


async def enter(
    keeper: Keeper, owner: str, request: str, tokens: float = 0, **limits: int
) -> Admitted:
    return await keeper.enter(owner, request, "key", {**NONE, **limits}, tokens)


async def test_requests_of_all_replicas_are_one_count(keeper: Keeper) -> None:
    admitted = [await enter(keeper, f"replica-{n % 2}", str(n), rpm=3) for n in range(5)]
    assert [it.refused is None for it in admitted] == [True, True, True, False, False]
    refused = admitted[3]
    assert refused.refused is not None
    assert refused.refused["code"] == "rate_limit_exceeded"
    assert refused.headers["x-ratelimit-remaining-requests"] == "0"


async def test_tokens_are_charged_at_the_end_and_given_back_by_what_failed(keeper: Keeper) -> None:
    await enter(keeper, "a", "1", tokens=60, tpm=100)
    assert (await enter(keeper, "b", "2", tokens=60, tpm=100)).refused is not None
    await keeper.leave("a", "1", None, failed=True)
    assert (await enter(keeper, "b", "3", tokens=60, tpm=100)).refused is None
    await keeper.leave("b", "3", 99.0, failed=False)
    assert (await enter(keeper, "a", "4", tokens=60, tpm=100)).refused is not None


async def test_a_request_waits_a_moment_for_the_end_of_the_one_before(keeper: Keeper) -> None:
    await enter(keeper, "a", "1", concurrency=1)
    following = asyncio.create_task(enter(keeper, "b", "2", concurrency=1))
    await asyncio.sleep(0.05)
    assert not following.done()
    await keeper.leave("a", "1", 1.0, failed=False)
    assert (await following).refused is None
    refused = (await enter(keeper, "a", "3", concurrency=1)).refused
    assert refused is not None
    assert refused["refusal"] == "concurrency"


async def test_requests_of_a_dead_replica_are_not_open_for_ever() -> None:
    now = 0.0
    keeper = Keeper(clock=lambda: now)
    await enter(keeper, "dies", "1", concurrency=1)
    now = 5.0
    keeper.renew("lives")
    assert (await enter(keeper, "lives", "2", concurrency=1)).refused is not None
    now = 11.0
    assert (await enter(keeper, "lives", "3", concurrency=1)).refused is None


async def test_a_keeper_that_is_new_knows_nothing_of_requests_before(keeper: Keeper) -> None:
    await keeper.leave("a", "unknown", 10.0, failed=False)
    assert (await enter(keeper, "a", "1", tpm=10, tokens=5)).refused is None
