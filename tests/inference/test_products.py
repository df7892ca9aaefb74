"""Products with frozen weights: right, and the same in any company."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from hanlin.inference import products
from hanlin.inference.native import multiplies
from hanlin.inference.products import DenseLinear, PackedLinear, least_alike

SHAPES = [(48, 104), (192, 64), (300, 7), (1100, 40)]
HEIGHTS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 31, 64)


def whole_and_parts(layer: torch.nn.Module, inputs: int) -> None:
    """A row's result is the same at every height and place."""
    x = torch.randn(70, inputs)
    whole = layer(x)
    for height in HEIGHTS:
        assert torch.equal(layer(x[:height]), whole[:height]), height
        assert torch.equal(layer(x[-height:]), whole[-height:]), height


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_packed_float32(inputs: int, outputs: int, bias: bool) -> None:
    weight, extra = torch.randn(outputs, inputs), torch.randn(outputs) if bias else None
    layer = PackedLinear(weight, extra, torch.float32)
    x = torch.randn(2, 9, inputs)
    exact = F.linear(x.double(), weight.double(), None if extra is None else extra.double())
    assert (layer(x) - exact).abs().max() < 2e-4
    assert layer(x[:0]).shape == (0, 9, outputs)
    assert layer.alike
    whole_and_parts(layer, inputs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), [*SHAPES, (7, 5), (1, 1)])
def test_compiled(inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> None:
    if not multiplies(dtype):
        pytest.skip("this processor, or its compiler, has no such instructions")
    weight, extra = torch.randn(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype) if bias else None
    layer = DenseLinear(weight, extra)
    x = torch.randn(2, 39, inputs)
    rounded = x.to(dtype).double()
    exact = F.linear(rounded, weight.double(), None if extra is None else extra.double())
    assert (layer(x) - exact).abs().max() <= 1e-6 * F.linear(rounded.abs(), weight.double().abs()).max() + 1e-6
    assert layer(x[:0]).shape == (0, 39, outputs)
    assert layer.alike
    whole_and_parts(layer, inputs)
    x[1, 3] = float("nan")
    assert torch.equal(layer(x).isnan().any(-1), x.isnan().any(-1))
    x[1, 3] = float("inf")
    assert torch.equal(layer(x).isfinite().all(-1), x.isfinite().all(-1))


def test_without_packing_rows_are_filled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(products, "can_pack", lambda device, dtype: False)
    weight = torch.randn(256, 768)
    layer = PackedLinear(weight, None, torch.float32)
    assert not layer.packed and layer.alike
    whole_and_parts(layer, 768)
    x = torch.randn(1, 768)
    loose = PackedLinear(weight, None, torch.float32, deterministic=False)
    assert torch.equal(loose(x), F.linear(x, weight))


def test_a_product_that_is_not_alike_is_found_out() -> None:
    weight = torch.randn(5, 8)

    def centred(x: torch.Tensor) -> torch.Tensor:
        return (x - x.mean()) @ weight.T

    def lone(x: torch.Tensor) -> torch.Tensor:
        return (x.double() @ weight.double().T).float() + (0 if len(x) > 5 else 1)

    device = torch.device("cpu")
    assert least_alike(centred, 8, 5, device, "centred") is None
    assert least_alike(lone, 8, 5, device, "lone") == 9
