"""Around Ray Serve's proxy: clients cannot steer it by headers, and answers have one request id.

Ray takes it from RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=deploy.replicas.proxy.middlewares.
"""

from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

REQUEST_ID = b"x-request-id"
STRIPPED = {
    REQUEST_ID,
    b"serve-multiplexed-model-id",
    b"x-request-disconnect-disabled",
    b"x-request-timeout-seconds",
    b"x-session-id",
}
"""What Ray would obey, to which `_` and `-` are the same."""


class HeaderMiddleware:
    """Takes STRIPPED from requests, and from answers the request id that the proxy adds."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. The server's own id, which its log has, comes first."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = [it for it in scope["headers"] if it[0].replace(b"_", b"-") not in STRIPPED]

        async def send_one_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                ids = [header for header in message["headers"] if header[0].lower() == REQUEST_ID]
                for header in ids[1:]:
                    message["headers"].remove(header)
            await send(message)

        await self.app({**scope, "headers": headers}, receive, send_one_id)


def middlewares() -> list[Middleware]:
    """What Ray Serve's proxy wraps itself in."""
    return [Middleware(HeaderMiddleware)]
