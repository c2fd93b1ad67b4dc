"""Spans of requests, and collectors that are down, slow or mad."""

import asyncio
import json
import logging
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from pydantic import ValidationError

import serve.traces
from registry import Registry
from serve import logs
from serve.engine.echo import EchoEngine
from serve.settings import ServeSettings

pytestmark = pytest.mark.anyio

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"
SERVER, ERROR = 2, 2
STAGES = ["fetch", "verify", "warm", "engine"]
SAID = "the cat is called Mephisto"


class Collector:
    """What a collector has received: the spans by name, in the order of their ends."""

    def __init__(self) -> None:
        self.url = ""
        self.resource: dict[str, Any] = {}
        self.spans: list[Any] = []
        self.raw = b""

    def receive(self, body: bytes) -> None:
        self.raw += body
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.resource = attributes(resource.resource)
            for scope in resource.scope_spans:
                self.spans += scope.spans

    def named(self, name: str) -> Any:
        (span,) = [span for span in self.spans if span.name == name]
        return span

    def below(self, parent: Any) -> list[Any]:
        found = [span for span in self.spans if span.parent_span_id == parent.span_id]
        return sorted(found, key=lambda s: (s.start_time_unix_nano, s.end_time_unix_nano))


def attributes(of: Any) -> dict[str, Any]:
    values = {}
    for pair in of.attributes:
        kind = pair.value.WhichOneof("value")
        value = getattr(pair.value, kind)
        values[pair.key] = (
            [v.string_value for v in value.values] if kind == "array_value" else value
        )
    return values


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()
    with _answering(200, b"", found.receive) as found.url:
        yield found


@contextmanager
def _answering(
    status: int, answer: bytes, receive: Callable[[bytes], None] = lambda _: None
) -> Iterator[str]:
    """A collector that answers so, or `receive`s what it is sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if self.path == "/v1/traces":
                receive(self.rfile.read(int(self.headers["content-length"])))
            self.send_response(status)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=[0.02])
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


async def test_a_cold_request_and_what_it_waited_for(
    run: Any, registry: Registry, publish: Callable[..., Any], collector: Collector
) -> None:
    publish("opl")
    key, secret = registry.keys.create("acme")
    async with run(otlp_endpoint=collector.url) as running:
        running.client.headers["authorization"] = f"Bearer {secret}"
        running.client.headers["traceparent"] = TRACEPARENT
        answered = await running.chat("opl", SAID, stream=True)
    request = collector.named("POST /v1/chat/completions")
    assert request.trace_id.hex() == TRACE
    assert request.parent_span_id.hex() == PARENT
    assert (
        attributes(request).items()
        >= {
            "http.response.status_code": 200,
            "lorikeet.tenant": "acme",
            "lorikeet.key_id": key.id,
            "lorikeet.request_id": answered.headers["x-request-id"],
            "lorikeet.outcome": "ok",
        }.items()
    )
    resolve, admission, load, engine = collector.below(request)
    assert [span.name for span in (resolve, admission, load, engine)] == [
        "resolve",
        "admission",
        "adapter load",
        "chat opl@1",
    ]
    assert [span.name for span in collector.below(load)] == STAGES
    assert (
        attributes(engine).items()
        >= {
            "gen_ai.operation.name": "chat",
            "gen_ai.response.model": "opl@1",
            "gen_ai.usage.input_tokens": 5,
            "gen_ai.usage.output_tokens": 6,
            "gen_ai.response.finish_reasons": ["stop"],
        }.items()
    )
    (first_token,) = engine.events
    moments = [
        request.start_time_unix_nano,
        resolve.start_time_unix_nano,
        resolve.end_time_unix_nano,
        admission.start_time_unix_nano,
        admission.end_time_unix_nano,
        load.start_time_unix_nano,
        load.end_time_unix_nano,
        engine.start_time_unix_nano,
        first_token.time_unix_nano,
        engine.end_time_unix_nano,
        request.end_time_unix_nano,
    ]
    assert moments == sorted(moments)
    assert collector.resource["service.name"] == "lorikeet"
    assert b"Mephisto" not in collector.raw
    assert secret[17:].encode() not in collector.raw


async def test_a_warm_request_has_no_load_and_a_trace_of_its_own(
    run: Any, publish: Callable[..., Any], collector: Collector
) -> None:
    publish("opl")
    async with run(otlp_endpoint=collector.url) as running:
        await running.chat("opl")
        await running.chat("opl")
        await running.chat("tiny", "x", traceparent="no field of a request")
        running.client.headers["traceparent"] = "00-nonsense-01"
        await running.chat("tiny")
        for probe in "/health", "/ready", "/metrics":
            await running.client.get(probe)
    requests = [span for span in collector.spans if span.name.startswith("POST")]
    assert len({span.trace_id for span in requests}) == 4
    assert not any(span.parent_span_id for span in requests)
    assert [[below.name for below in collector.below(span)] for span in requests] == [
        ["resolve", "admission", "adapter load", "chat opl@1"],
        ["admission", "chat opl@1"],
        [],
        ["admission", "chat tiny"],
    ]
    assert len([span for span in collector.spans if "GET" in span.name]) == 0


async def test_a_client_that_does_not_want_a_trace_gets_none(
    run: Any, collector: Collector
) -> None:
    async with run(otlp_endpoint=collector.url) as running:
        running.client.headers["traceparent"] = f"00-{TRACE}-{PARENT}-00"
        assert (await running.chat("tiny")).status_code == 200
    assert collector.spans == []


async def test_errors_are_told_without_what_was_said(run: Any, collector: Collector) -> None:
    async with run(EchoEngine(not_finite={"tiny": 0}), otlp_endpoint=collector.url) as running:
        await running.chat("tiny", SAID)
        await running.chat(SAID)
        await running.client.get("/v1/models/" + "x" * 10_000)
        await running.client.get("/x%0D%0Ay/z")
    sick, unknown, long, nowhere = [span for span in collector.spans if span.kind == SERVER]
    assert attributes(sick)["error.type"] == "OutputNotFinite"
    assert sick.status.code == ERROR
    assert attributes(unknown)["error.type"] == "model_not_found"
    assert unknown.status.code != ERROR
    assert long.name == "GET /v1/models/{model}" or long.name.startswith("GET /v1/models/{")
    assert len(attributes(long)["url.path"]) == 256
    assert nowhere.name == "GET"
    assert b"Mephisto" not in collector.raw


async def test_log_lines_name_their_trace(
    run: Any, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    lines: list[str] = []

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(logs.JsonFormatter().format(record))

    handler = Handler()
    with caplog.at_level(logging.INFO, "serve"):
        logging.getLogger("serve.access_log").addHandler(handler)
        try:
            async with run(otlp_endpoint=collector.url) as running:
                running.client.headers["traceparent"] = TRACEPARENT
                await running.chat("tiny")
        finally:
            logging.getLogger("serve.access_log").removeHandler(handler)
    (line,) = map(json.loads, lines)
    assert line["trace_id"] == TRACE
    assert line["span_id"] == collector.named("POST /v1/chat/completions").span_id.hex()


@contextmanager
def _black_hole() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def _nobody() -> Iterator[str]:
    """Refuses connections."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    yield f"http://127.0.0.1:{port}"


