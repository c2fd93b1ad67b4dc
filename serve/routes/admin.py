"""`/admin/…`: what is loaded, what names mean, uploads, keys, drain. Needs an admin key."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from registry import (
    PROD,
    AdapterRejected,
    AliasMoved,
    AliasRefused,
    BadReference,
    Key,
    Reference,
    UnknownAdapter,
    UnknownKey,
    UsageError,
    Version,
    unpack,
)
from serve import uploads
from serve.errors import BadRequest, Conflict, ModelNotFound, RequestError
from serve.service import Service, principal_of, service_of


def _admins_only(request: Request) -> None:
    principal_of(request).require_admin()


router = APIRouter(prefix="/admin", dependencies=[Depends(_admins_only)])

Name = Annotated[str, Path(max_length=64)]
KeyId = Annotated[str, Path(max_length=64)]
Which = Annotated[str, Path(max_length=128, description="NAME, NAME@VERSION or NAME@ALIAS")]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Promotion(_Body):
    """Where an alias is to point; with `canary`, the percentage of its requests that goes there.

    `force` is the reason to promote what the gate holds back; `expected` is the version that the
    alias has to point at still, 0 for none.
    """

    version: int = Field(ge=1, lt=10**9)
    alias: str = Field(default=PROD, max_length=32)
    canary: int | None = Field(default=None, ge=1, le=99)
    force: str | None = Field(default=None, min_length=1, max_length=1000)
    expected: int | None = Field(default=None, ge=0, lt=10**9)


class Rollback(_Body):
    """The alias that is to point to what it pointed to before."""

    alias: str = Field(default=PROD, max_length=32)


Limit = Annotated[int | None, Field(ge=1, lt=2**31)]


class KeyLimits(_Body):
    """As `lorikeet keys limit`; null is no limit, what is left out stays."""

    rpm: Limit = None
    tpm: Limit = None
    concurrency: Limit = None


class NewKey(KeyLimits):
    """As `lorikeet keys create`; limits are per minute."""

    tenant: str = Field(max_length=64)
    adapters: list[Annotated[str, Field(max_length=64)]] | None = Field(
        default=None, max_length=4096
    )
    admin: bool = False
    expires_at: AwareDatetime | None = None


@router.get("/status")
async def status(request: Request) -> dict[str, Any]:
    """The engine's state, who waits and who is served, and the worker of `--with-worker`."""
    service = service_of(request)
    return {
        "status": service.status,
        "base": service.base.id,
        "slots": service.engine.max_loras,
        "max_loaded": service.engine.max_loaded,
        "admission": service.admission.snapshot(),
        **service.link.status(),
        "worker": None if service.worker is None else service.worker.status(),
    }


@router.get("/adapters")
async def list_adapters(request: Request) -> dict[str, Any]:
    """Every version for this base, with its residency and its aliases."""
    service = service_of(request)
    versions = (await service.link.fresh()).versions()
    mine = [v for v in versions if v.manifest.base.digest == service.base.digest]
    canaries = [
        {"alias": f"{version.name}@{alias}", "version": version.number, "percent": percent}
        for version in mine
        for alias, percent in version.canaries
    ]
    data = [_version(service, version) for version in mine]
    return {"object": "list", "data": data, "canaries": canaries}


@router.post("/adapters/{which}/load")
async def load(request: Request, which: Which) -> dict[str, Any]:
    """Load a version before somebody asks for it."""
    service = service_of(request)
    version = await _find(service, which)
    service.admit()
    async with service.adapters.lease(version):
        pass
    return _version(service, version)


@router.post("/adapters/{which}/unload")
async def unload(request: Request, which: Which) -> dict[str, Any]:
    """Free a version's memory; 503 while requests use it. The next request loads it again."""
    service = service_of(request)
    version = await _find(service, which)
    await service.adapters.unload(version)
    return _version(service, version)


@router.post("/adapters/{which}/release")
async def release(request: Request, which: Which) -> dict[str, Any]:
    """Let a quarantined version be tried again."""
    service = service_of(request)
    return _version(service, await service.adapters.release(await _find(service, which)))


@router.post("/adapters/{name}/promote")
async def promote(request: Request, name: Name, body: Promotion) -> dict[str, Any]:
    """Point an alias at a version, or a share of its requests; 409 where it moved meanwhile."""
    service = service_of(request)
    version = await _registry(
        service,
        service.registry.promote,
        name,
        body.version,
        body.alias,
        canary=body.canary,
        force=body.force,
        expected=body.expected,
    )
    return _version(service, version)


@router.post("/adapters/{name}/rollback")
async def rollback(request: Request, name: Name, body: Rollback) -> dict[str, Any]:
    """End an alias's canary, or point it to what it pointed to before."""
    service = service_of(request)
    return _version(service, await _registry(service, service.registry.rollback, name, body.alias))


