"""Two replicas by Ray Serve on the echo engine: where requests go, and what replicas survive."""

import asyncio
import contextlib
import random
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from replica_fleet import (
    ADAPTERS,
    Fleet,
    chat,
    failed,
    gather,
    key_of,
    running_fleet,
    stream,
    zipf_traffic,
)
from starlette.types import Receive, Scope, Send

from deploy.replicas.proxy import HeaderMiddleware
from registry import UsageError
from serve.affinity import preference

pytestmark = pytest.mark.filterwarnings("ignore")  # Ray's own


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory, tiny_base: Path) -> Iterator[Fleet]:
    with running_fleet(tmp_path_factory.mktemp("fleet"), tiny_base) as running:
        yield running


@pytest.fixture
def fleet(started: Fleet) -> Fleet:
    """As it is deployed for use."""
    usual = {"replicas": 2, "max_replicas": None, "max_loras": 32, "max_num_seqs": 8}
    if started.router != "AffinityRouter" or usual != started.settings.model_dump(
        include=set(usual)
    ):
        started.deploy(**usual)
    return started


def warm_rate(fleet: Fleet, requests: int, exponent: float) -> float:
    """Of the second half of the traffic: the first fills the replicas' places."""
    asyncio.run(zipf_traffic(fleet, requests, exponent, seed=1))
    before = fleet.hits()
    asyncio.run(zipf_traffic(fleet, requests, exponent, seed=2))
    warm, cold = (after - was for after, was in zip(fleet.hits(), before, strict=True))
    assert warm + cold == requests
    return warm / requests


def test_an_upgrade_under_load_fails_no_request_and_adapters_stay_warm(started: Fleet) -> None:
    """From random routing, where about half of 64 adapters are cold with room for 32 in each."""
    from random_router import RandomRouter

    fleet = started
    fleet.deploy(router=RandomRouter)
    anywhere = warm_rate(fleet, 200, exponent=0.2)
    before = {process.pid for process in fleet.processes().values()}
    assert asyncio.run(answered_during(fleet, drain_seconds=21)) > 4
    assert not before & {process.pid for process in fleet.processes().values()}
    affine = warm_rate(fleet, 200, exponent=0.2)
    print(f"warm: {affine:.0%} by affinity, {anywhere:.0%} at random")
    assert 0.4 < anywhere < 0.65
    assert affine >= 0.9


async def answered_during(fleet: Fleet, **changes: Any) -> int:
    """Upgrade while four users ask: how many answers they got, each whole."""
    deploying = asyncio.create_task(asyncio.to_thread(fleet.deploy, **changes))
    answered = 0

    async def user(client: httpx.AsyncClient, number: int) -> None:
        nonlocal answered
        source = random.Random(number)
        while not deploying.done():
            assert not failed(await stream(client, source.choice(ADAPTERS), max_tokens=20))
            answered += 1

    async with fleet.client() as client:
        await gather(user(client, number) for number in range(4))
    await deploying
    return answered


def test_a_hot_adapter_spills_over_to_the_next_replica(fleet: Fleet) -> None:
    seats, hot = fleet.settings.max_num_seqs, ADAPTERS[0]

    async def ask(requests: int) -> None:
        async with fleet.client() as client:
            await gather(stream(client, hot, words=300) for _ in range(requests))

    def served() -> list[float]:
        reference = f"{hot}@1"
        return [fleet.metric(p, "lorikeet_requests_total", model=reference) for p in fleet.ports]

    before = served()
    asyncio.run(ask(seats))
    calm = [after - was for after, was in zip(served(), before, strict=True)]
    home = int(preference(hot, ["0", "1"])[0])
    assert calm[home] >= seats - 2  # Ray asks the next one where the home is slow to answer it
    asyncio.run(ask(4 * seats))
    busy = [after - was for after, was in zip(served(), before, strict=True)]
    assert sum(busy) == 5 * seats
    assert busy[1 - home] > calm[1 - home]


