"""What every objective is given: a few rows of tokens, and what each position must predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

IGNORED = -100
"""The label of a position that is not trained on (PyTorch's `ignore_index`)."""


@dataclass
class Batch:
    """B rows of T positions, as CPU tensors until `to` moves them."""

    input_ids: Tensor
    """int64 [B, T]"""
    labels: Tensor
    """int64 [B, T], already shifted: the label of position t is the token that position t must predict; -100 = none."""
    position_ids: Tensor
    """int64 [B, T]; restarts at 0 with each document, and at a row's start, whatever came before it."""
    document_ids: Tensor | None = None
    """int32 [B, T], rising along a row and equal inside one document: attention stays where they are equal.
    None: every row holds one document (and, after it, padding at most), so that plain causal attention is right."""

    @property
    def rows(self) -> int:
        return self.input_ids.shape[0]

    @property
    def trained_tokens(self) -> int:
        """How many positions have a label."""
        return int((self.labels != IGNORED).sum())

    def slice(self, start: int, stop: int) -> Batch:
        """Rows `start` to `stop` (views, nothing is copied): a micro-batch."""
        documents = None if self.document_ids is None else self.document_ids[start:stop]
        return Batch(self.input_ids[start:stop], self.labels[start:stop], self.position_ids[start:stop], documents)

    def parts(self, tokens: int, rows: int | None = None) -> list[Batch]:
        """Micro-batches of `rows` rows, or of as many as have `tokens` positions (at least one)."""
        size = rows or max(1, tokens // self.input_ids.shape[1])
        return [self.slice(start, min(start + size, self.rows)) for start in range(0, self.rows, size)]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch on `device`."""
        documents = None if self.document_ids is None else self.document_ids.to(device, non_blocking=non_blocking)
        return Batch(
            self.input_ids.to(device, non_blocking=non_blocking),
            self.labels.to(device, non_blocking=non_blocking),
            self.position_ids.to(device, non_blocking=non_blocking),
            documents,
        )


def to_tensor(array: NDArray[Any]) -> Tensor:
    """The array as a tensor; a contiguous one is not copied."""
    return torch.from_numpy(array)
