"""What every answer and every chunk of one says of itself."""

from __future__ import annotations

import secrets
import time
from typing import Any

from hanlin.serving.models import Version


class Envelope:
    """Identity of one answer, and the count of its tokens."""

    def __init__(self, prefix: str, version: Version, model: str) -> None:
        """`model` as it was asked for: it may name an adapter."""
        self.id = f"{prefix}-{secrets.token_hex(12)}"
        _, plus, adapter = model.partition("+")
        self._version, self._created, self._model = version, int(time.time()), version.id + plus + adapter
        self.prompt_tokens = self.completion_tokens = 0

    def wrap(self, kind: str, **rest: Any) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self._created,
            "model": self._model,
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
