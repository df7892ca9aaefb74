"""bfloat16 on processors that have no instructions for it: the same weights, multiplied in float32."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from hanlin.models import Transformer
from hanlin.models.lora import merge_lora

_BLOCK = 1 << 22
"""Weights checked at once, so that the check needs little memory."""


def computes_bfloat16(device: torch.device) -> bool:
    """Whether this device multiplies bfloat16 matrices in hardware. An x86 CPU without avx512_bf16 or AMX emulates
    it, with 16 rows or more at a third to a half of its float32 speed."""
    if device.type != "cpu":
        return True
    found = torch.cpu.get_capabilities()
    return any(bool(found.get(name)) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def fits_half(weight: Tensor) -> bool:
    """Whether float16 holds this matrix as well as bfloat16 does: every number exactly, but for those below 2^-17,
    where float16 is off by at most 2^-25. bfloat16 has 3 bits less of mantissa, so only its larger range could be
    lost."""
    height = max(1, _BLOCK // weight.shape[1])
    for start in range(0, weight.shape[0], height):
        exact = weight[start : start + height].float()
        if not bool(((exact.half().float() - exact).abs() <= 2.0**-25).all()):
            return False
    return True


class HalfLinear(nn.Module):
    """x W^T + b with W kept as float16 and the arithmetic in float32 (FBGEMM's packed product); x float32 [..., in].

    A product with few rows, as in generation, waits for the weights to come from memory, so half the bytes are nearly
    twice the speed; with many rows it is as fast as float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.packed = torch.ops.quantized.linear_prepack_fp16(
            weight.float().contiguous(), None if bias is None else bias.float()
        )
        self.out_features = weight.shape[0]

    def forward(self, x: Tensor) -> Tensor:
        if x.numel() == 0:
            return x.new_empty((*x.shape[:-1], self.out_features))
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)


class FloatLinear(nn.Module):
    """A linear layer in float32 for weights that float16 cannot hold."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = weight.float(), None if bias is None else bias.float()

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight, self.bias)


class FloatEmbedding(nn.Module):
    """Rows of a bfloat16 table, as float32."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.weight: Tensor

    def forward(self, ids: Tensor) -> Tensor:
        return nn.functional.embedding(ids, self.weight).float()


def _packed(weight: Tensor, bias: Tensor | None) -> nn.Module:
    return HalfLinear(weight, bias) if fits_half(weight) else FloatLinear(weight, bias)


class HalfTransformer(Transformer):
    """A bfloat16 Transformer for generation on a CPU that cannot multiply bfloat16: same modules, same `hidden`, its
    matrices packed as `HalfLinear`. Activations, keys and values are float32, so its results are nearer to the exact
    ones than those of bfloat16 arithmetic."""

    output: nn.Module

    @classmethod
    def convert(cls, model: Transformer) -> HalfTransformer:
        """Turn `model` (bfloat16, no longer needed as it was: its modules are taken over) into one that generates
        faster. Adapters are merged."""
        merge_lora(model)
        with torch.device("meta"):
            converted = cls(model.config)
        with torch.inference_mode():
            converted.output = _packed(model.head_weight, None)
            converted.head, converted.compute_dtype = None, torch.float32
            converted.embedding = FloatEmbedding(model.embedding.weight.detach())
            converted.positions = model.positions
            converted.blocks, converted.final_norm, converted.rotary = model.blocks, model.final_norm, model.rotary
            if model.positions is not None:
                model.positions.float()
            model.final_norm.float()
            for block in model.blocks:
                for parent in list(block.modules()):
                    for name, child in list(parent.named_children()):
                        if isinstance(child, nn.Linear):
                            bias = cast("Tensor | None", child.bias)
                            setattr(
                                parent, name, _packed(child.weight.detach(), None if bias is None else bias.detach())
                            )
                block.float()
        return converted.eval()

    def logits(self, hidden: Tensor) -> Tensor:
        return self.output(hidden)


def for_generation(model: Transformer) -> Transformer:
    """The model in the form in which it generates fastest on its device; `model` itself is not to be used
    afterwards."""
    weight = model.embedding.weight
    if weight.dtype != torch.bfloat16 or computes_bfloat16(weight.device) or not _has_half_product():
        return model.eval()
    return HalfTransformer.convert(model)


def _has_half_product() -> bool:
    """Whether this build of PyTorch has FBGEMM's float16 product (x86 builds do)."""
    return "fbgemm" in torch.backends.quantized.supported_engines
