"""From a request's fields to the engine's `Request`."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hanlin.artifacts import UsageError
from hanlin.inference import Constraint, LanguageModel, Request
from hanlin.inference.cache import BLOCK
from hanlin.serving.api.errors import ApiError, invalid
from hanlin.serving.api.protocol import Sampling
from hanlin.serving.api.vocabulary import Vocabulary
from hanlin.serving.keys import ApiKey
from hanlin.serving.settings import ServeSettings


def settings_of(body: Sampling, vocabulary_size: int, key: ApiKey | None) -> dict[str, Any]:
    """The fields of `Request` that a body sets, but the prompt and the number of tokens.

    Requests of different keys share no cached texts, so that none can find out by the time what another asked.
    """
    found: dict[str, Any] = {
        "temperature": 1.0 if body.temperature is None else body.temperature,
        "seed": secrets.randbits(62) if body.seed is None else body.seed,
        "stop": tuple(body.stops),
        "ignore_eos": body.ignore_eos,
        "cache_salt": "" if key is None else key.prefix,
        "adapter": body.model.partition("+")[2],
    }
    for name in ("top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"):
        value = getattr(body, name)
        if value is not None:
            found[name] = value
    if body.logit_bias:
        found["logit_bias"] = {int(token): bias for token, bias in body.logit_bias.items()}
        for token in found["logit_bias"]:
            if token >= vocabulary_size:
                raise invalid(f"{token} is no token of this model, which has {vocabulary_size}.", "logit_bias")
    return found


def structure_of(body: Sampling) -> Constraint | None:
    """The form that `structured_outputs` asks for."""
    asked = body.structured_outputs
    if asked is None:
        return None
    return Constraint(json_schema=asked.json_, regex=asked.regex, grammar=asked.grammar, choices=asked.choice)


def check_constraint(model: LanguageModel, constraint: Constraint | None, param: str) -> None:
    """Raise ApiError for a form that can't be kept. Takes a tenth of a second: for a thread."""
    if constraint is not None:
        try:
            model.engine.constraints.compile(constraint, ())
        except UsageError as error:
            raise invalid(f"{error}.", param) from None


def bounded(
    request: Request, model: LanguageModel, asked: int | None, default: int | None, settings: ServeSettings, param: str
) -> Request:
    """`request` with as many new tokens as were asked for; with none asked for, `default` or what there is room for.

    Raises ApiError where the prompt and what was asked for do not fit into the model's context, or the engine's memory.
    """
    context, prompt = min(model.config.max_positions, model.engine.blocks * BLOCK), len(request.prompt_ids)
    room = context - prompt
    if room < 1 or (asked or 0) > room:
        wanted = f" and {asked} in the answer" if asked else ""
        raise ApiError(
            400,
            f"This model's context is {context} tokens; this request has {prompt} in the prompt{wanted}. Shorten "
            "one of them.",
            param=param if room < 1 else "max_tokens",
            code="context_length_exceeded",
        )
    most = settings.max_tokens
    if asked is not None and most is not None and asked > most:
        raise invalid(f"max_tokens is {asked}; this service answers with at most {most}.", "max_tokens")
    count = asked if asked is not None else min(room, most or room, default or room)
    return replace(request, max_new_tokens=max(1, count))


def check_sequences(count: int, settings: ServeSettings) -> None:
    """Raise where one request asks for more answers than could ever be admitted."""
    most = settings.max_batch + settings.queue
    if count > most:
        raise invalid(f"This asks for {count} answers at once; the service takes at most {most}.", "n")


@dataclass(frozen=True)
class PromptScores:
    """How likely a prompt's tokens are (`inference.scoring.score_with_top`)."""

    ids: Sequence[int]
    values: list[float | None]
    tops: list[Mapping[int, float] | None]

    def likeliest(self, count: int) -> list[Mapping[int, float] | None]:
        """`tops` with the `count` likeliest tokens, and the prompt's own, only."""
        found: list[Mapping[int, float] | None] = []
        for token, likely in zip(self.ids, self.tops, strict=True):
            if likely is None:
                found.append(None)
                continue
            best = sorted(likely.items(), key=lambda pair: -pair[1])[:count]
            found.append({**dict(best), token: likely[token]})
        return found

    def entries(self, vocabulary: Vocabulary, count: int) -> list[dict[str, Any] | None]:
        """vLLM's `prompt_logprobs`: null for the first token, then by token id the likeliest and the token's own."""
        return [None if likely is None else vocabulary.prompt_entry(likely) for likely in self.likeliest(count)]
