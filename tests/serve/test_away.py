"""Servers on one PostgreSQL: what one does the others serve, and each goes on when it is away."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from postgres_cluster import Postgres
from sqlalchemy import text

from registry import Base, Registry, RegistryUnavailable
from registry.finetuning.objects import FINE_TUNE
from serve import registry_link
from serve.engine.echo import EchoEngine

pytestmark = pytest.mark.anyio


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def until(reached: Callable[[], Any]) -> None:
    """Wait for it, with a bound for a test that fails."""
    async with asyncio.timeout(30):
        while not await reached():
            await asyncio.sleep(0.02)


async def more(things: list[Any], count: int) -> None:
    """Wait until so many have come."""
    enough = len(things) + count

    async def there() -> bool:
        return len(things) >= enough

    await until(there)


@pytest.fixture(autouse=True)
def database(home: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> Iterator[Postgres]:
    """The server whose empty database the registry is in; it runs again in the end."""
    monkeypatch.setenv("LORIKEET_DATABASE_URL", postgres.fresh())
    yield postgres
    if not postgres.running:
        postgres.start()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests wait for what a database says that is there, on a busy machine too."""
    monkeypatch.setattr(registry_link, "WAIT_SECONDS", 20.0)
    monkeypatch.setattr(registry_link, "HANG_SECONDS", 30.0)


@pytest.fixture
def two(run: Any, registry: Registry, patient: None) -> Any:
    """`async with two() as (one, other):` two servers, each with a registry of its own."""

    @asynccontextmanager
    async def running(**settings: Any) -> AsyncIterator[list[Any]]:
        async with AsyncExitStack() as stack:
            other = stack.enter_context(Registry.open())
            yield [
                await stack.enter_async_context(run(EchoEngine(), registry=each, **settings))
                for each in (registry, other)
            ]

    return running


async def model_of(running: Any, model: str) -> str | None:
    answer = await running.chat(model)
    return str(answer.json()["model"]) if answer.status_code == 200 else None


async def test_what_one_publishes_the_other_serves_at_the_next_request(
    two: Any, registry: Registry, publish: Any
) -> None:
    async with two() as servers:
        for server in servers:
            assert await model_of(server, "opl") is None
        publish("opl", seed=1)
        assert [await model_of(server, "opl") for server in servers] == ["opl@1", "opl@1"]
        publish("opl", seed=2)
        assert [await model_of(server, "opl") for server in servers] == ["opl@2", "opl@2"]
        registry.promote("opl", 1, force="a test")
        assert [await model_of(server, "opl") for server in servers] == ["opl@1", "opl@1"]
        registry.quarantine("opl", 1, "NaN")
        for server in servers:
            refused = await server.chat("opl")
            assert refused.json()["error"]["code"] == "adapter_quarantined"


async def test_a_promotion_is_one_moment_for_all(
    two: Any, registry: Registry, publish: Any
) -> None:
    """No request that begins after another has got the new version gets the old one, anywhere."""
    publish("opl", seed=1)
    publish("opl", seed=2)
    registry.promote("opl", 1, force="a test")
    answers: list[tuple[float, float, str | None]] = []
    async with two() as servers:
        done = asyncio.Event()

        async def ask(server: Any) -> None:
            while not done.is_set():
                began = time.monotonic()
                model = await model_of(server, "opl")
                answers.append((began, time.monotonic(), model))

        asking = [asyncio.create_task(ask(server)) for server in servers * 3]
        for number in (2, 1, 2):
            await more(answers, 20)
            await asyncio.to_thread(registry.promote, "opl", number, force="a test")
            moved = time.monotonic()
            await more(answers, 20)
            later = {model for began, _, model in answers if began > moved}
            assert later == {f"opl@{number}"}
        done.set()
        await asyncio.gather(*asking)
    assert {model for _, _, model in answers} == {"opl@1", "opl@2"}


async def test_a_revoked_key_is_refused_by_both(two: Any, registry: Registry) -> None:
    key, secret = registry.keys.create("acme")
    async with two() as servers:
        for server in servers:
            answer = await server.client.get("/v1/models", headers=bearer(secret))
            assert answer.status_code == 200
        registry.keys.revoke(key.id)
        for server in servers:

            async def refused(server: Any = server) -> bool:
                answer = await server.client.get("/v1/models", headers=bearer(secret))
                return bool(answer.status_code == 401)

            await until(refused)


