"""POST /v1/chat/completions."""

from __future__ import annotations

import secrets
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from hanlin.inference import Constraint, expand
from hanlin.inference import Request as EngineRequest
from hanlin.inference.tool_calls import ToolCall, ToolCallStream
from hanlin.serving.api import envelope, replies
from hanlin.serving.api.body import JsonRoute
from hanlin.serving.api.errors import unsupported
from hanlin.serving.api.generation import ClientGone, unless_gone
from hanlin.serving.api.moderated import Piece
from hanlin.serving.api.protocol import ChatRequest, JsonSchemaFormat, NamedTool
from hanlin.serving.api.sampling import bounded, check_constraint, check_sequences, settings_of, structure_of
from hanlin.serving.api.service import Ticket, entry_of, key_of, or_close, prepared, service_of, sticky_of
from hanlin.serving.api.sse import EventStream
from hanlin.serving.api.vocabulary import Vocabulary
from hanlin.serving.keys import ApiKey

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/chat/completions", tags=["completions"], responses=replies.of(replies.ChatCompletion, stream=True))
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    """The assistant's next turn."""
    service = service_of(request)
    if body.prompt_logprobs is not None and body.stream:
        raise unsupported("prompt_logprobs", "in a stream; ask for the whole answer")
    constraint, param = _constraint(body)
    count = body.n or 1
    check_sequences(count, service.settings)
    scored = "prompt_logprobs" if body.prompt_logprobs is not None else ""
    version = service.version(body.model, sticky_of(request, body.user, body), scored)
    ticket = service.admit(version, count, entry_of(request))
    answer = await or_close(ticket, _prepare(body, ticket, key_of(request), constraint, param))
    if body.stream:
        return EventStream(answer.chunks(), ticket.close, request.state.request_id)
    try:
        return JSONResponse(await unless_gone(request.receive, answer.whole()))
    except ClientGone:
        return Response(status_code=499)
    finally:
        ticket.close()


def _constraint(body: ChatRequest) -> tuple[Constraint | None, str]:
    """The form that the answer must have, and the field that asks for it."""
    form = body.response_format
    structured = structure_of(body)
    param = "structured_outputs"
    if isinstance(form, JsonSchemaFormat):
        structured, param = Constraint(json_schema=form.json_schema.schema_), "response_format.json_schema.schema"
    elif form is not None and form.type == "json_object":
        structured, param = Constraint(json_object=True), "response_format"
    if not _offered(body):
        return structured, param
    if structured is not None:
        raise unsupported(param.partition(".")[0], "together with tools: an answer has one form")
    choice = body.tool_choice
    tools = _offered(body)
    if isinstance(choice, NamedTool):
        tools = [tool for tool in tools if tool["function"]["name"] == choice.function.name]
    called = isinstance(choice, NamedTool) or choice == "required"
    several = body.parallel_tool_calls is not False and not isinstance(choice, NamedTool)
    return (
        Constraint(tools=tools, tool_choice="required" if called else "auto", parallel_tool_calls=several),
        "tools",
    )


def _offered(body: ChatRequest) -> list[dict[str, Any]]:
    """The tools that the model is told of."""
    if body.tool_choice == "none":
        return []
    return [tool.model_dump(exclude_none=True) for tool in body.tools or ()]


async def _prepare(
    body: ChatRequest, ticket: Ticket, key: ApiKey | None, constraint: Constraint | None, param: str
) -> ChatAnswer:
    model, tools = ticket.model, _offered(body)
    settings = settings_of(body, model.config.vocabulary_size, key)
    settings["constraint"] = constraint
    if body.logprobs:
        settings["logprobs"] = body.top_logprobs or 0
    messages = [message.as_dict() for message in body.messages]
    await ticket.service.check([message["content"] for message in messages if message["role"] != "assistant"])

    def render() -> EngineRequest:
        check_constraint(model, constraint, param)
        request = model.chat_request(messages, tools=tools or None, **settings)
        # The end of the turn is a stop of the chat's, beside the model's own ends.
        return replace(request, stop_ids=()) if body.ignore_eos else request

    rendered = await prepared(ticket, render)
    first = bounded(rendered, model, body.most_tokens, None, ticket.service.settings, "messages")
    requests = expand(replace(first, n=body.n or 1))
    ticket.charge(key, len(first.prompt_ids), requests)
    if ticket.keeps_content:
        ticket.entry.prompt = messages
    return ChatAnswer(body, ticket, requests, [tool["function"]["name"] for tool in tools])


