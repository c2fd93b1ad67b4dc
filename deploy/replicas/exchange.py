"""One request driven through an ASGI application without a socket."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress

from starlette.types import ASGIApp, Message, Scope

END_SECONDS = 5.0
"""For the application to notice that its client is gone, before it is cancelled."""
MESSAGES = 16
"""That the application may be ahead of who takes them."""

Piece = Callable[[], Awaitable[bytes]]
"""Fetches a part of a request's body."""


async def exchange(app: ASGIApp, scope: Scope, body: Sequence[Piece]) -> AsyncIterator[Message]:
    """The messages of the answer, as the application sends them.

    Closing the iterator, or cancelling who waits for it, is a client that goes away.
    Raises: what the application raises.
    """
    sent: asyncio.Queue[Message | None] = asyncio.Queue(MESSAGES)
    gone = asyncio.Event()
    pieces = list(body)

    async def receive() -> Message:
        if pieces:
            fetch = pieces.pop(0)
            return {"type": "http.request", "body": await fetch(), "more_body": bool(pieces)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: Message | None) -> None:
        if not gone.is_set():
            await sent.put(message)

    async def answer() -> None:
        try:
            await app(scope, receive, send)
        finally:
            await send(None)

    task = asyncio.create_task(answer())
    try:
        while (message := await sent.get()) is not None:
            yield message
        await task
    finally:
        gone.set()
        while not sent.empty():  # what waits to be sent goes on
            sent.get_nowait()
        if not task.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(asyncio.gather(task, return_exceptions=True), END_SECONDS)
