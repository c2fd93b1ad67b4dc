"""`POST /admin/score`: how likely given tokens are to the base or to an adapter, as it is served.

What `lorikeet adapters certify` compares with the trained model. It goes the way of every request:
the key's limits, a seat, a lease on the loaded version.
"""

from contextlib import AsyncExitStack
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import ClientDisconnect

from registry import Version
from serve.adapters import engine_name
from serve.auth import Principal
from serve.disconnect import CLIENT_GONE, unless_disconnected
from serve.engine import GenerationStats, ScoreRequest, SequenceScore
from serve.errors import BadRequest, OutputNotFinite
from serve.limits import before_generation
from serve.request_meter import RequestMeter
from serve.service import Service, principal_of, service_of

MAX_SEQUENCES = 64
MAX_SEQUENCE_TOKENS = 2048
"""The logits of all its places are in memory together: 2 GB with a vocabulary of 128,000."""
MAX_TOKENS = 16_384
"""Of a request, in all its sequences."""


def _who_may_operate(request: Request) -> None:
    """An admin; on a server without keys, which is open, anybody who reaches it."""
    principal = principal_of(request)
    if principal.key is not None:
        principal.require_admin()


router = APIRouter(dependencies=[Depends(_who_may_operate)])

TokenId = Annotated[int, Field(ge=0, lt=2**31, strict=True)]


class Scoring(BaseModel):
    """Token ids as the base's tokenizer makes them; without `model` the base itself reads them."""

    model_config = ConfigDict(extra="forbid")

    model: str | None = Field(default=None, min_length=1, max_length=512)
    sequences: list[
        Annotated[list[TokenId], Field(min_length=2, max_length=MAX_SEQUENCE_TOKENS)]
    ] = Field(min_length=1, max_length=MAX_SEQUENCES)

    @property
    def tokens(self) -> int:
        """Of all sequences."""
        return sum(map(len, self.sequences))


@router.post("/admin/score")
async def score(request: Request, body: Scoring) -> Response:
    """Natural logarithms of the probabilities of each token but the first, given those before it.

    `top` has the id of the likeliest token in each place. `digest` is the adapter's content.
    """
    service, principal = service_of(request), principal_of(request)
    meter: RequestMeter = request.state.meter
    service.admit()
    _check(service, body)
    version = None
    if body.model is None or body.model == service.base.id:
        meter.model = service.base.id
    else:
        with meter.resolving.running():
            version = await service.adapters.find(body.model, principal)
        meter.model = version.reference
        service.adapters.check(version)
    try:
        scores = await unless_disconnected(
            request, _score(service, principal, meter, body, version, request.state.request_id)
        )
    except ClientDisconnect:
        return Response(status_code=CLIENT_GONE)
    return JSONResponse(
        {
            "object": "score",
            "model": meter.model,
            "base": service.base.digest,
            "digest": None if version is None else version.digest,
            "engine": service.engine.facts,
            "data": [{"logprobs": each.logprobs, "top": each.top} for each in scores],
        }
    )


def _check(service: Service, body: Scoring) -> None:
    if body.tokens > MAX_TOKENS:
        raise BadRequest(
            f"{body.tokens} tokens are asked for, at most {MAX_TOKENS} in one request.",
            param="sequences",
        )
    vocabulary = service.vocabulary
    if vocabulary is not None and max(map(max, body.sequences)) >= vocabulary:
        raise BadRequest(
            f"A token id is not below {vocabulary}, the base's vocabulary.", param="sequences"
        )


async def _score(
    service: Service,
    principal: Principal,
    meter: RequestMeter,
    body: Scoring,
    version: Version | None,
    request_id: str,
) -> list[SequenceScore]:
    """Every place costs what a generated token does, and is charged so."""
    name = None if version is None else engine_name(version)
    async with AsyncExitStack() as stack:
        key, grant = principal.key, None
        if key is not None:
            grant = await stack.enter_async_context(service.limits.request(key, body.tokens))
        adapter = None
        with before_generation(grant):
            with meter.admission.running():
                seat = await stack.enter_async_context(
                    service.admission.seat(principal.tenant, name, body.tokens)
                )
            if version is not None:
                adapter = (await meter.lease(stack, service.adapters, version)).adapter

        def observe(stats: GenerationStats) -> None:
            meter.generated(stats)
            if stats.finish_reason == "error":
                return
            seat.charge(meter.prompt_tokens)
            if grant is not None:
                grant.charge(meter.prompt_tokens)

        meter.hand_over()
        try:
            return await service.engine.score(
                ScoreRequest(
                    tuple(map(tuple, body.sequences)),
                    meter.model,
                    adapter,
                    request_id,
                    service.cache_salt(principal.tenant),
                    observe,
                )
            )
        except OutputNotFinite:
            await service.not_finite(version)
            raise
