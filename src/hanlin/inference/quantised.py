"""Linear layers with 8-bit or 4-bit weights for generation."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.inference.native import coded_product, compiled
from hanlin.inference.products import FrozenLinear, Function
from hanlin.models.quantised import Bits, dequantise, quantise, unpack

GROUP = 64
"""Weights of a row that share a scale in 4 bits, and, in 8 bits, numbers of x that do."""
LANES = 16
PIECE = 1 << 18
"""Weights that are quantised at once."""


class CodedLinear(FrozenLinear):
    """W as the codes of `models.quantised.quantise`: a byte a weight and a scale an output, or half a byte and a scale
    for each `group` weights.

    On a CPU computed by coded.c; where there is no compiler for it, by PyTorch's kernels, which round x to bfloat16;
    elsewhere with the weight made anew for each product. `way` says which.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, bits: Bits, group: int = GROUP) -> None:
        outputs, inputs = weight.shape
        super().__init__(inputs, outputs)
        codes, scales = _by_pieces(lambda rows: quantise(rows, bits, group), weight)
        bias = None if bias is None else bias.detach().float().contiguous()
        self.bits, self.group = bits, group
        self.alike = weight.device.type == "cpu"
        if self.alike and compiled() is not None:
            self.way = "native"
            group = group if bits == 4 else GROUP
            codes, scales = _by_pieces(lambda codes, scales: interleave(codes, scales, group), codes, scales)
            self.product = coded_product(bits, codes, scales, bias, inputs, outputs, group)
        elif self.alike and outputs % 64 == 0 and inputs % group == 0:
            self.way = "torch"
            self.product = _with_bias(_torch_product(codes, scales, group), bias)
        else:
            self.way, self.alike = "dequantised", False
            self.product = lambda x: F.linear(x, dequantise(codes, scales, x.dtype)[:, :inputs], bias)


def _by_pieces(change: Callable[..., tuple[Tensor, Tensor]], *given: Tensor) -> tuple[Tensor, Tensor]:
    """`change` of a few rows at a time: what it makes on its way stays in the processor's caches, which is several
    times as fast."""
    height = max(LANES, PIECE // given[0].shape[1] // LANES * LANES)
    made = [change(*parts) for parts in zip(*(one.split(height) for one in given))]
    codes, scales = zip(*made)
    return torch.cat(codes), torch.cat(scales)


def interleave(codes: Tensor, scales: Tensor, group: int) -> tuple[Tensor, Tensor]:
    """Codes and scales of `quantise` as coded.c reads them: of 16 outputs at a time, 32 bits of each output in turn.

    8 bits: uint8 [blocks, columns / 4, 16, 4], columns padded to a multiple of `group`, the columns of 32 bits in the
    order 0, 2, 1, 3, and scales [blocks, 16]. 4 bits: uint8 [blocks, columns / 8, 16, 4], in the order 0, 2, 4, 6, 1,
    3, 5, 7 from the lowest bits up, each plus 8, and scales [blocks, groups, 16]. So a shift and a mask give pairs of
    neighbouring columns.
    """
    wide = codes.dtype == torch.int8
    numbers = codes if wide else unpack(codes).add_(8)
    numbers = F.pad(numbers, (0, -numbers.shape[1] % group, 0, -numbers.shape[0] % LANES)).view(torch.uint8)
    scales = F.pad(scales, (0, 0, 0, -scales.shape[0] % LANES)).unflatten(0, (-1, LANES))
    each, order = (4, [0, 2, 1, 3]) if wide else (8, [0, 2, 4, 6, 1, 3, 5, 7])
    # One column of the 32 bits at a time: an index over the last dimension would take a hundred times as long.
    parts = numbers.unflatten(0, (-1, LANES)).unflatten(2, (-1, each)).transpose(1, 2).unbind(-1)
    parts = [parts[column] for column in order]
    if not wide:
        parts = [low | (high << 4) for low, high in zip(parts[::2], parts[1::2])]
    return torch.stack(parts, -1), scales.flatten(1).contiguous() if wide else scales.transpose(1, 2).contiguous()


def _torch_product(codes: Tensor, scales: Tensor, group: int) -> Function:
    if codes.dtype == torch.int8:
        # The kernel wants scales in bfloat16, which would be off by 2^-9: the true ones are applied afterwards.
        ones, row = torch.ones(codes.shape[0], dtype=torch.bfloat16), scales.view(1, -1)
        return lambda x: torch.ops.aten._weight_int8pack_mm(x.bfloat16(), codes, ones).float().mul_(row)
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(unpack(codes, torch.int32).add_(8), 1)
    pairs = torch.stack((scales.T, torch.zeros_like(scales.T)), -1).bfloat16().contiguous()
    return lambda x: torch.ops.aten._weight_int4pack_mm_for_cpu(x.bfloat16(), packed, group, pairs).float()


def _with_bias(product: Function, bias: Tensor | None) -> Function:
    return product if bias is None else lambda x: product(x).add_(bias)
