"""One line a request, with what it took and never with what was said."""

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from registry import Registry
from serve.access_log import AccessLogMiddleware, outcome
from serve.engine.echo import EchoEngine
from serve.finished_request import FinishedRequest
from serve.logs import HumanFormatter, JsonFormatter

pytestmark = pytest.mark.anyio

SAID = "the cat is called Mephisto"
NASTY = 'x"\nERROR forged\x1b[31m'


class Lines(logging.Handler):
    """What is logged, as it would be printed."""

    def __init__(self) -> None:
        super().__init__()
        self.human: list[str] = []
        self.json: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.human.append(HumanFormatter().format(record))
        self.json.append(JsonFormatter().format(record))

    @property
    def text(self) -> str:
        return "\n".join(self.human + self.json)

    @property
    def requests(self) -> list[dict[str, Any]]:
        entries = map(json.loads, self.json)
        return [entry for entry in entries if entry["logger"] == "serve.access_log"]


@pytest.fixture
def lines() -> Any:
    root, ours = logging.getLogger(), logging.getLogger("serve")
    root.addHandler(handler := Lines())
    ours.setLevel(logging.INFO)
    yield handler
    ours.setLevel(logging.NOTSET)
    root.removeHandler(handler)


async def test_a_generation_tells_what_it_took(
    run: Any, registry: Registry, publish: Callable[..., Any], lines: Lines
) -> None:
    publish("opl")
    key, secret = registry.keys.create("acme")
    async with run() as running:
        running.client.headers["authorization"] = f"Bearer {secret}"
        answered = await running.chat("opl", SAID)
        await running.chat("opl", SAID, stream=True)
    cold, warm = lines.requests
    assert cold["request_id"] == answered.headers["x-request-id"]
    assert cold["message"] == "POST /v1/chat/completions 200"
    expected = {
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 200,
        "outcome": "ok",
        "error": None,
        "tenant": "acme",
        "key": key.id,
        "endpoint": "chat",
        "model": "opl@1",
        "prompt_tokens": 5,
        "cached_tokens": 0,
        "output_tokens": 6,
    }
    assert cold.items() >= {**expected, "load": "cold", "stream": False}.items()
    assert warm.items() >= {**expected, "load": "warm", "stream": True}.items()
    for line in cold, warm:
        assert 0 <= line["queue_seconds"] <= line["seconds"]
        assert 0 < line["ttft_seconds"] <= line["seconds"]
    assert cold["load_seconds"] > 0
    assert warm["load_seconds"] is None
    assert SAID not in lines.text
    assert "Mephisto" not in lines.text
    assert secret[17:] not in lines.text


async def test_a_refused_request_says_why(run: Any, registry: Registry, lines: Lines) -> None:
    _, secret = registry.keys.create("acme", rpm=1)
    async with run(max_body_bytes=1024) as running:
        await running.chat("tiny", SAID)
        running.client.headers["authorization"] = f"Bearer {secret}"
        await running.chat("nobody", SAID)
        await running.chat("tiny", SAID, temperature=9)
        await running.chat("tiny", SAID * 100)
        await running.chat("tiny", SAID)
        await running.chat("tiny", SAID)
        await running.client.get("/nowhere")
    told = [(line["status"], line["outcome"], line["error"]) for line in lines.requests]
    assert told == [
        (401, "invalid", "invalid_api_key"),
        (404, "invalid", "model_not_found"),
        (400, "invalid", "BadRequest"),
        (413, "invalid", "TooLarge"),
        (200, "ok", None),
        (429, "refused", "rate_limit_exceeded"),
        (404, "invalid", "unknown_url"),
    ]
    assert "Mephisto" not in lines.text


async def test_a_client_that_goes_away_is_told_from_one_that_stays(
    run: Any, free_server: Any, lines: Lines
) -> None:
    engine = EchoEngine(token_seconds=0.02)
    messages = [{"role": "user", "content": "word " * 500}]
    body = {"model": "tiny", "messages": messages, "stream": True}
    async with (
        asyncio.timeout(30),
        run(engine) as running,
        free_server(running.app) as url,
        httpx.AsyncClient(base_url=url, trust_env=False) as client,
    ):
        async with client.stream("POST", "/v1/chat/completions", json=body) as stream:
            await anext(stream.aiter_lines())
        whole = client.post("/v1/chat/completions", json={**body, "stream": False})
        call = asyncio.create_task(whole)
        while len(lines.requests) < 1 or engine.running == 0:
            await asyncio.sleep(0.01)
        call.cancel()
        while len(lines.requests) < 2:
            await asyncio.sleep(0.01)
    assert [(line["status"], line["outcome"]) for line in lines.requests] == [
        (499, "client_gone"),
        (499, "client_gone"),
    ]


