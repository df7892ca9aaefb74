"""Hand-written gradients against autograd's, and the precision of what runs in bfloat16."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from hanlin.models import ModelConfig, Transformer, kernels

Case = tuple[Callable[..., Any], list[Tensor]]


def randoms(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64, requires_grad=True) for shape in shapes]


def cases() -> dict[str, Case]:
    angle = torch.randn(1, 3, 1, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def rotate(x: Tensor, w: Tensor | None = None) -> Any:
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        return kernels.norm_rotate(x, 3, w, 1e-3, angle.cos().to(wide), angle.sin().to(wide))

    joint, weights = randoms((2, 3, 7, 4), (2, 4))
    return {
        "rms_norm": (lambda x, w: kernels.rms_norm(x, w, 1e-3), randoms((2, 5, 6), (6,))),
        "swiglu": (kernels.swiglu, randoms((2, 5, 6))),
        "norm_rotate": (rotate, [joint, weights]),
        "rotate": (rotate, [joint]),
    }


@pytest.mark.parametrize("name", cases())
def test_gradients(name: str) -> None:
    function, inputs = cases()[name]
    assert torch.autograd.gradcheck(function, inputs)


@pytest.mark.parametrize("name", cases())
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_by_hand_equals_plain(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    function, inputs = cases()[name]
    found: list[list[Tensor]] = []
    for by_hand in (True, False):
        monkeypatch.setattr(kernels, "by_hand", lambda _, by_hand=by_hand: by_hand)
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        out = function(*leaves)
        out = out if isinstance(out, tuple) else (out,)
        sum((part * (i + 1)).sum() for i, part in enumerate(out)).backward()
        found.append([part.detach() for part in out] + [leaf.grad for leaf in leaves])
        assert all(part.dtype == dtype for part in found[-1])
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 6e-2}[dtype]
    for mine, plain in zip(*found):
        assert torch.allclose(mine, plain, atol=tolerance, rtol=tolerance)


def small() -> Transformer:
    torch.set_num_threads(1)
    model = Transformer(ModelConfig(vocabulary_size=97, hidden_size=64, layers=2, heads=4, kv_heads=2))
    model.init_weights(0)
    return model


def test_bfloat16_weights_and_bfloat16_products() -> None:
    model, ids = small(), torch.arange(40).view(1, 40)
    exact = model(ids).detach()
    model.compute_dtype = torch.bfloat16
    mixed = model(ids)
    assert mixed.dtype == torch.bfloat16
    mixed.float().square().mean().backward()
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}
    assert all(parameter.grad is not None for parameter in model.parameters())
    model.compute_dtype = None
    half = model.to(torch.bfloat16)(ids)
    assert half.dtype == torch.bfloat16
    for found in (mixed, half):
        assert 0 < (found.float() - exact).abs().max() < 0.05 * exact.abs().max()


def test_the_rotation_is_not_rounded_with_the_weights() -> None:
    model = small().to(torch.bfloat16)
    model(torch.zeros(1, 8, dtype=torch.int64))
    assert model.rotary is not None
    assert {dtype for _, dtype in model.rotary.tables} == {torch.float32}


def test_init_is_a_function_of_the_seed() -> None:
    def weights(seed: int, drawn_before: int) -> list[Tensor]:
        torch.manual_seed(drawn_before)
        torch.rand(drawn_before)
        model = Transformer(ModelConfig(vocabulary_size=97, hidden_size=64, layers=2, heads=4))
        model.init_weights(seed)
        return [parameter.detach() for parameter in model.parameters()]

    first, again, other = weights(1, 3), weights(1, 5), weights(2, 3)
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    assert not torch.equal(first[0], other[0])
    with torch.no_grad():
        logits = small()(torch.arange(90).view(1, 90))
    assert logits.std() < 0.5


@pytest.mark.slow
def test_compiles_without_graph_breaks() -> None:
    model, ids = small(), torch.arange(48).view(2, 24)
    documents = torch.tensor([[0] * 10 + [1] * 14, [0] * 24])
    expected = model(ids, None, documents).sum()
    expected.backward()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for block in model.blocks:
        block.compile(fullgraph=True)
    found = model(ids, None, documents).sum()
    found.backward()
    assert torch.allclose(found, expected, rtol=1e-4)
    for parameter, grad in zip(model.parameters(), grads):
        assert torch.allclose(parameter.grad, grad, atol=1e-3 * grad.abs().max().item())
