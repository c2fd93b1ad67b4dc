"""What can go wrong while serving, each with the HTTP status and OpenAI error type that tells it.

LorikeetError                    (registry)
├── ServeError                   the command cannot start or go on
│   ├── PortInUse
│   └── EngineFailed             the engine did not start
└── RequestError                 one request is answered with an error
    ├── BadRequest          400  invalid_request_error
    ├── Unauthorized        401  invalid_request_error, code invalid_api_key
    ├── Forbidden           403  invalid_request_error
    ├── NotFound            404  invalid_request_error
    │   └── ModelNotFound        code model_not_found
    ├── Conflict            409  invalid_request_error
    ├── TooLarge            413  invalid_request_error
    ├── TooManyRequests     429  rate_limit_error, with Retry-After
    ├── Internal            500  server_error
    └── Unavailable         503  server_error, with Retry-After
        ├── EngineNotReady
        ├── AdapterUnavailable
        │   └── FilesUnavailable     code adapter_unavailable
        ├── AdapterQuarantined
        ├── OutputNotFinite
        ├── RegistryAway
        └── Overloaded
"""

from typing import Any, ClassVar, Literal

from registry import LorikeetError

Refusal = Literal[
    "auth",
    "rate_limit",
    "token_limit",
    "concurrency",
    "queue_full",
    "tenant_queue_full",
    "queue_timeout",
    "draining",
    "engine_down",
    "quarantined",
    "load_failed",
    "registry_away",
]
"""Why a request did not come to the engine, where that is not the request's own fault."""


class ServeError(LorikeetError):
    """The server cannot start or go on."""


class PortInUse(ServeError):
    """Another process listens on the wanted address."""


class EngineFailed(ServeError):
    """The engine did not start; the message names the engine's own reason."""


class RequestError(LorikeetError):
    """One request is answered with an error in OpenAI's shape.

    `param` names the field at fault, `code` is OpenAI's machine-readable reason, `retry_after`
    is in seconds, `headers` go into the response. `refusal` is for the metrics.
    """

    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    retry_after: int | None = None
    refusal: Refusal | None = None

    def __init__(
        self,
        message: str,
        *,
        remedy: str | None = None,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        refusal: Refusal | None = None,
    ) -> None:
        super().__init__(message, remedy=remedy)
        self.param = param
        self.code = code
        if refusal is not None:
            self.refusal = refusal
        if retry_after is not None:
            self.retry_after = retry_after
        self.headers: dict[str, str] = {}

    def body(self) -> dict[str, Any]:
        """The response body, `{"error": {message, type, param, code}}`."""
        message = f"{self.message} {self.remedy}" if self.remedy else self.message
        return {
            "error": {
                "message": message,
                "type": self.type,
                "param": self.param,
                "code": self.code,
            }
        }


class BadRequest(RequestError):
    """The request is wrong and will stay wrong when sent again."""

    status = 400
    type = "invalid_request_error"


class NotFound(RequestError):
    """There is no such thing, or not for this caller."""

    status = 404
    type = "invalid_request_error"


class ModelNotFound(NotFound):
    """No base model, adapter, version or alias of that name."""


class Unauthorized(RequestError):
    """No API key, or one that is unknown, revoked or expired."""

    status = 401
    type = "invalid_request_error"
    refusal = "auth"


class Forbidden(RequestError):
    """A valid API key that may not do this."""

    status = 403
    type = "invalid_request_error"


class Conflict(RequestError):
    """What was to be changed is not as the request expected it."""

    status = 409
    type = "invalid_request_error"


class TooLarge(RequestError):
    """The body or the headers are over their bound."""

    status = 413
    type = "invalid_request_error"


class TooManyRequests(RequestError):
    """The key's own limit, or its tenant's share of the queue, is used up."""

    status = 429
    type = "rate_limit_error"
    retry_after = 1


class Internal(RequestError):
    """A defect of ours; the log has the details."""


class Unavailable(RequestError):
    """Not now; the client may try again."""

    status = 503
    retry_after = 5


class EngineNotReady(Unavailable):
    """The engine is starting, stopping or dead."""

    refusal = "engine_down"


class AdapterUnavailable(Unavailable):
    """The adapter exists, but could not be loaded now."""

    refusal = "load_failed"


class FilesUnavailable(AdapterUnavailable):
    """The adapter's files cannot be brought to this machine now."""


class AdapterQuarantined(Unavailable):
    """The adapter failed while it was served and is kept away from the engine."""

    retry_after = 60
    refusal = "quarantined"


class OutputNotFinite(Unavailable):
    """The model's log-probabilities were NaN or infinite; nothing of that is delivered."""


class RegistryAway(Unavailable):
    """The database does not answer, and this cannot be done without it."""

    refusal = "registry_away"


class Overloaded(Unavailable):
    """The queue is full."""

    retry_after = 1
