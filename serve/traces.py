"""OpenTelemetry spans of requests, and the thread that sends them to a collector.

A request has a span of its own, which continues the client's `traceparent`, and below it those of
its admission, of the load of its adapter with the load's stages, and of the engine. They are made
when the request has ended, from what it took. Prompts, answers and keys are in none of them.

Spans wait in a bounded queue. A collector that is away, slow or mad costs spans, and nothing else.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import (
    Span,
    SpanKind,
    Status,
    StatusCode,
    Tracer,
    format_span_id,
    format_trace_id,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import logs
from serve.access_log import MAX_PATH_CHARS, PROBES, outcome
from serve.finished_request import FinishedRequest

CLOSE_SECONDS = 3.0
"""For the last spans when the server ends."""
SELDOM_SECONDS = 60.0
"""Between two complaints about the collector."""
COMPLAINERS = (
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
    "opentelemetry.sdk._shared_internal",
)
OPERATIONS = {"chat": "chat", "completions": "text_completion"}
"""What the conventions for generative AI call an endpoint's work."""


class Traces:
    """Makes spans, and sends them in the background until `close`."""

    def __init__(self, exporter: SpanExporter) -> None:
        told = Resource.create()  # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES
        ours = {SERVICE_NAME: "lorikeet", SERVICE_VERSION: version("lorikeet")}
        if not str(told.attributes[SERVICE_NAME]).startswith("unknown_service"):
            del ours[SERVICE_NAME]
        self._provider = TracerProvider(resource=told.merge(Resource(ours)), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self.tracer = self._provider.get_tracer("lorikeet")
        self._seldom = _Seldom()
        for name in COMPLAINERS:
            logging.getLogger(name).addFilter(self._seldom)

    @classmethod
    def to_collector(cls, endpoint: str) -> "Traces":
        """Spans go to an OTLP/HTTP collector, `http://HOST:4318`; the SDK knows OTEL_… for more."""
        url = endpoint.removesuffix("/").removesuffix("/v1/traces") + "/v1/traces"
        return cls(OTLPSpanExporter(endpoint=url))

    async def close(self) -> None:
        """Send what waits, for CLOSE_SECONDS at most."""
        # A daemon: a collector that never answers does not hold up the end of the process either.
        closing = threading.Thread(target=self._provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_SECONDS)
        if not closing.is_alive():  # else it may have more to say
            for name in COMPLAINERS:
                logging.getLogger(name).removeFilter(self._seldom)


class TraceMiddleware:
    """Opens the span of each request and closes it at the end, with all that was below it."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self.app = app
        self.tracer = traces.tracer
        self.propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; its log lines carry `trace_id` and `span_id`."""
        if scope["type"] != "http" or scope["path"] in PROBES:
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        clock = _Clock()
        span = self.tracer.start_span(
            scope["method"],
            self.propagator.extract(headers),
            kind=SpanKind.SERVER,
            start_time=clock.started,
        )
        status = 500

        async def seeing(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        context = span.get_span_context()
        try:
            with logs.about(
                trace_id=format_trace_id(context.trace_id), span_id=format_span_id(context.span_id)
            ):
                await self.app(scope, receive, seeing)
        finally:
            end = clock.now()
            if span.is_recording():
                finished: FinishedRequest | None = scope["state"].get("finished")
                _describe(span, scope, status if finished is None else finished.status)
                if finished is not None:
                    _below(self.tracer, span, clock.started, end, finished)
            span.end(end)


def _describe(span: Span, scope: Scope, status: int) -> None:
    """Name and attributes of a request's span, by the conventions for HTTP servers."""
    state = scope["state"]
    route, principal = scope.get("route"), state.get("principal")
    template = getattr(route, "path", None)
    attributes = {
        "http.request.method": scope["method"],
        "http.response.status_code": status,
        "http.route": template,
        "url.path": logs.withheld(scope["path"][:MAX_PATH_CHARS]),
        "error.type": state.get("error") or (str(status) if status >= 400 else None),
        "lorikeet.request_id": state["request_id"],
        "lorikeet.tenant": principal and principal.tenant,
        "lorikeet.key_id": principal and principal.key and principal.key.id,
        "lorikeet.outcome": outcome(status),
    }
    span.set_attributes(_present(attributes))
    if template is not None:
        span.update_name(f"{scope['method']} {template}")
    if status >= 500:
        span.set_status(Status(StatusCode.ERROR))


@dataclass(frozen=True)
class _Step:
    """What a request did next, and for how long."""

    name: str
    seconds: float
    attributes: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    first_token_seconds: float | None = None
    """From its own beginning."""


def _steps(finished: FinishedRequest) -> Iterator[_Step]:
    stages = dict(finished.load_stages)
    if (resolve := stages.pop("resolve", None)) is not None:  # a load's first, before the turn
        yield _Step("resolve", resolve)
    if finished.admission_seconds is not None:
        yield _Step("admission", finished.admission_seconds)
    if finished.load == "cold":
        adapter = {"lorikeet.adapter": finished.model}
        yield _Step("adapter load", finished.load_seconds, adapter, stages)
    if finished.engine_seconds is not None:
        operation = OPERATIONS.get(finished.endpoint, finished.endpoint)
        attributes = {
            "gen_ai.operation.name": operation,
            "gen_ai.provider.name": "lorikeet",
            "gen_ai.request.model": finished.model,
            "gen_ai.request.stream": finished.stream,
            "gen_ai.response.model": finished.model,
            "gen_ai.response.finish_reasons": finished.finish_reasons or None,
            "gen_ai.response.time_to_first_chunk": finished.ttft_seconds,
            "gen_ai.usage.input_tokens": finished.prompt_tokens,
            "gen_ai.usage.cache_read.input_tokens": finished.cached_tokens,
            "gen_ai.usage.output_tokens": finished.output_tokens,
            "lorikeet.scheduler_seconds": finished.scheduler_seconds,
        }
        first = None
        if finished.ttft_seconds is not None:
            first = max(0.0, finished.ttft_seconds - finished.seconds + finished.engine_seconds)
        name = f"{operation} {finished.model}"
        seconds = finished.engine_seconds
        yield _Step(name, seconds, _present(attributes), first_token_seconds=first)


def _below(tracer: Tracer, request: Span, start: int, end: int, finished: FinishedRequest) -> None:
    """The spans of a request's steps. Each begins when the one before ends, the last ends with it.

    Laid out from the end: what came before the first step is not among them.
    """
    for step in reversed(list(_steps(finished))):
        begun = max(start, end - _nanoseconds(step.seconds))
        span = tracer.start_span(
            step.name, set_span_in_context(request), attributes=step.attributes, start_time=begun
        )
        if step.first_token_seconds is not None:
            at = begun + _nanoseconds(step.first_token_seconds)
            span.add_event("first token", timestamp=min(at, end))
        until = end
        for stage, seconds in reversed(list(step.stages.items())):
            at = max(begun, until - _nanoseconds(seconds))
            tracer.start_span(stage, set_span_in_context(span), start_time=at).end(until)
            until = at
        span.end(end)
        end = begun


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1_000_000_000)


def _present(attributes: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in attributes.items() if value is not None}


class _Clock:
    """Wall-clock times in ns that never run backwards, whatever happens to the machine's clock."""

    def __init__(self) -> None:
        self.started, self._since = time.time_ns(), time.monotonic_ns()

    def now(self) -> int:
        return self.started + time.monotonic_ns() - self._since


class _Seldom(logging.Filter):
    """Lets one record in SELDOM_SECONDS through, without its traceback."""

    def __init__(self) -> None:
        super().__init__()
        self._next = float("-inf")

    def filter(self, record: logging.LogRecord) -> bool:
        if (now := time.monotonic()) < self._next:
            return False
        self._next = now + SELDOM_SECONDS
        record.exc_info = record.exc_text = None
        return True
