"""POST /v1/completions: the plain continuation of texts or of tokens."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, cast

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse
from starlette.responses import Response

from hanlin.inference import Request as EngineRequest
from hanlin.inference import expand
from hanlin.serving.api import envelope, replies
from hanlin.serving.api.body import JsonRoute
from hanlin.serving.api.errors import invalid, unsupported
from hanlin.serving.api.generation import ClientGone, unless_gone
from hanlin.serving.api.moderated import Piece
from hanlin.serving.api.protocol import CompletionRequest
from hanlin.serving.api.sampling import (
    PromptScores,
    bounded,
    check_constraint,
    check_sequences,
    settings_of,
    structure_of,
)
from hanlin.serving.api.service import Ticket, entry_of, key_of, or_close, prepared, service_of, sticky_of
from hanlin.serving.api.sse import EventStream
from hanlin.serving.api.vocabulary import Offsets, Vocabulary, finite
from hanlin.serving.keys import ApiKey

router = APIRouter(route_class=JsonRoute)
DEFAULT_TOKENS = 16
"""New tokens where `max_tokens` is not given, as OpenAI has it."""


@router.post("/v1/completions", tags=["completions"], responses=replies.of(replies.Completion, stream=True))
async def completions(body: CompletionRequest, request: Request) -> Response:
    """How each prompt goes on."""
    service = service_of(request)
    if body.stream and body.prompt_logprobs is not None:
        raise unsupported("prompt_logprobs", "in a stream; ask for the whole answer")
    if body.stream and body.echo and body.logprobs is not None:
        raise unsupported("echo", "with logprobs in a stream; ask for the whole answer")
    prompts = _prompts(body.prompt)
    count = len(prompts) * (body.best_of or body.n or 1)
    check_sequences(count, service.settings)
    scored = "prompt_logprobs" if body.prompt_logprobs is not None else "echo with logprobs"
    scored = scored if body.prompt_logprobs is not None or (body.echo and body.logprobs is not None) else ""
    version = service.version(body.model, sticky_of(request, body.user, body), scored)
    ticket = service.admit(version, count, entry_of(request))
    answer = await or_close(ticket, _prepare(body, prompts, ticket, key_of(request)))
    if body.stream:
        return EventStream(answer.chunks(), ticket.close, request.state.request_id)
    try:
        return JSONResponse(await unless_gone(request.receive, answer.whole()))
    except ClientGone:
        return Response(status_code=499)
    finally:
        ticket.close()


def _prompts(given: str | list[str] | list[int] | list[list[int]]) -> list[str | list[int]]:
    if isinstance(given, str):
        return [given]
    if isinstance(given[0], int):
        return [cast("list[int]", given)]
    return list(cast("list[str] | list[list[int]]", given))


@dataclass
class _Prompt:
    """One prompt with its answers' places."""

    text: str
    """For `echo`."""
    requests: list[EngineRequest]
    first: int
    """Number of its first request among all."""
    scores: PromptScores | None = None


async def _prepare(
    body: CompletionRequest, prompts: Sequence[str | list[int]], ticket: Ticket, key: ApiKey | None
) -> TextAnswer:
    model = ticket.model
    settings = settings_of(body, model.config.vocabulary_size, key)
    settings["logprobs"] = body.logprobs or 0
    settings["constraint"] = structure_of(body)

    def tokenise() -> list[tuple[str, EngineRequest]]:
        check_constraint(model, settings["constraint"], "structured_outputs")
        found: list[tuple[str, EngineRequest]] = []
        for prompt in prompts:
            if isinstance(prompt, str):
                found.append((prompt, model.request(prompt, raw=True, **settings)))
                continue
            wrong = next((token for token in prompt if token >= model.config.vocabulary_size), None)
            if wrong is not None:
                raise invalid(f"{wrong} is no token of this model, which has {model.config.vocabulary_size}.", "prompt")
            text = model.tokenizer.decode([token for token in prompt if token < model.tokenizer.vocabulary_size])
            found.append((text, EngineRequest(prompt_ids=prompt, **settings)))
        return found

    made: list[_Prompt] = []
    count = 0
    tokenised = await prepared(ticket, tokenise)
    await ticket.service.check([text for text, _ in tokenised])
    for text, request in tokenised:
        first = bounded(request, model, body.max_tokens, DEFAULT_TOKENS, ticket.service.settings, "prompt")
        requests = expand(replace(first, n=body.n or 1, best_of=body.best_of))
        made.append(_Prompt(text, requests, count))
        count += len(requests)
    prompt_tokens = sum(len(prompt.requests[0].prompt_ids) for prompt in made)
    ticket.charge(key, prompt_tokens, [request for prompt in made for request in prompt.requests])
    if ticket.keeps_content:
        ticket.entry.prompt = [prompt.text for prompt in made]
    if body.prompt_logprobs is not None or (body.echo and body.logprobs is not None):
        top = max(body.prompt_logprobs or 0, body.logprobs or 0)
        for prompt in made:
            prompt.scores = await ticket.prompt_scores(prompt.requests[0].prompt_ids, top)
    return TextAnswer(body, ticket, made)


