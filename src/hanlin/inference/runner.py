"""A few sequences that advance together, in the hands of their caller: beam search."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hanlin.inference.cache import KVCache, blocks_of
from hanlin.inference.plan import Piece
from hanlin.inference.prefixes import TILE
from hanlin.inference.step import Step


class Runner:
    """Rows 0…n-1 of a cache of their own, of at most `rows`; call it in inference mode."""

    def __init__(self, step: Step, rows: int, prefill_tokens: int) -> None:
        self.step, self.prefill_tokens = step, max(TILE, prefill_tokens // TILE * TILE)
        blocks = rows * blocks_of(step.config.max_positions)
        self.cache = KVCache(step.config, rows, blocks, step.dtype, step.device)

    def prefill(self, prompts: Sequence[Sequence[int]]) -> Tensor:
        """Read a prompt into each row; returns float32 logits [len(prompts), vocabulary] after their ends."""
        return torch.cat([self._read(row, list(prompt)) for row, prompt in enumerate(prompts)])

    def _read(self, row: int, prompt: list[int]) -> Tensor:
        self.cache.hold(row, len(prompt) + 1)
        logits = torch.empty(0)
        for start in range(0, len(prompt), self.prefill_tokens):
            tokens = prompt[start : start + self.prefill_tokens]
            logits = self.step([Piece(row, start, tokens, True, start + len(tokens) == len(prompt))], self.cache)
        return logits

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Give row i, which holds `lengths[i]` positions, the token `tokens[i]`; returns float32 logits [n,
        vocabulary]."""
        pieces: list[Piece] = []
        for row, (token, length) in enumerate(zip(tokens, lengths, strict=True)):
            self.cache.hold(row, length + 1)
            pieces.append(Piece(row, length, [token], False, True))
        return self.step(pieces, self.cache)

    def reorder(self, rows: Sequence[int], length: int) -> None:
        """Row i becomes what row `rows[i]` was; only the first `length` positions count."""
        for row in range(len(rows)):
            self.cache.hold(row, length + 1)
        self.cache.reorder(rows, length)
