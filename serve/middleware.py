"""Pure ASGI: a request id on every answer, and bodies and headers within bounds."""

import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from starlette.datastructures import MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import logs
from serve.errors import RequestError, TooLarge
from serve.settings import ServeSettings

if TYPE_CHECKING:
    from serve.auth import Principal

REQUEST_ID = "x-request-id"
MAX_HEADER_BYTES = 32 * 1024
# Headers that vLLM would obey; they belong to the operator.
STRIPPED = {b"x-vllm-priority", b"x-data-parallel-rank", b"x-session-id", b"x-request-id"}


class RequestIdMiddleware:
    """Gives each request an id of ours (`scope["state"]["request_id"]`), returned as a header."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its id and without the headers in STRIPPED."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request_id = uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        scope["headers"] = [(k, v) for k, v in scope["headers"] if k not in STRIPPED]

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[REQUEST_ID] = request_id
            await send(message)

        with logs.about(request_id=request_id):
            await self.app(scope, receive, send_with_id)


MULTIPART_BYTES = 64 * 1024
"""What a file's body may have beside the file."""


@dataclass(frozen=True, slots=True)
class BodyBounds:
    """The most bytes that a body may have: only what is streamed to disk may be large."""

    usual: int
    upload: int
    """An adapter, which only an admin may send."""
    file: int
    """A file for training."""

    @classmethod
    def of(cls, settings: ServeSettings) -> Self:
        """Those of the settings."""
        return cls(
            settings.max_body_bytes,
            settings.max_upload_bytes,
            settings.max_file_bytes + MULTIPART_BYTES,
        )

    def at(self, scope: Scope, caller: "Principal | None") -> int:
        """Of a body that the caller sends there; None where nobody knows who that is."""
        if caller is not None and _is_file(scope):
            return self.file
        if caller is not None and caller.admin and _is_upload(scope):
            return self.upload
        return self.usual


def may_be_large(scope: Scope) -> bool:
    """Whether it depends on the caller how large a body may be there."""
    return _is_file(scope) or _is_upload(scope)


def _is_file(scope: Scope) -> bool:
    return bool(scope["path"] == "/v1/files" and scope["method"] == "POST")


def _is_upload(scope: Scope) -> bool:
    return bool(scope["path"].startswith("/admin/adapters/"))


class BoundsMiddleware:
    """Refuses headers over MAX_HEADER_BYTES and bodies over their bounds with 413."""

    def __init__(self, app: ASGIApp, bounds: BodyBounds) -> None:
        self.app = app
        self.bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the declared length at once and count what really comes."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        if sum(len(k) + len(v) for k, v in scope["headers"]) > MAX_HEADER_BYTES:
            error = TooLarge(f"The request's headers are over {MAX_HEADER_BYTES} bytes.")
            await refuse(error, scope, receive, send)
            return
        limit = self.bounds.at(scope, scope["state"].get("principal"))
        too_large = TooLarge(f"The request's body is over {limit} bytes.")
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > limit:
            await refuse(too_large, scope, receive, send)
            return
        received = 0

        async def bounded_receive() -> Message:
            nonlocal received
            message = await receive()
            if message["type"] == "http.request":
                received += len(message.get("body", b""))
                if received > limit:
                    raise too_large
            return message

        await self.app(scope, bounded_receive, send)


async def refuse(error: RequestError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with an error before a route has seen the request."""
    told(scope, error)
    await error_response(error)(scope, receive, send)


def told(scope: Scope, error: RequestError) -> None:
    """Remember which error a request is answered with (`scope["state"]["error"]`), and why."""
    state = scope.setdefault("state", {})
    state["error"], state["refusal"] = error.code or type(error).__name__, error.refusal


def error_response(error: RequestError) -> JSONResponse:
    """OpenAI's error body with its status."""
    headers = dict(error.headers)
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return JSONResponse(error.body(), status_code=error.status, headers=headers)
