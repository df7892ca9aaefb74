"""What is asked of the engine and what it answers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from hanlin.artifacts import UsageError

FinishReason = Literal["stop", "length", "error", "cancelled"]
"""stop: an end token, a stop token or a stop string; length: `max_new_tokens` or the model's context is full; error:
the model's scores were not numbers; cancelled: nobody wants the rest."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt and how to continue it. Raises UsageError for values that mean nothing.

    The answer is a function of this request alone: not of the other requests in the batch, nor of their order.
    """

    prompt_ids: Sequence[int]
    """The prompt's tokens, special ones included; at least one."""
    max_new_tokens: int = 256
    """Most tokens to generate, the one that ends the answer included."""
    temperature: float = 0.0
    """0: the likeliest token (greedy); otherwise the scores are divided by it before sampling."""
    top_k: int = 0
    """Sample among the k likeliest tokens only (0: all); tokens as likely as the k-th stay."""
    top_p: float = 1.0
    """Sample among the likeliest tokens that together hold at least this probability (Holtzman et al. 2020)."""
    min_p: float = 0.0
    """Sample among tokens at least this fraction as likely as the likeliest (Nguyen et al. 2024)."""
    repetition_penalty: float = 1.0
    """Scores of tokens seen in prompt or answer are divided (negative ones multiplied) by it (Keskar et al. 2019); 1:
    off."""
    stop: Sequence[str] = ()
    """Strings that end the answer; they are not part of its text."""
    stop_ids: Sequence[int] = ()
    """Tokens that end the answer, besides the model's own end tokens."""
    ignore_eos: bool = False
    """Go on past the model's own end tokens (speed measurements)."""
    seed: int = 0
    """Of the sampling: the same request with the same seed has the same answer."""
    logprobs: int = 0
    """How many of the likeliest tokens to report at each position, besides the chosen one."""
    prompt_logprobs: bool = False
    """Report the log-probability of each prompt token as well."""
    beams: int = 1
    """Width of a beam search; 1: none."""
    length_penalty: float = 1.0
    """A beam's score is its summed log-probability / length^length_penalty."""
    priority: int = 0
    """Requests with a smaller number go first; among equals, those that came first."""
    cache_salt: str = ""
    """What earlier requests had read of the same prompt is used again only where their salt is the same (an owner's
    name, say): otherwise the time of an answer would tell what others have asked."""

    def __post_init__(self) -> None:
        if len(self.prompt_ids) == 0:
            raise UsageError(
                "the prompt has no tokens, in prompt_ids: give at least one (a begin-of-text token will do)"
            )
        if self.max_new_tokens <= 0:
            raise UsageError(f"max_new_tokens is {self.max_new_tokens}: it must be at least 1")
        if not (self.temperature >= 0 and math.isfinite(self.temperature)):
            raise UsageError(f"temperature is {self.temperature}: it must be 0 (greedy) or a positive number")
        if self.top_k < 0:
            raise UsageError(f"top_k is {self.top_k}: it must be 0 (off) or positive")
        if not 0 < self.top_p <= 1:
            raise UsageError(f"top_p is {self.top_p}: it must be above 0 and at most 1 (off)")
        if not 0 <= self.min_p <= 1:
            raise UsageError(f"min_p is {self.min_p}: it must be between 0 (off) and 1")
        if not (self.repetition_penalty > 0 and math.isfinite(self.repetition_penalty)):
            raise UsageError(f"repetition_penalty is {self.repetition_penalty}: it must be a positive number (1: off)")
        if isinstance(self.stop, str):
            raise UsageError(f"stop is the string {self.stop!r}: give a list of strings")
        if any(not text for text in self.stop):
            raise UsageError("stop holds an empty string, which every answer contains: remove it")
        if self.logprobs < 0:
            raise UsageError(f"logprobs is {self.logprobs}: it must be 0 or positive")
        if self.beams < 1:
            raise UsageError(f"beams is {self.beams}: it must be at least 1")
        if self.beams > 1 and self.temperature > 0:
            raise UsageError(
                f"beams is {self.beams} and temperature {self.temperature}: beam search does not sample; "
                "give one of them"
            )
        if not math.isfinite(self.length_penalty):
            raise UsageError(f"length_penalty is {self.length_penalty}: it must be a number")

    def sampling_key(self) -> int:
        """64 bits from the seed and the prompt, from which every uniform number of this request is made.

        The prompt is part of it: with one seed for a whole exam, its questions must not all draw the same numbers.
        """
        state = hashlib.blake2b(str(self.seed).encode(), digest_size=8)
        state.update(",".join(map(str, self.prompt_ids)).encode())
        return int.from_bytes(state.digest(), "little")


@dataclass(kw_only=True)
class Completion:
    """The answer to a request."""

    ids: list[int]
    """The generated tokens, the end or stop token included where one came."""
    text: str
    """The tokens as text, without special tokens, the stop token and the stop string."""
    logprobs: list[float]
    """Natural log-probability of each token of `ids` under the model itself (softmax of its raw scores, before
    temperature, penalties and filters)."""
    finish_reason: FinishReason
    top_logprobs: list[dict[int, float]] = field(default_factory=lambda: list[dict[int, float]]())
    """With `logprobs=n`: for each position the n likeliest tokens and the chosen one, with their log-probabilities."""
    prompt_logprobs: list[float | None] | None = None
    """With `prompt_logprobs`: one number a prompt token; None for the first, which nothing predicts."""
    prompt_tokens: int = 0
    """Length of the prompt, in tokens."""


@dataclass(kw_only=True)
class Delta:
    """A piece of a streamed answer. The texts of all pieces, joined, are the text of the whole answer."""

    text: str
    """Whole characters that no stop string can take back; may be empty."""
    ids: list[int]
    """The tokens generated since the last piece."""
    logprobs: list[float]
    """Their log-probabilities."""
    top_logprobs: list[dict[int, float]] = field(default_factory=lambda: list[dict[int, float]]())
    """With `logprobs=n`: for each of the tokens the n likeliest ones."""
    finish_reason: FinishReason | None = None
    """Set on the last piece."""
    completion: Completion | None = None
    """The whole answer, on the last piece."""
