"""The adapters' life: single flight, leases, eviction, and files that changed."""

import asyncio
from math import inf
from pathlib import Path
from typing import Any

import pytest

from serve.adapters import engine_name
from serve.engine import EngineAdapter
from serve.engine.echo import EchoEngine
from serve.errors import AdapterUnavailable

pytestmark = pytest.mark.anyio


class SlowEngine(EchoEngine):
    """Counts its loads, each of which takes a while."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.loads: list[str] = []

    async def load(self, adapter: EngineAdapter) -> float:
        self.loads.append(adapter.name)
        await asyncio.sleep(0.05)
        return await super().load(adapter)


async def test_one_load_for_many_first_requests(run: Any, publish: Any) -> None:
    publish("opl")
    engine = SlowEngine()
    async with run(engine=engine) as running:
        answers = await asyncio.gather(*(running.chat("opl") for _ in range(20)))
    assert {answer.status_code for answer in answers} == {200}
    assert len(engine.loads) == 1


async def test_a_client_that_leaves_does_not_end_the_load(run: Any, publish: Any) -> None:
    version = publish("opl")
    engine = SlowEngine()
    async with run(engine=engine) as running:
        adapters = running.service.adapters

        async def use() -> None:
            async with adapters.lease(version):
                pass

        impatient, patient = asyncio.create_task(use()), asyncio.create_task(use())
        await asyncio.sleep(0.01)
        impatient.cancel()
        await patient
    assert len(engine.loads) == 1


async def test_the_least_recently_used_idle_version_makes_room(run: Any, publish: Any) -> None:
    versions = {name: publish(name, seed=i) for i, name in enumerate("abc")}
    engine = EchoEngine(max_loras=2, max_loaded=2)
    async with run(engine=engine) as running:
        for name in ("a", "b", "a", "c"):
            assert (await running.chat(name)).status_code == 200
        names = {adapter.name for adapter in engine.loaded.values()}
        assert names == {engine_name(versions["a"]), engine_name(versions["c"])}
        assert (await running.chat("b")).status_code == 200  # and it comes back


async def test_nothing_in_use_is_unloaded(run: Any, publish: Any) -> None:
    first, second = publish("a", seed=1), publish("b", seed=2)
    engine = EchoEngine(max_loras=1, max_loaded=1)
    async with run(engine=engine, load_timeout_seconds=0.2) as running:
        adapters = running.service.adapters
        async with adapters.lease(first) as lease:
            with pytest.raises(AdapterUnavailable):
                async with adapters.lease(second):
                    pass
            assert lease.adapter.id in engine.loaded
        async with adapters.lease(second) as lease:
            assert list(engine.loaded) == [lease.adapter.id]


async def test_waiting_ends_when_a_place_is_free(run: Any, publish: Any) -> None:
    first, second = publish("a", seed=1), publish("b", seed=2)
    async with run(engine=EchoEngine(max_loras=1, max_loaded=1)) as running:
        adapters = running.service.adapters

        async def use_second() -> None:
            async with adapters.lease(second):
                pass

        async with adapters.lease(first):
            waiting = asyncio.create_task(use_second())
            await asyncio.sleep(0.05)
            assert not waiting.done()
        await asyncio.wait_for(waiting, 5)


async def test_damaged_files_never_reach_the_engine(run: Any, publish: Any) -> None:
    version = publish("opl")
    weights: Path = version.path / "adapter_model.safetensors"
    weights.chmod(0o644)
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 0xFF
    weights.write_bytes(damaged)
    engine = SlowEngine()
    async with run(engine=engine) as running:
        answer = await running.chat("opl")
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "adapter_refused"
    assert str(version.path) not in answer.text
    assert engine.loads == []


async def test_a_rank_over_the_servers_is_refused_with_the_remedy(run: Any, publish: Any) -> None:
    publish("wide", rank=16)
    async with run(max_lora_rank=8) as running:
        answer = await running.chat("wide")
    assert answer.status_code == 400
    assert "16" in answer.json()["error"]["message"]


async def test_a_failed_load_is_tried_again_later(
    run: Any, publish: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish("opl")

    class OnceBroken(SlowEngine):
        async def load(self, adapter: EngineAdapter) -> float:
            if not self.loads:
                self.loads.append(adapter.name)
                raise AdapterUnavailable("not now")
            return await super().load(adapter)

    async with run(engine=OnceBroken()) as running:
        assert (await running.chat("opl")).status_code == 503
        assert (await running.chat("opl")).status_code == 503  # not at once
        monkeypatch.setattr(running.service.adapters._quarantine, "_clock", lambda: inf)
        assert (await running.chat("opl")).status_code == 200


async def test_a_load_that_hangs_times_out(run: Any, publish: Any) -> None:
    publish("opl")

    class Hanging(EchoEngine):
        async def load(self, adapter: EngineAdapter) -> float:
            await asyncio.sleep(60)
            return 60.0

    async with run(engine=Hanging(), load_timeout_seconds=0.1) as running:
        answer = await running.chat("opl")
    assert answer.status_code == 503
    assert "0.1 s" in answer.json()["error"]["message"]
