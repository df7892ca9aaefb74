"""Documents packed in one row see only themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from hanlin.artifacts import HanlinError
from hanlin.models import ModelConfig, Transformer, attention
from hanlin.models.attention import Visibility, attend, visibility

SHAPES: dict[str, dict[str, Any]] = {
    "qwen3": {"family": "qwen3", "kv_heads": 2},
    "mistral": {"family": "mistral", "kv_heads": 1, "sliding_window": 5},
    "gpt2": {"family": "gpt2", "max_positions": 64},
}
LENGTHS = [[7, 1, 16], [24], [3, 3, 9, 9], [12, 12]]


def made(name: str, dtype: torch.dtype = torch.float32) -> Transformer:
    torch.set_num_threads(1)
    shape = {"vocabulary_size": 61, "hidden_size": 32, "layers": 2, "heads": 4, **SHAPES[name]}
    model = Transformer(ModelConfig.model_validate(shape))
    model.init_weights(0)
    return model.to(dtype)


def packed() -> tuple[Tensor, Tensor, Tensor]:
    ids = torch.randint(0, 61, (4, 24), generator=torch.Generator().manual_seed(1))
    positions = torch.stack([torch.cat([torch.arange(n) for n in row]) for row in LENGTHS])
    documents = torch.stack(
        [torch.cat([torch.full((n,), i) for i, n in enumerate(row)]).to(torch.int32) for row in LENGTHS]
    )
    return ids, positions, documents


@pytest.fixture(params=[0, 10**12], ids=["a call each", "one mask"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways in which a CPU attends to packed documents, whichever these small ones would get."""
    monkeypatch.setattr(attention, "CALL_COST", request.param)


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", SHAPES)
def test_packed_documents_equal_documents_alone(name: str) -> None:
    model = made(name)
    ids, positions, documents = packed()
    with torch.no_grad():
        together = model(ids, positions, documents)
        for row, lengths in enumerate(LENGTHS):
            start = 0
            for length in lengths:
                alone = model(ids[row : row + 1, start : start + length])
                assert (together[row, start : start + length] - alone[0]).abs().max() < 1e-6
                start += length
        # The test could fail: without the document ids the rows differ.
        assert (together - model(ids, positions)).abs().max() > 1e-3


@pytest.mark.usefixtures("way")
@pytest.mark.parametrize("name", SHAPES)
def test_gradients_through_packed_documents(name: str) -> None:
    model = made(name, torch.float64)
    ids, positions, documents = packed()
    together = model(ids, positions, documents).square().sum()
    together.backward()
    grads = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    for row, lengths in enumerate(LENGTHS):
        for piece in ids[row].split(lengths):
            model(piece[None]).square().sum().backward()
    for parameter, grad in zip(model.parameters(), grads):
        assert torch.allclose(parameter.grad, grad, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("window", [None, 5])
def test_segments_are_the_mask(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop over documents on a CPU and the mask used elsewhere describe the same attention."""
    monkeypatch.setattr(attention, "CALL_COST", 0)
    window_shape = {"sliding_window": window} if window else {}
    config = ModelConfig(
        **{"family": "mistral", "vocabulary_size": 8, "hidden_size": 16, "layers": 1, "heads": 2, **window_shape}
    )
    documents = packed()[2]
    generator = torch.Generator().manual_seed(0)
    query, key, value, grad = (torch.randn(4, 2, 24, 8, generator=generator, dtype=torch.float64) for _ in range(4))
    (see,) = visibility(config, 4, 24, documents, query)
    assert see.segments is not None and see.segments.tolist()[:4] == [[0, 0, 7], [0, 7, 8], [0, 8, 24], [1, 0, 24]]
    position = torch.arange(24)
    distance = position[:, None] - position[None]
    visible = (distance >= 0) & (distance < (window or 99)) & (documents[:, None, :] == documents[:, :, None])
    mask = torch.zeros(4, 1, 24, 24, dtype=torch.float64).masked_fill(~visible[:, None], float("-inf"))
    results = []
    for one in (see, Visibility(mask=mask)):
        leaves = [x.clone().requires_grad_() for x in (query, key, value)]
        out = attend(*leaves, one)
        out.backward(grad)
        results.append([out.detach(), *(leaf.grad for leaf in leaves)])
    for mine, other in zip(*results):
        assert torch.allclose(mine, other, atol=1e-12)


def test_many_short_documents_share_a_mask_and_long_ones_are_apart() -> None:
    config = ModelConfig(vocabulary_size=8, hidden_size=16, layers=1, heads=4)
    x = torch.zeros(1, 1)
    for length, size, masked in ((256, 32, True), (2048, 512, False)):
        documents = (torch.arange(length) // size)[None].expand(8, length)
        (see,) = visibility(config, 8, length, documents, x)
        assert (see.mask is not None) is masked and (see.segments is None) is masked
        # One shape whatever the number of documents, for torch.compile.
        assert masked or see.segments.shape == (8 * length, 3)


def test_positions_restart() -> None:
    model = made("qwen3")
    ids, positions, documents = packed()
    with torch.no_grad():
        # Rotary attention is relative: only distances count, so shifting a whole document changes nothing.
        shifted = model(ids, positions + 11, documents)
        assert (shifted - model(ids, positions, documents)).abs().max() < 1e-5
    learned = made("gpt2")
    with torch.no_grad():
        assert (learned(ids, positions, documents) - learned(ids, None, documents)).abs().max() > 1e-3


def test_positions_that_were_not_learned_are_refused() -> None:
    model = made("gpt2")
    with pytest.raises(HanlinError, match="beyond the 64 positions"):
        model(torch.zeros(1, 65, dtype=torch.int64))
    with pytest.raises(HanlinError, match="position 64 "):
        model(torch.zeros(1, 2, dtype=torch.int64), torch.tensor([[63, 64]]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", ["qwen3", "mistral"])
def test_packed_on_a_gpu(name: str) -> None:
    model = made(name).cuda()
    ids, positions, documents = (x.cuda() for x in packed())
    expected = model(ids, positions, documents)
    model.compute_dtype = torch.bfloat16
    found = model(ids, positions, documents)
    assert (found.float() - expected).abs().max() < 0.05
    found.float().sum().backward()