@router.post("/adapters/{name}", status_code=201)
async def upload(request: Request, name: Name) -> dict[str, Any]:
    """Publish an adapter sent as multipart/form-data: its files, or one archive of them."""
    service = service_of(request)
    limits = service.adapters.limits
    with service.registry.incoming() as stage:
        files = stage / "files"
        files.mkdir()
        archive = await uploads.receive(request, files)
        if archive is not None:
            unpacked = stage / "unpacked"
            unpacked.mkdir()
            await _registry(service, unpack, archive, unpacked, max_bytes=limits.max_bytes)
            files = unpacked
        version = await _registry(
            service,
            service.registry.publish,
            files,
            name,
            base=service.base,
            origin="upload",
            limits=limits,
        )
    return _version(service, version)


@router.delete("/adapters/{which}")
async def remove(request: Request, which: Which) -> dict[str, Any]:
    """Delete a version that no alias points at and no request uses."""
    service = service_of(request)
    version = await _find(service, which)
    if which != version.reference:
        raise BadRequest(f"Say which version to delete: {version.name}@VERSION.", param="which")
    await service.adapters.unload(version)
    await _registry(service, service.registry.remove, version.name, version.number)
    return {"id": version.reference, "object": "model", "deleted": True}


@router.post("/drain")
async def drain(request: Request) -> dict[str, Any]:
    """Admit nothing more, and let what is in flight end; /ready is 503 from now on."""
    service = service_of(request)
    service.drain()
    return {"status": service.status, "in_flight": service.admission.in_flight}


@router.post("/resume")
async def resume(request: Request) -> dict[str, Any]:
    """Admit requests again."""
    service = service_of(request)
    service.resume()
    return {"status": service.status, "in_flight": service.admission.in_flight}


@router.get("/keys")
async def list_keys(request: Request) -> dict[str, Any]:
    """Every key, without its secret."""
    service = service_of(request)
    keys = await service.link.call(service.registry.keys.list)
    return {"object": "list", "data": [key.summary() for key in keys]}


@router.post("/keys", status_code=201)
async def create_key(request: Request, body: NewKey) -> dict[str, Any]:
    """Make a key; its secret is in this answer and nowhere else."""
    service = service_of(request)
    made: tuple[Key, str] = await _registry(
        service,
        service.registry.keys.create,
        body.tenant,
        adapters=None if body.adapters is None else frozenset(body.adapters),
        rpm=body.rpm,
        tpm=body.tpm,
        concurrency=body.concurrency,
        admin=body.admin,
        expires_at=body.expires_at,
    )
    key, secret = made
    return key.summary() | {"key": secret}


@router.patch("/keys/{key_id}")
async def limit_key(request: Request, key_id: KeyId, body: KeyLimits) -> dict[str, Any]:
    """Change a key's limits; they hold within a second, on every server."""
    service = service_of(request)
    limits = body.model_dump(exclude_unset=True)
    key: Key = await _registry(service, service.registry.keys.limit, key_id, limits)
    return key.summary()


@router.delete("/keys/{key_id}")
async def revoke_key(request: Request, key_id: KeyId) -> dict[str, Any]:
    """Revoke a key; it is refused within a second."""
    service = service_of(request)
    key: Key = await _registry(service, service.registry.keys.revoke, key_id)
    return key.summary()


async def _find(service: Service, which: str) -> Version:
    try:
        return (await service.link.fresh()).get(Reference.parse(which))
    except (BadReference, UnknownAdapter) as error:
        raise _refused(error) from error


async def _registry(service: Service, call: Any, *arguments: Any, **options: Any) -> Any:
    """The registry's answer; what it refuses is the caller's mistake."""
    try:
        return await service.link.call(call, *arguments, **options)
    except (AdapterRejected, AliasRefused, UnknownAdapter, UnknownKey, UsageError) as error:
        raise _refused(error) from error


def _refused(error: Any) -> RequestError:
    if isinstance(error, AliasMoved):
        return Conflict(f"{error.message}.", code="alias_moved")
    if isinstance(error, UnknownAdapter | UnknownKey):
        return ModelNotFound(f"{error.message}.", code="not_found")
    if isinstance(error, AdapterRejected):
        problems = [p for p in error.problems if p.severity == "error"]
        text = "; ".join(f"{p.code}: {p.message} ({p.remedy})" for p in problems)
        return BadRequest(f"The adapter is refused: {text}.", code="adapter_refused")
    remedy = f" ({error.remedy})" if error.remedy else ""
    return BadRequest(f"{error.message}{remedy}.")


def _version(service: Service, version: Version) -> dict[str, Any]:
    return {
        "id": version.reference,
        "object": "model",
        "digest": version.digest,
        "aliases": list(version.aliases),
        "rank": version.manifest.rank,
        "bytes": version.manifest.total_bytes,
        "created": int(version.manifest.created_at.timestamp()),
        **service.adapters.residency(version),
    }
