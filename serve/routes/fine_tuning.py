"""`/v1/fine_tuning/jobs`: what `lorikeet worker` trains. OpenAI's contract."""

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request
from pydantic import ValidationError

from registry.errors import UnknownFile, UnknownJob, UsageError
from registry.finetuning.names import FINE_TUNED
from registry.finetuning.objects import Job, Page
from registry.finetuning.request import JobRequest, LoraOptions
from serve import json_body
from serve.errors import BadRequest, ModelNotFound
from serve.retries import is_retry, key_of
from serve.service import Service, service_of
from serve.tenancy import tenant_of
from serve.validation import bad_request

router = APIRouter(prefix="/v1/fine_tuning/jobs")

Tenant = Annotated[str, Depends(tenant_of)]
Id = Annotated[str, Path(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
After = Annotated[str | None, Query(max_length=64, pattern=r"^[A-Za-z0-9_-]+$")]
Limit = Annotated[int, Query(ge=1, le=1000)]

KNOWN = {"": JobRequest.model_fields, "lorikeet": LoraOptions.model_fields}
FILTER = re.compile(r"metadata\[(?P<key>.*)\]", re.DOTALL)
MAX_FILTERS = 16
LONGEST_VALUE = 512


@router.post("")
async def create(request: Request, tenant: Tenant) -> dict[str, Any]:
    """Make a job; LoRA options go into `lorikeet` beside OpenAI's fields.

    Sent again by a client that got no answer, it gives the job that was made.
    """
    service = service_of(request)
    body = _checked(await request.body())
    _check_model(service, body.model)
    try:
        job = await service.link.call(
            service.registry.jobs.create,
            body,
            tenant=tenant,
            base=service.base,
            place=service.base_place,
            retry=is_retry(request),
            key=key_of(request),
            most_unfinished=service.settings.max_tenant_jobs,
        )
    except (UnknownFile, UsageError) as error:
        in_validation = "validation_file" in error.message
        raise BadRequest(
            error.message,
            remedy=error.remedy,
            param="validation_file" if in_validation else "training_file",
        ) from error
    return job.as_dict()


@router.get("")
async def list_jobs(
    request: Request, tenant: Tenant, after: After = None, limit: Limit = 20
) -> dict[str, Any]:
    """The tenant's jobs, the newest first; `metadata[key]=value` picks those that have it."""
    service = service_of(request)
    try:
        page = await service.link.call(
            service.registry.jobs.list, tenant, after=after, limit=limit, metadata=_filter(request)
        )
    except UnknownJob as error:
        raise BadRequest(error.message, param="after") from error
    return _list([job.as_dict() for job in page.data], page.has_more)


@router.get("/{job_id}")
async def retrieve(request: Request, tenant: Tenant, job_id: Id) -> dict[str, Any]:
    """A job as it stands."""
    service = service_of(request)
    job = await service.link.call(service.registry.jobs.get, tenant, job_id)
    return job.as_dict()


@router.post("/{job_id}/cancel")
async def cancel(request: Request, tenant: Tenant, job_id: Id) -> dict[str, Any]:
    """End a job for good; a worker that has it stops within seconds."""
    return await _move(request, "cancel", tenant, job_id)


@router.post("/{job_id}/pause")
async def pause(request: Request, tenant: Tenant, job_id: Id) -> dict[str, Any]:
    """Stop a job at its next checkpoint, which it goes on from when it is resumed."""
    return await _move(request, "pause", tenant, job_id)


@router.post("/{job_id}/resume")
async def resume(request: Request, tenant: Tenant, job_id: Id) -> dict[str, Any]:
    """Put a paused job back into the queue."""
    return await _move(request, "resume", tenant, job_id)


@router.get("/{job_id}/events")
async def list_events(
    request: Request, tenant: Tenant, job_id: Id, after: After = None, limit: Limit = 20
) -> dict[str, Any]:
    """What happened to a job, the newest first."""
    events = service_of(request).registry.jobs.events
    page = await _part_of(request, events, tenant, job_id, after, limit)
    return _list([event.as_dict() for event in page.data], page.has_more)


@router.get("/{job_id}/checkpoints")
async def list_checkpoints(
    request: Request, tenant: Tenant, job_id: Id, after: After = None, limit: Limit = 10
) -> dict[str, Any]:
    """The models of a job's last epochs, the newest first."""
    checkpoints = service_of(request).registry.jobs.checkpoints
    page = await _part_of(request, checkpoints, tenant, job_id, after, limit)
    return _list([model.as_checkpoint() for model in page.data], page.has_more)


async def _move(
    request: Request, what: Literal["cancel", "pause", "resume"], tenant: str, job_id: str
) -> dict[str, Any]:
    service = service_of(request)
    job: Job = await service.link.call(getattr(service.registry.jobs, what), tenant, job_id)
    return job.as_dict()


def _checked(raw: bytes) -> JobRequest:
    try:
        data = json_body.parse(raw)
    except ValueError as error:
        raise BadRequest(f"The request body is not valid JSON: {error}.") from error
    if not isinstance(data, dict):
        raise BadRequest("The request body must be a JSON object.")
    try:
        return JobRequest.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        raise bad_request(problems, data, known=KNOWN) from error


def _check_model(service: Service, model: str) -> None:
    base = service.base.id
    if model == base:
        return
    if model.startswith(FINE_TUNED):
        raise BadRequest(
            "Training a fine-tuned model further is not supported: fine-tune "
            f"`{base}` on all the data.",
            param="model",
            code="model_not_supported",
        )
    raise ModelNotFound(
        f"The model `{model[:128]}` cannot be fine-tuned here: this server's base is `{base}`.",
        param="model",
        code="model_not_found",
    )


def _filter(request: Request) -> dict[str, str] | Literal["null"] | None:
    """`metadata[key]=value` of the query, or `metadata=null`; a key that comes twice is refused."""
    if "metadata" in request.query_params:
        if request.query_params["metadata"] != "null":
            raise BadRequest("Write `metadata[KEY]=VALUE` or `metadata=null`.", param="metadata")
        return "null"
    wanted: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        match = FILTER.fullmatch(name)
        if match is None:
            continue
        key = match["key"]
        if key in wanted or len(wanted) == MAX_FILTERS:
            raise BadRequest(f"`metadata` takes {MAX_FILTERS} keys, each once.", param="metadata")
        if max(len(key), len(value)) > LONGEST_VALUE or "\0" in key + value:
            raise BadRequest(
                f"`metadata` has texts of at most {LONGEST_VALUE} characters.", param="metadata"
            )
        wanted[key] = value
    return wanted or None


def _list(data: list[dict[str, Any]], has_more: bool) -> dict[str, Any]:
    return {"object": "list", "data": data, "has_more": has_more}


async def _part_of(
    request: Request,
    what: Callable[..., Page[Any]],
    tenant: str,
    job_id: str,
    after: str | None,
    limit: int,
) -> Page[Any]:
    """A page of what belongs to a job."""
    service = service_of(request)
    try:
        return await service.link.call(what, tenant, job_id, after=after, limit=limit)
    except UnknownJob as error:
        await service.link.call(service.registry.jobs.get, tenant, job_id)
        raise BadRequest(error.message, param="after") from error  # the job itself is there
