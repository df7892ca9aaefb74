"""What a model makes of whole texts: one vector a text, and how likely each token of a text is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.artifacts import HanlinError
from hanlin.inference.numbers import floats, integers
from hanlin.inference.scoring import LOGIT_BYTES
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


@torch.inference_mode()
def prompt_logprobs(
    model: Transformer, ids: Sequence[int], top: int
) -> tuple[list[float | None], list[Mapping[int, float] | None]]:
    """For each token of a text its natural log-probability given those before it, and the `top` likeliest tokens there
    (and the token itself) with theirs. None for the first, which nothing predicts.

    The scores of the vocabulary are made for a few positions at a time, so that they need little memory however long
    the text is. Raises HanlinError as `embed` does.
    """
    _check(model, ids, "the prompt")
    device = model.embedding.weight.device
    values: list[float | None] = [None]
    likeliest: list[Mapping[int, float] | None] = [None]
    if len(ids) == 1:
        return values, likeliest
    hidden = model.hidden(torch.tensor([list(ids[:-1])], device=device))[0]
    labels = torch.tensor(ids[1:], device=device)
    step = max(1, LOGIT_BYTES // (4 * model.config.vocabulary_size))
    for start in range(0, hidden.shape[0], step):
        logprobs = model.logits(hidden[start : start + step]).float().log_softmax(dim=1)
        tokens = labels[start : start + step]
        chosen = floats(logprobs.gather(1, tokens[:, None])[:, 0])
        values += chosen
        best = logprobs.topk(top, dim=1) if top else None
        for row, (token, value) in enumerate(zip(ids[start + 1 :], chosen)):
            entry: dict[int, float] = {}
            if best is not None:
                entry = dict(zip(integers(best.indices[row]), floats(best.values[row])))
            likeliest.append({**entry, token: value})
    return values, likeliest


def _check(model: Transformer, ids: Sequence[int], name: str) -> None:
    limit, size = model.config.max_positions, model.config.vocabulary_size
    if not ids:
        raise HanlinError(f"{name} has no tokens: give at least one")
    if len(ids) > limit:
        raise HanlinError(f"{name} has {len(ids)} tokens and the model's context is {limit}: shorten it")
    wrong = next((token for token in ids if not 0 <= token < size), None)
    if wrong is not None:
        raise HanlinError(f"{wrong} in {name} is not a token of this model, whose vocabulary has {size}")
