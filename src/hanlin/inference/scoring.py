"""How likely given texts are: log-probabilities of continuations, for exams."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.artifacts import HanlinError
from hanlin.inference.cache import additive_mask
from hanlin.inference.functions import compute_dtype
from hanlin.inference.numbers import floats, integers
from hanlin.models import ModelConfig, Transformer

Pair = tuple[Sequence[int], Sequence[int]]
"""(context tokens, continuation tokens)."""
Scores = tuple[list[float], list[dict[int, float]]]
"""Of each continuation token its log-probability; and, where asked for, the likeliest tokens at its place and itself,
with theirs."""

LOGIT_BYTES = 32 << 20
"""Scores of the vocabulary held at once, in bytes of float32."""


class _Row:
    """Continuations of one context in one row: the context is read once, and no continuation sees another."""

    def __init__(self, context: Sequence[int]) -> None:
        self.context = context
        self.ids: list[int] = list(context)
        self.positions: list[int] = list(range(len(context)))
        self.branches: list[int] = [0] * len(context)
        self.members: list[tuple[int, list[int], list[int]]] = []
        """Of each continuation: its number, where in the row its tokens are predicted, and the tokens."""

    def add(self, number: int, continuation: Sequence[int]) -> None:
        # The last token predicts nothing that is asked for, so it is not read.
        start, read = len(self.ids), list(continuation[:-1])
        self.members.append((number, [len(self.context) - 1, *range(start, start + len(read))], list(continuation)))
        self.ids += read
        self.positions += range(len(self.context), len(self.context) + len(read))
        self.branches += [len(self.members)] * len(read)


class _Branches:
    """Attention for rows with several continuations, by `models.Cache`'s protocol: a position sees the context, and
    what lies before it in its own branch. Nothing is stored."""

    def __init__(self, config: ModelConfig, positions: Tensor, branches: Tensor, dtype: torch.dtype) -> None:
        self.config, self.positions, self.dtype = config, positions, dtype
        length = positions.shape[1]
        order = torch.arange(length, device=positions.device)
        own = (branches[:, None, :] == 0) | (branches[:, None, :] == branches[:, :, None])
        self.visible = own & (order[None, :] <= order[:, None])
        self.masks: dict[int | None, Tensor] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        mask = self._mask(self.config.window(layer))
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, enable_gqa=query.shape[1] != key.shape[1]
        )

    def _mask(self, window: int | None) -> Tensor:
        if window not in self.masks:
            visible = self.visible
            if window is not None:
                visible = visible & (self.positions[:, :, None] - self.positions[:, None, :] < window)
            self.masks[window] = additive_mask(visible[:, None], self.dtype)
        return self.masks[window]


@torch.inference_mode()
def score(model: Transformer, pairs: Sequence[Pair], batch_tokens: int) -> list[list[float]]:
    """For each (context, continuation) the log-probability of every continuation token, given all before it.

    Pairs with equal contexts share one reading of it. Raises HanlinError for an empty context (nothing predicts the
    first token then: give at least a begin-of-text token) and for a pair longer than the model's context.
    """
    return [values for values, _ in score_with_top(model, pairs, batch_tokens, 0)]


@torch.inference_mode()
def score_with_top(model: Transformer, pairs: Sequence[Pair], batch_tokens: int, top: int) -> list[Scores]:
    """`score`, and of each continuation token's place the `top` likeliest tokens besides it, in the same memory."""
    _check(pairs, model.config.max_positions)
    results: list[Scores] = [([], []) for _ in pairs]
    rows = sorted(_rows(pairs, batch_tokens), key=lambda row: -len(row.ids))
    start = 0
    while start < len(rows):
        size = max(1, batch_tokens // len(rows[start].ids))
        _score_rows(model, rows[start : start + size], top, results)
        start += size
    return results


def _check(pairs: Sequence[Pair], limit: int) -> None:
    for number, (context, continuation) in enumerate(pairs):
        if len(context) == 0:
            raise HanlinError(
                f"pair {number} has an empty context: give at least a begin-of-text token to predict from"
            )
        # The continuation's last token is predicted, not read.
        if len(context) + len(continuation) - 1 > limit:
            raise HanlinError(
                f"pair {number} has {len(context)} + {len(continuation)} tokens; the model's context is {limit}: "
                "shorten it"
            )


def _rows(pairs: Sequence[Pair], batch_tokens: int) -> Iterator[_Row]:
    """Pairs gathered by context; a row is closed when it would grow beyond a batch."""
    open_rows: dict[tuple[int, ...], _Row] = {}
    for number, (context, continuation) in enumerate(pairs):
        if len(continuation) == 0:
            continue
        key = tuple(context)
        row = open_rows.get(key)
        if row is not None and len(row.ids) + len(continuation) > min(batch_tokens, 4 * len(context) + 256):
            # Attention's work grows with the square of a row: many long continuations are cheaper apart.
            yield row
            row = None
        if row is None:
            row = open_rows[key] = _Row(context)
        row.add(number, continuation)
    yield from open_rows.values()


def _score_rows(model: Transformer, rows: Sequence[_Row], top: int, results: list[Scores]) -> None:
    device = model.embedding.weight.device
    longest = max(len(row.ids) for row in rows)

    def padded(lists: Sequence[list[int]]) -> Tensor:
        return torch.tensor([values + [0] * (longest - len(values)) for values in lists], device=device)

    # Padding stands behind everything real, so that causal attention hides it.
    ids, positions = padded([row.ids for row in rows]), padded([row.positions for row in rows])
    if any(len(row.members) > 1 for row in rows):
        branches = padded([row.branches for row in rows])
        view = _Branches(model.config, positions, branches, compute_dtype(model))
        hidden = model.hidden(ids, positions, cache=view)
    else:
        hidden = model.hidden(ids)
    where = [
        row_number * longest + place
        for row_number, row in enumerate(rows)
        for _, places, _ in row.members
        for place in places
    ]
    labels = torch.tensor([token for row in rows for _, _, tokens in row.members for token in tokens], device=device)
    chosen = hidden.reshape(-1, hidden.shape[-1])[torch.tensor(where, device=device)]
    step = max(1, LOGIT_BYTES // (4 * model.config.vocabulary_size))
    values: list[float] = []
    tops: list[dict[int, float]] = []
    for start in range(0, len(where), step):
        logits = model.logits(chosen[start : start + step]).float()
        label = labels[start : start + step]
        normaliser = logits.logsumexp(1)
        found = floats(logits.gather(1, label[:, None])[:, 0] - normaliser)
        values += found
        if top:
            likeliest = logits.topk(min(top, logits.shape[1]), dim=1)
            logprobs = (likeliest.values - normaliser[:, None]).cpu()
            for ids, best, token, logprob in zip(
                likeliest.indices.cpu(), logprobs, integers(label), found, strict=True
            ):
                tops.append(dict(zip(integers(ids), floats(best), strict=True)))
                tops[-1].setdefault(token, logprob)
    offset = 0
    for row in rows:
        for number, _, tokens in row.members:
            end = offset + len(tokens)
            results[number] = values[offset:end], tops[offset:end]
            offset = end