class _Choice:
    """One of the `n` answers, as it comes: content and calls, told apart."""

    def __init__(self, tools: list[str]) -> None:
        self._calls = ToolCallStream(tools) if tools else None
        self.content = ""
        self.tool_calls: list[dict[str, Any]] = []
        self.logprobs: list[dict[str, Any]] = []
        self.ids: list[int] = []
        self.finish_reason: str | None = None

    def take(self, piece: Piece) -> tuple[str, list[dict[str, Any]]]:
        """What this piece adds: content, and whole calls."""
        parts: list[str | ToolCall] = [piece.text]
        if self._calls is not None:
            parts = self._calls.push(piece.text)
            if piece.finish_reason is not None:
                parts += self._calls.finish()
        text = "".join(part for part in parts if isinstance(part, str))
        calls = [_call(part) for part in parts if isinstance(part, ToolCall)]
        self.content += text
        self.tool_calls += calls
        self.ids += piece.ids
        if piece.finish_reason is not None:
            called = self.tool_calls and piece.finish_reason == "stop"
            self.finish_reason = "tool_calls" if called else piece.finish_reason
        return text, calls


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": f"call_{secrets.token_hex(12)}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }


class ChatAnswer:
    """The answer to one chat request; whole, it is its stream put together."""

    def __init__(self, body: ChatRequest, ticket: Ticket, requests: list[EngineRequest], tools: list[str]) -> None:
        self._body, self._ticket, self._requests = body, ticket, requests
        self._vocabulary = Vocabulary(ticket.model.tokenizer)
        self._envelope = envelope.Envelope("chatcmpl", ticket.version, body.model)
        self._envelope.prompt_tokens = len(requests[0].prompt_ids)
        self._choices = [_Choice(tools) for _ in requests]

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
        async with aclosing(self._ticket.pieces(self._requests)) as pieces:
            async for piece in pieces:
                for choice in self._told(piece):
                    yield self._chunk([choice], **usage)
        self._count()
        if usage:
            yield self._chunk([], usage=self._envelope.usage())

    def _chunk(self, choices: list[dict[str, Any]], **rest: Any) -> dict[str, Any]:
        return self._envelope.wrap("chat.completion.chunk", choices=choices, **rest)

    def _count(self) -> None:
        if self._ticket.keeps_content:
            self._ticket.entry.answer = [choice.content for choice in self._choices]
        self._envelope.completion_tokens = sum(len(choice.ids) for choice in self._choices)

    def _told(self, piece: Piece) -> list[dict[str, Any]]:
        """The choices of the chunks that a piece makes; none where there is nothing to tell yet (half a character, the
        beginning of a stop string or of a call)."""
        choice = self._choices[piece.index]
        first = len(choice.tool_calls)
        text, calls = choice.take(piece)
        told: list[dict[str, Any]] = [{"content": text}] if text else []
        for number, call in enumerate(calls, start=first):
            # As OpenAI does: who is called, then with what.
            function = call["function"]
            begun = {**call, "index": number, "function": {"name": function["name"], "arguments": ""}}
            told.append({"tool_calls": [begun]})
            told.append({"tool_calls": [{"index": number, "function": {"arguments": function["arguments"]}}]})
        reported = self._body.logprobs or self._body.return_token_ids
        if not told and ((reported and piece.ids) or choice.finish_reason is not None):
            told.append({})
        made: list[dict[str, Any]] = [
            {"index": piece.index, "delta": one, "logprobs": None, "finish_reason": None} for one in told
        ]
        if made:
            made[0]["logprobs"] = self._logprobs(piece)
            made[-1]["finish_reason"] = choice.finish_reason
            if self._body.return_token_ids:
                made[0]["token_ids"] = piece.ids
        return made

    def _logprobs(self, piece: Piece) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        count = self._body.top_logprobs or 0
        tops = piece.top_logprobs or [{}] * len(piece.ids)
        entries = [
            self._vocabulary.chat_logprob(token, logprob, top, count)
            for token, logprob, top in zip(piece.ids, piece.logprobs, tops, strict=True)
        ]
        return {"content": entries, "refusal": None}

    async def whole(self) -> dict[str, Any]:
        async with aclosing(self._ticket.pieces(self._requests)) as pieces:
            async for piece in pieces:
                choice = self._choices[piece.index]
                choice.take(piece)
                choice.logprobs += (self._logprobs(piece) or {"content": []})["content"]
        self._count()
        rest: dict[str, Any] = {}
        if self._body.return_token_ids:
            rest["prompt_token_ids"] = list(self._requests[0].prompt_ids)
        if self._body.prompt_logprobs is not None:
            scores = await self._ticket.prompt_scores(self._requests[0].prompt_ids, self._body.prompt_logprobs)
            rest["prompt_logprobs"] = scores.entries(self._vocabulary, self._body.prompt_logprobs)
        return self._envelope.wrap(
            "chat.completion",
            choices=[self._choice(index, choice) for index, choice in enumerate(self._choices)],
            usage=self._envelope.usage(),
            **rest,
        )

    def _choice(self, index: int, choice: _Choice) -> dict[str, Any]:
        content = choice.content or (None if choice.tool_calls else "")
        message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
        if choice.tool_calls:
            message["tool_calls"] = choice.tool_calls
        found: dict[str, Any] = {
            "index": index,
            "message": message,
            "logprobs": {"content": choice.logprobs, "refusal": None} if self._body.logprobs else None,
            "finish_reason": choice.finish_reason,
        }
        if self._body.return_token_ids:
            found["token_ids"] = choice.ids
        return found