async def test_a_stream_that_breaks_off_tells_how(run: Any, lines: Lines) -> None:
    async with run(EchoEngine(not_finite={"tiny": 2})) as running:
        assert (await running.chat("tiny", SAID, stream=True)).status_code == 200
    (line,) = lines.requests
    assert (line["status"], line["outcome"], line["error"]) == (
        503,
        "unavailable",
        "OutputNotFinite",
    )


async def test_nothing_that_a_client_sends_makes_a_line_of_its_own(run: Any, lines: Lines) -> None:
    async with run() as running:
        await running.chat(NASTY)
        await running.client.get("/v1/models/x%22%0AERROR%20forged%1B%5B31m")
        await running.client.get("/" + "long/" * 1000)
    assert len(lines.requests) == 3
    assert all(line.isprintable() for line in lines.human + lines.json)
    assert lines.requests[1]["path"] == f"/v1/models/{NASTY}"
    assert len(lines.requests[2]["path"]) == 256


async def test_a_key_in_the_wrong_place_is_withheld(
    run: Any, registry: Registry, lines: Lines
) -> None:
    key, secret = registry.keys.create("acme")
    async with run() as running:
        running.client.headers["authorization"] = f"Bearer {secret}"
        await running.client.get(f"/v1/models/{secret}?key={secret}")
    assert lines.requests[0]["path"] == f"/v1/models/lk-{key.id}-..."
    assert secret[17:] not in lines.text


async def test_probes_are_for_verbose_servers(run: Any, lines: Lines) -> None:
    async with run() as running:
        for path in "/health", "/ready", "/metrics":
            await running.client.get(path)
        assert lines.requests == []
        logging.getLogger("serve").setLevel(logging.DEBUG)
        await running.client.get("/health")
    assert [line["path"] for line in lines.requests] == ["/health"]


async def test_it_can_be_left_out(run: Any, lines: Lines) -> None:
    async with run(access_log=False) as running:
        await running.chat("tiny", SAID)
    assert lines.requests == []


async def test_an_unexpected_error_has_its_line_and_its_traceback(
    run: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> None:
        raise ZeroDivisionError

    async with run() as running:
        monkeypatch.setattr(running.service.engine, "generate", broken)
        answer = await running.chat("tiny", SAID)
    (line,) = lines.requests
    assert (line["status"], line["outcome"]) == (500, "error")
    (error,) = [json.loads(each) for each in lines.json if "exception" in each]
    assert "ZeroDivisionError" in error["exception"]
    assert error["request_id"] == line["request_id"] == answer.headers["x-request-id"]
    assert "Mephisto" not in lines.text


@pytest.mark.parametrize("stream", [False, True])
async def test_prompts_and_answers_are_there_when_they_are_asked_for(
    run: Any, registry: Registry, lines: Lines, stream: bool
) -> None:
    _, secret = registry.keys.create("acme")
    async with run(log_prompts=True) as running:
        running.client.headers["authorization"] = f"Bearer {secret}"
        await running.chat("tiny", f"{SAID}\n{secret}", stream=stream)
        body = {"model": "tiny", "prompt": SAID, "stream": stream}
        await running.client.post("/v1/completions", json=body)
        await running.client.post("/v1/completions", content=b"no JSON")
        await running.client.get("/v1/models")
    chat, text, broken, models = lines.requests
    assert chat["prompt"][0]["content"].startswith(SAID)
    assert chat["answer"].startswith(f"tiny: {SAID}")
    assert (text["prompt"], text["answer"]) == (SAID, f"tiny: {SAID}")
    assert (broken["prompt"], broken["answer"]) == (None, None)
    assert "prompt" not in models
    assert secret[17:] not in lines.text  # not even then


async def test_what_is_logged_of_a_prompt_is_bounded(run: Any, lines: Lines) -> None:
    async with run(log_prompts=True) as running:
        await running.chat("tiny", "word " * 20_000)
    assert len(lines.json[0]) < 100_000


async def test_a_request_that_ends_without_an_answer_is_logged(lines: Lines) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["state"]["finished"] = FinishedRequest("chat", "m", "t", 499, True, 1.0)
        raise asyncio.CancelledError

    scope = {"type": "http", "method": "POST", "path": "/v1/completions", "state": {}}
    with pytest.raises(asyncio.CancelledError):
        await AccessLogMiddleware(app, prompts=True)(scope, None, None)  # type: ignore[arg-type]
    assert lines.requests[0]["outcome"] == "client_gone"


def test_outcomes() -> None:
    found = {status: outcome(status) for status in (200, 304, 404, 429, 499, 500, 503)}
    assert found == {
        200: "ok",
        304: "ok",
        404: "invalid",
        429: "refused",
        499: "client_gone",
        500: "error",
        503: "unavailable",
    }