def test_limits_of_a_key_hold_across_replicas(fleet: Fleet) -> None:
    a_minute = key_of("counted", rpm=2)
    at_once = key_of("narrow", concurrency=2)

    async def codes(key: str, requests: int, **fields: Any) -> list[int]:
        async with fleet.client(key) as client:
            answers = await gather(chat(client, it, **fields) for it in ADAPTERS[:requests])
        for answer in answers:
            assert answer.status_code == 200 or "retry-after" in answer.headers
        return [answer.status_code for answer in answers]

    assert asyncio.run(codes(a_minute, 3, max_tokens=1)).count(200) == 2
    assert asyncio.run(codes(at_once, 24, words=1000)).count(200) == 2

    async def one_after_another() -> list[int]:
        async with fleet.client(at_once) as client:
            asked = [await gather(stream(client, m, max_tokens=2) for m in ADAPTERS[:2])]
            asked += [await gather(stream(client, m, max_tokens=2) for m in ADAPTERS[2:4])]
        return [failed(events) for pair in asked for events in pair]

    assert not any(asyncio.run(one_after_another()))


def test_a_quiet_tenant_is_served_beside_a_noisy_one(fleet: Fleet) -> None:
    noisy, quiet = key_of("noisy"), key_of("quiet")

    async def first_token(client: httpx.AsyncClient, model: str) -> float:
        begin, arrivals = time.monotonic(), []
        events = await stream(client, model, lambda: arrivals.append(time.monotonic()))
        assert not failed(events)
        return arrivals[0] - begin

    async def both() -> tuple[list[float], list[float]]:
        async with fleet.client(noisy) as loud, fleet.client(quiet) as soft:
            crowd = [first_token(loud, model) for model in ADAPTERS[:48]]
            crowd += [first_token(loud, model) for model in ADAPTERS[:16]]
            noise = asyncio.gather(*crowd)
            await asyncio.sleep(0.5)  # until its queue is what it will be
            waits = [await first_token(soft, ADAPTERS[number]) for number in range(50, 56)]
            return waits, await noise

    waits, noise = asyncio.run(both())
    assert statistics.median(waits) < statistics.median(noise) / 3, (waits, noise)


def test_what_is_large_comes_whole(fleet: Fleet) -> None:
    rows = b'{"prompt": "a", "completion": "b"}\n' * 300_000

    async def send(key: str) -> httpx.Response:
        async with fleet.client(key) as client:
            files = {"file": ("rows.jsonl", rows)}
            return await client.post("/v1/files", files=files, data={"purpose": "fine-tune"})

    sent = asyncio.run(send(fleet.admin))
    assert sent.status_code == 200, sent.text
    assert sent.json()["bytes"] == len(rows)
    assert asyncio.run(send("lk-nobody")).status_code == 413


def test_what_is_for_admins_is_read_of_admins_alone(fleet: Fleet) -> None:
    weights = bytes(6 * 1024**2)

    async def publish(key: str) -> httpx.Response:
        async with fleet.client(key) as client:
            return await client.post("/admin/adapters/mine", files={"file": ("a.zip", weights)})

    assert asyncio.run(publish(key_of("a-tenant"))).status_code == 413
    assert asyncio.run(publish(fleet.admin)).status_code == 400  # it was read: it is no archive


@pytest.mark.parametrize("name", [b"serve_multiplexed_model_id", b"Serve-Multiplexed-Model-Id"])
def test_no_header_of_a_client_steers_the_proxy(name: bytes) -> None:
    passed: list[tuple[bytes, bytes]] = []

    async def ray(scope: Scope, receive: Receive, send: Send) -> None:
        passed.extend(scope["headers"])

    scope = {"type": "http", "headers": [(name.lower(), b"mine"), (b"accept", b"*/*")]}
    asyncio.run(HeaderMiddleware(ray)(scope, None, None))  # type: ignore[arg-type]
    assert passed == [(b"accept", b"*/*")]


