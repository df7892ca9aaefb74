"""What a model makes of whole texts: one vector a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.artifacts import HanlinError
from hanlin.models import Transformer

Pooling = Literal["mean", "last"]


@torch.inference_mode()
def embed(
    model: Transformer, texts: Sequence[Sequence[int]], pooling: Pooling = "mean", batch_tokens: int = 4096
) -> Tensor:
    """One vector of length 1 for each text of token ids: float32 [texts, hidden], on the CPU.

    The mean of a text's hidden states after the final norm, or the last token's. A forward pass reads at most
    `batch_tokens` tokens, padding counted (one text may be longer). A text's vector depends on the others only through
    the rounding of matrix products of different heights.

    Raises HanlinError for a text that is empty, too long for the model, or holds ids that it does not have.
    """
    for number, ids in enumerate(texts):
        _check(model, ids, f"text {number}")
    order = sorted(range(len(texts)), key=lambda number: -len(texts[number]))
    found = torch.empty((len(texts), model.config.hidden_size), dtype=torch.float32)
    start = 0
    while start < len(order):
        rows = order[start : start + max(1, batch_tokens // len(texts[order[start]]))]
        found[rows] = _pooled(model, [texts[row] for row in rows], pooling)
        start += len(rows)
    return found


def _pooled(model: Transformer, texts: Sequence[Sequence[int]], pooling: Pooling) -> Tensor:
    device = model.embedding.weight.device
    lengths = torch.tensor([len(ids) for ids in texts], device=device)
    # Padding stands behind everything real, so that causal attention hides it.
    padded = [[*ids, *[0] * (len(texts[0]) - len(ids))] for ids in texts]
    hidden = model.hidden(torch.tensor(padded, device=device)).float()
    if pooling == "last":
        vectors = hidden[torch.arange(len(texts), device=device), lengths - 1]
    else:
        real = torch.arange(hidden.shape[1], device=device) < lengths[:, None]
        vectors = (hidden * real[:, :, None]).sum(1) / lengths[:, None]
    return F.normalize(vectors, dim=1).cpu()


def _check(model: Transformer, ids: Sequence[int], name: str) -> None:
    limit, size = model.config.max_positions, model.config.vocabulary_size
    if not ids:
        raise HanlinError(f"{name} has no tokens: give at least one")
    if len(ids) > limit:
        raise HanlinError(f"{name} has {len(ids)} tokens and the model's context is {limit}: shorten it")
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if wrong is not None:
        raise HanlinError(f"{wrong} in {name} is not a token of this model, whose vocabulary has {size}")
