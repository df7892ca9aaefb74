"""POST /v1/chat/completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from hanlin.inference import Delta
from hanlin.inference import Request as EngineRequest
from hanlin.inference.samples import expand
from hanlin.serving.api import envelope, replies
from hanlin.serving.api.body import JsonRoute
from hanlin.serving.api.errors import unsupported
from hanlin.serving.api.generation import ClientGone, unless_gone
from hanlin.serving.api.protocol import ChatRequest
from hanlin.serving.api.sampling import bounded, check_sequences, settings_of
from hanlin.serving.api.service import Ticket, or_close, prepared, salt_of, service_of, sticky_of
from hanlin.serving.api.sse import EventStream
from hanlin.serving.api.vocabulary import Vocabulary

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/chat/completions", tags=["completions"], responses=replies.of(replies.ChatCompletion, stream=True))
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """The assistant's next turn."""
    service = service_of(request)
    if body.prompt_logprobs is not None and body.stream:
        raise unsupported("prompt_logprobs", "in a stream; ask for the whole answer")
    count = body.n or 1
    check_sequences(count, service.settings)
    version = service.version(body.model, sticky_of(request, body.user, body))
    ticket = service.admit(version, count)
    answer = await or_close(ticket, _prepare(body, ticket, salt_of(request)))
    if body.stream:
        return EventStream(answer.chunks(), ticket.close, request.state.request_id)
    try:
        return JSONResponse(await unless_gone(request.receive, answer.whole()))
    except ClientGone:
        return Response(status_code=499)
    finally:
        ticket.close()


async def _prepare(body: ChatRequest, ticket: Ticket, salt: str) -> ChatAnswer:
    model = ticket.model
    settings = settings_of(body, model.config.vocabulary_size, salt)
    if body.logprobs:
        settings["logprobs"] = body.top_logprobs or 0
    if (body.tools and body.tool_choice != "none") or body.structured_outputs:
        raise unsupported("tools" if body.tools else "structured_outputs")
    messages = [message.as_dict() for message in body.messages]
    tools = None
    if body.tools and body.tool_choice != "none":
        tools = [tool.model_dump(exclude_none=True) for tool in body.tools]

    def render() -> EngineRequest:
        return model.chat_request(messages, tools=tools, **settings)

    rendered = await prepared(ticket, render)
    first = bounded(rendered, model, body.most_tokens, None, ticket.service.settings, "messages")
    return ChatAnswer(body, ticket, expand(replace(first, n=body.n or 1)))


class _Choice:
    """One of the `n` answers, as it comes."""

    def __init__(self) -> None:
        self.content: list[str] = []
        self.logprobs: list[dict[str, Any]] = []
        self.ids: list[int] = []
        self.finish_reason: str | None = None


class ChatAnswer:
    """The answer to one chat request; whole, it is its stream put together."""

    def __init__(self, body: ChatRequest, ticket: Ticket, requests: list[EngineRequest]) -> None:
        self._body, self._ticket, self._requests = body, ticket, requests
        self._vocabulary = Vocabulary(ticket.model.tokenizer)
        self._envelope = envelope.Envelope("chatcmpl", ticket.version)
        self._envelope.prompt_tokens = len(requests[0].prompt_ids)

    async def chunks(self) -> AsyncGenerator[dict[str, Any]]:
        """The role of each answer, then pieces of them, then the usage where it is wanted."""
        options = self._body.stream_options
        usage: dict[str, Any] = {"usage": None} if options and options.include_usage else {}
        prompt_ids: dict[str, Any] = {}
        if self._body.return_token_ids:
            prompt_ids = {"prompt_token_ids": list(self._requests[0].prompt_ids)}
        for index in range(len(self._requests)):
            role = {"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": None}
            yield self._chunk([{**role, "finish_reason": None}], **usage, **prompt_ids)
        async for index, delta in self._ticket.deltas(self._requests):
            self._envelope.completion_tokens += len(delta.ids)
            choice = self._piece(index, delta)
            if choice is not None:
                yield self._chunk([choice], **usage)
        if usage:
            yield self._chunk([], usage=self._envelope.usage())

    def _chunk(self, choices: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
        return self._envelope.wrap("chat.completion.chunk", choices=choices, **rest)

    def _piece(self, index: int, delta: Delta) -> dict[str, Any] | None:
        """A chunk's choice; None where there is nothing to tell yet (half a character, the beginning of a stop
        string)."""
        reported = self._body.logprobs or self._body.return_token_ids
        if not delta.text and delta.finish_reason is None and not reported:
            return None
        choice: dict[str, Any] = {
            "index": index,
            "delta": {"content": delta.text} if delta.text else {},
            "logprobs": self._logprobs(delta),
            "finish_reason": delta.finish_reason,
        }
        if self._body.return_token_ids:
            choice["token_ids"] = delta.ids
        return choice

    def _logprobs(self, delta: Delta) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        count = self._body.top_logprobs or 0
        tops = delta.top_logprobs or [{}] * len(delta.ids)
        entries = [
            self._vocabulary.chat_logprob(token, logprob, top, count)
            for token, logprob, top in zip(delta.ids, delta.logprobs, tops, strict=True)
        ]
        return {"content": entries, "refusal": None}

    async def whole(self) -> dict[str, Any]:
        choices = [_Choice() for _ in self._requests]
        async for index, delta in self._ticket.deltas(self._requests):
            self._envelope.completion_tokens += len(delta.ids)
            choice = choices[index]
            choice.content.append(delta.text)
            choice.ids += delta.ids
            choice.logprobs += (self._logprobs(delta) or {"content": []})["content"]
            choice.finish_reason = delta.finish_reason
        rest: dict[str, Any] = {}
        if self._body.return_token_ids:
            rest["prompt_token_ids"] = list(self._requests[0].prompt_ids)
        if self._body.prompt_logprobs is not None:
            scores = await self._ticket.prompt_scores(self._requests[0].prompt_ids, self._body.prompt_logprobs)
            rest["prompt_logprobs"] = scores.entries(self._vocabulary, self._body.prompt_logprobs)
        return self._envelope.wrap(
            "chat.completion",
            choices=[self._choice(index, choice) for index, choice in enumerate(choices)],
            usage=self._envelope.usage(),
            **rest,
        )

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": "".join(choice.content), "refusal": None}
        found: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": {"content": choice.logprobs, "refusal": None} if self._body.logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        if self._body.return_token_ids:
            found["token_ids"] = choice.ids
        return found
