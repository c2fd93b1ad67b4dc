"""`GET /health`, `/ready` and `/metrics`: for whoever keeps the server running."""

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST

from serve.service import service_of

router = APIRouter()


@router.get("/health")
async def health(request: Request) -> Response:
    """Alive: 200, also while the engine starts; 503 once it has failed and only a restart helps."""
    service = service_of(request)
    if service.failed:
        reason = "the engine did not start" if service.failure else "the engine has died"
        return JSONResponse({"status": "failed", "reason": reason}, status_code=503)
    return JSONResponse({"status": "alive"})


@router.get("/ready")
async def ready(request: Request) -> Response:
    """Serves: 200 when requests are answered, else 503 with the reason."""
    service = service_of(request)
    if service.ready:
        return JSONResponse(
            {"status": "ready", "base": service.base.id, "loaded": service.adapters.loaded}
        )
    status = "stopping" if service.draining else "failed" if service.failed else "starting"
    return JSONResponse({"status": status}, status_code=503, headers={"retry-after": "5"})


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """Lorikeet's metrics and the engine's, in Prometheus' text format."""
    service = service_of(request)
    text = service.metrics.exposition() + service.engine.metrics()
    return Response(text, media_type=CONTENT_TYPE_LATEST)