class TextAnswer:
    """The answers to one request, `n` for each prompt, those of the first prompt first."""

    def __init__(self, body: CompletionRequest, ticket: Ticket, prompts: list[_Prompt]) -> None:
        self._body, self._ticket, self._prompts = body, ticket, prompts
        self._requests = [request for prompt in prompts for request in prompt.requests]
        self._vocabulary = Vocabulary(ticket.model.tokenizer)
        self._envelope = envelope.Envelope("cmpl", ticket.version, body.model)
        self._envelope.prompt_tokens = sum(len(prompt.requests[0].prompt_ids) for prompt in prompts)

    async def chunks(self) -> AsyncGenerator[dict[str, Any]]:
        options = self._body.stream_options
        usage: dict[str, Any] = {"usage": None} if options and options.include_usage else {}
        offsets = [Offsets(self._vocabulary) for _ in self._requests]
        told = [False] * len(self._requests)
        kept = [""] * len(self._requests) if self._ticket.keeps_content else None
        self._ticket.entry.answer = kept
        for prompt in self._prompts if self._body.echo else ():
            for index in range(prompt.first, prompt.first + len(prompt.requests)):
                offsets[index].start(len(prompt.text))
                yield self._chunk(index, prompt.text, None, None, **usage)
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                index = piece.index
                self._envelope.completion_tokens += len(piece.ids)
                if kept is not None:
                    kept[index] += piece.text
                logprobs = None
                if self._body.logprobs is not None and piece.ids:
                    logprobs = self._logprobs(piece.ids, piece.logprobs, piece.top_logprobs, offsets[index])
                reported = piece.ids and self._body.return_token_ids
                if not (piece.text or piece.finish_reason or logprobs or reported):
                    continue
                extra: dict[str, Any] = {}
                if self._body.return_token_ids:
                    extra["token_ids"] = piece.ids
                    if not told[index]:
                        extra["prompt_token_ids"] = list(self._requests[index].prompt_ids)
                        told[index] = True
                yield self._chunk(index, piece.text, logprobs, piece.finish_reason, extra, **usage)
        if usage:
            yield self._envelope.wrap("text_completion", choices=[], usage=self._envelope.usage())

    def _chunk(
        self,
        index: int,
        text: str,
        logprobs: dict[str, Any] | None,
        finish_reason: str | None,
        extra: Mapping[str, Any] = {},
        **rest: Any,
    ) -> dict[str, Any]:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason, **extra}
        return self._envelope.wrap("text_completion", choices=[choice], **rest)

    def _logprobs(
        self,
        ids: Sequence[int],
        logprobs: Sequence[float | None],
        tops: Sequence[Mapping[int, float] | None],
        offsets: Offsets,
    ) -> dict[str, Any]:
        """OpenAI's older form: parallel lists."""
        key = self._vocabulary.key
        top: list[dict[str, float] | None] | None = None
        if self._body.logprobs:
            top = [
                None if likely is None else {key(token): finite(value) for token, value in likely.items()}
                for likely in tops
            ]
        return {
            "tokens": [key(token) for token in ids],
            "token_logprobs": [None if value is None else finite(value) for value in logprobs],
            "top_logprobs": top,
            "text_offset": offsets.of(ids),
        }

    async def _pieces(self) -> AsyncGenerator[Piece]:
        async with aclosing(self._ticket.pieces(self._requests)) as pieces:
            async for piece in pieces:
                if self._body.max_tokens == 0:
                    # The engine's one token was drawn only because it must draw one.
                    piece = Piece(piece.index, "", [], [], [], piece.finish_reason and "length")
                yield piece

    async def whole(self) -> dict[str, Any]:
        done = [Piece(index, "", [], [], []) for index in range(len(self._requests))]
        async with aclosing(self._pieces()) as pieces:
            async for piece in pieces:
                done[piece.index].append(piece)
        if self._ticket.keeps_content:
            self._ticket.entry.answer = [one.text for one in done]
        self._envelope.completion_tokens = sum(len(one.ids) for one in done)
        choices: list[dict[str, Any]] = []
        for prompt in self._prompts:
            found = done[prompt.first : prompt.first + len(prompt.requests)]
            if self._body.best_of is not None:
                found = sorted(found, key=_mean_logprob, reverse=True)[: self._body.n or 1]
            for piece in found:
                choices.append(self._choice(len(choices), prompt, piece))
        return self._envelope.wrap("text_completion", choices=choices, usage=self._envelope.usage())

    def _choice(self, index: int, prompt: _Prompt, answer: Piece) -> dict[str, Any]:
        body, prompt_ids = self._body, list(prompt.requests[0].prompt_ids)
        logprobs = None
        if body.logprobs is not None:
            ids, values = answer.ids, list[float | None](answer.logprobs)
            tops: list[Mapping[int, float] | None] = [*answer.top_logprobs] or [{}] * len(ids)
            if body.echo:
                assert prompt.scores is not None
                ids, values = prompt_ids + ids, prompt.scores.values + values
                tops = prompt.scores.likeliest(body.logprobs) + tops
            logprobs = self._logprobs(ids, values, tops, Offsets(self._vocabulary))
        choice: dict[str, Any] = {
            "index": index,
            "text": (prompt.text if body.echo else "") + answer.text,
            "logprobs": logprobs,
            "finish_reason": answer.finish_reason,
        }
        if body.return_token_ids:
            choice |= {"token_ids": answer.ids, "prompt_token_ids": prompt_ids}
        if body.prompt_logprobs is not None:
            assert prompt.scores is not None
            choice["prompt_logprobs"] = prompt.scores.entries(self._vocabulary, body.prompt_logprobs)
        return choice


def _mean_logprob(answer: Piece) -> float:
    return sum(answer.logprobs) / len(answer.logprobs) if answer.logprobs else float("-inf")
