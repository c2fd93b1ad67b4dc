"""What the server says of itself is true: schemathesis asks what its OpenAPI document allows."""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import requests
import schemathesis
from anyio.from_thread import start_blocking_portal
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from registry.finetuning.objects import FINE_TUNE
from registry.finetuning.request import JobRequest
from serve.errors import RequestError
from serve.openapi import ERRORS, describe
from serve.routes import routers

EXAMPLES = 40
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_no_request_breaks_the_server_or_its_promises(
    run: Any, publish: Any, registry: Any, base: Any, mode: GenerationMode
) -> None:
    publish("opl")
    _, secret = registry.keys.create("t", admin=True)
    with registry.files.receiving() as incoming:
        incoming.write(b"{}\n")
        file = registry.files.add(incoming, tenant="t", purpose=FINE_TUNE, filename="a.jsonl")
    request = JobRequest(model=base.id, training_file=file.id)
    job = registry.jobs.create(request, tenant="t", base=base, place=str(base.path))
    there = {"file_id": file.id, "job_id": job.id, "training_file": file.id}
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(run()) as running:
        there["model"] = running.service.base.id
        schema = schemathesis.openapi.from_dict(describe(running.app))

        def answered(case: Any) -> None:
            if mode is GenerationMode.POSITIVE:
                for sent in (case.body, case.path_parameters):
                    if isinstance(sent, dict):
                        sent |= {name: there[name] for name in sent.keys() & there.keys()}
            asked = requests.Request(
                **case.as_transport_kwargs(
                    base_url="http://test", headers={"authorization": f"Bearer {secret}"}
                )
            ).prepare()
            response = portal.call(
                partial(
                    running.client.request,
                    asked.method,
                    asked.url,
                    headers=dict(asked.headers),
                    content=asked.body,
                )
            )
            case.validate_response(response, checks=CHECKS)
            running.service.resume()
            answers.setdefault(case.operation.label, set()).add(response.status_code)

        answers: dict[str, set[int]] = {}
        tried = 0
        for result in schema.get_all_operations():
            operation = result.ok()
            if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query):
                continue  # there is nothing to get wrong: any text will do in a path
            tried += 1
            test = given(case=operation.as_strategy(generation_mode=mode))(answered)
            seed(0)(
                settings(
                    max_examples=EXAMPLES,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )(test)
            )()
        assert tried >= (30 if mode is GenerationMode.POSITIVE else 12)
        if mode is GenerationMode.POSITIVE:
            reached = {route.partition(" ")[2] for route, seen in answers.items() if 200 in seen}
            assert {path for path in schema.raw_schema["paths"] if "/v1/" in path} - reached == {
                "/v1/fine_tuning/jobs/{job_id}/pause",  # it was cancelled before
                "/v1/fine_tuning/jobs/{job_id}/resume",
            }


def test_every_route_and_every_error_is_described() -> None:
    app = FastAPI()
    for router in routers:
        app.include_router(router)
    document = describe(app)
    described = {(path, method) for path in document["paths"] for method in document["paths"][path]}
    assert ("/v1/chat/completions", "post") in described
    assert ("/admin/adapters/{name}/promote", "post") in described
    for path, method in described:
        operation = document["paths"][path][method]
        assert "422" not in operation["responses"]
        assert operation.get("security") == (
            [] if path in ("/health", "/ready") else [{"key": []}] if "admin" in path else None
        )
    sent = {kind.status for kind in _kinds(RequestError)} - {500}
    assert sent == set(ERRORS)


def _kinds(kind: type[RequestError]) -> Iterator[type[RequestError]]:
    for below in kind.__subclasses__():
        yield below
        yield from _kinds(below)


def test_the_described_bodies_are_those_that_are_read() -> None:
    app = FastAPI()
    app.include_router(routers[0])
    document = describe(app)
    body = document["paths"]["/v1/chat/completions"]["post"]["requestBody"]
    assert body["content"]["application/json"]["schema"]["$ref"].endswith("/ChatRequest")
    fields = document["components"]["schemas"]["ChatRequest"]
    assert fields["additionalProperties"] is False
    assert fields["required"] == ["model", "messages"]
