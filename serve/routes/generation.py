"""`POST /v1/chat/completions` and `POST /v1/completions`."""

import asyncio
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
from serve.adapters import engine_name
from serve.engine import Answer, GenerationRequest
from serve.engine.protocol import Endpoint
from serve.errors import BadRequest, Internal, RequestError
from serve.requests import ChatRequest, CompletionRequest, checked
from serve.service import Service, service_of

logger = logging.getLogger(__name__)
router = APIRouter()
MODEL_HEADER = "x-lorikeet-model"
CLIENT_GONE = 499
"""The status that is counted, never sent, when the client closes the connection."""


@router.post("/v1/chat/completions")
async def chat_completions(request: Request) -> Response:
    """OpenAI's chat completion, streamed or whole."""
    return await _answer(request, "chat")


@router.post("/v1/completions")
async def completions(request: Request) -> Response:
    """OpenAI's text completion, streamed or whole."""
    return await _answer(request, "completions")


async def _answer(request: Request, endpoint: Endpoint) -> Response:
    service = service_of(request)
    body = checked(
        ChatRequest if endpoint == "chat" else CompletionRequest,
        await _json(request),
        max_output_tokens=service.settings.max_output_tokens,
    )
    service.admit()
    model = body["model"]
    version = None if model == service.base.id else await service.adapters.resolve(model)
    public = service.base.id if version is None else version.reference
    async with AsyncExitStack() as stack:
        stack.callback(_count_out, service)
        service.running += 1
        service.metrics.requests_running.inc()
        generation = _Generation(service, endpoint, public, stack)
        try:
            answer = await _unless_disconnected(
                request, generation.begin(body, version, request.state.request_id)
            )
        except RequestError as error:
            generation.count(error.status)
            raise
        except ClientDisconnect:
            generation.count(CLIENT_GONE)
            return Response(status_code=CLIENT_GONE)
        headers = {
            MODEL_HEADER: public if version is None else engine_name(version),
            "cache-control": "no-store",
        }
        if isinstance(answer, dict):
            generation.count(200)
            return JSONResponse(answer, headers=headers)
        return _Stream(generation, answer, stack.pop_all(), headers)


class _Generation:
    """One request on its way through the engine, and what must end with it."""

    def __init__(
        self, service: Service, endpoint: Endpoint, model: str, stack: AsyncExitStack
    ) -> None:
        self.service = service
        self.endpoint = endpoint
        self.model = model
        self.stack = stack
        self.status = CLIENT_GONE

    async def begin(self, body: dict[str, Any], version: Version | None, request_id: str) -> Answer:
        """The whole answer, or a stream whose first event is there.

        The first event is awaited so that an error before it is an HTTP error.
        """
        adapter = None
        if version is not None:
            lease = await self.stack.enter_async_context(self.service.adapters.lease(version))
            adapter = lease.adapter
        answer = await self.service.engine.generate(
            GenerationRequest(self.endpoint, body, self.model, adapter, request_id)
        )
        if isinstance(answer, dict):
            return answer
        first = await anext(answer, None)
        return _prepended(first, answer)

    async def events(self, stream: AsyncGenerator[str, None]) -> AsyncIterator[str]:
        """The stream; an error inside it becomes its last event, in OpenAI's shape."""
        try:
            async for event in stream:
                yield event
            self.status = 200
        except RequestError as error:
            self.status = error.status
            yield f"data: {json.dumps(error.body())}\n\n"
        except Exception:
            self.status = 500
            logger.exception("an error in a stream")
            ours = Internal("the server had an error while it answered this request.")
            yield f"data: {json.dumps(ours.body())}\n\n"

    def count(self, status: int) -> None:
        """One more request by its outcome."""
        self.service.metrics.requests.labels(self.model, self.endpoint, str(status)).inc()


class _Stream(StreamingResponse):
    """The events of a generation; it owns the lease, however it ends."""

    def __init__(
        self,
        generation: _Generation,
        stream: AsyncGenerator[str, None],
        stack: AsyncExitStack,
        headers: dict[str, str],
    ) -> None:
        super().__init__(generation.events(stream), media_type="text/event-stream", headers=headers)
        self.generation, self.stream, self.stack = generation, stream, stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events; then count the outcome and give everything back."""
        async with self.stack:
            try:
                await super().__call__(scope, receive, send)
            finally:
                self.generation.count(self.generation.status)
                await self.stream.aclose()


def _count_out(service: Service) -> None:
    service.running -= 1
    service.metrics.requests_running.dec()


async def _prepended(
    first: str | None, rest: AsyncGenerator[str, None]
) -> AsyncGenerator[str, None]:
    async with aclosing(rest):
        if first is not None:
            yield first
        async for event in rest:
            yield event


async def _json(request: Request) -> Any:
    try:
        return json.loads(await request.body(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise BadRequest(f"The request body is not valid JSON: {error}.") from error


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


async def _unless_disconnected(request: Request, work: Any) -> Any:
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
