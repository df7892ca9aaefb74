"""/v1/annotation: tasks for people who judge and write. For annotators' keys."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from hanlin.artifacts import UsageError
from hanlin.serving.annotation import Annotation, NotAssignedError
from hanlin.serving.annotation_summary import summarise
from hanlin.serving.annotation_tasks import Submission
from hanlin.serving.api import auth, replies
from hanlin.serving.api.body import JsonRoute
from hanlin.serving.api.errors import ApiError, invalid
from hanlin.serving.api.service import key_of, service_of

router = APIRouter(route_class=JsonRoute, tags=["annotation"], dependencies=[Depends(auth.annotator)])
LONGEST_NAME = 100
"""Of an annotator, with the key's prefix before it"""
Line = Annotated[str, Query(min_length=1, max_length=LONGEST_NAME)]


def _annotation(request: Request) -> Annotation:
    found = service_of(request).annotation
    if found is None:
        raise ApiError(503, "This service keeps no annotations: it has no database.", code="no_database")
    return found


def _name(request: Request, annotator: str) -> str:
    """Who annotates: with a key, whoever holds it, by the name that they give. Raises ApiError (400)."""
    key = key_of(request)
    name = annotator if key is None else f"{key.prefix}/{annotator}"
    if len(name) > LONGEST_NAME or not name.isprintable():
        most = LONGEST_NAME - (len(name) - len(annotator))
        raise invalid(f"An annotator's name is a line of 1 to {most} characters.", "annotator")
    return name


@router.get("/v1/annotation/projects", responses=replies.of(dict[str, Any]))
async def projects(request: Request) -> JSONResponse:
    """The names of the projects that there are."""
    return JSONResponse({"projects": await asyncio.to_thread(_annotation(request).projects)})


@router.get("/v1/annotation/next", responses=replies.of(dict[str, Any]))
async def next_task(project: Line, annotator: Line, request: Request) -> Response:
    """The next task for an annotator; 204 when there is none."""
    try:
        task = await asyncio.to_thread(_annotation(request).next, project, _name(request, annotator))
    except UsageError as error:
        raise invalid(f"{error}.", "project") from None
    return Response(status_code=204) if task is None else JSONResponse(task)


@router.get("/v1/annotation/summary", responses=replies.of(dict[str, Any]))
async def summary(project: Line, request: Request) -> JSONResponse:
    """How far a project is, how its tasks are spread, and how far its annotators agree."""
    try:
        return JSONResponse(await asyncio.to_thread(summarise, _annotation(request), project))
    except UsageError as error:
        raise invalid(f"{error}.", "project") from None


@router.post("/v1/annotation/{task_id}", status_code=204, response_class=Response, responses=replies.errors())
async def answer(task_id: str, body: Submission, annotator: Line, request: Request) -> Response:
    """An annotator's answer to the task that they were given."""
    try:
        await asyncio.to_thread(_annotation(request).answer, task_id, _name(request, annotator), body)
    except NotAssignedError as error:
        raise ApiError(404, f"{error}.", code="not_assigned") from None
    except UsageError as error:
        raise invalid(f"{error}.", "answer") from None
    return Response(status_code=204)
