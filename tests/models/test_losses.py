"""The chunked cross-entropy against PyTorch's, on whole logits."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hanlin.models.losses import cross_entropy


def problem(dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, 11, 8, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(13, 8, generator=generator, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 13, (3, 11), generator=generator)
    labels[0, 3:7] = -100
    labels[2] = -100
    return hidden, weight, labels


@pytest.mark.parametrize("chunk_rows", [1, 4, 100])
@pytest.mark.parametrize("z_loss", [0.0, 0.01])
def test_values_and_gradients(chunk_rows: int, z_loss: float) -> None:
    hidden, weight, labels = problem()
    found = cross_entropy(hidden, weight, labels, z_loss=z_loss, per_token=True, chunk_rows=chunk_rows)
    (found.loss * 0.3).backward()
    mine = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    logits = hidden @ weight.T
    each = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), reduction="none").view_as(labels)
    whole = each.sum() + z_loss * (logits.logsumexp(-1).square() * (labels != -100)).sum()
    (whole * 0.3).backward()
    assert torch.allclose(found.loss, whole) and torch.allclose(found.nll, each.sum())
    assert found.count == (labels != -100).sum()
    assert found.per_token is not None and torch.allclose(found.per_token, each)
    assert not found.per_token.requires_grad and not found.nll.requires_grad
    assert torch.allclose(mine[0], hidden.grad) and torch.allclose(mine[1], weight.grad)


def test_without_gradients_nothing_is_differentiated() -> None:
    hidden, weight, labels = problem(torch.float32)
    with torch.no_grad():
        found = cross_entropy(hidden, weight, labels)
    assert not found.loss.requires_grad
    assert torch.allclose(found.loss, cross_entropy(hidden, weight, labels).loss)


def test_only_the_hidden_states_or_only_the_weight() -> None:
    hidden, weight, labels = problem()
    cross_entropy(hidden, weight, labels).loss.backward()
    both = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    cross_entropy(hidden, weight.detach(), labels).loss.backward()
    assert torch.equal(hidden.grad, both[0]) and weight.grad is None
    cross_entropy(hidden.detach(), weight, labels).loss.backward()
    assert torch.equal(weight.grad, both[1])


def test_nothing_to_train_on_is_a_zero() -> None:
    hidden, weight, labels = problem()
    found = cross_entropy(hidden, weight, torch.full_like(labels, -100))
    found.loss.backward()
    assert found.loss == 0 and found.count == 0 and hidden.grad.abs().sum() == 0


def test_bfloat16_stream_with_float32_weights() -> None:
    hidden, weight, labels = problem(torch.float32)
    exact = cross_entropy(hidden, weight, labels)
    exact.loss.backward()
    grads = hidden.grad.clone(), weight.grad.clone()
    weight.grad = None
    half = hidden.detach().bfloat16().requires_grad_()
    found = cross_entropy(half, weight, labels)
    found.loss.backward()
    assert (
        found.loss.dtype == torch.float32 and weight.grad.dtype == torch.float32 and half.grad.dtype == torch.bfloat16
    )
    assert torch.allclose(found.loss, exact.loss, rtol=1e-2)
    assert (weight.grad - grads[1]).norm() < 2e-2 * grads[1].norm()
    assert (half.grad.float() - grads[0]).norm() < 2e-2 * grads[0].norm()


def test_a_surprise_is_finite() -> None:
    hidden, weight = torch.full((1, 1, 1), 200.0, requires_grad=True), torch.tensor([[1.0], [-1.0]], requires_grad=True)
    found = cross_entropy(hidden, weight, torch.tensor([[1]]), per_token=True)
    found.loss.backward()
    assert found.loss == 400 and torch.isfinite(hidden.grad).all() and torch.isfinite(weight.grad).all()
