"""What is asked of the engine and what it answers."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from hanlin.artifacts import UsageError

FinishReason = Literal["stop", "length", "error", "cancelled"]
"""stop: an end token, a stop token, a stop string, or nothing may follow under the constraint; length:
`max_new_tokens` or the model's context is full; error: `Completion.error` says why; cancelled: nobody
wants the rest."""

FORMS = ("json_schema", "json_object", "regex", "grammar", "choices", "tools")
MOST_WHITESPACE = 64
MOST_ALPHA = 10
MOST_BIASES = 1024
MOST_SAMPLES = 128
"""Most answers to one prompt that are generated (`n`, `best_of`)."""


@dataclass(frozen=True, kw_only=True)
class Constraint:
    """The form that an answer must have: exactly one of the first six. Raises UsageError for anything else."""

    json_schema: Mapping[str, Any] | str | None = None
    """JSON that this schema (draft 2020-12, or its text) validates; keywords that can't be kept are refused."""
    json_object: bool = False
    """Any JSON object."""
    regex: str | None = None
    """A text that this expression (Rust's syntax, no look-around) matches from its beginning to its end."""
    grammar: str | None = None
    """A text of this context-free grammar, in llguidance's form of Lark's notation."""
    choices: Sequence[str] | None = None
    """One of these texts."""
    tools: Sequence[Mapping[str, Any]] | None = None
    """Calls of these tools (OpenAI's form), in the form of hanlin's chat template."""
    tool_choice: Literal["auto", "required"] = "auto"
    """auto: free text until the model opens a call, which must then be right; required: nothing but calls. For a
    certain tool, give that one alone."""
    parallel_tool_calls: bool = True
    """Whether several calls may follow each other."""
    trigger: str | None = None
    """Text up to and with which the answer is free, such as "</think>"; None: the form begins at once."""
    whitespace: int = 0
    """Most white-space characters at each place where JSON may have them; 0: none (`{"a":1,"b":2}`)."""

    def __post_init__(self) -> None:
        given = [name for name in FORMS if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            raise UsageError(
                f"a constraint has {' and '.join(given) or 'no form'}: give exactly one of {', '.join(FORMS)}"
            )
        if not 0 <= self.whitespace <= MOST_WHITESPACE:
            raise UsageError(f"whitespace is {self.whitespace}: it must be between 0 and {MOST_WHITESPACE}")
        if isinstance(self.choices, str) or (self.choices is not None and not self.choices):
            raise UsageError(f"choices is {self.choices!r}: give a list of at least one text")

    @property
    def kind(self) -> str:
        """Which form is asked for: the name of the field."""
        return next(name for name in FORMS if getattr(self, name) not in (None, False))


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Context-aware decoding (Shi et al. 2023): the same question without its context, against which scores are set.
    Raises UsageError for values that mean nothing."""

    prompt_ids: Sequence[int]
    """The prompt without the context (retrieved pages, say) that the request's own prompt has."""
    alpha: float = 0.5
    """How much more the context counts than what the model knows without it: tokens are chosen by (1 + alpha) · scores
    with it - alpha · scores without it; 0: no contrast."""

    def __post_init__(self) -> None:
        if len(self.prompt_ids) == 0:
            raise UsageError("the contrast's prompt has no tokens, in prompt_ids: give at least one")
        if not 0 <= self.alpha <= MOST_ALPHA:
            raise UsageError(f"alpha is {self.alpha}: it must be between 0 and {MOST_ALPHA}")


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
    presence_penalty: float = 0.0
    """Taken from the score of every token that the answer holds already (OpenAI's formula; the prompt does not
    count); -2 to 2."""
    frequency_penalty: float = 0.0
    """Taken from a token's score once for each time that the answer holds it; -2 to 2."""
    logit_bias: Mapping[int, float] = field(default_factory=dict[int, float])
    """Added to the scores of these tokens (at most 1,024 of them), -100 to 100 each."""
    stop: Sequence[str] = ()
    """Strings that end the answer; they are not part of its text."""
    stop_ids: Sequence[int] = ()
    """Tokens that end the answer, besides the model's own end tokens."""
    ignore_eos: bool = False
    """Go on past the model's own end tokens (speed measurements)."""
    seed: int = 0
    """Of the sampling: the same request with the same seed has the same answer."""
    n: int = 1
    """Answers wanted, at most 128. The engine gives one a request: `samples.expand` makes the requests."""
    best_of: int | None = None
    """Answers generated, of which the `n` likeliest are wanted (`samples.likeliest` picks them); None: `n`."""
    logprobs: int = 0
    """How many of the likeliest tokens to report at each position, besides the chosen one."""
    processed_logprobs: bool = False
    """Report as well how likely each token was among those it was drawn from, after biases, penalties, temperature
    and filters."""
    prompt_logprobs: bool = False
    """Report the log-probability of each prompt token as well."""
    prompt_top_logprobs: int = 0
    """With `prompt_logprobs`: how many of the likeliest tokens to report at each place of the prompt, besides the one
    that stands there."""
    constraint: Constraint | None = None
    """The form that the answer must have. It has it unless it ends by its length or by a stop of the request's."""
    contrast: Contrast | None = None
    """Decode against the same question without its context. Log-probabilities stay those of the model that reads it."""
    beams: int = 1
    """Width of a beam search; 1: none."""
    length_penalty: float = 1.0
    """A beam's score is its summed log-probability / length^length_penalty."""
    adapter: str = ""
    """The LoRA adapter to answer with, by the name under which the engine has it; empty: the model itself."""
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
        for name, value in (("presence", self.presence_penalty), ("frequency", self.frequency_penalty)):
            if not -2 <= value <= 2:
                raise UsageError(f"{name}_penalty is {value}: it must be between -2 and 2 (0: off)")
        if len(self.logit_bias) > MOST_BIASES:
            raise UsageError(f"logit_bias has {len(self.logit_bias)} tokens: at most {MOST_BIASES} are allowed")
        for token, bias in self.logit_bias.items():
            if not -100 <= bias <= 100:
                raise UsageError(f"logit_bias of token {token} is {bias}: it must be between -100 and 100")
        self._check_samples()
        if isinstance(self.stop, str):
            raise UsageError(f"stop is the string {self.stop!r}: give a list of strings")
        if any(not text for text in self.stop):
            raise UsageError("stop holds an empty string, which every answer contains: remove it")
        if self.logprobs < 0:
            raise UsageError(f"logprobs is {self.logprobs}: it must be 0 or positive")
        if self.prompt_top_logprobs < 0:
            raise UsageError(f"prompt_top_logprobs is {self.prompt_top_logprobs}: it must be 0 or positive")
        if self.prompt_top_logprobs and not self.prompt_logprobs:
            raise UsageError("prompt_top_logprobs is given without prompt_logprobs: set prompt_logprobs as well")
        if self.beams < 1:
            raise UsageError(f"beams is {self.beams}: it must be at least 1")
        for name in ("constraint", "contrast"):
            if self.beams > 1 and getattr(self, name) is not None:
                raise UsageError(f"beams is {self.beams} and {name} given: a beam search has none; give one of them")
        if self.beams > 1 and self.temperature > 0:
            raise UsageError(
                f"beams is {self.beams} and temperature {self.temperature}: beam search does not sample; "
                "give one of them"
            )
        if not math.isfinite(self.length_penalty):
            raise UsageError(f"length_penalty is {self.length_penalty}: it must be a number")

    def _check_samples(self) -> None:
        if not 1 <= self.n <= MOST_SAMPLES:
            raise UsageError(f"n is {self.n}: it must be between 1 and {MOST_SAMPLES}")
        if self.best_of is not None and not self.n <= self.best_of <= MOST_SAMPLES:
            raise UsageError(
                f"best_of is {self.best_of} and n {self.n}: best_of must be at least n and at most {MOST_SAMPLES}"
            )
        if self.beams > 1 and (self.n > 1 or (self.best_of or 1) > 1):
            raise UsageError(f"beams is {self.beams} and n {self.n}: a beam search has one answer; give one of them")

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
    error: str = ""
    """With the finish reason "error": what went wrong."""
    processed_logprobs: list[float] | None = None
    """With `processed_logprobs`: of each token of `ids` under what it was drawn from (softmax of the scores after
    biases, penalties, temperature and filters; greedy answers have no temperature and no filters)."""
    top_logprobs: list[dict[int, float]] = field(default_factory=lambda: list[dict[int, float]]())
    """With `logprobs=n`: for each position the n likeliest tokens and the chosen one, with their log-probabilities."""
    prompt_logprobs: list[float | None] | None = None
    """With `prompt_logprobs`: one number a prompt token; None for the first, which nothing predicts."""
    prompt_top_logprobs: list[dict[int, float] | None] | None = None
    """With `prompt_top_logprobs=n`: for each prompt token the n likeliest at its place and itself, with their
    log-probabilities; None for the first."""
    prompt_tokens: int = 0
    """Length of the prompt, in tokens."""
    weights_version: str = ""
    """Which weights answered, as whoever serves several versions names them."""


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