@pytest.mark.parametrize(
    "broken",
    [
        _black_hole,
        _nobody,
        lambda: _answering(500, b"<html>\x00\xff" * 1000),
        lambda: _answering(200, b"\xffnonsense\r\n" * 1000),
        lambda: _answering(302, b""),
        lambda: _answering(503, b"try again"),
    ],
    ids=["black hole", "nobody", "error", "nonsense", "redirect", "unavailable"],
)
async def test_a_broken_collector_holds_nobody_up(
    broken: Callable[[], Any],
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(serve.traces, "CLOSE_SECONDS", 0.2)
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "32")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "8")
    with broken() as url:
        settings = {"otlp_endpoint": url, "max_queue_per_tenant": 256}
        async with asyncio.timeout(60), run(**settings) as running:
            answers = await asyncio.gather(*(running.chat("tiny") for _ in range(200)))
            assert {answer.status_code for answer in answers} == {200}
            processor = running.app.state.traces._provider._active_span_processor
            (batches,) = processor._span_processors
            assert len(batches._batch_processor._queue) <= 32
    complaints = [record for record in caplog.records if record.name.startswith("opentelemetry")]
    assert len(complaints) <= 1


async def test_without_a_collector_the_sdk_is_not_even_imported(home: Any) -> None:
    program = """
import sys
import serve.app, serve.server
assert not [name for name in sys.modules if name.startswith("opentelemetry.sdk")]
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program)
    assert await process.wait() == 0


def test_a_clock_that_steps_back_makes_no_span_end_before_it_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = serve.traces._Clock()
    monkeypatch.setattr(serve.traces.time, "time_ns", lambda: 0)
    assert clock.now() >= clock.started


@pytest.mark.parametrize("endpoint", ["collector:4317", "grpc://a:4317", "http://", "[x"])
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(ValidationError, match="OTLP/HTTP"):
        ServeSettings(otlp_endpoint=endpoint)


def test_the_standard_variable_turns_it_on(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ServeSettings().otlp_endpoint is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:4318")
    assert ServeSettings().otlp_endpoint == "http://standard:4318"
    monkeypatch.setenv("LORIKEET_SERVE_OTLP_ENDPOINT", "http://ours:4318")
    assert ServeSettings().otlp_endpoint == "http://ours:4318"
    assert ServeSettings(otlp_endpoint="http://flag:4318").otlp_endpoint == "http://flag:4318"
