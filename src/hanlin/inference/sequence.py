"""A request in the making."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from hanlin.inference.adapters import LoadedAdapter
from hanlin.inference.cache import blocks_of
from hanlin.inference.prefixes import TILE, digests
from hanlin.inference.sampling import NOT_NUMBERS, SamplingState
from hanlin.inference.text import TextStream
from hanlin.inference.types import Completion, Delta, FinishReason, Request


@dataclass(eq=False)
class Sequence:
    """What the engine knows of one request while it answers it."""

    request: Request
    stop_ids: frozenset[int]
    limit: int
    """Tokens to generate at most: `max_new_tokens`, or what the model's context leaves room for."""
    sampling: SamplingState
    stream: TextStream
    adapter: LoadedAdapter | None = None
    ids: list[int] = field(default_factory=lambda: list[int]())
    logprobs: list[float] = field(default_factory=lambda: list[float]())
    top_logprobs: list[dict[int, float]] = field(default_factory=lambda: list[dict[int, float]]())
    pieces: list[str] = field(default_factory=lambda: list[str]())
    finish_reason: FinishReason | None = None

    # The scheduler's ------------------------------------------------
    number: int = 0
    """Order of arrival."""
    slot: int = -1
    """Where its keys and values are; -1: nowhere."""
    read: int = 0
    """Positions of which there are keys and values."""
    spilled: Tensor | None = None
    """Its keys and values while it is preempted."""
    leader: Sequence | None = None
    """A sequence that is reading what the prompt begins with: it is waited for, and copied."""
    shared: int = 0
    """How many positions will be copied of the leader's."""

    ahead: int = 4
    """How many tokens to guess ahead."""

    def __post_init__(self) -> None:
        self.prompt = list(self.request.prompt_ids)
        self.salt = self.request.cache_salt + ("" if self.adapter is None else f"\0{self.adapter.salt}")
        """Keeps what is known of owners and adapters apart."""
        self.chain = digests(self.prompt, self.salt)
        """What the prompt's full tiles are recognised by."""
        rest = tuple(self.prompt[len(self.chain) * TILE :])
        self.key = (self.chain[-1] if self.chain else self.salt, rest)
        """Equal for equal prompts of equal owners."""

    @property
    def rank(self) -> tuple[int, int]:
        """Smaller ones come first."""
        return self.request.priority, self.number

    @property
    def reading(self) -> bool:
        """Whether part of the prompt is still to be read."""
        return self.read < len(self.prompt)

    @property
    def blocks(self) -> int:
        """Blocks that it needs for what it has, and for the next token."""
        return blocks_of(max(self.read, len(self.prompt)) + 1)

    def whole_chain(self) -> list[bytes]:
        """What the full tiles of all that was read, the prompt and its answer, are recognised by."""
        return digests([*self.prompt, *self.ids][: self.read], self.salt, self.chain)

    def append(self, token: int, logprob: float, top: dict[int, float]) -> None:
        """Take the next token; sets `finish_reason` when it is the last. A token of -1 stands for scores without
        meaning."""
        if token < 0:
            self.finish_reason = "error"
        else:
            self.ids.append(token)
            self.logprobs.append(logprob)
            if self.request.logprobs:
                self.top_logprobs.append(top)
            self.sampling.advance(token)
            if token in self.stop_ids:
                self.finish_reason = "stop"
            else:
                self.pieces.append(self.stream.push(token))
                if self.stream.stopped or self.sampling.complete:
                    self.finish_reason = "stop"
                elif len(self.ids) >= self.limit:
                    self.finish_reason = "length"
        if self.finish_reason is not None:
            self.pieces.append(self.stream.finish())

    def completion(self) -> Completion:
        assert self.finish_reason is not None
        return Completion(
            ids=self.ids,
            text="".join(self.pieces),
            logprobs=self.logprobs,
            finish_reason=self.finish_reason,
            error=self.sampling.error or NOT_NUMBERS if self.finish_reason == "error" else "",
            processed_logprobs=self.sampling.processed_logprobs if self.request.processed_logprobs else None,
            top_logprobs=self.top_logprobs,
            prompt_tokens=len(self.prompt),
        )


class Told:
    """How much of a sequence's answer its listener knows."""

    def __init__(self, sequence: Sequence) -> None:
        self.sequence, self.pieces, self.tokens = sequence, 0, 0

    def next(self, complete: Callable[[Sequence], Completion] | None) -> Delta:
        """What is new since the last call; `complete` makes the completion that comes with the last piece."""
        one, pieces, tokens = self.sequence, self.pieces, self.tokens
        self.pieces, self.tokens = len(one.pieces), len(one.ids)
        return Delta(
            text="".join(one.pieces[pieces:]),
            ids=one.ids[tokens:],
            logprobs=one.logprobs[tokens:],
            top_logprobs=one.top_logprobs[tokens:],
            finish_reason=one.finish_reason,
            completion=complete(one) if complete is not None and one.finish_reason is not None else None,
        )
