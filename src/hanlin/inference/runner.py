"""A model with its cache: prompts in, next-token scores out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hanlin.inference.cache import KVCache, Prefill
from hanlin.inference.step import DecodeStep
from hanlin.models import Transformer


def compute_dtype(model: Transformer) -> torch.dtype:
    """The precision in which the model computes: that of its hidden states, keys and values."""
    return model.compute_dtype or model.embedding.weight.dtype


class Runner:
    """Runs the model on the rows of one cache. Rows are 0…n-1 without holes; who is in which row is the caller's
    business."""

    def __init__(self, model: Transformer, step: DecodeStep, max_rows: int, prefill_tokens: int) -> None:
        self.model, self.step, self.prefill_tokens = model, step, prefill_tokens
        self.device = model.embedding.weight.device
        self.cache = KVCache(model.config, max_rows, step.dtype, self.device)

    def prefill(self, prompts: Sequence[Sequence[int]], first: int) -> Tensor:
        """Read prompts into the rows from `first` on; returns float32 logits [len(prompts), vocabulary] after their
        ends.

        A prompt that is there several times is read once. One longer than `prefill_tokens` is read in pieces of that
        length, so that memory stays bounded.
        """
        numbers: dict[tuple[int, ...], int] = {}
        copies = [numbers.setdefault(tuple(prompt), len(numbers)) for prompt in prompts]
        self.cache.reserve(first + len(prompts), max(map(len, prompts)) + 1)
        logits = self._read(list(numbers), first)
        if len(numbers) == len(prompts):
            return logits
        self.cache.reorder(copies, max(map(len, prompts)), first)
        return logits[copies]

    def _read(self, prompts: Sequence[Sequence[int]], first: int) -> Tensor:
        lengths = [len(prompt) for prompt in prompts]
        longest = max(lengths)
        ids = torch.zeros((len(prompts), longest), dtype=torch.int64)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.as_tensor(prompt, dtype=torch.int64)
        ids = ids.to(self.device)
        size = max(1, self.prefill_tokens // len(prompts))
        last: Tensor | None = None
        for start in range(0, longest, size):
            piece = ids[:, start : start + size]
            length = piece.shape[1]
            positions = torch.arange(start, start + length, device=self.device).expand(len(prompts), length)
            seen = Prefill(self.cache, first, len(prompts), start, length)
            hidden = self.model.hidden(piece, positions, cache=seen)
            if last is None:
                last = hidden.new_empty((len(prompts), hidden.shape[2]))
            for row, end in enumerate(lengths):
                if start < end <= start + length:
                    last[row] = hidden[row, end - 1 - start]
        assert last is not None
        return self.model.logits(last).float()

    def decode(self, tokens: Sequence[int], lengths: Sequence[int]) -> Tensor:
        """Give row i, which holds `lengths[i]` positions, the token `tokens[i]`; returns float32 logits [n,
        vocabulary]."""
        self.cache.reserve(len(tokens), max(lengths) + 1)
        return self.step(torch.tensor(tokens, device=self.device), lengths, self.cache).float()
