"""Tokens as answers show them."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

from hanlin.tokenization import Tokenizer


class Vocabulary:
    """Names of a tokenizer's tokens."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._special = {index: name for name, index in tokenizer.special.items()}

    def bytes(self, token: int) -> bytes | None:
        """What a token stands for in a text; None for one that stands for none of it (an end of turn)."""
        if token >= self._tokenizer.vocabulary_size:
            return None
        return self._tokenizer.token_bytes(token) or None

    def text(self, token: int) -> str:
        """A token as text: bytes that are no character become U+FFFD; control tokens go by their names."""
        data = self.bytes(token)
        return self._special.get(token, "") if data is None else data.decode("utf-8", errors="replace")

    def key(self, token: int) -> str:
        """As `text`, but two tokens of which neither is a character stay apart: `bytes:\\xe4`."""
        data = self.bytes(token)
        if data is None:
            return self._special.get(token, f"token_id:{token}")
        try:
            return data.decode("utf-8")
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in data)

    def chat_logprob(self, token: int, logprob: float, top: Mapping[int, float], count: int) -> dict[str, Any]:
        """An entry of a chat's `logprobs.content`, with the `count` likeliest tokens."""
        entry = self._entry(token, logprob)
        likeliest = sorted(top.items(), key=lambda pair: -pair[1])[:count]
        entry["top_logprobs"] = [self._entry(other, value) for other, value in likeliest]
        return entry

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        data = self.bytes(token)
        return {
            "token": self.text(token),
            "logprob": finite(logprob),
            "bytes": None if data is None else list(data),
        }

    def prompt_entry(self, likely: Mapping[int, float]) -> dict[str, Any]:
        """An entry of `prompt_logprobs`: by token id, the chosen token and the likeliest."""
        return {
            str(token): {"logprob": finite(value), "decoded_token": self.text(token)} for token, value in likely.items()
        }


LEAST_LOGPROB = -9999.0
"""What stands for minus infinity, which JSON does not have."""


def finite(logprob: float) -> float:
    return max(logprob, LEAST_LOGPROB)


class Offsets:
    """Where in a text its tokens begin, in characters, while the tokens come."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._length = 0

    def start(self, length: int) -> None:
        """Begin behind so many characters (an echoed prompt)."""
        self._length = length

    def of(self, tokens: Sequence[int]) -> list[int]:
        """The offset of each: inside a character of several tokens, that of the character."""
        found: list[int] = []
        for token in tokens:
            found.append(self._length)
            self._length += len(self._decoder.decode(self._vocabulary.bytes(token) or b""))
        return found
