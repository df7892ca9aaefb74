"""Errors in OpenAI's shape: `{"error": {"message", "type", "param", "code"}}`."""

from __future__ import annotations

import http
import logging
import math
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from fastapi import FastAPI, HTTPException
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException as StarletteHTTPException
from starlette.requests import Request
from starlette.responses import Response

from hanlin.artifacts.written import nearest
from hanlin.serving.api.protocol import KNOWN, NEUTRAL

log = logging.getLogger("hanlin.serving")

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "service_unavailable",
}
"""`type` by status; every other status below 500 is `invalid_request_error`."""


class ApiError(HTTPException):
    """A refusal that the client is told of. `param` names the field (`messages.0.content`)."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: float | None = None,
        close: bool = False,
    ) -> None:
        headers: dict[str, str] = {}
        if retry_after is not None:
            headers["Retry-After"] = str(max(1, math.ceil(retry_after)))
        if close:
            headers["Connection"] = "close"
        if status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        super().__init__(status, message, headers or None)
        self.message, self.param, self.code = message, param, code

    def body(self) -> dict[str, Any]:
        return error_body(self.status_code, self.message, self.param, self.code)


def error_body(status: int, message: str, param: str | None = None, code: str | None = None) -> dict[str, Any]:
    kind = TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def unsupported(param: str, why: str = "") -> ApiError:
    """A field that OpenAI's API has and this service does not."""
    return ApiError(400, f"{param} is not supported{f': {why}' if why else ''}.", param=param, code="unsupported")


def invalid(message: str, param: str | None = None) -> ApiError:
    return ApiError(400, message, param=param, code="invalid_value")


def log_failure(error: BaseException, request_id: str) -> None:
    """Say where it failed, and never with what: an exception's message may quote a prompt."""
    frames = traceback.extract_tb(error.__traceback__)
    where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in reversed(frames[-8:]))
    log.error("request %s failed: %s at %s", request_id, type(error).__name__, where or "an unknown place")


def handle(app: FastAPI) -> None:
    """Give every error that this app raises OpenAI's shape."""

    async def refused(request: Request, error: Exception) -> Response:
        assert isinstance(error, StarletteHTTPException)
        if isinstance(error, ApiError):
            body = error.body()
        elif error.status_code == 404:
            body = error_body(404, f"There is nothing at {request.method} {request.url.path}.", code="not_found")
        elif error.status_code == 405:
            body = error_body(405, f"{request.url.path} does not take {request.method}.", code="method_not_allowed")
        else:
            body = error_body(error.status_code, http.HTTPStatus(error.status_code).phrase)
        return JSONResponse(body, error.status_code, error.headers)

    async def wrong(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = from_validation(error.errors(), error.body)
        return JSONResponse(found.body(), found.status_code)

    app.add_exception_handler(StarletteHTTPException, refused)
    app.add_exception_handler(RequestValidationError, wrong)


def from_validation(findings: Sequence[Mapping[str, Any]], body: Any) -> ApiError:
    """What pydantic found wrong, as one error that names the first field; values are not repeated."""
    # Of a value that may be one of several types each says what it has against it: the one whose form it has is meant,
    # and of such the deepest.
    finding = min(findings, key=lambda one: (_weight(one["type"]), -len(one["loc"])))
    place, *location = finding["loc"]
    # Of what stands in the address the whole location is the name.
    path = _path(location, body, finding["type"] == "missing") if place == "body" else [str(one) for one in location]
    said = str(finding["msg"]).removeprefix("Value error, ")
    if finding["type"] == "request":
        path += filter(None, [finding["ctx"]["param"]])
    param = ".".join(path) or None
    if path and path[-1] in NEUTRAL:
        return unsupported(".".join(path))
    if finding["type"] == "extra_forbidden":
        near = nearest(path[-1], KNOWN) if len(path) == 1 else ""
        return ApiError(400, f"{param} is no field of this request{near}.", param=param, code="unknown_field")
    if finding["type"] == "missing":
        return ApiError(400, f"{param or 'The body'} is missing.", param=param, code="missing")
    if param is None and finding["type"] in ("model_attributes_type", "model_type", "dict_type"):
        return ApiError(400, "The body is not a JSON object with content-type application/json.", code="invalid_json")
    return ApiError(400, f"{param}: {said}." if param else f"{said}.", param=param, code="invalid_value")


def _weight(kind: str) -> int:
    return 0 if kind in ("request", "extra_forbidden") else 2 if kind.endswith("_type") else 1


def _path(location: Sequence[Any], place: Any, missing: bool) -> list[str]:
    """A location as the client's path: without the names of types that pydantic puts in where there are several. (A
    name may be a field's, too: of the ways to read it the one that explains the end, and the most, is right.)"""
    if not location:
        return []
    part, rest = location[0], location[1:]
    skipped = _path(rest, place, missing)
    within: Any = _ABSENT
    if isinstance(place, dict):
        within = cast(dict[Any, Any], place).get(part, _ABSENT)
    elif isinstance(place, list) and isinstance(part, int) and part < len(cast(list[Any], place)):
        within = cast(list[Any], place)[part]
    if within is _ABSENT and not (missing and not rest):
        return skipped
    taken = [str(part), *_path(rest, within, missing)]
    end = [str(location[-1])]
    return max(taken, skipped, key=lambda path: (path[-1:] == end, len(path)))


_ABSENT = object()
