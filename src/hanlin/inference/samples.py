"""Several answers to one prompt: a request made into several, and the likeliest answers picked out."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Literal

from hanlin.inference.types import Completion, Request


def expand(request: Request) -> list[Request]:
    """The requests, one answer each, that `n` or `best_of` stands for; sample i is the same whatever their number.

    The first keeps the request's seed, so that it is the answer of the request without `n`.
    """
    count = request.best_of or request.n
    return [
        dataclasses.replace(request, n=1, best_of=None, seed=_seed(request.seed, number)) for number in range(count)
    ]


def likeliest(completions: Sequence[Completion], n: int, by: Literal["mean", "sum"] = "mean") -> list[Completion]:
    """The `n` completions with the highest log-probability under the model, a token (mean) or in all, best first.

    Of equals the earlier comes first; answers that failed come last.
    """

    def score(completion: Completion) -> float:
        if completion.finish_reason == "error" or not completion.logprobs:
            return float("-inf")
        total = sum(completion.logprobs)
        return total / len(completion.logprobs) if by == "mean" else total

    return sorted(completions, key=score, reverse=True)[:n]


def _seed(seed: int, number: int) -> int:
    if number == 0:
        return seed
    return int.from_bytes(hashlib.blake2b(f"{seed}/{number}".encode(), digest_size=8).digest(), "little")
