"""/v1/models, /tokenize and /detokenize."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse

from hanlin.serving.api import replies
from hanlin.serving.api.body import JsonRoute
from hanlin.serving.api.errors import ApiError, invalid
from hanlin.serving.api.protocol import DetokenizeRequest, TokenizeRequest
from hanlin.serving.api.service import entry_of, prepared, service_of, sticky_of
from hanlin.serving.api.vocabulary import Vocabulary
from hanlin.serving.models import Models, Version
from hanlin.tokenization import Conversation, Message

router = APIRouter(route_class=JsonRoute)


@router.get("/v1/models", tags=["models"], responses=replies.of(replies.ModelList))
async def models(request: Request) -> JSONResponse:
    """Every name that a request may ask for."""
    served = service_of(request).models
    return JSONResponse({"object": "list", "data": [_model(served, name) for name in served.ids()]})


@router.get("/v1/models/{name:path}", tags=["models"], responses=replies.of(replies.Model))
async def model(name: str, request: Request) -> JSONResponse:
    """One of them."""
    served = service_of(request).models
    if name not in served.ids():
        raise ApiError(404, f"The model {name[:128]!r} does not exist.", param="model", code="model_not_found")
    return JSONResponse(_model(served, name))


def _model(served: Models, name: str) -> dict[str, Any]:
    version: Version = served.exactly(name)
    assert version.model is not None
    return {
        "id": name,
        "object": "model",
        "created": version.created,
        "owned_by": "hanlin",
        "max_model_len": version.model.config.max_positions,
        "system_fingerprint": version.fingerprint,
    }


@router.post("/tokenize", tags=["tokens"], responses=replies.of(replies.Tokens))
async def tokenize(body: TokenizeRequest, request: Request) -> JSONResponse:
    """The tokens of a prompt, or of messages by the model's chat template."""
    service = service_of(request)
    ticket = service.admit(service.version(body.model, sticky_of(request, None, body)), 1, entry_of(request))
    try:
        model = ticket.model

        def tokens() -> list[int]:
            if body.messages is None:
                assert body.prompt is not None
                if body.add_special_tokens:
                    return [*model.prefix_ids, *model.tokenizer.encode(body.prompt)]
                return model.tokenizer.encode(body.prompt)
            messages = [Message.from_dict(message.as_dict()) for message in body.messages]
            tools = [tool.model_dump(exclude_none=True) for tool in body.tools] if body.tools else None
            if body.add_generation_prompt:
                return list(model.chat_request(messages, tools=tools).prompt_ids)
            return model.tokenizer.render_tokens(Conversation(messages, tools)).ids

        ids = await prepared(ticket, tokens)
        found: dict[str, Any] = {"count": len(ids), "max_model_len": model.config.max_positions, "tokens": ids}
        if body.return_token_strs:
            found["token_strs"] = list(map(Vocabulary(model.tokenizer).text, ids))
        return JSONResponse(found)
    finally:
        ticket.close()


@router.post("/detokenize", tags=["tokens"], responses=replies.of(replies.Prompt))
async def detokenize(body: DetokenizeRequest, request: Request) -> JSONResponse:
    """The text of tokens, control tokens by their names."""
    service = service_of(request)
    ticket = service.admit(service.version(body.model, sticky_of(request, None, body)), 1, entry_of(request))
    try:
        tokenizer = ticket.model.tokenizer
        wrong = next((token for token in body.tokens if token >= tokenizer.vocabulary_size), None)
        if wrong is not None:
            raise invalid(f"{wrong} is no token of this model, which has {tokenizer.vocabulary_size}.", "tokens")
        return JSONResponse({"prompt": await prepared(ticket, lambda: tokenizer.decode(body.tokens, False))})
    finally:
        ticket.close()
