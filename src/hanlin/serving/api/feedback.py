"""/v1/feedback: what users say of answers."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from hanlin.serving.api import replies
from hanlin.serving.api.body import JsonRoute
from hanlin.serving.api.errors import ApiError
from hanlin.serving.api.service import feedback_of, key_of, service_of
from hanlin.serving.feedback import Feedback, NoConsentError

router = APIRouter(route_class=JsonRoute, tags=["feedback"])


@router.post("/v1/feedback", status_code=201, responses=replies.of(replies.Identity, status=201))
async def give(body: Feedback, request: Request) -> JSONResponse:
    """A rating, an edit, or a choice between two answers. When it is acknowledged, it is on disk."""
    service, key = service_of(request), key_of(request)
    store = feedback_of(service)
    admission = None if key is None else service.let_in(key, 0)
    try:
        made = await asyncio.to_thread(store.add, body, "" if key is None else key.prefix)
    except NoConsentError as error:
        raise ApiError(400, f"{error}.", param="consent", code="no_consent") from None
    finally:
        if admission is not None:
            admission.end(0)
    return JSONResponse({"id": made}, 201)


@router.delete("/v1/feedback/{feedback_id}", status_code=204, response_class=Response, responses=replies.errors())
async def withdraw(feedback_id: str, request: Request) -> Response:
    """Delete it, and all that was made of it. A key withdraws what was said with it; an administrator's, anything."""
    key = key_of(request)
    author = None if key is None or key.may("admin") else key.prefix
    if not await asyncio.to_thread(feedback_of(service_of(request)).withdraw, feedback_id, author):
        raise ApiError(404, "There is no such feedback of yours.", code="not_found")
    return Response(status_code=204)
