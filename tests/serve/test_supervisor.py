"""The engine dies, hangs or goes sick: it is started again, and serves what it served before."""

import asyncio
from typing import Any

import pytest

from serve import supervisor
from serve.adapters import engine_name
from serve.app import create_app
from serve.engine.echo import EchoEngine
from serve.errors import EngineFailed
from serve.settings import ServeSettings

pytestmark = pytest.mark.anyio


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.01)


async def until(condition: Any, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class Mortal(EchoEngine):
    """The next `failing` of its starts go wrong."""

    failing = 0

    async def start(self) -> None:
        if self.failing:
            self.failing -= 1
            self.starts += 1
            raise EngineFailed("no memory")
        await super().start()


async def test_a_dead_engine_is_started_again_with_what_it_held(run: Any, publish: Any) -> None:
    versions = [publish(name, seed=i) for i, name in enumerate("abc")]
    engine = Mortal()
    async with run(engine=engine) as running:
        for name in "abc":
            assert (await running.chat(name)).status_code == 200
        engine.die()
        refused = await running.chat("a")
        assert refused.status_code == 503
        assert refused.headers["retry-after"]
        await until(lambda: running.service.ready and len(engine.loaded) == 3)
        held = {adapter.name for adapter in engine.loaded.values()}
        assert held == {engine_name(version) for version in versions}
        for name in "abc":
            assert (await running.chat(name)).status_code == 200
        metrics = (await running.client.get("/metrics")).text
    assert "lorikeet_engine_restarts_total 1.0" in metrics
    assert engine.starts == 2


class Slow(EchoEngine):
    """Each start takes until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = asyncio.Event()

    async def start(self) -> None:
        await self.go.wait()
        await super().start()


async def test_the_first_start_is_told_apart_from_the_next_ones(registry: Any, base: Any) -> None:
    engine = Slow()
    app = create_app(ServeSettings(engine="echo"), engine, registry, base)
    service = app.state.service

    async def told() -> tuple[str, str]:
        lines = dict(
            line.rsplit(" ", 1) for line in (await service.scrape.text()).decode().splitlines()
        )
        return lines["lorikeet_engine_starting"], lines["lorikeet_engine_up"]

    async with app.router.lifespan_context(app):
        assert await told() == ("1.0", "0.0")
        engine.go.set()
        await service.supervisor.wait_started()
        assert await told() == ("0.0", "1.0")
        engine.go.clear()
        engine.die()
        await until(lambda: service.supervisor.state == "down")
        assert await told() == ("0.0", "0.0")
        engine.go.set()


async def test_ready_is_503_and_health_200_while_it_is_started_again(run: Any) -> None:
    engine = Mortal()
    async with run(engine=engine) as running:
        engine.failing = 1
        engine.die()
        await until(lambda: running.service.supervisor.state == "down")
        ready = await running.client.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "restarting")
        assert (await running.client.get("/health")).status_code == 200
        await until(lambda: running.service.ready)
    assert engine.starts == 3


async def test_health_is_503_when_starting_again_is_hopeless(
    run: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "MAX_BACKOFF_SECONDS", 0.2)
    engine = Mortal()
    async with run(engine=engine) as running:
        engine.failing = supervisor.HOPELESS + 1
        engine.die()
        await until(lambda: running.service.supervisor.hopeless)
        assert (await running.client.get("/health")).status_code == 503
        await until(lambda: running.service.ready)  # it has not given up
        assert (await running.client.get("/health")).status_code == 200


async def test_a_hung_engine_is_started_again(run: Any) -> None:
    engine = Mortal()
    async with run(engine=engine, ping_seconds=0.05, hang_seconds=0.2) as running:
        engine.hang()
        await until(lambda: engine.starts == 2)
        await until(lambda: running.service.ready)
        assert (await running.chat(running.service.base.id)).status_code == 200


async def test_who_waits_for_a_turn_is_told(run: Any) -> None:
    engine = Mortal(token_seconds=0.5)
    async with run(engine=engine, max_num_seqs=1) as running:
        base = running.service.base.id
        asked = [asyncio.create_task(running.chat(base)) for _ in range(3)]
        await until(lambda: running.service.admission.queued == 2)
        engine.die()
        answers = await asyncio.gather(*asked)
    assert [answer.status_code for answer in answers] == [503, 503, 503]


@pytest.mark.parametrize("stream", [False, True])
async def test_an_adapter_whose_output_is_not_finite_is_quarantined(
    run: Any, publish: Any, registry: Any, stream: bool
) -> None:
    publish("good", seed=1)
    bad = publish("bad", seed=2)
    engine = Mortal()
    async with run(engine=engine) as running:
        assert (await running.chat("bad")).status_code == 200
        engine.not_finite = {"bad@1": 0}
        first = await running.chat("bad", stream=stream)
        assert first.status_code == 503
        later = await running.chat("bad", stream=stream)
        assert later.status_code == 503
        assert later.json()["error"]["code"] == "adapter_quarantined"
        await until(lambda: engine_name(bad) not in running.service.adapters.loaded)
        assert (await running.chat("good")).status_code == 200
        assert registry.get("bad").quarantine
        metrics = (await running.client.get("/metrics")).text
    assert "lorikeet_adapter_quarantines_total 1.0" in metrics
    async with run(engine=Mortal()) as running:  # another server knows it too
        assert (await running.chat("bad")).status_code == 503
        registry.release("bad", 1)
        assert (await running.chat("bad")).status_code == 200


async def test_who_waits_for_a_quarantined_adapter_is_told(run: Any, publish: Any) -> None:
    publish("bad")
    engine = Mortal(token_seconds=0.2, not_finite={"bad@1": 1})
    async with run(engine=engine, max_num_seqs=1) as running:
        asked = [asyncio.create_task(running.chat("bad", "one two")) for _ in range(5)]
        await until(lambda: running.service.admission.queued == 4)
        answers = await asyncio.gather(*asked)
        codes = [answer.json()["error"]["code"] for answer in answers]
        metrics = (await running.client.get("/metrics")).text
    assert {answer.status_code for answer in answers} == {503}
    assert codes.count("adapter_quarantined") == 4
    assert "lorikeet_adapter_quarantines_total 1.0" in metrics


async def test_what_is_quarantined_meanwhile_is_not_loaded_into_a_new_engine(
    run: Any, publish: Any, registry: Any
) -> None:
    publish("good", seed=1)
    bad = publish("bad", seed=2)
    engine = Mortal()
    async with run(engine=engine) as running:
        for name in ("bad", "good"):
            assert (await running.chat(name)).status_code == 200
        registry.quarantine("bad", 1, "NaN")
        assert (await running.chat("bad")).status_code == 503
        engine.die()
        await until(lambda: engine.starts == 2 and len(running.service.adapters.loaded) == 1)
        assert (await running.chat("good")).status_code == 200
        assert engine_name(bad) not in running.service.adapters.loaded


async def test_a_sick_base_starts_the_engine_anew(run: Any) -> None:
    engine = Mortal()
    async with run(engine=engine) as running:
        base = running.service.base.id
        engine.not_finite = {base: 0}
        assert (await running.chat(base)).status_code == 503
        engine.not_finite = {}
        await until(lambda: engine.starts == 2 and running.service.ready)
        assert (await running.chat(base)).status_code == 200


async def test_a_stream_that_goes_bad_ends_with_the_error_and_no_bad_token(
    run: Any, publish: Any, registry: Any
) -> None:
    publish("bad")
    engine = Mortal(not_finite={"bad@1": 2})
    async with run(engine=engine) as running:
        answer = await running.chat("bad", "one two three four", stream=True)
        assert answer.status_code == 200
        events = [line for line in answer.text.split("\n\n") if line]
        assert len(events) == 3
        assert "error" in events[-1]
        assert registry.get("bad@1").quarantine
