"""Products with frozen weights: right, and the same in any company."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from hanlin.inference import native
from hanlin.inference.products import DenseLinear

SHAPES = [(48, 104), (192, 64), (300, 7), (1100, 40), (7, 5), (1, 1)]
needs_dense = pytest.mark.skipif(not native.multiplies_dense(), reason="no AVX2 with FMA, or no compiler")
HEIGHTS = (1, 2, 3, 4, 7, 8, 9, 15, 16, 31, 64)


def whole_and_parts(layer: torch.nn.Module, inputs: int) -> None:
    """A row's result is the same at every height and place."""
    x = torch.randn(70, inputs)
    whole = layer(x)
    for height in HEIGHTS:
        assert torch.equal(layer(x[:height]), whole[:height]), height
        assert torch.equal(layer(x[-height:]), whole[-height:]), height


@needs_dense
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_dense(inputs: int, outputs: int, bias: bool, dtype: torch.dtype) -> None:
    check(inputs, outputs, bias, dtype, pairs=bool(torch.cpu.get_capabilities().get("avx512_bf16")))


@needs_dense
@pytest.mark.parametrize("target", ["-march=haswell", "-march=skylake-avx512"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_dense_on_older_processors(
    inputs: int, outputs: int, dtype: torch.dtype, target: str, older: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without instructions for bfloat16 its weights are multiplied with float32's x."""
    if target not in older:
        pytest.skip("another processor")
    monkeypatch.setattr(native, "compiled", functools.cache(lambda: native.load_library(older[target])))
    check(inputs, outputs, True, dtype, pairs=False)


@pytest.fixture(scope="module")
def older(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The kernels compiled for processors that this one contains."""
    found, folder = torch.cpu.get_capabilities(), tmp_path_factory.mktemp("kernels")
    targets = {"-march=haswell": found.get("fma3"), "-march=skylake-avx512": found.get("avx512_bw")}
    made: dict[str, Path] = {}
    for target, there in targets.items():
        if there:
            made[target] = folder / f"{target}.so"
            subprocess.run(native.command("cc", (target, "-w"), made[target]), check=True)
    return made


def check(inputs: int, outputs: int, bias: bool, dtype: torch.dtype, pairs: bool) -> None:
    weight, extra = torch.randn(outputs, inputs).to(dtype), torch.randn(outputs).to(dtype) if bias else None
    layer = DenseLinear(weight, extra)
    x = torch.randn(2, 39, inputs)
    rounded = x.to(dtype).double() if pairs else x.double()
    exact = F.linear(rounded, weight.double(), None if extra is None else extra.double())
    assert (layer(x) - exact).abs().max() <= 1e-6 * F.linear(rounded.abs(), weight.double().abs()).max() + 1e-6
    assert layer(x[:0]).shape == (0, 39, outputs)
    assert layer.alike
    whole_and_parts(layer, inputs)
    x[1, 3] = float("nan")
    assert torch.equal(layer(x).isnan().any(-1), x.isnan().any(-1))
    x[1, 3] = float("inf")
    assert torch.equal(layer(x).isfinite().all(-1), x.isfinite().all(-1))
