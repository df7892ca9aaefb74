"""8-bit and 4-bit weights: what they compute, in every way in which it is computed, and what they cost a model."""

from __future__ import annotations

import copy
import functools
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import hanlin
from hanlin.inference import Engine, Request, native, quantised
from hanlin.inference.precision import quantise as quantised_model
from hanlin.inference.quantised import CodedLinear
from hanlin.models import ModelConfig, Transformer
from hanlin.models.hub import save_model
from hanlin.models.quantised import Bits, dequantise, quantise
from tests.inference.models import FAMILIES, prompts, small, tokenizer
from tests.inference.test_products import SHAPES, whole_and_parts

needs_compiler = pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
KINDS: list[tuple[Bits, int]] = [(8, 64), (4, 32), (4, 64), (4, 128)]


def exact(layer_weight: Tensor, bias: Tensor | None, x: Tensor, bits: Bits, group: int) -> Tensor:
    weight = dequantise(*quantise(layer_weight, bits, group), torch.float64)[:, : x.shape[-1]]
    return F.linear(x.double(), weight, None if bias is None else bias.double())


@needs_compiler
@pytest.mark.parametrize(("bits", "group"), KINDS)
@pytest.mark.parametrize(("inputs", "outputs"), [*SHAPES, (64, 16), (8, 1)])
def test_compiled_product(inputs: int, outputs: int, bits: Bits, group: int) -> None:
    weight, bias = torch.randn(outputs, inputs), torch.randn(outputs)
    for extra in (None, bias):
        layer = CodedLinear(weight, extra, bits, group)
        assert layer.way == "native" and layer.alike
        x = torch.randn(3, 7, inputs) * torch.logspace(-3, 3, 21).view(3, 7, 1)
        wanted = exact(weight, extra, x, bits, group)
        # Each number of x is off by at most 2^-16 of the largest of its group.
        bound = x.abs().amax(-1, keepdim=True).double() * 2.0**-16 * weight.abs().sum(1)
        assert ((layer(x) - wanted).abs() <= bound * 1.01 + 1e-6 * wanted.abs()).all()
    whole_and_parts(layer, inputs)
    assert layer(x[:, :0]).shape == (3, 0, outputs)


@needs_compiler
def test_compiled_product_of_extremes() -> None:
    """The largest sums that there can be, zeros, and what is not a number."""
    for bits, group in KINDS:
        weight = torch.ones(16, 4096)
        layer = CodedLinear(weight, None, bits, group)
        x = torch.cat((torch.ones(1, 4096), -torch.ones(1, 4096), torch.zeros(1, 4096), torch.full((1, 4096), 1e-35)))
        assert torch.allclose(layer(x), x @ weight.T, rtol=1e-5, atol=1e-25)
        bad = torch.randn(3, 4096)
        bad[1, 5], bad[2, 7] = torch.nan, torch.inf
        out = layer(bad)
        assert out[0].isfinite().all() and out[1:].isnan().all()
        assert torch.equal(out[0], layer(bad[:1])[0])


