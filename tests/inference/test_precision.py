"""The forms of weights for generation: exact, rounded, read from a file."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from hanlin.artifacts import UsageError
from hanlin.inference import Engine, Request, native, precision, quantised, rows
from hanlin.inference.native import multiplies_dense
from hanlin.inference.precision import FrozenTransformer, for_generation, layer_maker, load_for_generation
from hanlin.inference.products import FrozenLinear
from hanlin.models import Transformer
from hanlin.models.hub import load_model, save_model
from tests.inference.models import FAMILIES, prompts, small, tokenizer

needs_dense = pytest.mark.skipif(not multiplies_dense(), reason="no AVX2 with FMA, or no compiler")
CPU = torch.device("cpu")


def rounded(family: str) -> torch.nn.Module:
    """The model with its weights rounded to bfloat16, computed in float64."""
    return copy.deepcopy(small(family)).to(torch.bfloat16).to(torch.float64)


def half_precision(family: str) -> Transformer:
    return for_generation(copy.deepcopy(small(family)).to(torch.bfloat16))


@pytest.mark.parametrize("family", FAMILIES)
def test_engine_with_bfloat16(family: str) -> None:
    """Scores are those of a forward in float64 with these weights, as far as rows that are rounded to bfloat16 go."""
    check_scores(
        half_precision(family), rounded(family), 0.1 if torch.cpu.get_capabilities().get("avx512_bf16") else 1e-4
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_engine_with_float32(family: str) -> None:
    """Scores are those of the trainer's forward to 1e-5."""
    made = for_generation(copy.deepcopy(small(family)))
    assert isinstance(made, FrozenTransformer) == multiplies_dense()
    check_scores(made, copy.deepcopy(small(family)).double(), 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 0.15)])
@pytest.mark.parametrize("family", FAMILIES)
def test_engine_without_a_compiler(family: str, dtype: str, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (native, quantised, rows):
        monkeypatch.setattr(module, "compiled", lambda: None)
    model = for_generation(copy.deepcopy(small(family)), dtype)
    assert not any(isinstance(getattr(module, "product", None), native.Product) for module in model.modules())
    check_scores(model, rounded(family) if dtype == "bfloat16" else copy.deepcopy(small(family)).double(), tolerance)


@pytest.mark.skipif(native.compiled() is None, reason="there is no C compiler")
@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("dtype", precision.DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_blocks_at_once_are_blocks_one_by_one(family: str, dtype: str, threads: int) -> None:
    """Four threads are more than many machines have: they wait for each other at every turn."""
    one = Engine(for_generation(copy.deepcopy(small(family)), dtype), tokenizer(), eos_ids=[])
    frozen = [layer for layer in one.model.blocks.modules() if isinstance(layer, FrozenLinear)]
    compiled = all(isinstance(layer.product, native.Product) for layer in frozen)
    assert (one._step.blocks is not None) == (compiled and family != "gpt2")
    if one._step.blocks is None:
        pytest.skip("not all of its parts are there in C")
    # More rows than go from product to product together.
    lengths = [5, 17, 9, 100, 110, 90, 105, 60]
    given = [Request(prompt_ids=p, max_new_tokens=12, seed=3) for p in prompts(lengths, seed=3)]
    torch.set_num_threads(threads)
    at_once = one.generate(given)
    torch.set_num_threads(1)
    one._step.blocks = None
    for answer, other in zip(one.generate(given), at_once):
        assert (answer.ids, answer.logprobs) == (other.ids, other.logprobs)


def check_scores(model: Transformer, exact: torch.nn.Module, tolerance: float) -> None:
    given = prompts([5, 17, 9], seed=3)
    answers = Engine(model, tokenizer(), eos_ids=[]).generate([Request(prompt_ids=p, max_new_tokens=12) for p in given])
    for prompt, answer in zip(given, answers):
        with torch.no_grad():
            truth = exact(torch.tensor([prompt + answer.ids]))[0].log_softmax(-1)
        wanted = [float(truth[len(prompt) - 1 + n, token]) for n, token in enumerate(answer.ids)]
        assert answer.logprobs == pytest.approx(wanted, abs=tolerance)


def test_other_dtypes_are_left_as_they_are() -> None:
    double = copy.deepcopy(small()).double()
    assert for_generation(double) is double


@needs_dense
def test_bfloat16_is_as_exact_as_pytorchs() -> None:
    exact, plain = rounded("llama"), copy.deepcopy(small("llama")).to(torch.bfloat16)
    made, given = half_precision("llama"), torch.tensor(prompts([30, 30]))
    with torch.no_grad():
        truth = exact(given)
        assert (made(given) - truth).abs().mean() < (plain(given) - truth).abs().mean()


@pytest.mark.parametrize("dtype", precision.DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_read_from_a_file_is_what_was_in_memory(family: str, dtype: str, tmp_path: Path) -> None:
    """A matrix at a time, joined, turned (GPT-2) and tied as `load_model` does it."""
    save_model(tmp_path, small(family), dtype="bfloat16" if family == "mistral" else None)
    one, other = load_for_generation(tmp_path, dtype, CPU), for_generation(load_model(tmp_path), dtype)
    given = torch.tensor(prompts([30, 30]))
    with torch.no_grad():
        assert torch.equal(one(given), other(given))
        if dtype == "float32":
            assert torch.allclose(one(given), load_model(tmp_path)(given), atol=1e-4)
    assert not list(one.parameters()) or all(not p.requires_grad for p in one.parameters())


@needs_dense
def test_memory_of_the_weights_is_let_go() -> None:
    import weakref

    model = copy.deepcopy(small("llama"))
    before = [weakref.ref(p) for name, p in model.named_parameters() if p.ndim == 2 and name != "embedding.weight"]
    made = for_generation(model)
    assert before and all(one() is None for one in before)
    assert all(isinstance(m, FrozenLinear) for m in (made.output, made.get_submodule("blocks.0.mlp.up")))


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(UsageError, match="float8"):
        layer_maker("float8", CPU)
    with pytest.raises(UsageError, match="int8 or int4"):
        precision.quantise(copy.deepcopy(small()), "float32")
