"""The service: what its endpoints share, and the admission of requests."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar, cast

from fastapi import Request as HttpRequest
from pydantic import BaseModel

from hanlin.artifacts import HanlinError
from hanlin.inference import LanguageModel, Request
from hanlin.inference.scoring import score_with_top
from hanlin.serving.annotation import Annotation
from hanlin.serving.api.errors import ApiError
from hanlin.serving.api.generation import Deadline, Preparation, deltas
from hanlin.serving.api.guard import Drain, Entry
from hanlin.serving.api.health import Pulse
from hanlin.serving.api.metrics import Metrics
from hanlin.serving.api.moderated import Piece, moderated
from hanlin.serving.api.sampling import PromptScores
from hanlin.serving.feedback import FeedbackStore
from hanlin.serving.keys import ApiKey, Keys
from hanlin.serving.limits import Admission, Limiter, LimitError
from hanlin.serving.models import Models, NoSuchModel, Version
from hanlin.serving.moderation import Moderator
from hanlin.serving.request_log import RequestLog
from hanlin.serving.settings import ServeSettings
from hanlin.serving.store import Database

T = TypeVar("T")


@dataclass
class Service:
    """One process's models and what stands around them."""

    settings: ServeSettings
    models: Models
    keys: Keys | None = None
    """None: whoever reaches the service may use it."""
    database: Database | None = None
    """None: nothing is remembered, and feedback refused."""
    moderator: Moderator | None = None
    """Hears what is asked and answered; None: everything passes."""
    drain: Drain = field(default_factory=Drain)

    def __post_init__(self) -> None:
        self.metrics = Metrics(self.models)
        self.preparation = Preparation(self.settings.prepare_seconds)
        self.request_log = None
        if self.database is not None and self.settings.request_log is not None:
            self.request_log = RequestLog(self.database, self.settings.request_log)
        used = self.request_log.tokens_since(time.time() // 86400 * 86400) if self.request_log else None
        self.limiter = Limiter(used_today=used)
        self.annotation = None if self.database is None else Annotation(self.database)
        self.feedback = None if self.database is None else FeedbackStore(self.database)
        self.reading = asyncio.Lock()
        """One pass over texts outside the engine at a time"""
        self.pulse = Pulse(self.models, self.preparation, self.settings.stall_seconds)

    def version(self, model: str, sticky: Callable[[], str], adapters: str = "") -> Version:
        """The version that answers. Raises ApiError (404), and for a model with an adapter where `adapters` says what
        does not use them (400)."""
        if adapters and "+" in model:
            raise ApiError(
                400,
                f"{model} names an adapter, which {adapters} does not use: ask the model without it.",
                param="model",
                code="unsupported",
            )
        try:
            return self.models.choose(model, sticky)
        except NoSuchModel as error:
            raise ApiError(404, str(error), param="model", code="model_not_found") from None

    def admit(self, version: Version, answers: int, entry: Entry) -> Ticket:
        """A place for so many answers. Raises ApiError (429) when the queue has none."""
        if version.waiting + answers > self.settings.max_batch + self.settings.queue:
            self.metrics.refused.labels("queue").inc()
            raise ApiError(
                429,
                f"{version.name} is busy: {version.waiting} answers are asked for. Try again later.",
                code="overloaded",
                retry_after=self._until_a_place(version),
            )
        return Ticket(self, version, answers, entry)

    def let_in(self, key: ApiKey, tokens: int) -> Admission:
        """Count a request of at most so many tokens to a key. Raises ApiError: 429, or 400 where waiting is no help."""
        try:
            return self.limiter.admit(key.prefix, self.settings.limits.of(key.limits), tokens)
        except LimitError as error:
            self.metrics.refused.labels("limit").inc()
            status = 429 if error.retry_after is not None else 400
            raise ApiError(status, f"{error}.", code="rate_limit_exceeded", retry_after=error.retry_after) from None

    async def check(self, texts: Sequence[str]) -> None:
        """Let the moderator hear what is asked. Raises ApiError (400)."""
        if self.moderator is None:
            return
        verdict = await self.preparation.run(partial(self.moderator.check, "\n".join(texts), "input"))
        if not verdict.allowed:
            what = ", ".join(verdict.categories)
            raise ApiError(
                400, f"This is not answered here ({what}). {verdict.message}".rstrip(), code="content_filter"
            )

    def _until_a_place(self, version: Version) -> float:
        """Seconds: about a second for each batch that stands before."""
        return 1 + version.waiting // self.settings.max_batch

    def close(self) -> None:
        self.preparation.close()
        self.models.close()
        if self.request_log is not None:
            self.request_log.close()


class Ticket:
    """A request's place in the queue and its hold on the version that answers it, until `close`."""

    def __init__(self, service: Service, version: Version, answers: int, entry: Entry) -> None:
        self.service, self.version, self.answers, self.entry = service, version, answers, entry
        entry.model, entry.version = version.id, version.weights
        self._admission: Admission | None = None
        self._stack = contextlib.ExitStack()
        self.model: LanguageModel = self._stack.enter_context(service.models.held(version))
        version.waiting += answers
        self._closed = False

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self.version.waiting -= self.answers
            if self._admission is not None:
                self._admission.end(self.entry.prompt_tokens + self.entry.completion_tokens)
            self._stack.close()

    def charge(self, key: ApiKey | None, prompt_tokens: int, requests: Sequence[Request]) -> None:
        """Count the request to its key. Raises ApiError (429) when the key's limits do not let it in."""
        self.entry.prompt_tokens += prompt_tokens
        if key is None:
            return
        most = prompt_tokens + sum(request.max_new_tokens for request in requests)
        self._admission = self.service.let_in(key, most)

    @property
    def keeps_content(self) -> bool:
        """Whether the request log keeps what is asked and answered."""
        log = self.service.request_log
        return log is not None and log.settings.content

    async def prompt_scores(self, ids: Sequence[int], top: int) -> PromptScores:
        """Of one prompt at a time, in a thread: many long ones at once would need the memory of all."""
        async with self.service.reading:
            pair = ids[:1], ids[1:]
            found = await asyncio.to_thread(score_with_top, self.model.engine.model, [pair], len(ids), top)
        values, tops = found[0]
        tops = tops or [{token: value} for token, value in zip(ids[1:], values)]
        return PromptScores(ids, [None, *values], [None, *tops])

    def pieces(self, requests: Sequence[Request]) -> AsyncGenerator[Piece]:
        """The pieces of the answers, each with its request's number, as far as the moderator lets them out.

        Raises ApiError when time runs out or the model's scores are no numbers.
        """
        moderator, pieces = self.service.moderator, self._pieces(requests)
        return pieces if moderator is None else moderated(pieces, moderator, len(requests))

    async def _pieces(self, requests: Sequence[Request]) -> AsyncGenerator[Piece]:
        seconds = self.service.settings.request_seconds
        deadline = Deadline(asyncio.get_running_loop().time() + seconds)
        source = deltas(self.model.engine, requests, self.service.metrics, self.version.id)
        with contextlib.closing(deadline):
            async with contextlib.aclosing(source):
                while True:
                    try:
                        number, delta = await deadline.wait(anext(source))
                    except StopAsyncIteration:
                        return
                    except TimeoutError:
                        raise ApiError(504, f"The answer took over {seconds:g} s.", code="timeout") from None
                    except HanlinError as error:
                        raise ApiError(400, str(error), code="invalid_value") from None
                    if delta.finish_reason in ("error", "cancelled"):
                        why = (delta.completion and delta.completion.error) or "the model's scores were not numbers"
                        raise ApiError(500, f"The answer could not be finished: {why}.", code="model_error")
                    self.entry.completion_tokens += len(delta.ids)
                    if self.entry.first_token is None:
                        self.entry.first_token = time.monotonic()
                    yield Piece.of(number, delta)


def service_of(request: HttpRequest) -> Service:
    return cast(Service, request.app.state.service)


def feedback_of(service: Service) -> FeedbackStore:
    if service.feedback is None:
        raise ApiError(503, "This service keeps no feedback: it has no database.", code="no_database")
    return service.feedback


def entry_of(request: HttpRequest) -> Entry:
    """What the request log will have of this request."""
    return cast(Entry, request.state.entry)


def key_of(request: HttpRequest) -> ApiKey | None:
    """The caller's key, once `auth` has seen it; None on a service without keys."""
    return cast("ApiKey | None", getattr(request.state, "key", None))


def sticky_of(request: HttpRequest, user: str | None, body: BaseModel) -> Callable[[], str]:
    """Tells who asks, for a canary: the key and the user, else what is asked; only then is a long body read for it."""

    def sticky() -> str:
        key = key_of(request)
        if key is not None or user:
            return f"{'' if key is None else key.prefix}\0{user or ''}"
        return hashlib.blake2b(body.model_dump_json().encode(), digest_size=16).hexdigest()

    return sticky


async def prepared(ticket: Ticket, work: Callable[[], T]) -> T:
    return await ticket.service.preparation.run(work)


async def or_close(ticket: Ticket, work: Awaitable[T]) -> T:
    """The result of `work`; the ticket is given back when there is none."""
    try:
        return await work
    except BaseException:
        ticket.close()
        raise