def test_an_answer_has_one_request_id_that_no_client_chooses(fleet: Fleet) -> None:
    async def ask() -> httpx.Response:
        async with fleet.client() as client:
            return await client.get("/v1/models", headers={"x-request-id": "mine"})

    (identity,) = asyncio.run(ask()).headers.get_list("x-request-id")
    assert len(identity) == 32


def test_replicas_do_not_step_back_for_other_programs(fleet: Fleet) -> None:
    assert {it.nice() for it in fleet.processes().values()} == {psutil.Process().nice()}


def test_metrics_are_the_replicas_own(fleet: Fleet) -> None:
    async def front() -> httpx.Response:
        async with fleet.client() as client:
            return await client.get("/metrics")

    answer = asyncio.run(front())
    assert answer.status_code == 404
    assert "--metrics-port" in answer.json()["error"]["message"]
    assert all(fleet.metric(port, "lorikeet_ready") == 1 for port in fleet.ports)


def test_a_client_that_leaves_ends_its_request(fleet: Fleet) -> None:
    def left() -> float:
        return sum(
            fleet.metric(p, "lorikeet_requests_total", model=f"{ADAPTERS[0]}@1", status="499")
            for p in fleet.ports
        )

    async def leave() -> None:
        arrived = asyncio.Event()
        async with fleet.client() as client:
            reading = asyncio.create_task(stream(client, ADAPTERS[0], arrived.set))
            await arrived.wait()
            reading.cancel()

    before = left()
    asyncio.run(leave())
    deadline = time.monotonic() + 10
    while left() == before:
        assert time.monotonic() < deadline


def test_nothing_is_kept_of_a_request_that_has_ended(fleet: Fleet) -> None:
    """In this process, where it can be looked at, there is an ingress too."""
    from ray import serve

    from deploy.replicas.ingress import Ingress

    handle = serve.get_deployment_handle("Replica", "lorikeet")
    front = Ingress(fleet.settings, fleet.base, handle).__serve_build_asgi_app__()

    async def ask() -> Any:
        transport = httpx.ASGITransport(front)
        headers = {"authorization": f"Bearer {fleet.admin}"}
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", headers=headers, timeout=60
        ) as client:
            for model in ADAPTERS[:8]:
                assert (await chat(client, model, max_tokens=1)).status_code == 200
            router = handle._router._asyncio_router.request_router
            async with asyncio.timeout(10):
                while router._open:  # it hears of their ends
                    await asyncio.sleep(0.05)
            return router

    router = asyncio.run(ask())
    assert type(router).__name__ == "AffinityRouter"
    assert not router._pending_requests_by_id
    assert not router._pending_requests_by_model_id


def test_limits_are_counted_again_when_the_keeper_has_died(fleet: Fleet) -> None:
    key = key_of("kept", rpm=5)
    (keeper,) = fleet.processes_named("ray::ServeReplica:lorikeet:Keeper")

    async def ask(requests: int) -> list[int]:
        async with fleet.client(key) as client:
            answers = await gather(chat(client, it, max_tokens=1) for it in ADAPTERS[:requests])
        return [answer.status_code for answer in answers]

    assert asyncio.run(ask(4)) == [200] * 4
    keeper.kill()
    assert asyncio.run(ask(8)).count(200) == 5