async def test_limits_that_change_hold_at_both(two: Any, registry: Registry, base: Base) -> None:
    key, secret = registry.keys.create("acme")
    async with two() as servers:
        for server in servers:
            server.client.headers.update(bearer(secret))
            answer = await server.chat(base.id, max_tokens=1)
            assert answer.status_code == 200
            assert "x-ratelimit-limit-requests" not in answer.headers
        registry.keys.limit(key.id, {"rpm": 1})
        for server in servers:

            async def limited(server: Any = server) -> bool:
                answer = await server.chat(base.id, max_tokens=1)
                return bool(answer.headers.get("x-ratelimit-limit-requests") == "1")

            await until(limited)
            assert (await server.chat(base.id, max_tokens=1)).status_code == 429


@pytest.mark.usefixtures("patient")
async def test_without_the_database_what_is_known_goes_on(
    run: Any, registry: Registry, publish: Any, database: Postgres
) -> None:
    publish("warm", seed=1)
    publish("cold", seed=2)
    registry.promote("warm", 1, force="a test")
    _, secret = registry.keys.create("acme")
    _, admin = registry.keys.create("ops", admin=True)
    revoked, ended = registry.keys.create("old")
    registry.keys.revoke(revoked.id)
    async with run() as running:
        running.client.headers.update(bearer(secret))
        assert await model_of(running, "warm") == "warm@1"
        ready = await running.client.get("/ready")
        assert ready.json()["registry"] == "up"
        await asyncio.to_thread(database.stop, signal.SIGQUIT)

        assert await model_of(running, "warm@prod") == "warm@1"
        assert await model_of(running, "cold") == "cold@1"
        assert (await running.chat("nobody")).status_code == 404
        listed = (await running.client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in listed[1:]] == ["cold", "cold@1", "warm", "warm@1"]
        for wrong in (ended, "lk-" + "0" * 12 + "-" + "A" * 43):
            answer = await running.client.get("/v1/models", headers=bearer(wrong))
            assert answer.status_code == 401
        ready = await running.client.get("/ready")
        assert ready.status_code == 200
        assert ready.json()["registry"].startswith("away since 20")
        as_admin = {"headers": bearer(admin)}
        status = await running.client.get("/admin/status", **as_admin)
        assert status.json()["registry"].startswith("away since 20")
        metrics = await running.client.get("/metrics", **as_admin)
        assert "\nlorikeet_registry_up 0.0\n" in metrics.text
        for method, path, options in [
            ("GET", "/v1/files", {}),
            ("POST", "/v1/files", {"files": {"file": b"{}\n"}, "data": {"purpose": FINE_TUNE}}),
            ("GET", "/v1/fine_tuning/jobs", {}),
            ("GET", "/admin/keys", as_admin),
            ("POST", "/admin/adapters/warm/promote", as_admin | {"json": {"version": 1}}),
        ]:
            refused = await running.client.request(method, path, **options)
            assert refused.status_code == 503, (path, refused.text)
            assert refused.headers["retry-after"]
            assert "registry" in refused.json()["error"]["message"]

        database.start()

        async def up() -> bool:
            return bool((await running.client.get("/ready")).json()["registry"] == "up")

        await until(up)
        publish("warm", seed=3)
        registry.promote("warm", 2, force="a test")
        assert await model_of(running, "warm") == "warm@2"
        assert (await running.client.get("/v1/files")).status_code == 200
        metrics = await running.client.get("/metrics", **as_admin)
        assert "\nlorikeet_registry_up 1.0\n" in metrics.text


async def test_killed_and_back_under_load_no_warm_request_fails(
    run: Any, registry: Registry, publish: Any, database: Postgres
) -> None:
    publish("opl")
    _, secret = registry.keys.create("acme")
    answers: list[int] = []
    async with run() as running:
        running.client.headers.update(bearer(secret))
        assert await model_of(running, "opl") == "opl@1"
        done = asyncio.Event()

        async def ask() -> None:
            while not done.is_set():
                answers.append((await running.chat("opl")).status_code)

        asking = [asyncio.create_task(ask()) for _ in range(8)]

        for how in (signal.SIGQUIT, signal.SIGINT):
            await more(answers, 100)
            await asyncio.to_thread(database.stop, how)
            await more(answers, 100)
            database.start()
        await more(answers, 100)
        done.set()
        await asyncio.gather(*asking)
    assert set(answers) == {200}


