"""The routes on the echo engine: OpenAI's shapes, errors, metrics, and what ends with a client."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai import AsyncOpenAI, NotFoundError
from prometheus_client.parser import text_string_to_metric_families

from serve.engine.echo import EchoEngine
from serve.errors import EngineFailed

pytestmark = pytest.mark.anyio


def openai(running: Any) -> AsyncOpenAI:
    return AsyncOpenAI(
        base_url="http://test/v1", api_key="none", http_client=running.client, max_retries=0
    )


def value(text: str, name: str, **labels: str) -> float:
    """The one sample of that name and these labels."""
    (found,) = (
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == name and sample.labels == labels
    )
    return found


async def test_chat_by_every_name_of_a_model(run: Any, publish: Any, registry: Any) -> None:
    publish("opl", seed=1)
    publish("opl", seed=2)
    registry.promote("opl", 1, "prod", force="a test")
    async with run() as running:
        for asked, answered in [
            ("tiny", None),
            ("opl", "opl@1"),
            ("opl@2", "opl@2"),
            ("opl@prod", "opl@1"),
            ("opl@latest", "opl@2"),
        ]:
            model = running.service.base.id if answered is None else asked
            response = await running.chat(model)
            assert response.status_code == 200, response.text
            expected = answered or running.service.base.id
            assert response.json()["model"] == expected
            assert response.headers["x-lorikeet-model"].startswith(expected)
            assert response.json()["choices"][0]["message"]["content"] == f"{expected}: hello there"


async def test_the_openai_client_streams_with_usage(run: Any, publish: Any) -> None:
    publish("opl")
    async with run() as running:
        stream = await openai(running).chat.completions.create(
            model="opl",
            messages=[{"role": "user", "content": "one two"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == "opl@1: one two"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 3


async def test_text_completions(run: Any) -> None:
    async with run() as running:
        answer = await openai(running).completions.create(
            model=running.service.base.id, prompt="a b c", max_tokens=2
        )
    assert answer.choices[0].finish_reason == "length"


async def test_models_lists_base_names_and_versions_without_paths(run: Any, publish: Any) -> None:
    publish("opl", seed=1)
    publish("opl", seed=2)
    async with run() as running:
        response = await running.client.get("/v1/models")
        base = running.service.base
        assert [card["id"] for card in response.json()["data"]] == [
            base.id,
            "opl",
            "opl@1",
            "opl@2",
        ]
        card = (await running.client.get("/v1/models/opl")).json()
        assert (card["root"], card["parent"]) == ("opl@2", base.id)
        assert str(base.path) not in response.text
        assert "/home" not in response.text.replace("https://", "")
        client = openai(running)
        assert (await client.models.retrieve("opl@1")).id == "opl@1"
        with pytest.raises(NotFoundError):
            await client.models.retrieve("nobody")


async def test_an_adapter_published_while_running_is_served(run: Any, publish: Any) -> None:
    async with run() as running:
        assert (await running.chat("late")).status_code == 404
        publish("late")
        assert (await running.chat("late")).status_code == 200


@pytest.mark.parametrize("model", ["nobody", "no body", "../../etc/passwd", "a@b@c", "x" * 500])
async def test_an_unknown_model_is_404_in_openais_shape(run: Any, model: str) -> None:
    async with run() as running:
        response = await running.chat(model)
    assert response.status_code == 404
    error = response.json()["error"]
    assert error["code"] == "model_not_found"
    assert set(error) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("method", "path", "content", "status"),
    [
        ("POST", "/v1/chat/completions", b"{nonsense", 400),
        ("POST", "/v1/chat/completions", b'{"model": NaN}', 400),
        ("POST", "/v1/chat/completions", b"[" * 100_000, 400),
        ("POST", "/v1/chat/completions", b"\xff\xfe", 400),
        ("GET", "/v1/chat/completions", b"", 405),
        ("GET", "/nothing", b"", 404),
        ("POST", "/invocations", b"{}", 404),
        ("POST", "/v1/load_lora_adapter", b"{}", 404),
        ("GET", "/docs", b"", 404),
    ],
)
async def test_errors_have_openais_shape(
    run: Any, method: str, path: str, content: bytes, status: int
) -> None:
    async with run() as running:
        response = await running.client.request(method, path, content=content)
    assert response.status_code == status
    assert set(response.json()["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]


async def test_the_openapi_document_is_served(run: Any) -> None:
    async with run() as running:
        document = (await running.client.get("/openapi.json")).json()
    assert {"/v1/chat/completions", "/admin/adapters", "/ready"} <= set(document["paths"])


async def test_bodies_and_headers_are_bounded(run: Any) -> None:
    async with run(max_body_bytes=2048) as running:
        declared = await running.chat("m", "x" * 4096)
        assert declared.status_code == 413

        async def chunks() -> Any:
            for _ in range(4):
                yield b"x" * 1024

        counted = await running.client.post("/v1/chat/completions", content=chunks())
        assert counted.status_code == 413
        headers = await running.client.get("/health", headers={"x-large": "x" * 40_000})
        assert headers.status_code == 413


async def test_a_full_queue_answers_503_with_retry_after(run: Any) -> None:
    engine = EchoEngine(token_seconds=0.2)
    async with run(engine=engine, max_num_seqs=1, max_queue=1) as running:
        base = running.service.base.id
        asked = [asyncio.create_task(running.chat(base)) for _ in range(2)]
        while not (engine.running and running.service.admission.queued):
            await asyncio.sleep(0.01)
        refused = await running.chat(base)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert [answer.status_code for answer in await asyncio.gather(*asked)] == [200, 200]


async def test_an_adapter_for_another_base_is_refused(
    run: Any, registry: Any, base: Any, make_adapter: Any, tmp_path: Path
) -> None:
    other = replace(base, digest="sha256:" + "0" * 64)
    registry.publish(make_adapter(tmp_path / "opl", base), "opl", base=other)
    async with run() as running:
        response = await running.chat("opl")
    assert response.status_code == 400
    assert response.json()["error"]["code"] == "adapter_for_another_base"


async def test_metrics_count_requests_tokens_and_times(run: Any, publish: Any) -> None:
    publish("opl")
    async with run() as running:
        base = running.service.base.id
        await running.chat("opl", "one two three")
        await running.chat(base, "one")
        await running.chat("nobody")
        text = (await running.client.get("/metrics")).text
    of_opl = {"model": "opl@1"}
    assert value(text, "lorikeet_requests_total", endpoint="chat", status="200", **of_opl) == 1
    assert value(text, "lorikeet_prompt_tokens_total", **of_opl) == 3
    assert value(text, "lorikeet_output_tokens_total", **of_opl) == 4
    assert value(text, "lorikeet_output_tokens_total", model=base) == 2
    assert value(text, "lorikeet_time_to_first_token_seconds_count", **of_opl) == 1
    assert value(text, "lorikeet_adapters", tier="cpu") == 1
    assert value(text, "lorikeet_engine_up") == 1
    assert value(text, "lorikeet_requests_running") == 0


class FailingEngine(EchoEngine):
    async def start(self) -> None:
        raise EngineFailed("no memory")


async def test_an_engine_that_does_not_start_is_told(registry: Any, base: Any) -> None:
    from serve.app import create_app
    from serve.settings import ServeSettings

    app = create_app(ServeSettings(engine="echo"), FailingEngine(), registry, base)
    async with app.router.lifespan_context(app):
        with pytest.raises(EngineFailed, match="no memory"):
            await app.state.service.supervisor.wait_started()
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            assert (await client.get("/health")).status_code == 503
            assert (await client.get("/ready")).json() == {"status": "failed"}


class StumblingEngine(EchoEngine):
    """Fails after its first event."""

    async def generate(self, request: Any) -> Any:
        async def events() -> Any:
            yield "data: {}\n\n"
            raise RuntimeError("/secret/path")

        return events()


async def test_an_error_in_a_stream_is_its_last_event(run: Any) -> None:
    async with run(engine=StumblingEngine()) as running:
        response = await running.chat(running.service.base.id, stream=True)
        last = response.text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["type"] == "server_error"
        assert "/secret" not in response.text
        text = (await running.client.get("/metrics")).text
    labels = {"model": running.service.base.id, "endpoint": "chat", "status": "500"}
    assert value(text, "lorikeet_requests_total", **labels) == 1
    assert value(text, "lorikeet_requests_running") == 0


async def test_a_client_that_goes_away_frees_everything(
    run: Any, publish: Any, free_server: Callable[..., Any]
) -> None:
    """Over a real socket: the client leaves in the middle of a stream, and before an answer."""
    publish("opl")
    engine = EchoEngine(token_seconds=0.1)
    async with run(engine=engine) as running, free_server(running.app) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            body = {
                "model": "opl",
                "messages": [{"role": "user", "content": "word " * 200}],
            }
            async with client.stream(
                "POST", "/v1/chat/completions", json={**body, "stream": True}
            ) as response:
                async for _ in response.aiter_lines():
                    break
            with pytest.raises(httpx.TimeoutException):
                await client.post("/v1/chat/completions", json=body, timeout=0.3)
            entry = next(iter(running.service.adapters._loaded.values()))
            async with asyncio.timeout(5):
                while engine.running or entry.leases or running.service.admission.in_flight:
                    await asyncio.sleep(0.02)
        text = running.service.metrics.exposition().decode()
    labels = {"model": "opl@1", "endpoint": "chat", "status": "499"}
    assert value(text, "lorikeet_requests_total", **labels) == 2
