"""Frozen linear layers with their weights in 8 or 4 bits: memory is saved, the arithmetic stays that of the input."""

from __future__ import annotations

from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanlin.artifacts import HanlinError
from hanlin.models.lora_settings import Base
from hanlin.models.transformer import Linear, Transformer

Bits = Literal[8, 4]
BITS: dict[Base, Bits | None] = {"full": None, "int8": 8, "int4": 4}


def quantise(weight: Tensor, bits: Bits, group: int) -> tuple[Tensor, Tensor]:
    """(codes, scales) with weight ≈ code · scale, symmetric, each off by at most half a scale.

    8 bits: int8 [rows, columns], one float32 scale a row: max|w| / 127. 4 bits: uint8 [rows, padded / 2], float32
    scales [rows, padded / group], max|w| / 7 of each `group` columns; columns are padded with zeros to a multiple of
    `group`, a byte holds column i in its lower half and column i + padded / 2 in its upper one, both plus 8.
    """
    exact = weight.detach().float()
    most = 127 if bits == 8 else 7
    if bits == 4:
        exact = F.pad(exact, (0, -exact.shape[1] % group)).unflatten(1, (-1, group))
    # A group of zeros has the scale 1, and so zeros.
    scales = exact.abs().amax(-1, keepdim=True) / most
    scales = torch.where(scales > 0, scales, 1.0)
    codes = (exact / scales).round_().clamp_(-most, most)
    if bits == 8:
        return codes.to(torch.int8), scales
    low, high = (codes + 8).flatten(1).to(torch.uint8).chunk(2, dim=1)
    return low | (high << 4), scales.squeeze(-1)


def unpack(codes: Tensor, dtype: torch.dtype = torch.int8) -> Tensor:
    """The 4-bit numbers [rows, padded] in `codes` of `quantise`, -7 to 7."""
    half = codes.shape[1]
    numbers = torch.empty((codes.shape[0], 2 * half), dtype=dtype, device=codes.device)
    numbers[:, :half] = codes & 15
    numbers[:, half:] = codes >> 4
    return numbers.sub_(8)


def dequantise(codes: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """The weight [rows, columns or padded] of what `quantise` gave, each code times its scale rounded once."""
    if codes.dtype == torch.int8:
        return codes.to(dtype).mul_(scales)
    weight = unpack(codes, dtype)
    weight.unflatten(1, (scales.shape[1], -1)).mul_(scales.unsqueeze(-1))
    return weight


class QuantisedLinear(nn.Module):
    """A linear layer whose weight can't be trained: codes and scales of `quantise`. Gradients flow to the input.

    The weight is made anew for each product, forward and backward, and never kept.
    """

    codes: Tensor
    scales: Tensor

    def __init__(self, linear: Linear, bits: Bits, group: int) -> None:
        super().__init__()
        self.out_features, self.in_features = linear.weight.shape
        self.splits, self.bits, self.group = linear.splits, bits, group
        codes, scales = quantise(linear.weight, bits, group)
        self.register_buffer("codes", codes)
        self.register_buffer("scales", scales)
        self.bias = cast("nn.Parameter | None", linear.bias)

    def _apply(self, fn: Any, recurse: bool = True) -> QuantisedLinear:
        scales = self.scales
        super()._apply(fn, recurse)
        self.scales = scales.to(self.codes.device)  # moved, but never rounded by model.to(torch.bfloat16)
        return self

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight [outputs, inputs], each code times its scale rounded once."""
        return dequantise(self.codes, self.scales, dtype)[:, : self.in_features]

    def forward(self, input: Tensor) -> Tensor:
        out = cast(Tensor, _FrozenProduct.apply(input, self))
        return out if self.bias is None else out + self.bias.to(out.dtype)


class _FrozenProduct(torch.autograd.Function):
    """x Wᵀ with W made of a layer's codes in either direction."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: QuantisedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.weight_in(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.weight_in(grads[0].dtype), None


def quantise_blocks(model: Transformer, bits: Bits, group: int = 64) -> None:
    """Keep every matrix of the blocks in `bits` bits, in place; embeddings, head, norms and biases stay as they are.

    Raises HanlinError for a model that is quantised already.
    """
    if quantised_layers(model):
        raise HanlinError("the model's weights are quantised already: load it anew to quantise them another way")
    for module in list(model.blocks.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, Linear):
                setattr(module, name, QuantisedLinear(child, bits, group))


def quantised_layers(model: nn.Module) -> list[QuantisedLinear]:
    """Every layer whose weights are kept in 8 or 4 bits."""
    return [module for module in model.modules() if isinstance(module, QuantisedLinear)]
