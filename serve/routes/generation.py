"""`POST /v1/chat/completions` and `POST /v1/completions`."""

import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from registry import Version
from serve import json_body
from serve.adapters import engine_name
from serve.auth import Principal
from serve.disconnect import CLIENT_GONE, unless_disconnected
from serve.engine import Answer, GenerationRequest, GenerationStats
from serve.engine.protocol import Endpoint
from serve.errors import BadRequest, Internal, OutputNotFinite, RequestError
from serve.limits import Charge, before_generation
from serve.middleware import told
from serve.request_meter import RequestMeter
from serve.requests import ChatRequest, CompletionRequest, checked, sequences
from serve.service import Service, principal_of, service_of

logger = logging.getLogger(__name__)
router = APIRouter()
MODEL_HEADER = "x-lorikeet-model"
BYTES_A_TOKEN = 4
"""Of a request, roughly: for its share of a key's tokens until they are counted."""
EXPECTED_TOKENS = 256
"""Of an answer whose request does not bound it: what it is taken for until it is known."""


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completion, streamed or whole."""
    return await _answer(request, "chat")


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    """OpenAI's text completion, streamed or whole."""
    return await _answer(request, "completions")


async def _answer(request: Request, endpoint: Endpoint) -> Response:
    service, principal = service_of(request), principal_of(request)
    meter: RequestMeter = request.state.meter
    service.admit()
    raw = await request.body()
    body = checked(
        ChatRequest if endpoint == "chat" else CompletionRequest,
        _json(raw),
        max_output_tokens=service.settings.max_output_tokens,
        vocabulary=service.vocabulary,
    )
    model, version, meter.stream = body["model"], None, bool(body.get("stream"))
    if model == service.base.id:
        meter.model = model
    else:
        with meter.resolving.running():
            version = await service.adapters.find(model, principal, body.get("user"))
        meter.model = version.reference
        service.adapters.check(version)
    generation = _Generation(service, principal, meter, endpoint, body, len(raw), version)
    async with AsyncExitStack() as stack:
        try:
            answer = await unless_disconnected(
                request, generation.begin(stack, request.state.request_id)
            )
        except RequestError as error:
            error.headers = generation.headers | error.headers
            raise
        except ClientDisconnect:
            return Response(status_code=CLIENT_GONE)
        if isinstance(answer, dict):
            return JSONResponse(answer, headers=generation.headers)
        return _Stream(generation, answer, stack.pop_all())


class _Generation:
    """One request on its way through the engine, and what it took."""

    def __init__(
        self,
        service: Service,
        principal: Principal,
        meter: RequestMeter,
        endpoint: Endpoint,
        body: dict[str, Any],
        request_bytes: int,
        version: Version | None,
    ) -> None:
        self.service = service
        self.principal = principal
        self.meter = meter
        self.endpoint = endpoint
        self.body = body
        self.request_bytes = request_bytes
        self.version = version
        self.name = service.base.id if version is None else engine_name(version)
        self.headers = {MODEL_HEADER: self.name, "cache-control": "no-store"}
        self.error: RequestError | None = None
        self.grant: Charge | None = None

    async def begin(self, stack: AsyncExitStack, request_id: str) -> Answer:
        """The whole answer, or a stream whose first event is there.

        What it needs is entered into `stack`. The first event is awaited so that an error before
        it is an HTTP error.
        """
        service, key = self.service, self.principal.key
        if key is not None:
            estimate = self._expected_tokens() + self.request_bytes // BYTES_A_TOKEN
            self.grant = await stack.enter_async_context(service.limits.request(key, estimate))
            self.headers |= self.grant.headers
        adapter = None
        with before_generation(self.grant):
            with self.meter.admission.running():
                self.seat = await stack.enter_async_context(
                    service.admission.seat(
                        self.principal.tenant,
                        self.name if self.version else None,
                        self._expected_tokens(),
                        sequences(self.body),
                    )
                )
            if self.version is not None:
                adapter = (await self.meter.lease(stack, service.adapters, self.version)).adapter
        self.meter.hand_over()
        try:
            answer = await service.engine.generate(
                GenerationRequest(
                    self.endpoint,
                    self.body,
                    self.meter.model,
                    adapter,
                    request_id,
                    service.cache_salt(self.principal.tenant),
                    self.observe,
                )
            )
            if isinstance(answer, dict):
                return answer
            self.first = await anext(answer, None)
            return answer
        except OutputNotFinite:
            await service.not_finite(self.version)
            raise

    async def events(self, stream: AsyncGenerator[str, None]) -> AsyncIterator[str]:
        """The stream; an error inside it becomes its last event, in OpenAI's shape."""
        self.meter.status = CLIENT_GONE
        try:
            if self.first is not None:
                yield self.first
            async for event in stream:
                yield event
            self.meter.status = 200
        except OutputNotFinite as error:
            await self.service.not_finite(self.version)
            yield self._error_event(error)
        except RequestError as error:
            yield self._error_event(error)
        except Exception:
            logger.exception("an error in a stream")
            yield self._error_event(
                Internal("the server had an error while it answered this request.")
            )

    def observe(self, stats: GenerationStats) -> None:
        """Charge what a generation took to whom it is for; one request may take several."""
        self.meter.generated(stats)
        if stats.finish_reason == "error" and not self.meter.stream:
            return  # nothing of it was delivered
        self.seat.charge(self.meter.output_tokens)
        if self.grant is not None:
            self.grant.charge(self.meter.prompt_tokens + self.meter.output_tokens)

    def _expected_tokens(self) -> int:
        bound = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        return int(bound or EXPECTED_TOKENS) * sequences(self.body)

    def _error_event(self, error: RequestError) -> str:
        self.meter.status, self.error = error.status, error
        return f"data: {json.dumps(error.body())}\n\n"


class _Stream(StreamingResponse):
    """The events of a generation; it owns seat and lease, however it ends."""

    def __init__(
        self, generation: _Generation, stream: AsyncGenerator[str, None], stack: AsyncExitStack
    ) -> None:
        super().__init__(
            generation.events(stream), media_type="text/event-stream", headers=generation.headers
        )
        self.generation, self.stream, self.stack = generation, stream, stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; then give everything back."""
        async with self.stack, aclosing(self.stream):
            try:
                await super().__call__(scope, receive, send)
            finally:
                if self.generation.error is not None:
                    told(scope, self.generation.error)


def _json(raw: bytes) -> Any:
    try:
        return json_body.parse(raw)
    except ValueError as error:
        raise BadRequest(f"The request body is not valid JSON: {error}.") from error
