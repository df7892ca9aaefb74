"""/admin: models and versions, changed while the service runs. For administrators' keys (or, without keys, this
machine)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse
from pydantic import Field, StringConstraints

from hanlin.artifacts import HanlinError, UsageError
from hanlin.serving.api import auth, replies
from hanlin.serving.api.body import JsonRoute
from hanlin.serving.api.errors import ApiError
from hanlin.serving.api.protocol import ModelName, Strict
from hanlin.serving.api.service import service_of
from hanlin.serving.models import NoSuchModel
from hanlin.serving.settings import Dtype, ModelSettings, Name


class LoadRequest(Strict):
    """A directory on the service's machine, and what it is to be called."""

    name: Name
    version: Name
    path: Annotated[str, StringConstraints(min_length=1, max_length=4096)]
    dtype: Dtype | None = None


class VersionRequest(Strict):
    name: ModelName
    version: ModelName


class SwitchRequest(VersionRequest):
    keep: bool = False
    """Leave the old version in memory: going back then needs no loading."""


class NameRequest(Strict):
    name: ModelName


class CanaryRequest(Strict):
    name: ModelName
    version: ModelName | None
    """null ends the trial."""
    share: Annotated[float, Field(ge=0, le=1)] = 0
    """Of those who ask for the plain name."""


class Explained(JsonRoute):
    """Failures that are explained go to the administrator as they are, paths and all."""

    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()

        async def explained(request: Request) -> Any:
            try:
                return await handler(request)
            except NoSuchModel as error:
                raise ApiError(404, str(error), code="model_not_found") from None
            except UsageError as error:
                raise ApiError(409, str(error), code="conflict") from None
            except HanlinError as error:
                raise ApiError(400, str(error), code="invalid_value") from None

        return explained


router = APIRouter(
    route_class=Explained,
    prefix="/admin/models",
    tags=["administration"],
    dependencies=[Depends(auth.administrator)],
    responses=replies.of(dict[str, Any]),
)


def _state(request: Request, **more: Any) -> JSONResponse:
    return JSONResponse({"models": service_of(request).models.describe(), **more})


@router.get("")
async def state(request: Request) -> JSONResponse:
    """Every name, its versions, and which of them answers."""
    return _state(request)


@router.post("")
async def load(body: LoadRequest, request: Request) -> JSONResponse:
    """Read a version into memory. It answers when it is asked for as `name@version`, and to the plain name if that is
    new."""
    settings = ModelSettings(path=body.path, name=body.name, version=body.version, dtype=body.dtype)
    await service_of(request).models.load(settings)
    return _state(request)


@router.post("/warm")
async def warm(body: VersionRequest, request: Request) -> JSONResponse:
    """Let a version answer once."""
    seconds = await service_of(request).models.warm(body.name, body.version)
    return _state(request, seconds=seconds)


@router.post("/switch")
async def switch(body: SwitchRequest, request: Request) -> JSONResponse:
    """Let the plain name mean this version from the next request on; those that run finish where they began."""
    service_of(request).models.switch(body.name, body.version, body.keep)
    return _state(request)


@router.post("/rollback")
async def roll_back(body: NameRequest, request: Request) -> JSONResponse:
    """Let the name mean what it meant before the last switch."""
    await service_of(request).models.roll_back(body.name)
    return _state(request)


@router.post("/canary")
async def canary(body: CanaryRequest, request: Request) -> JSONResponse:
    """Try a version on a share of the requests for the plain name."""
    service_of(request).models.set_canary(body.name, body.version, body.share)
    return _state(request)


@router.post("/unload")
async def unload(body: VersionRequest, request: Request) -> JSONResponse:
    """Take a version out of memory once its requests are done."""
    service_of(request).models.unload(body.name, body.version)
    return _state(request)
