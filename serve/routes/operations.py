"""`GET /health`, `/ready` and `/metrics`: for whoever keeps the server running."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from serve.service import principal_of, service_of

router = APIRouter()


@router.get("/health")
async def health(request: Request) -> Response:
    """Alive: 200, also while the engine starts or is started anew; 503 once that is hopeless."""
    service = service_of(request)
    if service.supervisor.hopeless:
        return JSONResponse(
            {"status": "failed", "reason": "the engine does not start"}, status_code=503
        )
    return JSONResponse({"status": "alive"})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Serves: 200 when requests are answered, else 503 with the reason."""
    service = service_of(request)
    if service.ready:
        return JSONResponse({"status": "ready", "base": service.base.id, **service.link.status()})
    return JSONResponse({"status": service.status}, status_code=503, headers={"retry-after": "5"})


@router.get("/openapi.json")
async def openapi(request: Request) -> JSONResponse:
    """What this server takes and answers, as an OpenAPI document."""
    return JSONResponse(request.app.openapi())


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Lorikeet's and the engine's, in Prometheus' text format; for admins, once keys exist.

    Nothing here where they have a port of their own.
    """
    service, principal = service_of(request), principal_of(request)
    if service.settings.metrics_port is not None:
        raise HTTPException(404)
    if principal.key is not None:
        principal.require_admin()
    return Response(await service.scrape.text(), media_type=CONTENT_TYPE_LATEST)
