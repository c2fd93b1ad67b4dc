"""Keys: once there is one, nothing is reached without; and a key reaches what is its own."""

import asyncio
from typing import Any

import httpx
import pytest

from serve.engine.echo import EchoEngine

pytestmark = pytest.mark.anyio


def bearer(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


async def test_open_until_the_first_key_is_made_and_closed_for_good_after(
    run: Any, registry: Any
) -> None:
    async with run() as running:
        assert (await running.chat(running.service.base.id)).status_code == 200
        key, secret = registry.keys.create("acme")
        answer = await running.client.get("/v1/models", headers=bearer(secret))
        assert answer.status_code == 200  # a key that was made a moment ago is known
        refused = await running.chat(running.service.base.id)
        assert refused.status_code == 401
        assert refused.json()["error"]["code"] == "invalid_api_key"
        running.client.headers.update(bearer(secret))
        registry.keys.revoke(key.id)
        async with asyncio.timeout(10):
            while (await running.chat(running.service.base.id)).status_code != 401:
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/chat/completions",
        "/metrics",
        "/admin/adapters",
        "/nothing",
        "/health/",
        "//health",
        "/health/../v1/models",
        "/HEALTH",
        "/v1/models?x=/health",
        "/invocations",
        "/openapi.json",
    ],
)
async def test_every_other_path_is_denied(run: Any, registry: Any, path: str) -> None:
    registry.keys.create("acme")
    async with run() as running:
        for method in ("GET", "POST", "HEAD", "OPTIONS"):
            response = await running.client.request(method, path, headers={"host": "health"})
            assert response.status_code == 401, (method, path)
            assert response.headers["x-request-id"]
        assert (await running.client.get("/health")).status_code == 200
        assert (await running.client.get("/ready")).status_code == 200


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer nonsense",
        "Bearer lk-000000000000-" + "A" * 43,
        "Bearer \xff\xfe",
        "Bearer " + "x" * 10_000,
    ],
)
async def test_a_wrong_key_is_401(run: Any, registry: Any, header: str) -> None:
    registry.keys.create("acme")
    async with run() as running:
        response = await running.client.get(
            "/v1/models", headers={b"authorization": header.encode("latin-1")}
        )
        assert response.status_code == 401
        assert header[:20] not in response.text or len(header) < 10


async def test_two_authorization_headers_are_refused(run: Any, registry: Any) -> None:
    _, secret = registry.keys.create("acme")
    pair = (b"authorization", f"Bearer {secret}".encode())
    async with run() as running:
        assert (await running.client.get("/v1/models", headers=[pair])).status_code == 200
        assert (await running.client.get("/v1/models", headers=[pair, pair])).status_code == 401


async def test_a_key_sees_and_reaches_its_adapters_only(
    run: Any, registry: Any, publish: Any
) -> None:
    publish("mine", seed=1)
    publish("theirs", seed=2)
    _, secret = registry.keys.create("acme", adapters=frozenset({"mine"}))
    async with run() as running:
        running.client.headers.update(bearer(secret))
        listed = (await running.client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in listed] == [running.service.base.id, "mine", "mine@1"]
        assert (await running.chat("mine")).status_code == 200
        hidden, unknown = await running.chat("theirs"), await running.chat("nobody")
        assert hidden.status_code == unknown.status_code == 404
        assert hidden.json()["error"]["code"] == unknown.json()["error"]["code"]
        for name in ("theirs", "theirs@1", "theirs@latest"):
            assert (await running.client.get(f"/v1/models/{name}")).status_code == 404


async def test_admin_needs_an_admin_key_even_where_the_server_is_open(
    run: Any, registry: Any
) -> None:
    async with run() as running:
        refused = await running.client.get("/admin/adapters")
        assert refused.status_code == 401
        assert "lorikeet keys create" in refused.json()["error"]["message"]
        _, plain = registry.keys.create("acme")
        _, admin = registry.keys.create("ops", admin=True)
        for path in ("/admin/adapters", "/metrics"):
            denied = await running.client.get(path, headers=bearer(plain))
            assert denied.status_code == 403
            assert (await running.client.get(path, headers=bearer(admin))).status_code == 200


