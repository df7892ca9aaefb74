"""Cross-entropy from hidden states: the logits of the whole batch never exist at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

IGNORED = -100
"""The label of a position that is not trained on."""
CHUNK_BYTES = 16 << 20
"""Logits held at once, in bytes of float32 (CPU); a GPU, which wants large products, holds sixteen times as much."""


@dataclass(frozen=True, slots=True)
class CrossEntropy:
    """What `cross_entropy` returns. Sums, not means: whoever steps divides by the tokens of the whole step."""

    loss: Tensor
    """Sum over trained positions of -log p(label), in nats, plus the z-loss if asked for; a scalar, with gradient."""
    count: Tensor
    """Number of trained positions (labels that are not -100), an int64 scalar."""
    nll: Tensor
    """The sum of -log p(label) alone, without gradient."""
    per_token: Tensor | None
    """-log p(label) of each position, in the labels' shape, 0 where not trained, no gradient; None unless asked for."""


def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    z_loss: float = 0.0,
    per_token: bool = False,
    chunk_rows: int | None = None,
) -> CrossEntropy:
    """Sum of the cross-entropies of `hidden @ weight.T` against `labels`.

    hidden [..., d], weight [V, d], labels [...] (already shifted; -100 = not trained). z_loss adds z_loss · log²Z a
    position, Z the sum of exponentials (PaLM, Chowdhery et al. 2022, section 5). The gradient is computed while each
    chunk's logits are at hand, so they are computed once and never kept. The products run in the dtype of `hidden` (or
    autocast's), the softmax and all sums in float32 (float64 for float64 input).
    """
    flat_hidden, flat_labels = hidden.reshape(-1, hidden.shape[-1]), labels.reshape(-1)
    kept: Tensor | None = None
    if labels.device.type == "cpu":
        # Rows that are not trained on cost nothing here; on a GPU the count would have to be waited for.
        trained = flat_labels != IGNORED
        if not bool(trained.all()):
            kept = trained.nonzero().squeeze(1)
            flat_hidden, flat_labels = flat_hidden.index_select(0, kept), flat_labels.index_select(0, kept)
    if chunk_rows is None:
        budget = CHUNK_BYTES * (1 if labels.device.type == "cpu" else 16)
        chunk_rows = max(128, budget // (4 * weight.shape[0]))
    loss, losses = _ChunkedCrossEntropy.apply(
        flat_hidden, weight, flat_labels, z_loss, chunk_rows, torch.is_grad_enabled()
    )
    spread: Tensor | None = None
    if per_token:
        full = losses if kept is None else losses.new_zeros(labels.numel()).index_copy_(0, kept, losses)
        spread = full.reshape(labels.shape)
    return CrossEntropy(loss, (flat_labels != IGNORED).sum(), losses.sum(), spread)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """(hidden [N, d], weight [V, d], labels [N]) -> (loss, losses [N]); gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, z_loss: float, rows: int, grad: bool
    ) -> tuple[Tensor, Tensor]:
        device = hidden.device.type
        product = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        exact = torch.float64 if product == torch.float64 else torch.float32
        need_hidden, need_weight = grad and ctx.needs_input_grad[0], grad and ctx.needs_input_grad[1]
        matrix = weight.detach().to(product)
        hidden_grad = torch.empty_like(hidden) if need_hidden else None
        weight_grad = torch.zeros_like(matrix, dtype=exact) if need_weight else None
        total = torch.zeros((), dtype=exact, device=hidden.device)
        losses = torch.empty(hidden.shape[0], dtype=exact, device=hidden.device)
        with torch.autocast(device, enabled=False):
            for start in range(0, hidden.shape[0], rows):
                end = min(start + rows, hidden.shape[0])
                part, label = hidden[start:end].detach().to(product), labels[start:end]
                trained = label != IGNORED
                target = label.clamp(min=0)[:, None]
                logits = (part @ matrix.T).to(exact)
                label_logits = logits.gather(1, target)
                log_probability = torch.log_softmax(logits, dim=-1)
                nll = -log_probability.gather(1, target)
                log_z = label_logits + nll
                nll = torch.where(trained[:, None], nll, 0.0)
                losses[start:end] = nll.squeeze(1)
                total += nll.sum()
                if z_loss:
                    total += z_loss * (log_z.square() * trained[:, None]).sum()
                if not (need_hidden or need_weight):
                    continue
                # d loss / d logits = p (1 + 2 z log Z) - onehot(label), and 0 where not trained.
                slope = log_probability.exp_()
                scale = trained[:, None].to(exact)
                if z_loss:
                    slope *= scale * (1 + 2 * z_loss * log_z)
                elif device != "cpu":
                    slope *= scale
                slope.scatter_add_(1, target, -scale)
                slope = slope.to(product)
                if hidden_grad is not None:
                    hidden_grad[start:end] = slope @ matrix
                if weight_grad is not None:
                    if product == exact:
                        weight_grad.addmm_(slope.T, part)
                    else:
                        weight_grad += slope.T @ part
        ctx.save_for_backward(hidden_grad, None if weight_grad is None else weight_grad.to(weight.dtype))
        ctx.mark_non_differentiable(losses)
        return total, losses

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad = ctx.saved_tensors
        upstream = grads[0]
        return (
            None if hidden_grad is None else hidden_grad * upstream.to(hidden_grad.dtype),
            None if weight_grad is None else weight_grad * upstream.to(weight_grad.dtype),
            None, None, None, None,
        )  # fmt: skip
