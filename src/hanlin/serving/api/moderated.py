"""Answers that a moderator hears before the client does."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from hanlin.inference import Delta
from hanlin.serving.moderation import ModeratedStream, Moderator


@dataclass
class Piece:
    """A piece of one of a request's answers, as clients are told of it."""

    index: int
    text: str
    ids: list[int]
    logprobs: list[float]
    top_logprobs: list[dict[int, float]]
    finish_reason: str | None = None
    """The engine's, or `content_filter`"""

    def append(self, other: Piece) -> None:
        """Make this the two, one behind the other."""
        self.text += other.text
        self.ids += other.ids
        self.logprobs += other.logprobs
        self.top_logprobs += other.top_logprobs
        self.finish_reason = other.finish_reason

    @staticmethod
    def of(index: int, delta: Delta) -> Piece:
        return Piece(index, delta.text, delta.ids, delta.logprobs, delta.top_logprobs, delta.finish_reason)


@dataclass
class _Answer:
    stream: ModeratedStream
    length: int = 0
    """Characters that the stream holds back"""
    ids: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    top_logprobs: list[dict[int, float]] = field(default_factory=list[dict[int, float]])
    over: bool = False


async def moderated(pieces: AsyncGenerator[Piece], moderator: Moderator, count: int) -> AsyncGenerator[Piece]:
    """The pieces of `count` answers; tokens and log-probabilities come no sooner than the text that they tell.

    An answer that is refused ends before what it is refused for, with the reason `content_filter`; what the engine goes
    on to say of it is not told.
    """
    answers = [_Answer(moderator.stream()) for _ in range(count)]
    async with aclosing(pieces):
        async for piece in pieces:
            answer = answers[piece.index]
            if answer.over:
                continue
            answer.ids += piece.ids
            answer.logprobs += piece.logprobs
            answer.top_logprobs += piece.top_logprobs
            free = answer.stream.push(piece.text)
            if piece.finish_reason is not None:
                free += answer.stream.finish()
            answer.length += len(piece.text) - len(free)
            if not answer.stream.verdict.allowed:
                answer.over = True
                yield Piece(piece.index, free, [], [], [], "content_filter")
                if all(one.over for one in answers):
                    return
            elif answer.length:
                yield Piece(piece.index, free, [], [], [])
            else:
                yield Piece(piece.index, free, answer.ids, answer.logprobs, answer.top_logprobs, piece.finish_reason)
                answer.ids, answer.logprobs, answer.top_logprobs = [], [], []
            answer.over = answer.over or piece.finish_reason is not None
