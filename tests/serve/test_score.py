"""`POST /admin/score` on the echo engine: who may ask, what is bounded, what it costs whom."""

import asyncio
import math
from typing import Any

import pytest

from serve.engine.echo import EchoEngine
from serve.routes.score import MAX_SEQUENCE_TOKENS, MAX_SEQUENCES, MAX_TOKENS

pytestmark = pytest.mark.anyio

SEQUENCES = [[1, 2, 3, 4], [5, 6]]


async def ask(running: Any, **body: Any) -> Any:
    return await running.client.post("/admin/score", json={"sequences": SEQUENCES} | body)


async def test_base_and_adapter_are_scored_apart(run: Any, publish: Any) -> None:
    version = publish("opl")
    async with run() as running:
        base = (await ask(running)).json()
        assert base["object"] == "score"
        assert base["model"] == running.service.base.id
        assert (base["base"], base["digest"]) == (running.service.base.digest, None)
        assert base["engine"] == {"echo": "1", "dtype": "float32", "quantization": "none"}
        assert [len(each["logprobs"]) for each in base["data"]] == [3, 1]
        assert [len(each["top"]) for each in base["data"]] == [3, 1]
        assert (await ask(running, model=running.service.base.id)).json() == base

        adapter = (await ask(running, model="opl")).json()
        assert (adapter["model"], adapter["digest"]) == ("opl@1", version.digest)
        assert adapter["data"] != base["data"]
        assert (await ask(running, model="opl@1")).json() == adapter
        assert running.service.adapters.loaded == [f"opl@1+{version.digest[7:19]}"]
        assert running.service.adapters.residency(version)["leases"] == 0
        assert running.service.admission.in_flight == 0
        assert all(math.isfinite(x) for each in adapter["data"] for x in each["logprobs"])
        counted = running.service.metrics.requests.labels("opl@1", "score", "200")
        assert counted._value.get() == 2


async def test_once_there_are_keys_an_admin_key_is_needed(
    run: Any, registry: Any, publish: Any
) -> None:
    publish("opl")
    _, plain = registry.keys.create("team")
    admin, secret = registry.keys.create("ops", admin=True)
    async with run() as running:
        assert (await ask(running)).status_code == 401
        running.client.headers["authorization"] = f"Bearer {plain}"
        assert (await ask(running, model="opl")).status_code == 403
        running.client.headers["authorization"] = f"Bearer {secret}"
        assert (await ask(running, model="opl")).status_code == 200
        usage = running.service.limits._usage[admin.id]
        assert usage.open == 0


async def test_the_tokens_are_the_keys_own(run: Any, registry: Any) -> None:
    _, secret = registry.keys.create("ops", admin=True, tpm=8)
    async with run() as running:
        running.client.headers["authorization"] = f"Bearer {secret}"
        assert (await ask(running)).status_code == 200  # 6 of 8 tokens
        refused = await ask(running)
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"sequences": []}, "at least 1"),
        ({"sequences": [[1]]}, "at least 2"),
        ({"sequences": [[1, 2]] * (MAX_SEQUENCES + 1)}, "at most 64"),
        ({"sequences": [[1] * (MAX_SEQUENCE_TOKENS + 1)]}, "at most 2048"),
        ({"sequences": [[1] * 1025] * 16}, f"at most {MAX_TOKENS} in one request"),
        ({"sequences": [[1, -1]]}, "greater than or equal to 0"),
        ({"sequences": [[1, 49152]]}, "not below 49152"),
        ({"sequences": [[1, 2.5]]}, "valid integer"),
        ({"sequences": [[1, True]]}, "valid integer"),
        ({"sequences": [[1, 2]], "prompt": "x"}, "Unknown field `prompt`"),
        ({"sequences": [[1, 2]], "model": ""}, "at least 1 character"),
    ],
)
async def test_what_is_out_of_bounds_never_reaches_the_engine(
    run: Any, body: dict[str, Any], reason: str
) -> None:
    class Untouched(EchoEngine):
        async def score(self, request: Any) -> Any:
            raise AssertionError("the engine was asked")

    async with run(engine=Untouched()) as running:
        refused = await running.client.post("/admin/score", json=body)
        assert refused.status_code == 400
        assert reason in refused.json()["error"]["message"]


async def test_a_model_that_is_not_there(run: Any) -> None:
    async with run() as running:
        assert (await ask(running, model="nobody")).status_code == 404


async def test_it_waits_for_its_turn(run: Any) -> None:
    engine = EchoEngine(token_seconds=0.05)
    async with run(engine=engine, max_num_seqs=1) as running:
        first = asyncio.create_task(ask(running))
        while not engine.running:
            await asyncio.sleep(0.005)
        second = asyncio.create_task(ask(running))
        while not running.service.admission.queued:
            await asyncio.sleep(0.005)
        assert engine.running == 1
        assert {(await first).status_code, (await second).status_code} == {200}


async def test_an_adapter_whose_figures_are_not_finite_is_quarantined(
    run: Any, publish: Any
) -> None:
    publish("opl")
    async with run(engine=EchoEngine(not_finite={"opl@1": 0})) as running:
        refused = await ask(running, model="opl")
        assert refused.status_code == 503
        assert "finite" in refused.json()["error"]["message"]
        assert "quarantined" in (await ask(running, model="opl")).json()["error"]["message"]
        assert (await ask(running)).status_code == 200


async def test_the_end_of_the_engine_is_a_503(run: Any) -> None:
    engine = EchoEngine(token_seconds=0.05)
    async with run(engine=engine) as running:
        asked = asyncio.create_task(ask(running))
        while not engine.running:
            await asyncio.sleep(0.005)
        engine.die()
        assert (await asked).status_code == 503
        assert running.service.admission.in_flight == 0


async def test_the_work_ends_when_the_client_goes(run: Any, free_server: Any) -> None:
    import httpx

    engine = EchoEngine(token_seconds=5.0)
    async with run(engine=engine) as running, free_server(running.app) as url:
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ReadTimeout):
                await client.post(
                    f"{url}/admin/score",
                    json={"sequences": SEQUENCES},
                    timeout=httpx.Timeout(5, read=0.3),
                )
        async with asyncio.timeout(3):
            while engine.running or running.service.admission.in_flight:
                await asyncio.sleep(0.01)
