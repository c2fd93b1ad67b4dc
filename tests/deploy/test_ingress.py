"""The ingress in front of replicas that are made up: what it reads, refuses, repeats and logs."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

import httpx
import pytest
from ray.exceptions import ActorDiedError, RayTaskError

from serve.settings import ServeSettings

pytestmark = [pytest.mark.anyio, pytest.mark.filterwarnings("ignore")]  # Ray's own
ACCEPT_SECONDS = "deploy.replicas.ingress.ACCEPT_SECONDS"
ACCEPTED = {"type": "lorikeet.accepted"}
START = {"type": "http.response.start", "status": 200, "headers": [(b"x-request-id", b"theirs")]}
END = {"type": "http.response.body", "body": b"{}"}
EVENTS = (b"content-type", b"text/event-stream")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


class Messages:
    """What one replica sends; an exception is raised, None comes never."""

    def __init__(self, script: Sequence[Any]) -> None:
        self._script = list(script)
        self.cancelled = False

    def __aiter__(self) -> AsyncIterator[Any]:
        return self

    async def __anext__(self) -> Any:
        if not self._script:
            raise StopAsyncIteration
        message = self._script.pop(0)
        if message is None:
            await asyncio.Event().wait()
        if isinstance(message, Exception):
            raise message
        return message

    def cancel(self) -> None:
        self.cancelled = True


class Replicas:
    """In place of the handle; each script is for one request."""

    def __init__(self, *scripts: Sequence[Any]) -> None:
        self._scripts = list(scripts)
        self.asked: list[tuple[Any, ...]] = []
        self.sent: list[Messages] = []
        self.answer = self

    def options(self, **options: Any) -> "Replicas":
        assert options == {"stream": True}
        return self

    def remote(self, *arguments: Any) -> Messages:
        self.asked.append(arguments)
        self.sent.append(Messages(self._scripts.pop(0)))
        return self.sent[-1]


async def ask(
    replicas: Any,
    path: str = "/v1/chat/completions",
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> httpx.Response:
    from deploy.replicas.ingress import Ingress

    front = Ingress(ServeSettings(engine="echo", **(settings or {})), "base", replicas)
    transport = httpx.ASGITransport(front.__serve_build_asgi_app__())
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        return await client.post(path, **options)


def died() -> ActorDiedError:
    return ActorDiedError()


@pytest.mark.parametrize(
    ("body", "adapter"),
    [
        (b'{"model": "opl", "prompt": "x"}', "opl"),
        (b'{"messages": [{"content": "\\"model\\": \\"no\\""}], "model":"opl@prod"}', "opl"),
        (b'{"model": "base"}', None),
        (b'{"prompt": "model"}', None),
        (b'{"model": 7}', None),
        (b'{"model": "' + b"a" * 513 + b'"}', None),
        (b'{"model": "opl"', "opl"),  # the replica says what is wrong with it
        (b"", None),
    ],
)
async def test_a_request_goes_by_its_model(body: bytes, adapter: str | None) -> None:
    replicas = Replicas([ACCEPTED, START, END])
    assert (await ask(replicas, content=body)).status_code == 200
    assert [asked[0] for asked in replicas.asked] == [adapter]
    assert replicas.asked[0][2] == [body]


async def test_a_body_is_not_parsed_before_its_key_is_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def parsed(*_: Any, **__: Any) -> None:
        raise AssertionError("parsed")

    monkeypatch.setattr(json, "loads", parsed)
    replicas = Replicas([ACCEPTED, START, END])
    body = b'{"messages": [' + b"[[{}]]," * 400_000 + b'{}], "model": "opl"}'
    await ask(replicas, content=body)
    assert replicas.asked[0][0] == "opl"


@pytest.mark.parametrize("path", ["/admin/drain", "/admin/resume"])
async def test_no_single_replica_is_drained_through_the_common_address(path: str) -> None:
    replicas = Replicas()
    refused = await ask(replicas, path=path)
    assert refused.status_code == 400
    assert "replaced" in refused.json()["error"]["message"]
    assert not replicas.asked


async def test_where_no_replica_takes_a_request_it_does_not_hang(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(ACCEPT_SECONDS, 0.05)
    replicas = Replicas([None])
    async with asyncio.timeout(5):
        refused = await ask(replicas, json={"model": "opl"})
    assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
    assert replicas.sent[0].cancelled
    line = caplog.records[-1].__dict__["fields"]
    assert line == {
        "request_id": refused.headers["x-request-id"],
        "method": "POST",
        "path": "/v1/chat/completions",
        "status": 503,
        "outcome": "unavailable",
        "error": "Unavailable",
        "model": "opl",
    }


async def test_what_was_taken_may_wait_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ACCEPT_SECONDS, 0.05)

    class Slow(Messages):
        async def __anext__(self) -> Any:
            message = await super().__anext__()
            await asyncio.sleep(0 if message is ACCEPTED else 0.2)
            return message

    monkeypatch.setitem(globals(), "Messages", Slow)
    assert (await ask(Replicas([ACCEPTED, START, END]), json={})).status_code == 200


async def test_what_only_waited_in_a_replica_that_dies_is_sent_to_another() -> None:
    replicas = Replicas([ACCEPTED, died()], [ACCEPTED, START, END])
    assert (await ask(replicas, json={"model": "opl"})).status_code == 200
    first, second = replicas.asked
    assert first == second
    assert replicas.sent[0].cancelled


@pytest.mark.parametrize(
    ("path", "script"),
    [
        ("/v1/chat/completions", [ACCEPTED, RayTaskError("answer", "", RuntimeError("a defect"))]),
        ("/v1/fine_tuning/jobs", [ACCEPTED, died()]),  # it may have been made
    ],
)
async def test_nothing_else_is_sent_twice(path: str, script: Sequence[Any]) -> None:
    replicas = Replicas(script)
    lost = await ask(replicas, path=path, json={"model": "opl"})
    assert (lost.status_code, lost.headers["retry-after"]) == (503, "5")
    assert len(replicas.asked) == 1


async def test_a_stream_whose_replica_dies_ends_with_an_error_and_a_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    start = {**START, "headers": [*START["headers"], EVENTS]}  # type: ignore[misc]
    event = {"type": "http.response.body", "body": b"data: 1\n\n", "more_body": True}
    replicas = Replicas([ACCEPTED, start, event, died()])
    answer = await ask(replicas, json={"model": "opl@2"})
    assert json.loads(answer.text.split("data: ")[-1])["error"]["type"] == "server_error"
    assert len(replicas.asked) == 1
    line = caplog.records[-1].__dict__["fields"]
    assert (line["request_id"], line["model"]) == ("theirs", "opl@2")
    assert (line["status"], line["error"]) == (503, "ActorDiedError")


@pytest.mark.parametrize(("access_log", "lines"), [(True, 1), (False, 0)])
async def test_what_is_refused_has_a_line_where_requests_have(
    access_log: bool, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "deploy")
    settings = {"access_log": access_log, "max_body_bytes": 1024}
    answer = await ask(Replicas(), settings=settings, content=b"a" * 1025)
    assert answer.status_code == 413
    told = [record.__dict__["fields"] for record in caplog.records if "fields" in record.__dict__]
    assert [line["outcome"] for line in told] == ["invalid"] * lines
