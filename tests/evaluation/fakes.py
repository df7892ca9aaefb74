"""A model without weights: a byte tokenizer (with merges, if asked), and an engine whose probabilities are known in
closed form."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from types import SimpleNamespace
from typing import Any

END_OF_TEXT, END_OF_TURN = 256, 257


class FakeTokenizer:
    """One token a byte; each of `merges` (two bytes) is a token of its own."""

    def __init__(self, merges: Sequence[bytes] = (), chat: bool = False) -> None:
        self.merges = {merge: 258 + index for index, merge in enumerate(merges)}
        self.end_of_text_id, self.end_of_turn_id, self.pad_id = END_OF_TEXT, END_OF_TURN, 0
        self.vocabulary_size = 258 + len(merges)
        self.chat_template = "{{ messages }}" if chat else None

    def encode(self, text: str) -> list[int]:
        if not self.merges:
            return list(text.encode())
        data, ids, at = text.encode(), [], 0
        while at < len(data):
            merged = self.merges.get(data[at : at + 2])
            ids.append(data[at] if merged is None else merged)
            at += 1 if merged is None else 2
        return ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def token_bytes(self, token: int) -> bytes:
        if token < 256:
            return bytes([token])
        return next((merge for merge, number in self.merges.items() if number == token), b"")

    def decode(self, ids: Sequence[int], skip_special: bool = True) -> str:
        return b"".join(self.token_bytes(token) for token in ids).decode(errors="replace")

    def render(self, messages: Sequence[Any], tools: Any = None, add_generation_prompt: bool = False) -> str:
        text = "".join(f"<{message.role}>{message.content}\n" for message in messages)
        return text + "<assistant>" * add_generation_prompt


@cache
def _table(size: int) -> list[list[float]]:
    """ln p(token | previous) for every pair of tokens, from fixed lumpy weights."""
    rows: list[list[float]] = []
    for previous in range(size):
        noise = hashlib.shake_256(f"{previous}".encode()).digest(size)
        weights = [3.0 * byte / 255 for byte in noise]
        total = math.log(sum(map(math.exp, weights)))
        rows.append([weight - total for weight in weights])
    return rows


def bigram(previous: int, token: int, size: int) -> float:
    """ln p(token | previous) of a fixed, lumpy distribution over `size` tokens."""
    return _table(size)[previous][token]


@dataclass
class FakeEngine:
    tokenizer: FakeTokenizer
    reply: Callable[[str], str] = lambda prompt: ""
    scale: float = 1.0
    """Below 1: a better model, every log-probability times this."""
    scored: list[tuple[list[int], list[int]]] = field(default_factory=list)
    asked: list[Any] = field(default_factory=list)

    def score(self, sequences: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[list[float]]:
        rows: list[list[float]] = []
        for context, continuation in sequences:
            assert context and continuation
            self.scored.append((list(context), list(continuation)))
            stream = [*context, *continuation]
            start = len(context)
            size = self.tokenizer.vocabulary_size
            rows.append([self.scale * bigram(stream[at - 1], stream[at], size) for at in range(start, len(stream))])
        return rows

    def generate(self, requests: Sequence[Any], on_finish: Callable[[Any], None] = lambda one: None) -> list[Any]:
        completions: list[Any] = []
        for request in requests:
            self.asked.append(request)
            text = self.reply(self.tokenizer.decode(request.prompt_ids))
            for stop in request.stop:
                text = text.split(stop)[0]
            ids = self.tokenizer.encode(text)[: request.max_new_tokens]
            completions.append(SimpleNamespace(text=self.tokenizer.decode(ids), ids=ids, finish_reason="stop"))
            on_finish(completions[-1])
        return completions


def fake_model(
    reply: Callable[[str], str] = lambda prompt: "",
    merges: Sequence[bytes] = (),
    chat: bool = False,
    max_positions: int = 512,
    scale: float = 1.0,
) -> Any:
    tokenizer = FakeTokenizer(merges, chat)

    def request(prompt: str, raw: bool = False) -> Any:
        assert raw
        return SimpleNamespace(prompt_ids=[END_OF_TEXT, *tokenizer.encode(prompt)])

    def chat_request(messages: Sequence[Any]) -> Any:
        return request(tokenizer.render(messages, None, True), raw=True)

    return SimpleNamespace(
        engine=FakeEngine(tokenizer, reply, scale),
        tokenizer=tokenizer,
        config=SimpleNamespace(max_positions=max_positions),
        prefix_ids=[END_OF_TEXT],
        request=request,
        chat_request=chat_request,
    )
