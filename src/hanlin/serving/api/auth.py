"""Who asks: a bearer's key, or, on a service without keys, whoever can reach it (it then listens on loopback only)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, cast

from fastapi import Depends, Request
from fastapi.security import HTTPBearer

from hanlin.serving.api.errors import ApiError
from hanlin.serving.api.service import service_of
from hanlin.serving.keys import ApiKey, Role

_bearer = HTTPBearer(auto_error=False, description="A key of `hanlin keys create`.")


async def authenticate(request: Request) -> ApiKey | None:
    """The key of the request; None on a service without keys. Raises ApiError (401).

    A route that reads JSON asks before it reads: who has no key sends no body.
    """
    keys = service_of(request).keys
    if keys is None:
        return None
    if not hasattr(request.state, "key"):
        scheme, _, secret = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer":
            raise ApiError(401, "An API key is needed: Authorization: Bearer hk-…", code="missing_api_key")
        key = await asyncio.to_thread(keys.authenticate, secret.strip())
        if key is None:
            raise ApiError(401, "This API key is not valid.", code="invalid_api_key")
        request.state.key = key
    return cast(ApiKey, request.state.key)


def of_role(role: Role) -> Callable[..., Awaitable[ApiKey | None]]:
    """A dependency: the caller, whose key may do what `role` may. Raises ApiError (401, 403)."""

    async def allowed(request: Request, _: Annotated[object, Depends(_bearer)]) -> ApiKey | None:
        key = await authenticate(request)
        if key is not None and not key.may(role):
            raise ApiError(403, f"This key is a {key.role}'s; this needs one of role {role}.", code="wrong_role")
        return key

    return allowed


user, annotator, administrator = of_role("user"), of_role("annotator"), of_role("admin")
