"""`GET /v1/models`: the base and every adapter version that can be asked for."""

import asyncio
from typing import Any

from fastapi import APIRouter, Request

from registry import Version
from serve.service import Service, service_of

router = APIRouter()
OWNER = "lorikeet"


@router.get("/v1/models")
async def list_models(request: Request) -> dict[str, Any]:
    """OpenAI's list: the base, each adapter by its bare name, and each of its versions."""
    service = service_of(request)
    versions = await asyncio.to_thread(service.registry.list)
    mine = [v for v in versions if v.manifest.base.digest == service.base.digest]
    names = {version.name: version for version in mine}
    cards = [_base_card(service)]
    for name in names:
        meant = await service.adapters.resolve(name)
        cards.append(_card(service, name, meant))
        cards += [_card(service, v.reference, v) for v in mine if v.name == name]
    return {"object": "list", "data": cards}


@router.get("/v1/models/{model:path}")
async def retrieve_model(request: Request, model: str) -> dict[str, Any]:
    """One model, by any name that a completion request takes."""
    service = service_of(request)
    if model == service.base.id:
        return _base_card(service)
    return _card(service, model, await service.adapters.resolve(model))


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
        "owned_by": OWNER,
        "root": version.reference,
        "parent": service.base.id,
        "digest": version.digest,
        "aliases": list(version.aliases),
    }