async def test_the_engine_hears_nothing_of_who_is_refused(run: Any, registry: Any) -> None:
    registry.keys.create("acme")
    engine = EchoEngine()
    heard: list[Any] = []

    async def generate(request: Any) -> Any:
        heard.append(request)

    engine.generate = generate  # type: ignore[method-assign]
    async with run(engine=engine) as running:
        assert (await running.chat(running.service.base.id)).status_code == 401
    assert heard == []


async def test_limits_answer_429_with_openais_headers(run: Any, registry: Any) -> None:
    _, secret = registry.keys.create("acme", rpm=2)
    async with run() as running:
        running.client.headers.update(bearer(secret))
        first = await running.chat(running.service.base.id)
        assert first.headers["x-ratelimit-limit-requests"] == "2"
        assert first.headers["x-ratelimit-remaining-requests"] == "1"
        assert (await running.chat(running.service.base.id)).status_code == 200
        refused = await running.chat(running.service.base.id)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert refused.headers["x-ratelimit-remaining-requests"] == "0"
        error = refused.json()["error"]
        assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")


async def test_tokens_are_charged_when_they_are_known(run: Any, registry: Any) -> None:
    _, secret = registry.keys.create("acme", tpm=800)
    async with run() as running:
        running.client.headers.update(bearer(secret))
        base = running.service.base.id
        first = await running.chat(base, "w " * 780, max_tokens=9)
        assert first.status_code == 200
        assert int(first.headers["x-ratelimit-remaining-tokens"]) > 300  # an estimate
        refused = await running.chat(base, "again", max_tokens=9)
        assert refused.status_code == 429
        assert "tokens per min" in refused.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "asked"),
    [
        ("/v1/completions", {"prompt": "w", "max_tokens": 500}),
        ("/admin/score", {"sequences": [[1] * 500]}),
    ],
)
async def test_who_leaves_the_queue_pays_no_tokens(
    run: Any, registry: Any, free_server: Any, path: str, asked: dict[str, Any]
) -> None:
    key, secret = registry.keys.create("acme", admin=True, tpm=1000)
    engine = EchoEngine(token_seconds=0.02)
    async with run(engine=engine, max_num_seqs=1) as running, free_server(running.app) as url:
        service = running.service

        async def until(queued: int) -> None:
            async with asyncio.timeout(10):
                while service.admission.queued != queued:
                    await asyncio.sleep(0.01)

        async with httpx.AsyncClient(base_url=url, headers=bearer(secret)) as client:
            model = {"model": service.base.id}
            short = {**model, "prompt": "w " * 100, "max_tokens": 100}
            running_one = asyncio.create_task(client.post("/v1/completions", json=short))
            await asyncio.sleep(0.1)
            before = service.limits._usage[key.id].tokens.left
            waiting = asyncio.create_task(client.post(path, json=model | asked))
            await until(1)
            assert service.limits._usage[key.id].tokens.left < before - 400
            waiting.cancel()
            await until(0)
            assert service.limits._usage[key.id].tokens.left >= before
            assert (await running_one).status_code == 200


async def test_the_salt_of_the_prefix_cache_is_a_tenants_own(run: Any, registry: Any) -> None:
    salts: dict[str, list[str]] = {"acme": [], "other": []}
    tenant = "acme"

    class Listening(EchoEngine):
        async def generate(self, request: Any) -> Any:
            salts[tenant].append(request.cache_salt)
            return await super().generate(request)

    async with run(engine=Listening()) as running:
        for tenant in ("acme", "other", "acme"):
            _, secret = registry.keys.create(tenant)
            body = {"model": running.service.base.id, "prompt": "x"}
            answer = await running.client.post("/v1/completions", json=body, headers=bearer(secret))
            assert answer.status_code == 200
    assert salts["acme"][0] == salts["acme"][1] != salts["other"][0]
    assert all(len(salt) == 64 for of in salts.values() for salt in of)
    assert "acme" not in salts["acme"][0]
