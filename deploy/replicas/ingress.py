"""The ingress: reads which model a request names and passes it to the replica that is to answer.

Everything else about a request is the replica's: keys, checks, limits, errors.
"""

import json
import logging
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import ray
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.routing import Mount
from starlette.types import Message, Receive, Scope, Send

from serve import json_body
from serve.affinity import adapter_of
from serve.auth import OPEN_PATHS, Principal
from serve.errors import NotFound, RequestError, TooLarge, Unavailable
from serve.middleware import BodyBounds, error_response
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)

PIECE_BYTES = 4 * 1024**2
"""Of a body; what is larger goes through Ray's object store, piece by piece."""
PASSED = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path"),
    *("query_string", "headers", "client", "server"),
)
"""Of a scope: what can be sent to another process and means the same there."""

Body = list[bytes | ray.ObjectRef]


class Ingress:
    """A Ray Serve deployment around one ASGI application."""

    def __init__(self, settings: ServeSettings, base: str, replicas: DeploymentHandle[Any]) -> None:
        self._settings = settings
        self._base = base
        self._replicas = replicas

    def __serve_build_asgi_app__(self) -> Starlette:
        """What Ray Serve hands its requests to."""
        return Starlette(routes=[Mount("/", app=self.forward)])

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and its answer back."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        exchange = _Exchange(scope, receive, send)
        try:
            self._check(scope)
            body = await self._read(scope, receive)
            passed = {name: scope[name] for name in PASSED if name in scope}
            handle = self._replicas.options(
                stream=True, multiplexed_model_id=self._adapter(scope, body)
            )
            await exchange.answer(handle.answer.remote(passed, body))
        except RequestError as error:
            await error_response(error)(scope, receive, send)
        except ClientDisconnect:
            pass
        except (RayError, RayServeException) as error:
            if not exchange.ended:
                logger.error("a replica is gone, with a request: %s", type(error).__name__)
                await exchange.break_off()

    def _check(self, scope: Scope) -> None:
        if scope["path"] == "/metrics":
            raise NotFound(
                "Each replica has metrics of its own.",
                remedy="Start with --metrics-port PORT: they are on PORT, PORT + 1, …",
                code="unknown_url",
            )

    async def _read(self, scope: Scope, receive: Receive) -> Body:
        """The body within the server's bounds, in pieces."""
        limit = await self._limit(scope)
        too_large = TooLarge(f"The request's body is over {limit} bytes.")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        body: Body = []
        piece, size = bytearray(), 0
        async for part in _parts(receive):
            piece += part
            size += len(part)
            if size > limit:
                raise too_large
            if len(piece) >= PIECE_BYTES:
                body.append(ray.put(bytes(piece)))
                piece.clear()
        return [*body, bytes(piece)]

    async def _limit(self, scope: Scope) -> int:
        """The most that the caller may send there; a replica says who that is."""
        bounds = BodyBounds.of(self._settings)
        if bounds.at(scope, known=True, admin=True) == bounds.usual:
            return bounds.usual
        presented = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        caller: Principal | None = await self._replicas.caller.remote(presented)
        return bounds.at(scope, known=caller is not None, admin=caller is not None and caller.admin)

    def _adapter(self, scope: Scope, body: Body) -> str:
        """The adapter that the request is for, "" for none."""
        if scope["path"] in OPEN_PATHS or not isinstance(body[0], bytes):
            return ""
        with suppress(ValueError):
            asked = json_body.parse(body[0])
            model = asked.get("model") if isinstance(asked, dict) else None
            if isinstance(model, str) and model != self._base:
                return adapter_of(model)
        return ""


class _Exchange:
    """The way of an answer to its client."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._started: Message | None = None
        self.ended = False

    async def answer(self, messages: DeploymentResponseGenerator[Any]) -> None:
        """Pass the replica's messages on; one that the client leaves is cancelled there."""
        try:
            async for message in messages:
                if message["type"] == "http.response.start":
                    self._started = message
                else:
                    self.ended = not message.get("more_body", False)
                await self._send(message)
        finally:
            messages.cancel()

    async def break_off(self) -> None:
        """Tell the client that the replica died with its request."""
        error = Unavailable("The server that answered this request has ended; send it again.")
        if self._started is None:
            await error_response(error)(self._scope, self._receive, self._send)
            return
        headers = dict(self._started["headers"])
        if b"text/event-stream" not in headers.get(b"content-type", b""):
            raise error  # the length was promised: the connection ends before it
        event = f"data: {json.dumps(error.body())}\n\n".encode()
        await self._send({"type": "http.response.body", "body": event, "more_body": False})


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        yield message.get("body", b"")
