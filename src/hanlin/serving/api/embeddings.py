"""POST /v1/embeddings."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from hanlin.inference.embeddings import embed
from hanlin.serving.api import replies
from hanlin.serving.api.body import JsonRoute
from hanlin.serving.api.errors import ApiError, unsupported
from hanlin.serving.api.generation import ClientGone, unless_gone
from hanlin.serving.api.protocol import EmbeddingRequest
from hanlin.serving.api.service import Ticket, entry_of, key_of, prepared, service_of, sticky_of
from hanlin.serving.keys import ApiKey

router = APIRouter(route_class=JsonRoute)
BATCH_TOKENS = 4096
"""Tokens of one forward pass, and of one turn at the model: a client that goes is noticed between two."""


@router.post("/v1/embeddings", tags=["embeddings"], responses=replies.of(replies.Embeddings))
async def embeddings(body: EmbeddingRequest, request: Request) -> Response:
    """A vector of length 1 for each text."""
    service = service_of(request)
    version = service.version(body.model, sticky_of(request, body.user, body), "an embedding")
    ticket = service.admit(version, 1, entry_of(request))
    try:
        return JSONResponse(await unless_gone(request.receive, _embedded(body, ticket, key_of(request))))
    except ClientGone:
        return Response(status_code=499)
    finally:
        ticket.close()


async def _embedded(body: EmbeddingRequest, ticket: Ticket, key: ApiKey | None) -> dict[str, Any]:
    model = ticket.model
    size = model.config.hidden_size
    if body.dimensions is not None and body.dimensions != size:
        raise unsupported("dimensions", f"this model's vectors have {size} numbers and can't be cut")

    def tokenise() -> list[list[int]]:
        given = body.input
        if isinstance(given, str):
            return [list(model.request(given, raw=True).prompt_ids)]
        if isinstance(given[0], int):
            return [cast("list[int]", given)]
        return [
            list(model.request(one, raw=True).prompt_ids) if isinstance(one, str) else one
            for one in cast("list[str] | list[list[int]]", given)
        ]

    texts = await prepared(ticket, tokenise)
    ticket.charge(key, sum(map(len, texts)), [])
    for number, ids in enumerate(texts):
        if len(ids) > model.config.max_positions:
            raise ApiError(
                400,
                f"This model's context is {model.config.max_positions} tokens; input {number} has {len(ids)}.",
                param="input",
                code="context_length_exceeded",
            )
        if max(ids) >= model.config.vocabulary_size:
            raise ApiError(400, f"{max(ids)} is no token of this model.", param="input", code="invalid_value")
    vectors: list[Any] = []
    start = 0
    while start < len(texts):
        end, longest = start, 0
        while (end < len(texts) and max(longest, len(texts[end])) * (end + 1 - start) <= BATCH_TOKENS) or end == start:
            longest = max(longest, len(texts[end]))
            end += 1
        async with ticket.service.reading:
            found = await asyncio.to_thread(embed, model.engine.model, texts[start:end], body.pooling, BATCH_TOKENS)
        vectors += [_encoded(vector, body.encoding_format) for vector in found.numpy()]
        start = end
    tokens = sum(map(len, texts))
    data = [{"object": "embedding", "index": index, "embedding": vector} for index, vector in enumerate(vectors)]
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": ticket.version.id, "usage": usage}


def _encoded(vector: Any, form: str | None) -> list[float] | str:
    """As numbers, or as base64 of little-endian float32."""
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return cast("list[float]", vector.tolist())