async def test_a_database_that_hangs_stalls_no_request_and_no_end(
    run: Any, registry: Registry, publish: Any, database: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its machine is there and its connections are open, but nothing is answered."""
    monkeypatch.setattr(registry_link, "WAIT_SECONDS", 1.0)
    monkeypatch.setattr(registry_link, "HANG_SECONDS", 0.2)
    monkeypatch.setattr(registry_link, "PATIENCE_SECONDS", 0.2)
    publish("opl")
    async with run() as running:
        assert await model_of(running, "opl") == "opl@1"
        with database.frozen():
            began = time.monotonic()
            for _ in range(20):
                assert await model_of(running, "opl") == "opl@1"
            # The first one waits, the others do not.
            assert time.monotonic() - began < 20 * registry_link.WAIT_SECONDS / 2

            async def away() -> bool:
                return "away" in (await running.client.get("/ready")).json()["registry"]

            await until(away)
            assert (await running.client.get("/v1/files")).status_code == 503
            assert (await running.client.get("/metrics")).status_code == 200
        await until(lambda: _up(running))
        assert (await running.client.get("/v1/files")).status_code == 200
        with database.frozen():
            asked = asyncio.create_task(running.client.get("/v1/files"))  # not known to hang yet
            assert (await asked).status_code == 503
            assert running.service.link.away_seconds is not None


async def _up(running: Any) -> bool:
    return bool((await running.client.get("/ready")).json().get("registry") == "up")


async def test_keys_are_believed_for_so_long(
    run: Any, registry: Registry, publish: Any, database: Postgres
) -> None:
    publish("opl")
    _, secret = registry.keys.create("acme")
    async with run(stale_seconds=0.5) as running:
        running.client.headers.update(bearer(secret))
        assert await model_of(running, "opl") == "opl@1"
        await asyncio.to_thread(database.stop, signal.SIGQUIT)

        async def stale() -> bool:
            return bool((await running.client.get("/ready")).status_code == 503)

        await until(stale)
        assert (await running.client.get("/ready")).json() == {"status": "registry away"}
        refused = await running.chat("opl")
        assert refused.status_code == 503
        assert "too long" in refused.json()["error"]["message"]
        database.start()
        await until(lambda: _up(running))
        assert await model_of(running, "opl") == "opl@1"


async def test_a_quarantine_holds_here_and_is_recorded_once_the_database_is_back(
    run: Any,
    registry: Registry,
    publish: Any,
    database: Postgres,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    version = publish("opl")
    async with run() as running:
        await asyncio.to_thread(database.stop, signal.SIGQUIT)
        adapters = running.service.adapters
        await adapters.quarantine(version, "NaN")
        await adapters.quarantine(version, "NaN again")  # by another request: it counts once
        monkeypatch.setattr(adapters._quarantine, "_clock", lambda: time.monotonic() + 3600)
        assert (await running.chat("opl")).status_code == 503  # an hour later too
        database.start()

        async def recorded() -> bool:
            return registry.get("opl").quarantine == "NaN"

        await until(recorded)
        assert registry.get("opl").quarantine == "NaN"
        await adapters.release(version)
        assert await model_of(running, "opl") == "opl@1"


@pytest.mark.usefixtures("patient")
async def test_tables_of_a_later_version_are_told_and_served(
    run: Any,
    base: Base,
    database: Postgres,
    make_adapter: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Tables only ever gain: the servers of before go on until they are upgraded themselves."""
    folders = [make_adapter(tmp_path / f"a{seed}", base, seed=seed) for seed in (1, 2)]
    url = database.create()
    monkeypatch.setenv("LORIKEET_DATABASE_URL", url)
    with Registry.open() as registry:
        registry.publish(folders[0], "opl", base=base)
        async with run(registry=registry) as running:
            with registry._database.writing() as session:
                session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
                session.execute(text("ALTER TABLE versions ADD COLUMN mood VARCHAR(8)"))
            with pytest.raises(RegistryUnavailable, match="of revision 9999") as caught:
                Registry.open()
            assert "upgrade" in str(caught.value.remedy)
            registry.publish(folders[1], "opl", base=base)
            assert await model_of(running, "opl") == "opl@2"
            ready = await running.client.get("/ready")
            assert ready.status_code == 200
            assert "upgrade this server" in ready.json()["registry"]
    told = [record for record in caplog.records if "upgrade this server" in record.message]
    assert len(told) == 1
    database.drop(url)
