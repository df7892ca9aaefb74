"""What rows.c and attend.c compute beside PyTorch in float64, and the same bits in any company."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.inference import native
from hanlin.inference.cache import KVCache
from hanlin.inference.rows import RowAttention, RowNorm, scan, silu_gate
from hanlin.models import ModelConfig

pytestmark = pytest.mark.skipif(native.compiled() is None, reason="there is no C compiler")
SIZES = [1, 8, 16, 40, 100, 768]


def rms(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return x / (x.square().mean(-1, True) + epsilon).sqrt() * weight


@pytest.mark.parametrize("size", SIZES)
def test_norm(size: int) -> None:
    x, y, weight = torch.randn(70, size), torch.randn(70, size), torch.randn(size)
    norm = RowNorm(weight, 1e-6)
    whole, normal = norm(x.clone(), y)
    assert torch.equal(whole, x + y)
    assert (normal - rms((x + y).double(), weight.double(), 1e-6)).abs().max() < 1e-5
    for count in (1, 3, 64):
        assert torch.equal(norm(x[:count].clone(), y[:count])[1], normal[:count])
        assert torch.equal(norm(x[-count:].clone(), y[-count:])[1], normal[-count:])
    kept = x.clone()
    assert norm(x, None)[0] is x and torch.equal(x, kept)


@pytest.mark.parametrize("size", SIZES)
def test_gate(size: int) -> None:
    inner = torch.randn(70, 2 * size) * torch.tensor([1.0, 30.0, 1000.0])[torch.arange(70) % 3][:, None]
    found, (gate, up) = silu_gate(inner), inner.double().chunk(2, -1)
    assert ((found - F.silu(gate) * up).abs() <= 1e-6 * (F.silu(gate) * up).abs() + 1e-30).all()
    for count in (1, 3, 64):
        assert torch.equal(silu_gate(inner[-count:].contiguous()), found[-count:])
    inner[3, 0] = torch.nan
    assert silu_gate(inner).isnan().nonzero().tolist() == [[3, 0]]


@pytest.mark.parametrize("size", [1, 5, 16, 100, 1024, 5003])
def test_scan(size: int) -> None:
    scores = torch.randn(40, size) * 20
    scores[7, size // 2] = scores[7, size // 3] = 100
    best, largest, normaliser = scan(scores)
    assert best.tolist() == [row.index(max(row)) for row in scores.tolist()]
    assert torch.equal(largest, scores.amax(1))
    assert ((normaliser - scores.double().logsumexp(1)).abs() < 1e-5).all()
    for count in (1, 2, 33):
        for one, other in zip(scan(scores[-count:]), (best, largest, normaliser)):
            assert torch.equal(one, other[-count:])
    for bad, finite in ((torch.nan, False), (torch.inf, False), (-torch.inf, size > 1)):
        scores[3, -1] = bad
        assert scan(scores)[2].isfinite().tolist() == [row != 3 or finite for row in range(40)]


def a_cache(config: ModelConfig, slots: int) -> KVCache:
    return KVCache(config, slots, 1000, torch.float32, torch.device("cpu"))


def a_config(heads: int, kv_heads: int, size: int, window: int | None = None) -> ModelConfig:
    return ModelConfig(
        family="mistral" if window else "qwen3", vocabulary_size=32, hidden_size=heads * size, layers=2, heads=heads,
        kv_heads=kv_heads, head_dim=size, max_positions=1024, sliding_window=window,
    )  # fmt: skip


SHAPES = [(4, 4, 8), (6, 2, 64), (8, 1, 128), (5, 1, 40), (3, 3, 16), (2, 1, 256)]


@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_place(shape: tuple[int, int, int], normed: bool) -> None:
    config = a_config(*shape)
    (heads, kv_heads, size), rows = shape, 5
    cache, joint = a_cache(config, 8), torch.randn(rows + 1, heads + 2 * kv_heads, size)
    slots, positions = torch.tensor([1, 0, 3, 3, 7]), torch.tensor([0, 17, 4, 5, 1023, 0])
    angles = torch.randn(rows + 1, 1, size // 2)
    norms = (torch.randn(size), torch.randn(size)) if normed else None
    cos, sin, turned = angles.cos().double(), angles.sin().double(), joint.double()[:, : heads + kv_heads]
    if norms:
        weight = torch.cat([norms[0].expand(heads, size), norms[1].expand(kv_heads, size)]).double()
        turned = rms(turned, weight, config.norm_epsilon)
    one, other = turned.chunk(2, -1)
    wanted = torch.cat((one * cos - other * sin, other * cos + one * sin), -1)
    values = joint[:, heads + kv_heads :].clone()
    given = joint.clone()
    RowAttention(config, cache.data, slots, positions, (angles.cos(), angles.sin())).place(1, joint, norms)
    assert (joint[:, : heads + kv_heads] - wanted).abs().max() < 2e-5
    assert torch.equal(joint[:, heads + kv_heads :], values)
    for row in range(rows):
        held = cache.data[slots[row], 1, :, positions[row]]
        assert torch.equal(held, joint[row, heads:])
    # The last row is a filling: nothing else was written.
    assert cache.data[:, :, :, :6].count_nonzero() == sum(joint[row, heads:].numel() for row in (0, 2, 3))
    alone = given[2:3].clone()
    RowAttention(config, cache.data, slots[2:3], positions[2:3], (angles[2:3].cos(), angles[2:3].sin())).place(
        1, alone, norms
    )
    assert torch.equal(alone, joint[2:3])


@pytest.mark.parametrize("window", [None, 7, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_attend(shape: tuple[int, int, int], window: int | None) -> None:
    config = a_config(*shape, window)
    (heads, kv_heads, size), group = shape, shape[0] // shape[1]
    cache = a_cache(config, 4)
    cache.data[:, :, :, :400] = torch.randn(4, 2, 2 * kv_heads, 400, size)
    slots, positions = torch.tensor([0, 1, 2, 2, 3]), torch.tensor([0, 63, 64, 150, 399])
    joint = torch.randn(5, heads + 2 * kv_heads, size) * 2
    out = RowAttention(config, cache.data, slots, positions, None).attend(1, joint)
    for row, (slot, position) in enumerate(zip(slots.tolist(), positions.tolist())):
        first = 0 if window is None else max(0, position + 1 - window)
        held = cache.data[slot, 1, :, first : position + 1].double().repeat_interleave(group, 0)
        keys, values = held[:heads], held[heads:]
        weights = (joint[row, :heads, None].double() @ keys.transpose(1, 2) / size**0.5).softmax(-1)
        assert (out[row].view(heads, 1, size) - weights @ values).abs().max() < 1e-5
        alone = RowAttention(config, cache.data, slots[row : row + 1], positions[row : row + 1], None)
        assert torch.equal(alone.attend(1, joint[row : row + 1])[0], out[row])
    joint[1, 0, 0] = torch.nan
    out = RowAttention(config, cache.data, slots, positions, None).attend(1, joint)
    assert out.isnan().any(-1).tolist() == [False, True, False, False, False]


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("window", [None, 7, 100])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_prompt_has_the_bits_of_its_tokens_one_by_one(
    shape: tuple[int, int, int], window: int | None, threads: int
) -> None:
    torch.set_num_threads(threads)
    config = a_config(*shape, window)
    heads, kv_heads, size = shape
    cache = a_cache(config, 3)
    cache.data[:, :, :, :400] = torch.randn(3, 2, 2 * kv_heads, 400, size)
    # Two prompts, one of which begins in the middle, a generated token, and three that are guessed.
    runs = [(0, 0, 97), (1, 130, 75), (2, 200, 1), (2, 300, 3)]
    slots = torch.tensor([slot for slot, _, count in runs for _ in range(count)])
    positions = torch.tensor([start + place for _, start, count in runs for place in range(count)])
    joint = torch.randn(len(slots), heads + 2 * kv_heads, size) * 2
    out = RowAttention(config, cache.data, slots, positions, None).attend(1, joint)
    assert out.isfinite().all()
    for row in range(len(slots)):
        alone = RowAttention(config, cache.data, slots[row : row + 1], positions[row : row + 1], None)
        assert torch.equal(alone.attend(1, joint[row : row + 1])[0], out[row])
    for start, end in ((0, 50), (40, 100), (97 + 3, 97 + 60)):
        part = slice(start, end)
        cut = RowAttention(config, cache.data, slots[part], positions[part], None).attend(1, joint[part])
        assert torch.equal(cut, out[part])
    # What lies behind a sequence is not seen, whatever it is.
    cache.data[:, :, :, 303:] = torch.nan
    cache.data[0, :, :, 97:] = torch.nan
    cache.data[1, :, :, 205:] = torch.nan
    assert torch.equal(RowAttention(config, cache.data, slots, positions, None).attend(1, joint), out)


@pytest.mark.parametrize("target", ["-march=x86-64", "-march=haswell"])
def test_every_instruction_set_computes_the_same_bits(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for attention, which multiplies and adds in one where it can."""
    if "x86" not in str(torch.cpu.get_capabilities().get("architecture")):
        pytest.skip("another processor")
    config = a_config(6, 2, 64)
    cache = a_cache(config, 1)
    cache.data[:, :, :, :200] = torch.randn(1, 2, 4, 200, 64)
    x, weight, joint = torch.randn(3, 384), torch.randn(384), torch.randn(40, 10, 64)

    def run() -> list[Tensor]:
        slots, positions = torch.zeros(40, dtype=torch.int64), torch.arange(160, 200)
        out = RowAttention(config, cache.data, slots, positions, None).attend(0, joint)
        last = RowAttention(config, cache.data, slots[39:], positions[39:], None).attend(0, joint[39:])
        assert torch.equal(out[39:], last)
        return [out, RowNorm(weight, 1e-6)(x, None)[1], silu_gate(x), *scan(x)]

    wanted = run()
    library = tmp_path / "kernels.so"
    subprocess.run(native.command("cc", (target, "-w"), library), check=True)
    found = functools.cache(lambda: native.load_library(library))
    monkeypatch.setattr("hanlin.inference.rows.compiled", found)
    for number, (one, other) in enumerate(zip(run(), wanted)):
        if number or target != "-march=x86-64":
            assert torch.equal(one, other)
        else:
            torch.testing.assert_close(one, other)
