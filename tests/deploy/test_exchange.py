"""One request through an ASGI application without a socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from deploy.replicas.exchange import MESSAGES, exchange

SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": [], "query_string": b""}


def piece(content: bytes) -> Callable[[], Awaitable[bytes]]:
    async def fetch() -> bytes:
        return content

    return fetch


def app(endpoint: Callable[[Request], Awaitable[Any]]) -> Starlette:
    return Starlette(routes=[Route("/", endpoint, methods=["POST"])])


async def test_a_body_in_pieces_comes_whole_and_the_answer_too() -> None:
    async def length(request: Request) -> JSONResponse:
        return JSONResponse(len(await request.body()))

    body = [piece(b"abc"), piece(b"defg"), piece(b"")]
    messages = [message async for message in exchange(app(length), SCOPE, body)]
    assert messages[0]["status"] == 200
    assert b"".join(message.get("body", b"") for message in messages) == b"7"


async def test_messages_come_as_they_are_sent_and_closing_ends_the_application() -> None:
    ended = asyncio.Event()

    async def endless(_: Request) -> StreamingResponse:
        async def words() -> AsyncIterator[bytes]:
            try:
                while True:
                    yield b"word "
                    await asyncio.sleep(0)
            finally:
                ended.set()

        return StreamingResponse(words())

    async with aclosing(exchange(app(endless), SCOPE, [piece(b"")])) as messages:
        assert (await anext(messages))["type"] == "http.response.start"
        assert (await anext(messages))["body"] == b"word "
    assert ended.is_set()


async def test_who_waits_may_be_cancelled() -> None:
    begun, gone = asyncio.Event(), asyncio.Event()

    async def patient(request: Request) -> JSONResponse:
        await request.body()
        begun.set()
        while not await request.is_disconnected():
            await asyncio.sleep(0.001)
        gone.set()
        return JSONResponse(None)

    async def wait() -> None:
        async for _ in exchange(app(patient), SCOPE, [piece(b"")]):
            pass

    waiting = asyncio.create_task(wait())
    await begun.wait()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert gone.is_set()


async def test_the_application_is_not_far_ahead_of_who_takes_its_messages() -> None:
    sent, ended = 0, asyncio.Event()

    async def large(scope: Any, receive: Any, send: Any) -> None:
        nonlocal sent
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for sent in range(1, 1001):  # noqa: B007
            await send({"type": "http.response.body", "body": b"row", "more_body": True})
        await send({"type": "http.response.body"})
        ended.set()

    async with aclosing(exchange(large, SCOPE, [])) as messages:
        async for _ in messages:
            await asyncio.sleep(0.01)
            break
        assert sent <= MESSAGES + 1
    assert ended.is_set()  # once its client is gone, nothing holds it up


async def test_what_the_application_raises_is_raised() -> None:
    async def broken(scope: Any, receive: Any, send: Any) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        _ = [message async for message in exchange(broken, SCOPE, [])]


pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"
