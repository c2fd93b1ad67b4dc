"""One line a request, when it has ended, however it ended; logger `serve.access_log`.

Prompts and answers are in it only where the operator has asked for them (`--log-prompts`), keys
never: of a key there is the id. Probes (`/health`, `/ready`, `/metrics`) have one with `--verbose`
only.
"""

import logging
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import logs
from serve.disconnect import CLIENT_GONE
from serve.finished_request import FinishedRequest
from serve.transcript import Transcript

logger = logging.getLogger(__name__)

PROBES = frozenset({"/health", "/ready", "/metrics"})
PROBED = frozenset({200, 503})
"""What they answer in the course of things."""
NOT_NOW = {429: "refused", 503: "unavailable"}
GENERATING = frozenset({"/v1/chat/completions", "/v1/completions"})
MAX_PATH_CHARS = 256


class AccessLogMiddleware:
    """Logs each request with what `scope["state"]` knows of it in the end."""

    def __init__(self, app: ASGIApp, *, prompts: bool) -> None:
        self.app = app
        self.prompts = prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; read along where prompts are logged."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500
        transcript = None
        if self.prompts and scope["path"] in GENERATING:
            transcript = Transcript()
            receive = transcript.reading(receive)

        async def seeing(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif transcript is not None:
                transcript.sent(message.get("body", b""))
            await send(message)

        try:
            await self.app(scope, receive, seeing)
        finally:
            _log(scope, status, time.monotonic() - started, transcript)


def outcome(status: int) -> str:
    """What became of a request.

    `ok`, `client_gone`, `refused` (429: a limit), `unavailable` (503), `invalid` (any other fault
    of the client's) or `error`.
    """
    if status == CLIENT_GONE:
        return "client_gone"
    if status in NOT_NOW:
        return NOT_NOW[status]
    return "ok" if status < 400 else "invalid" if status < 500 else "error"


def _log(scope: Scope, status: int, seconds: float, transcript: Transcript | None) -> None:
    state, method, path = scope["state"], scope["method"], scope["path"][:MAX_PATH_CHARS]
    finished: FinishedRequest | None = state.get("finished")
    if finished is not None:
        status = finished.status
    level = logging.DEBUG if path in PROBES and status in PROBED else logging.INFO
    if not logger.isEnabledFor(level):
        return
    principal = state.get("principal")
    key = principal and principal.key
    told = logs.fields(
        method=method,
        path=path,
        status=status,
        outcome=outcome(status),
        error=state.get("error"),
        tenant=principal and principal.tenant,
        key=key and key.id,
        **_figures(finished),
        seconds=round(seconds, 6),
        **(transcript.fields() if transcript is not None else {}),
    )
    logger.log(level, "%s %s %d", method, path, status, extra=told)


def _figures(finished: FinishedRequest | None) -> dict[str, Any]:
    """What a request to a model took; nothing for any other."""
    if finished is None:
        return {}
    return {
        "endpoint": finished.endpoint,
        "model": finished.model,
        "stream": finished.stream,
        "prompt_tokens": finished.prompt_tokens,
        "cached_tokens": finished.cached_tokens,
        "output_tokens": finished.output_tokens,
        "ttft_seconds": _rounded(finished.ttft_seconds),
        "queue_seconds": _rounded(finished.queue_seconds),
        "load": finished.load,
        "load_seconds": _rounded(finished.load_seconds) if finished.load == "cold" else None,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