@needs_compiler
@pytest.mark.parametrize("target", ["-march=x86-64", "-march=haswell", "-march=skylake-avx512"])
def test_every_instruction_set_computes_the_same_bits(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = torch.cpu.get_capabilities()
    if "x86" not in str(found.get("architecture")) or (
        target == "-march=skylake-avx512" and not found.get("avx512_bw")
    ):
        pytest.skip("another processor")
    inputs, outputs = 200, 40
    weight, x = torch.randn(outputs, inputs), torch.randn(21, inputs)
    wanted = [CodedLinear(weight, None, bits, group)(x) for bits, group in KINDS]
    library = tmp_path / "kernels.so"
    subprocess.run(native.command("cc", (target, "-O1", "-w"), library), check=True)
    monkeypatch.setattr(native, "compiled", functools.cache(lambda: native.load_library(library)))
    for (bits, group), one in zip(KINDS, wanted):
        assert torch.equal(CodedLinear(weight, None, bits, group)(x), one)


@pytest.mark.parametrize(("bits", "group"), KINDS)
@pytest.mark.parametrize(("inputs", "outputs", "way"), [(256, 128, "torch"), (72, 30, "dequantised")])
def test_without_a_compiler(
    inputs: int, outputs: int, way: str, bits: Bits, group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quantised, "compiled", lambda: None)
    weight, bias = torch.randn(outputs, inputs) / inputs**0.5, torch.randn(outputs)
    layer = CodedLinear(weight, bias, bits, group)
    assert layer.way == way
    x = torch.randn(40, inputs)
    assert (layer(x) - exact(weight, bias, x, bits, group)).abs().max() < (0.03 if way == "torch" else 1e-5)
    if layer.alike:
        whole_and_parts(layer, inputs)


def test_no_compiler_is_said_and_not_hidden(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    native.compiled.cache_clear()
    try:
        monkeypatch.setenv("CC", "no-such-compiler")
        assert native.compiled() is None
        monkeypatch.setenv("CC", "false")
        monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nowhere")
        native.compiled.cache_clear()
        assert native.compiled() is None
    finally:
        native.compiled.cache_clear()
    assert len([one for one in caplog.records if "slower" in one.message]) == 2


@pytest.mark.parametrize("dtype", ["int8", "int4"])
@pytest.mark.parametrize("family", FAMILIES)
def test_engine_computes_the_model_with_rounded_weights(family: str, dtype: str) -> None:
    model = copy.deepcopy(small(family)).double()
    bits: Bits = 8 if dtype == "int8" else 4
    head = dequantise(*quantise(model.head_weight, bits, 64), torch.float64)[:, : model.config.hidden_size]
    for name, parameter in model.named_parameters():
        if name.startswith("blocks.") and parameter.ndim == 2:
            codes = quantise(parameter, bits, 64)
            parameter.data = dequantise(*codes, torch.float64)[:, : parameter.shape[1]]
    coded = quantised_model(copy.deepcopy(small(family)), dtype)
    given = prompts([5, 17], seed=3)
    answers = Engine(coded, tokenizer(), eos_ids=[]).generate([Request(prompt_ids=p, max_new_tokens=9) for p in given])
    for prompt, answer in zip(given, answers):
        with torch.no_grad():
            hidden = model.hidden(torch.tensor([prompt + answer.ids]))[0]
        truth = (hidden @ head.T).log_softmax(-1)
        wanted = [float(truth[len(prompt) - 1 + n, token]) for n, token in enumerate(answer.ids)]
        assert answer.logprobs == pytest.approx(wanted, abs=2e-3)


SIZE = 24
"""Symbols of the text below."""


def sentences(count: int, seed: int) -> Tensor:
    """[count, 32]: a walk in which each symbol has three likely followers."""
    generator = torch.Generator().manual_seed(seed)
    follow = torch.randint(0, SIZE, (SIZE, 3), generator=torch.Generator().manual_seed(1))
    steps = torch.randint(0, SIZE, (count, 1), generator=generator)
    for _ in range(31):
        draw = torch.multinomial(torch.tensor([0.7, 0.2, 0.1]), count, replacement=True, generator=generator)
        steps = torch.cat((steps, follow[steps[:, -1], draw][:, None]), 1)
    return steps


@pytest.fixture(scope="module")
def trained() -> Transformer:
    """A model that has learnt something: rounding weights must not make it forget that."""
    model = Transformer(
        ModelConfig(family="llama", vocabulary_size=SIZE, hidden_size=64, layers=2, heads=4, intermediate_size=128)
    )
    model.init_weights(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(80):
        text = sentences(24, step)
        loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.eval()


@pytest.mark.parametrize(("dtype", "apart", "worse"), [("int8", 1e-4, 0.001), ("int4", 2e-2, 0.03)])
def test_a_trained_model_stays_what_it_was(trained: Transformer, dtype: str, apart: float, worse: float) -> None:
    """KL(full, rounded) a token below `apart`, and cross-entropy on unseen text worse by less than `worse` nats."""
    text = sentences(200, 10_000)
    with torch.no_grad():
        full = trained(text[:, :-1]).log_softmax(-1)
        rounded = quantised_model(copy.deepcopy(trained), dtype)(text[:, :-1]).log_softmax(-1)
    loss = F.nll_loss(full.flatten(0, 1), text[:, 1:].flatten())
    assert loss < 1.2  # nothing learnt: 3.2; everything: 0.8
    assert 0 < F.kl_div(rounded, full, reduction="none", log_target=True).sum(-1).mean() < apart
    assert F.nll_loss(rounded.flatten(0, 1), text[:, 1:].flatten()) < loss + worse


def test_loaded_by_name(tmp_path: Path) -> None:
    save_model(tmp_path, small("qwen3"), tokenizer())
    for dtype in ("int8", "int4"):
        model = hanlin.load(tmp_path, dtype=dtype, device="cpu")
        assert isinstance(model.engine.model.get_submodule("blocks.2.mlp.down"), CodedLinear)
        assert len(model.generate("ab", max_new_tokens=5, ignore_eos=True).ids) == 5
