"""Which requests run together: waiting ones take the rows of those that finished (continuous batching)."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field

from hanlin.inference.runner import Runner
from hanlin.inference.sampling import SamplingState, choose
from hanlin.inference.text import TextStream
from hanlin.inference.types import Completion, FinishReason, Request


@dataclass(eq=False)
class Sequence:
    """A request in the making."""

    request: Request
    stop_ids: frozenset[int]
    limit: int
    """Tokens to generate at most: `max_new_tokens`, or what the model's context leaves room for."""
    sampling: SamplingState
    stream: TextStream
    ids: list[int] = field(default_factory=lambda: list[int]())
    logprobs: list[float] = field(default_factory=lambda: list[float]())
    top_logprobs: list[dict[int, float]] = field(default_factory=lambda: list[dict[int, float]]())
    pieces: list[str] = field(default_factory=lambda: list[str]())
    finish_reason: FinishReason | None = None

    @property
    def length(self) -> int:
        """Positions that its row of the cache holds: all but the newest token, which the model has not read yet."""
        return len(self.request.prompt_ids) + len(self.ids) - 1

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
            error=self.sampling.error if self.finish_reason == "error" else "",
            processed_logprobs=self.sampling.processed_logprobs if self.request.processed_logprobs else None,
            top_logprobs=self.top_logprobs,
            prompt_tokens=len(self.request.prompt_ids),
        )


class Scheduler:
    """Runs sequences in the rows of one `Runner`, first come, first served.

    `cache_tokens` bounds rows × longest sequence, thereby the cache's memory (one sequence may run whatever its
    length).
    """

    def __init__(self, runner: Runner, max_batch: int, cache_tokens: int) -> None:
        self.runner, self.max_batch, self.cache_tokens = runner, max_batch, cache_tokens
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        """The sequence of each row."""

    def add(self, sequences: Collection[Sequence]) -> None:
        """Queue sequences behind those that wait already."""
        self.waiting.extend(sequences)

    @property
    def busy(self) -> bool:
        """Whether anything runs or waits."""
        return bool(self.waiting or self.running)

    def step(self) -> list[Sequence]:
        """One token for every running sequence, or the first token of new ones; returns those that got one (or
        failed)."""
        joining = self._joining()
        if joining:
            first = len(self.running)
            logits = self.runner.prefill([sequence.request.prompt_ids for sequence in joining], first)
            self.running += joining
            advanced = joining
        else:
            logits = self.runner.decode([s.ids[-1] for s in self.running], [s.length for s in self.running])
            advanced = list(self.running)
        choice = choose(logits, [sequence.sampling for sequence in advanced])
        for sequence, token, logprob, top in zip(advanced, choice.tokens, choice.logprobs, choice.top, strict=True):
            sequence.append(token, logprob, top)
        self._remove_finished()
        return advanced

    def _joining(self) -> list[Sequence]:
        """Waiting sequences to start now. Rows are refilled a quarter at a time: reading prompts one by one is slow."""
        free = self.max_batch - len(self.running)
        if not self.waiting or (self.running and free < min(len(self.waiting), -(-self.max_batch // 4))):
            return []
        joining: list[Sequence] = []
        read: set[tuple[int, ...]] = set()
        """Prompts: one that several ask is read once"""
        longest_prompt = 0
        longest = max((_most(sequence) for sequence in self.running), default=0)
        while self.waiting and len(joining) < free:
            candidate = self.waiting[0]
            longest_prompt = max(longest_prompt, len(candidate.request.prompt_ids))
            longest = max(longest, _most(candidate))
            rows = len(self.running) + len(joining) + 1
            if rows > 1 and rows * longest > self.cache_tokens:
                break
            read.add(tuple(candidate.request.prompt_ids))
            if joining and len(read) * longest_prompt > self.runner.prefill_tokens:
                break
            joining.append(self.waiting.popleft())
        return joining

    def _remove_finished(self) -> None:
        """Close the gaps that finished sequences leave, moving sequences from the end into them."""
        for row, sequence in enumerate(self.running):
            if sequence.finish_reason == "error":
                # Before anything is moved: a row that is copied from keeps its numbers, and would be met again.
                self.runner.cache.clear(row)
        row = 0
        while row < len(self.running):
            sequence = self.running[row]
            if sequence.finish_reason is None:
                row += 1
                continue
            last = self.running.pop()
            if last is not sequence:
                self.runner.cache.move(len(self.running), row, last.length)
                self.running[row] = last


def _most(sequence: Sequence) -> int:
    return len(sequence.request.prompt_ids) + sequence.limit
