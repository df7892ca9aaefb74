"""What every answer and every chunk of one says of itself."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from hanlin.inference import Completion, Delta, Request
from hanlin.serving.api.vocabulary import Vocabulary
from hanlin.serving.models import Version


class Envelope:
    """Identity of one answer, and the count of its tokens."""

    def __init__(self, prefix: str, version: Version) -> None:
        self.id = f"{prefix}-{secrets.token_hex(12)}"
        self._version, self._created = version, int(time.time())
        self.prompt_tokens = self.completion_tokens = 0

    def wrap(self, kind: str, **rest: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._version.id,
            "system_fingerprint": self._version.fingerprint,
            **rest,
        }

    def usage(self) -> dict[str, Any]:
        """Prompt tokens are counted once a prompt, however many answers it has."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }


def finish_reason(delta: Delta) -> str | None:
    """OpenAI's word for how an answer ended. An engine's `error` or `cancelled` is raised before it comes here."""
    return delta.finish_reason


def prompt_logprobs(
    completion: Completion, request: Request, vocabulary: Vocabulary
) -> Sequence[dict[str, Any] | None]:
    """vLLM's `prompt_logprobs`: null for the first token, then by token id the chosen one and the likeliest."""
    assert completion.prompt_logprobs is not None
    found: list[dict[str, Any] | None] = []
    for token, logprob in zip(request.prompt_ids, completion.prompt_logprobs, strict=True):
        found.append(None if logprob is None else vocabulary.prompt_entry({token: logprob}))
    return found
