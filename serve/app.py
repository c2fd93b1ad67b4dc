"""`create_app(settings, engine, registry, base)`: the FastAPI application on an engine."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from registry import Base, DiskFull, LorikeetError, Registry, RegistryUnavailable
from registry.errors import JobConflict, QuotaReached, UnknownFile, UnknownJob
from serve import logs
from serve.access_log import AccessLogMiddleware
from serve.auth import AuthMiddleware
from serve.disconnect import CLIENT_GONE
from serve.engine import Engine
from serve.errors import BadRequest, Internal, NotFound, RequestError, Unavailable
from serve.middleware import (
    REQUEST_ID,
    BodyBounds,
    BoundsMiddleware,
    RequestIdMiddleware,
    error_response,
    told,
)
from serve.openapi import describe
from serve.request_meter import MeterMiddleware
from serve.routes import routers
from serve.service import Service
from serve.settings import ServeSettings
from serve.validation import bad_request

logger = logging.getLogger(__name__)


def create_app(settings: ServeSettings, engine: Engine, registry: Registry, base: Base) -> FastAPI:
    """The application on an engine that it starts and stops with its own life."""
    service = Service.create(settings, engine, registry, base)
    traces = None
    if settings.otlp_endpoint is not None:
        from serve.traces import TraceMiddleware, Traces

        traces = Traces.to_collector(settings.otlp_endpoint)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        try:
            yield
        finally:
            await service.stop()
            if traces is not None:
                await traces.close()

    # None of FastAPI's own routes: deny by default. /openapi.json is ours, behind the keys.
    app = FastAPI(title="Lorikeet", lifespan=lifespan, openapi_url=None)
    app.state.service, app.state.traces = service, traces
    for router in routers:
        app.include_router(router)
    app.openapi = partial(describe, app)  # type: ignore[method-assign]
    app.add_exception_handler(RequestError, _request_error)
    app.add_exception_handler(LorikeetError, _lorikeet_error)
    app.add_exception_handler(ClientDisconnect, _client_gone)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _internal_error)
    # The last one added sees a request first.
    app.add_middleware(BoundsMiddleware, bounds=BodyBounds.of(settings))
    app.add_middleware(AuthMiddleware, authenticator=service.authenticator)
    app.add_middleware(MeterMiddleware, metrics=service.metrics)
    if settings.access_log:
        app.add_middleware(AccessLogMiddleware, prompts=settings.log_prompts)
    if traces is not None:
        app.add_middleware(TraceMiddleware, traces=traces)
    app.add_middleware(RequestIdMiddleware)
    return app


async def _request_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return _answer(request, error)


async def _lorikeet_error(request: Request, error: Exception) -> Response:
    """A failure of the registry, in OpenAI's shape.

    What is about a tenant's own files and jobs is told in its own words. Those of the rest would
    name paths, so they go to the log.
    """
    assert isinstance(error, LorikeetError)
    if isinstance(error, UnknownFile | UnknownJob):
        return _answer(request, NotFound(error.message, remedy=error.remedy))
    if isinstance(error, JobConflict):
        return _answer(request, BadRequest(error.message, remedy=error.remedy))
    if isinstance(error, QuotaReached):
        refused = BadRequest(error.message, remedy=error.remedy, code="quota_reached")
        return _answer(request, refused)
    logger.error("%s", error)
    if isinstance(error, DiskFull):
        return _answer(request, Unavailable("The server's disk is full."))
    if isinstance(error, RegistryUnavailable):
        return _answer(request, Unavailable("The registry cannot be used at the moment."))
    return _answer(request, Internal("the server had an error while it answered this request."))


async def _client_gone(_: Request, error: Exception) -> Response:
    """For the log: nobody reads it."""
    return Response(status_code=CLIENT_GONE)


async def _validation_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    sent = {"body": error.body, "query": {}, "path": {}}
    return _answer(request, bad_request(error.errors(), sent, skip=1))


async def _http_error(request: Request, error: Exception) -> Response:
    """An unknown route or method, in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        unknown = NotFound(
            f"Unknown request URL: {request.method} {request.url.path}.", code="unknown_url"
        )
        return _answer(request, unknown)
    body = BadRequest(str(error.detail)).body()
    return JSONResponse(body, status_code=error.status_code, headers=error.headers)


async def _internal_error(request: Request, error: Exception) -> Response:
    """Outside of every middleware, so that it has to name the request itself."""
    request_id = request.state.request_id
    logger.error(
        "unexpected error in request %s",
        request_id,
        exc_info=error,
        extra=logs.fields(request_id=request_id),
    )
    internal = Internal("the server had an error while it answered this request.")
    internal.headers[REQUEST_ID] = request_id
    return error_response(internal)


def _answer(request: Request, error: RequestError) -> Response:
    """The error, remembered for the access log."""
    told(request.scope, error)
    return error_response(error)
