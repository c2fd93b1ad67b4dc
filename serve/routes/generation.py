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
    service.admit()
    raw = await request.body()
    body = checked(
        ChatRequest if endpoint == "chat" else CompletionRequest,
        _json(raw),
        max_output_tokens=service.settings.max_output_tokens,
        vocabulary=service.vocabulary,
    )
    model, version = body["model"], None
    if model != service.base.id:
        version = await service.adapters.resolve(model, principal, body.get("user"))
    generation = _Generation(service, principal, endpoint, body, len(raw), version)
    async with AsyncExitStack() as stack:
        try:
            answer = await unless_disconnected(
                request, generation.begin(stack, request.state.request_id)
            )
        except RequestError as error:
            generation.count(error.status)
            error.headers = generation.headers | error.headers
            raise
        except ClientDisconnect:
            generation.count(CLIENT_GONE)
            return Response(status_code=CLIENT_GONE)
        if isinstance(answer, dict):
            generation.count(200)
            return JSONResponse(answer, headers=generation.headers)
        return _Stream(generation, answer, stack.pop_all())


class _Generation:
    """One request on its way through the engine, and what it took."""

    def __init__(
        self,
        service: Service,
        principal: Principal,
        endpoint: Endpoint,
        body: dict[str, Any],
        request_bytes: int,
        version: Version | None,
    ) -> None:
        self.service = service
        self.principal = principal
        self.endpoint = endpoint
        self.body = body
        self.request_bytes = request_bytes
        self.version = version
        self.model = service.base.id if version is None else version.reference
        self.name = service.base.id if version is None else engine_name(version)
        self.headers = {MODEL_HEADER: self.name, "cache-control": "no-store"}
        self.status = CLIENT_GONE
        self.prompt_tokens = self.output_tokens = 0

    async def begin(self, stack: AsyncExitStack, request_id: str) -> Answer:
        """The whole answer, or a stream whose first event is there.

        What it needs is entered into `stack`. The first event is awaited so that an error before
        it is an HTTP error.
        """
        service, key = self.service, self.principal.key
        if key is not None:
            self.grant = stack.enter_context(
                service.limits.enter(
                    key.id,
                    rpm=key.rpm,
                    tpm=key.tpm,
                    concurrency=key.concurrency,
                    estimate=self._expected_tokens() + self.request_bytes // BYTES_A_TOKEN,
                )
            )
            self.headers |= self.grant.headers
        self.seat = await stack.enter_async_context(
            service.admission.seat(
                self.principal.tenant,
                self.name if self.version else None,
                self._expected_tokens(),
                sequences(self.body),
            )
        )
        adapter = None
        if self.version is not None:
            lease = await stack.enter_async_context(service.adapters.lease(self.version))
            adapter = lease.adapter
        try:
            answer = await service.engine.generate(
                GenerationRequest(
                    self.endpoint,
                    self.body,
                    self.model,
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
        try:
            if self.first is not None:
                yield self.first
            async for event in stream:
                yield event
            self.status = 200
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
        self.service.metrics.observe(stats)
        self.prompt_tokens += stats.prompt_tokens
        self.output_tokens += stats.output_tokens
        self.seat.charge(self.output_tokens)
        if self.principal.key is not None:
            self.grant.charge(self.prompt_tokens + self.output_tokens)

    def count(self, status: int) -> None:
        """One more request by its outcome."""
        self.service.metrics.requests.labels(self.model, self.endpoint, str(status)).inc()

    def _expected_tokens(self) -> int:
        bound = self.body.get("max_completion_tokens") or self.body.get("max_tokens")
        return int(bound or EXPECTED_TOKENS) * sequences(self.body)

    def _error_event(self, error: RequestError) -> str:
        self.status = error.status
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
        """Send the events; then count the outcome and give everything back."""
        async with self.stack, aclosing(self.stream):
            try:
                await super().__call__(scope, receive, send)
            finally:
                self.generation.count(self.generation.status)


def _json(raw: bytes) -> Any:
    try:
        return json_body.parse(raw)
    except ValueError as error:
        raise BadRequest(f"The request body is not valid JSON: {error}.") from error