def test_a_killed_replica_loses_its_requests_in_flight_and_is_replaced(fleet: Fleet) -> None:
    dies = fleet.ports[0]
    doomed = [it for it in ADAPTERS if preference(it, ["0", "1"])[0] == "0"][:4]
    spared = [it for it in ADAPTERS if preference(it, ["0", "1"])[0] == "1"][:4]
    process = fleet.processes()[dies]

    async def kill() -> tuple[list[list[str]], list[list[str]], int]:
        started: set[str] = set()
        async with fleet.client() as client:
            streams = {
                m: asyncio.ensure_future(stream(client, m, lambda m=m: started.add(m), words=1000))
                for m in doomed + spared
            }
            while len(started) < len(streams):
                await asyncio.sleep(0.01)
            process.kill()
            ended = [await streams[model] for model in doomed + spared]
            after = await gather(chat(client, model, max_tokens=1) for model in doomed + spared)
        return ended[:4], ended[4:], [answer.status_code for answer in after].count(200)

    lost, kept, answered = asyncio.run(kill())
    assert all(failed(events) for events in lost)
    assert not any(failed(events) for events in kept)
    assert answered == 8
    fleet.wait_ready()
    assert fleet.processes()[dies].pid != process.pid


def test_what_only_waits_in_a_replica_that_is_killed_is_answered_by_another(fleet: Fleet) -> None:
    fleet.wait_ready()
    doomed = [it for it in ADAPTERS if preference(it, ["0", "1"])[0] == "0"][:4]
    process = fleet.processes()[fleet.ports[0]]

    async def kill() -> list[int]:
        async with fleet.client() as client:
            whole = [asyncio.create_task(chat(client, it, words=400)) for it in doomed]
            while fleet.metric(fleet.ports[0], "lorikeet_requests_running") < len(doomed):
                await asyncio.sleep(0.05)
            process.kill()
            return [answer.status_code for answer in await gather(whole)]

    assert asyncio.run(kill()) == [200] * 4
    fleet.wait_ready()


def test_requests_are_refused_while_no_replica_runs(fleet: Fleet) -> None:
    fleet.wait_ready()
    (controller,) = fleet.processes_named("ray::ServeController")

    async def ask() -> httpx.Response:
        async with fleet.client() as client:
            return await chat(client, ADAPTERS[0])

    controller.suspend()  # else they are replaced before anybody has waited for long
    try:
        for process in fleet.processes().values():
            process.kill()
        refused = asyncio.run(ask())
    finally:
        controller.resume()
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5"), refused.text
    assert "No replica" in refused.json()["error"]["message"]
    fleet.wait_ready()


def test_requests_that_wait_for_slots_bring_another_replica(fleet: Fleet) -> None:
    fleet.deploy(replicas=1, max_replicas=2, upscale_seconds=0.0, max_loras=4, max_num_seqs=64)
    (alone,) = fleet.ports
    second = alone + 1
    done = asyncio.Event()

    async def until_there_are_two() -> None:
        async with fleet.client() as client, asyncio.timeout(60):
            crowd = [asyncio.create_task(user(client, number)) for number in range(24)]
            while not await asyncio.to_thread(answers, second):
                await asyncio.sleep(0.2)
            done.set()
            await gather(crowd)

    async def user(client: httpx.AsyncClient, number: int) -> None:
        while not done.is_set():
            assert not failed(await stream(client, ADAPTERS[number]))

    asyncio.run(until_there_are_two())


def answers(port: int) -> bool:
    """Whether a replica has its metrics there."""
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=5).status_code == 200
    return False


def test_a_cluster_that_is_there_gets_the_same_application(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `serve run deploy.ray_serve:app replicas=3` builds."""
    from ray.serve.deployment import Application

    from deploy.ray_serve import app

    monkeypatch.setenv("LORIKEET_SERVE_ENGINE", "echo")
    with pytest.raises(UsageError, match="no keys"):
        app({"replicas": "3"})
    key_of("ops")
    built = app({"replicas": "3", "max_replicas": "9", "drain_seconds": "40"})
    assert isinstance(built, Application)
    # Who passes answers on outlives a request that is lost in a drain and waits once more.
    assert built._bound_deployment._deployment_config.graceful_shutdown_timeout_s > 2 * 40 + 120
    with pytest.raises(ValueError, match="max_replicas"):
        app({"replicas": "3", "max_replicas": "2"})
