"""Work for a client is worth doing only as long as the client is there."""

import asyncio
from typing import Any

from fastapi import Request
from starlette.requests import ClientDisconnect

CLIENT_GONE = 499
"""The status that is counted, never sent, when the client closes the connection."""


async def unless_disconnected(request: Request, work: Any) -> Any:
    """The work's result; the work is cancelled when the client goes away.

    Raises: ClientDisconnect.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_disconnected(request))
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        for future in (task, gone):
            future.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
