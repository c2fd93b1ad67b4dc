"""The ingress: reads which model a request names and passes it to the replica that is to answer.

Everything else about a request is the replica's: keys, checks, limits, errors. What ends here has
a line in the log, and no replica's metrics.
"""

import asyncio
import json
import logging
import re
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle, DeploymentResponseGenerator
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.routing import Mount
from starlette.types import Receive, Scope, Send

from serve import logs
from serve.access_log import GENERATING, MAX_PATH_CHARS, outcome
from serve.affinity import adapter_of
from serve.auth import OPEN_PATHS, Principal
from serve.errors import BadRequest, NotFound, RequestError, TooLarge, Unavailable
from serve.middleware import REQUEST_ID, BodyBounds, error_response, may_be_large
from serve.settings import ServeSettings

logger = logging.getLogger(__name__)

PIECE_BYTES = 4 * 1024**2
"""Of a body; what is larger goes through Ray's object store, piece by piece."""
ACCEPT_SECONDS = 10.0
"""For a replica to take a request, which is a matter of milliseconds where one runs."""
ONE_REPLICAS = frozenset({"/admin/drain", "/admin/resume"})
"""What is asked of one replica, and cannot be asked of the same one again."""
PASSED = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path"),
    *("query_string", "headers", "client", "server"),
)
"""Of a scope: what can be sent to another process and means the same there."""

_MODEL = re.compile(rb'"model"\s{0,16}+:\s{0,16}+"([^"\\]{1,512}+)"')
"""Nobody's key is checked yet: a whole body is not parsed. What this finds decides on the way only,
and is never inside of a string, where quotation marks are escaped."""

Body = list[bytes | ray.ObjectRef]


class Ingress:
    """A Ray Serve deployment around one ASGI application."""

    def __init__(self, settings: ServeSettings, base: str, replicas: DeploymentHandle[Any]) -> None:
        self._settings = settings
        self._base = base
        self._replicas = replicas

    def __serve_build_asgi_app__(self) -> Starlette:
        """What Ray Serve hands its requests to."""
        return Starlette(routes=[Mount("/", app=self.forward)], lifespan=self._logging)

    async def forward(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and its answer back."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        exchange, model = _Exchange(scope, receive, send), None
        try:
            self._check(scope)
            body = await self._read(scope, receive)
            model = _model(scope, body)
            await self._pass(scope, body, model, exchange)
        except ClientDisconnect:
            pass
        except RequestError as error:
            if self._settings.access_log or error.status >= 500:
                exchange.log(error, type(error).__name__, model)
            await exchange.refuse(error)
        except (RayError, RayServeException) as error:
            if not exchange.ended:
                lost = Unavailable(
                    "The server that answered this request has ended; send it again."
                )
                exchange.log(lost, type(error).__name__, model)
                await exchange.break_off(lost)

    async def _pass(
        self, scope: Scope, body: Body, model: str | None, exchange: "_Exchange"
    ) -> None:
        """To a replica; to another where one dies that has answered nothing of a generation yet."""
        passed = {name: scope[name] for name in PASSED if name in scope}
        adapter = None if model in (None, self._base) else adapter_of(model)
        answer = self._replicas.options(stream=True).answer
        try:
            await exchange.answer(answer.remote(adapter, passed, body))
        except RayActorError:
            if exchange.begun or scope["path"] not in GENERATING:
                raise
            await exchange.answer(answer.remote(adapter, passed, body))

    @asynccontextmanager
    async def _logging(self, _: Starlette) -> AsyncIterator[None]:
        with logs.to_standard_error(self._settings.log_format, verbose=self._settings.verbose):
            yield

    def _check(self, scope: Scope) -> None:
        """Refuse what has no meaning where any replica may answer."""
        if scope["path"] == "/metrics":
            raise NotFound(
                "Each replica has metrics of its own.",
                remedy="Start with --metrics-port PORT: they are on PORT, PORT + 1, …",
                code="unknown_url",
            )
        if scope["path"] in ONE_REPLICAS:
            raise BadRequest(
                "One of several replicas cannot be drained: nothing would reach it to resume it.",
                remedy="Each is drained by itself before it is replaced or ended, as the end of "
                "`lorikeet serve` drains them all.",
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
        if not may_be_large(scope):
            return bounds.usual
        presented = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        async with _taken():
            caller: Principal | None = await self._replicas.caller.remote(presented)
        return bounds.at(scope, caller)


class _Exchange:
    """The way of an answer to its client."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._id = uuid.uuid4().hex
        self._headers: dict[bytes, bytes] = {}
        self.begun = self.ended = False

    async def answer(self, messages: DeploymentResponseGenerator[Any]) -> None:
        """Pass the replica's messages on; one that the client leaves is cancelled there.

        Raises: Unavailable where no replica takes it.
        """
        try:
            async with _taken():
                await anext(messages)  # ACCEPTED
            async for message in messages:
                if message["type"] == "http.response.start":
                    self.begun, self._headers = True, dict(message["headers"])
                else:
                    self.ended = not message.get("more_body", False)
                await self._send(message)
        finally:
            messages.cancel()

    async def refuse(self, error: RequestError) -> None:
        """Answer with an error in place of a replica."""
        error.headers |= {REQUEST_ID: self._id}
        await error_response(error)(self._scope, self._receive, self._send)

    async def break_off(self, error: RequestError) -> None:
        """Tell the client that the replica died with its request."""
        if not self.begun:
            await self.refuse(error)
            return
        if b"text/event-stream" not in self._headers.get(b"content-type", b""):
            raise error  # the length was promised: the connection ends before it
        event = f"data: {json.dumps(error.body())}\n\n".encode()
        await self._send({"type": "http.response.body", "body": event, "more_body": False})

    def log(self, error: RequestError, cause: str, model: str | None) -> None:
        """One line, like the access lines of what replicas answer; with the id that is sent."""
        method, path = self._scope["method"], self._scope["path"][:MAX_PATH_CHARS]
        told = logs.fields(
            request_id=self._headers.get(REQUEST_ID.encode(), self._id.encode()).decode(),
            method=method,
            path=path,
            status=error.status,
            outcome=outcome(error.status),
            error=cause,
            model=model,
        )
        level = logging.INFO if error.status < 500 else logging.ERROR
        logger.log(level, "%s %s %d: %s", method, path, error.status, error.message, extra=told)


@asynccontextmanager
async def _taken() -> AsyncIterator[None]:
    """Bounds how long a request waits for a replica. Raises: Unavailable."""
    try:
        async with asyncio.timeout(ACCEPT_SECONDS):
            yield
    except TimeoutError as error:
        raise Unavailable("No replica takes requests at the moment.") from error


def _model(scope: Scope, body: Body) -> str | None:
    """The model that the request seems to be for."""
    if scope["path"] in OPEN_PATHS or not isinstance(body[0], bytes):
        return None
    found = _MODEL.search(body[0])
    return None if found is None else found[1].decode("utf-8", "replace")


async def _parts(receive: Receive) -> AsyncIterator[bytes]:
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        yield message.get("body", b"")
