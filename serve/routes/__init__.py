"""The routes, one file a resource."""

from fastapi import APIRouter

from serve.routes import admin, generation, models, operations

routers: tuple[APIRouter, ...] = (
    generation.router,
    models.router,
    operations.router,
    admin.router,
)

__all__ = ["routers"]
