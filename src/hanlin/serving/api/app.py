"""The application: routes, errors, and what surrounds them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from fastapi import Depends, FastAPI

from hanlin import __version__
from hanlin.serving import pages
from hanlin.serving.api import (
    admin,
    annotation,
    auth,
    chat,
    completions,
    embeddings,
    errors,
    feedback,
    health,
    metrics,
    texts,
)
from hanlin.serving.api.guard import Guard
from hanlin.serving.api.service import Service


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service. Its lifespan closes the service."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
        beating = asyncio.create_task(service.pulse.run())
        try:
            yield
        finally:
            beating.cancel()
            service.close()

    # The ready-made pages of documentation load scripts from elsewhere: there are none.
    app = FastAPI(
        title="hanlin", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None, redirect_slashes=False
    )
    app.state.service = service
    errors.handle(app)
    for module in (chat, completions, embeddings, texts, feedback, metrics):
        app.include_router(module.router, dependencies=[Depends(auth.user)])
    app.include_router(health.router)
    app.include_router(annotation.router)
    app.include_router(admin.router)
    pages.mount(app)
    app.openapi = lambda: _described(app)
    app.add_middleware(_Guarded, service=service)
    return app


class _Guarded(Guard):
    def __init__(self, app: Any, service: Service) -> None:
        super().__init__(app, service.settings, service.drain, service.keys is None, service.request_log)


def _described(app: FastAPI) -> dict[str, Any]:
    """FastAPI's description, but that what is wrong with a request is told by 400, never 422, and that a service
    without keys wants none."""
    if app.openapi_schema is None:
        keyless = app.state.service.keys is None
        described = FastAPI.openapi(app)
        for path in described["paths"].values():
            for operation in path.values():
                operation["responses"].pop("422", None)
                if keyless:
                    operation.pop("security", None)
        for name in ("HTTPValidationError", "ValidationError"):
            described["components"]["schemas"].pop(name, None)
    assert app.openapi_schema is not None
    return app.openapi_schema
