"""`/v1/models`: the base and every adapter version that the caller may ask for."""

import asyncio
from itertools import groupby
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from registry import PROD, AliasRefused, UnknownAdapter, Version
from registry.finetuning.objects import Model
from serve.auth import Principal
from serve.errors import BadRequest, Forbidden
from serve.service import Service, principal_of, service_of

router = APIRouter()
OWNER = "lorikeet"


@router.get("/v1/models")
async def list_models(
    request: Request,
    limit: Annotated[int | None, Query(ge=1, le=1000)] = None,
    after: Annotated[str | None, Query(max_length=512)] = None,
) -> dict[str, Any]:
    """OpenAI's list: the base, each adapter by its bare name, and each of its versions.

    Fine-tuned models have their `ft:` names beside these. Whole without `limit`; with it a page,
    and `has_more`. `after` is the last id of the page before.
    """
    service, principal = service_of(request), principal_of(request)
    registry = await service.link.fresh()
    versions, models = registry.versions(), registry.models(principal.reach)
    cards = await asyncio.to_thread(_cards, service, principal, versions, models)
    if after is not None:
        at = next((i for i, card in enumerate(cards) if card["id"] == after), None)
        if at is None:
            raise BadRequest(f"There is no model `{after}` to list after.", param="after")
        cards = cards[at + 1 :]
    page = cards[:limit]
    return {"object": "list", "data": page, "has_more": len(page) < len(cards)}


@router.get("/v1/models/{model:path}")
async def retrieve_model(request: Request, model: str) -> dict[str, Any]:
    """One model, by any name that a completion request takes."""
    service = service_of(request)
    if model == service.base.id:
        return _base_card(service)
    return _card(service, model, await service.adapters.resolve(model, principal_of(request)))


@router.delete("/v1/models/{model:path}")
async def delete_model(request: Request, model: str) -> dict[str, Any]:
    """Delete a fine-tuned model of the caller's tenant; 503 while requests use it."""
    service, principal = service_of(request), principal_of(request)
    found = None
    if model != service.base.id:
        version = await service.adapters.find(model, principal)
        found = await service.link.call(service.registry.models.find, model)
    if found is None:
        raise Forbidden(
            f"`{model}` is no fine-tuned model: only those are deleted here. An operator removes "
            "a version of an adapter with DELETE /admin/adapters/NAME@VERSION.",
            param="model",
        )
    if not principal.owns(found.tenant):
        raise Forbidden(f"This key may use `{model}`, but not delete it.", param="model")
    await service.adapters.unload(version)
    try:
        await service.link.call(service.registry.models.delete, found.tenant, model)
    except AliasRefused as error:
        raise BadRequest(f"{error.message} ({error.remedy}).", param="model") from error
    except UnknownAdapter:
        pass  # somebody else was faster
    return {"id": model, "object": "model", "deleted": True}


def _cards(
    service: Service, principal: Principal, published: list[Version], models: list[Model]
) -> list[dict[str, Any]]:
    cards = [_base_card(service)]
    seen: dict[str, Version] = {}
    for name, group in groupby(published, lambda version: version.name):
        versions = [v for v in group if v.manifest.base.digest == service.base.digest]
        if versions and principal.sees(name, versions[0].tenant):
            meant = next((v for v in versions if PROD in v.aliases), versions[-1])
            cards.append(_card(service, name, meant))
            cards += [_card(service, version.reference, version) for version in versions]
            seen |= {version.reference: version for version in versions}
    for model in models:
        if model.reference in seen:
            cards.append(_card(service, model.name, seen[model.reference]))
    return cards


def _base_card(service: Service) -> dict[str, Any]:
    return {
        "id": service.base.id,
        "object": "model",
        "created": 0,
        "owned_by": OWNER,
        "root": service.base.id,
        "parent": None,
    }


def _card(service: Service, name: str, version: Version) -> dict[str, Any]:
    return {
        "id": name,
        "object": "model",
        "created": int(version.manifest.created_at.timestamp()),
        "owned_by": version.tenant or OWNER,
        "root": version.reference,
        "parent": service.base.id,
        "digest": version.digest,
        "aliases": list(version.aliases),
    }
