"""bfloat16 weights multiplied in float32."""

from __future__ import annotations

import copy

import pytest
import torch

from hanlin.inference import Engine, Request, precision
from hanlin.inference.precision import FloatLinear, HalfLinear, HalfTransformer, fits_half, for_generation
from hanlin.models import Transformer
from tests.inference.models import FAMILIES, prompts, small, tokenizer

needs_half = pytest.mark.skipif(not precision._has_half_product(), reason="this build of PyTorch has no FBGEMM")


def rounded(family: str) -> torch.nn.Module:
    """The model with its weights rounded to bfloat16, computed in float64."""
    return copy.deepcopy(small(family)).to(torch.bfloat16).to(torch.float64)


@needs_half
@pytest.mark.parametrize("family", FAMILIES)
def test_half_is_nearer_to_the_truth_than_bfloat16(family: str) -> None:
    exact = rounded(family)
    plain = copy.deepcopy(small(family)).to(torch.bfloat16)
    half = HalfTransformer.convert(copy.deepcopy(plain))
    given = torch.tensor(prompts([30, 30]))
    with torch.no_grad():
        truth = exact(given)
        assert (half(given) - truth).abs().max() < 1e-4
        assert (half(given) - truth).abs().mean() < 0.01 * (plain(given) - truth).abs().mean()


@needs_half
@pytest.mark.parametrize("family", FAMILIES)
def test_engine_with_half_weights(family: str) -> None:
    exact = rounded(family)
    half = HalfTransformer.convert(copy.deepcopy(small(family)).to(torch.bfloat16))
    given = prompts([5, 17, 9], seed=3)
    answers = Engine(half, tokenizer(), eos_ids=[]).generate([Request(prompt_ids=p, max_new_tokens=12) for p in given])
    for prompt, answer in zip(given, answers):
        with torch.no_grad():
            truth = exact(torch.tensor([prompt + answer.ids]))[0].log_softmax(-1)
        wanted = [float(truth[len(prompt) - 1 + n, token]) for n, token in enumerate(answer.ids)]
        assert answer.logprobs == pytest.approx(wanted, abs=1e-4)


@needs_half
def test_weights_beyond_half_precision_stay_exact() -> None:
    wide = torch.tensor([[1e6, 2.0], [3.0, 4.0]], dtype=torch.bfloat16)
    assert not fits_half(wide) and isinstance(precision._packed(wide, None), FloatLinear)
    usual = (torch.randn(50, 30) * 0.02).to(torch.bfloat16)
    usual[usual.abs() < 2.0**-17] = 2.0**-17
    usual[0, 0] = 2.0**-17
    assert fits_half(usual) and torch.equal(usual.float(), usual.half().float())
    bias = torch.randn(50)
    layer = precision._packed(usual, bias)
    assert isinstance(layer, HalfLinear)
    x = torch.randn(2, 7, 30)
    assert torch.allclose(layer(x), x @ usual.float().T + bias, atol=1e-6)
    assert layer(x[:, :0]).shape == (2, 0, 50)


def test_chosen_where_bfloat16_is_emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> Transformer:
        return copy.deepcopy(small()).to(torch.bfloat16)

    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: True)
    assert type(for_generation(make())) is type(small())
    monkeypatch.setattr(precision, "computes_bfloat16", lambda device: False)
    assert isinstance(for_generation(make()), HalfTransformer) == precision._has_half_product()
    assert type(for_generation(copy.deepcopy(small()))) is type(small())
