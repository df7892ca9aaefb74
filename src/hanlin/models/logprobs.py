"""Log-probabilities of chosen tokens, with gradients, from hidden states: the logits never exist all at once.

`losses.cross_entropy` is for objectives that are a plain sum of them; here each token's value has its own gradient, as
the preference and policy objectives need.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hanlin.models.losses import CHUNK_BYTES


def token_logprobs(
    hidden: Tensor, weight: Tensor, labels: Tensor, chunk_rows: int | None = None, entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """(log p(label), entropy) of each position, float32 [N] in nats; the entropy has no gradient, and is NaN where it
    is not asked for.

    hidden [N, d], weight [V, d] of the output head, labels int64 [N]. In the backward pass each chunk's logits are
    computed again, so memory does not grow with N · V.
    """
    if chunk_rows is None:
        budget = CHUNK_BYTES * (1 if labels.device.type == "cpu" else 16)
        chunk_rows = max(128, budget // (4 * weight.shape[0]))
    return _TokenLogprobs.apply(hidden, weight, labels, chunk_rows, entropy)


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, rows: int, with_entropy: bool
    ) -> tuple[Tensor, Tensor]:
        exact = torch.float64 if hidden.dtype == torch.float64 else torch.float32
        chosen = torch.empty(hidden.shape[0], dtype=exact, device=hidden.device)
        entropy = torch.full_like(chosen, float("nan"))
        normaliser = torch.empty_like(chosen)
        matrix = weight.to(hidden.dtype)
        for start in range(0, hidden.shape[0], rows):
            end = min(start + rows, hidden.shape[0])
            logits = (hidden[start:end] @ matrix.T).to(exact)
            # In place, and each pass once: on a CPU they cost as much as the product.
            top = logits.amax(1, keepdim=True)
            scores = logits.sub_(top)
            picked = scores.gather(1, labels[start:end, None])[:, 0]
            weights = scores.exp() if with_entropy else scores.exp_()
            total = weights.sum(1)
            log_total = total.log()
            normaliser[start:end] = top[:, 0] + log_total
            chosen[start:end] = picked - log_total
            if with_entropy:
                # H = log Σ e^z - Σ p z, with z less its maximum and p = e^z / Σ e^z.
                entropy[start:end] = log_total - weights.mul_(scores).sum(1) / total
        ctx.save_for_backward(hidden, weight, labels, normaliser)
        ctx.rows = rows
        ctx.mark_non_differentiable(entropy)
        return chosen, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden, weight, labels, normaliser = ctx.saved_tensors
        upstream = grads[0]
        matrix = weight.to(hidden.dtype)
        need_hidden, need_weight = ctx.needs_input_grad[:2]
        hidden_grad = torch.empty_like(hidden) if need_hidden else None
        weight_grad = torch.zeros_like(weight, dtype=normaliser.dtype) if need_weight else None
        for start in range(0, hidden.shape[0], ctx.rows):
            end = min(start + ctx.rows, hidden.shape[0])
            part, slope = hidden[start:end], upstream[start:end, None]
            logits = (part @ matrix.T).to(normaliser.dtype)
            # d log p(y) / d logits = onehot(y) - p
            change = logits.sub_(normaliser[start:end, None]).exp_().mul_(-slope)
            change.scatter_add_(1, labels[start:end, None], slope)
            change = change.to(hidden.dtype)
            if hidden_grad is not None:
                hidden_grad[start:end] = change @ matrix
            if weight_grad is not None:
                weight_grad += (change.T @ part).to(weight_grad.dtype)
        return hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype), None, None, None
