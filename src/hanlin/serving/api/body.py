"""JSON from clients: whole, bounded, and without the values that JSON does not have."""

from __future__ import annotations

import asyncio
import json
import math
from typing import Any

import pydantic_core
from fastapi import Request
from fastapi.routing import APIRoute

from hanlin.serving.api.auth import authenticate
from hanlin.serving.api.errors import ApiError

THREAD_BYTES = 1 << 16
"""Larger bodies are parsed beside the event loop."""


def parse(data: bytes) -> Any:
    """The value of a JSON text. Raises ApiError for text that is none, for nesting beyond 200 levels, for NaN and
    infinities (also those written as 1e999), for half characters (`\\ud800`), and for a key that stands twice."""
    try:
        # The first parser, in native code, bounds the nesting; the second sees what it lets pass.
        pydantic_core.from_json(data, allow_inf_nan=False, cache_strings="none")
        return json.loads(data, object_pairs_hook=_object, parse_float=_number, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not valid JSON: {error}.", code="invalid_json") from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the key {twice[:64]!r} stands twice in one object")
    return found


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:32]} is beyond all numbers")
    return number


def _constant(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


class _JsonRequest(Request):
    async def json(self) -> Any:
        data = await self.body()
        return parse(data) if len(data) <= THREAD_BYTES else await asyncio.to_thread(parse, data)


class JsonRoute(APIRoute):
    """A route whose body is read by `parse`."""

    def get_route_handler(self) -> Any:
        handler = super().get_route_handler()

        async def strict(request: Request) -> Any:
            await authenticate(request)
            return await handler(_JsonRequest(request.scope, request.receive))

        return strict
