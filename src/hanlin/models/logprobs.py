"""Log-probabilities of chosen tokens, with gradients, from hidden states: of many, the logits never exist all at once.

`losses.cross_entropy` is for objectives that are a plain sum of them; here each token's value has its own gradient, as
the preference and policy objectives need.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hanlin.models.losses import CHUNK_BYTES

KEPT_BYTES = 16 * CHUNK_BYTES
"""How much may be kept of the forward pass, so that the backward pass need not compute it again (CPU; a GPU keeps
sixteen times as much)."""


def token_logprobs(
    hidden: Tensor, weight: Tensor, labels: Tensor, chunk_rows: int | None = None, entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """(log p(label), entropy) of each position, float32 [N] in nats; the entropy has no gradient, and is NaN where it
    is not asked for.

    hidden [N, d], weight [V, d] of the output head, labels int64 [N]. Where probabilities of all N · V would take more
    than `KEPT_BYTES`, the backward pass computes each chunk's again. Of states in bfloat16 the entropy is right to
    about 0.1 nats, for it is rounded as the gradient is.
    """
    if chunk_rows is None:
        chunk_rows = max(128, CHUNK_BYTES * _times(labels) // (4 * weight.shape[0]))
    return _TokenLogprobs.apply(hidden, weight, labels, chunk_rows, entropy, torch.is_grad_enabled())


def _times(labels: Tensor) -> int:
    """How much more memory than on a CPU may be taken where `labels` are."""
    return 1 if labels.device.type == "cpu" else 16


class _TokenLogprobs(torch.autograd.Function):
    """With z = W h, p = softmax(z), y the label and D = Σ_v p_v w_v - w_y: log p(y) has the gradient -D by h and
    -(p - onehot(y)) hᵀ by W, and the entropy is -log p(y) - h · D. So D is computed at once, and serves twice."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, rows: int, with_entropy: bool, trained: bool
    ) -> tuple[Tensor, Tensor]:
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        chosen = torch.empty(hidden.shape[0], dtype=exact, device=hidden.device)
        entropy = torch.full_like(chosen, float("nan"))
        largest, totals = torch.empty_like(chosen), torch.empty_like(chosen)
        matrix = weight.to(hidden.dtype)
        size = hidden.element_size() * labels.numel() * weight.shape[0]
        keep = trained and ctx.needs_input_grad[1] and size <= KEPT_BYTES * _times(labels)
        away = torch.empty_like(hidden) if trained and ctx.needs_input_grad[0] else None
        kept: list[Tensor] = []
        for start in range(0, hidden.shape[0], rows):
            part, label = hidden[start : start + rows], labels[start : start + rows, None]
            logits = (part @ matrix.T).to(exact)
            # In place, and each pass once: on a CPU they cost as much as the product.
            top = logits.amax(1, keepdim=True)
            picked = logits.gather(1, label) - top
            weights = logits.sub_(top).exp_()
            total = weights.sum(1, keepdim=True)
            logp = picked - total.log()
            place = slice(start, start + rows)
            chosen[place], largest[place], totals[place] = logp[:, 0], top[:, 0], total[:, 0]
            if not keep and away is None and not with_entropy:
                continue
            change = weights.scatter_add_(1, label, -total).to(hidden.dtype)
            distance = (change @ matrix) / total
            if with_entropy:
                entropy[place] = -logp[:, 0] - (part * distance).sum(1)
            if away is not None:
                away[place] = distance
            if keep:
                kept.append(change)
        ctx.save_for_backward(hidden, weight, labels, largest, totals, away, *kept)
        ctx.rows = rows
        ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, largest, totals, away, *kept = ctx.saved_tensors
        hidden_grad = weight_grad = None
        if ctx.needs_input_grad[0]:
            hidden_grad = (away * -grads[0][:, None]).to(hidden.dtype)
        if ctx.needs_input_grad[1]:
            matrix = weight.to(hidden.dtype)
            weight_grad = torch.zeros_like(weight, dtype=totals.dtype)
            slope = (-grads[0] / totals)[:, None]
            for number, start in enumerate(range(0, hidden.shape[0], ctx.rows)):
                place = slice(start, start + ctx.rows)
                part = hidden[place]
                if kept:
                    change = kept[number]
                else:
                    logits = (part @ matrix.T).to(totals.dtype)
                    change = logits.sub_(largest[place, None]).exp_()
                    change = change.scatter_add_(1, labels[place, None], -totals[place, None]).to(hidden.dtype)
                weight_grad += (change.T @ (part * slope[place]).to(hidden.dtype)).to(weight_grad.dtype)
            weight_grad = weight_grad.to(weight.dtype)
        return hidden_grad, weight_grad, None, None, None, None
