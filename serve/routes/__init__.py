"""The routes, one file a resource."""

from fastapi import APIRouter

from serve.routes import admin, files, fine_tuning, generation, models, operations, score

routers: tuple[APIRouter, ...] = (
    generation.router,
    models.router,
    files.router,
    fine_tuning.router,
    operations.router,
    admin.router,
    score.router,
)

__all__ = ["routers"]
