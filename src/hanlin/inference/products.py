"""Linear layers whose weights no longer change, in the form in which their products are fastest.

All of them take rows of float32 and give rows of float32. Most are alike: a row's result has the same bits whatever
other rows are computed with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanlin.inference.native import dense_product

Function = Callable[[Tensor], Tensor]

COUNTS = (1, 2, 3, 5, 9, 16)
"""Heights at which a product is compared with one of `TALL` rows."""
TALL = 33


class FrozenLinear(nn.Module):
    """x W^T + b with a weight that is not trained; x float32 [..., in]."""

    alike: bool
    """Whether a row's result is the same in any company, as far as was tried on this machine for this shape."""
    product: Function
    """Float32 rows [n, in], n at least 1, contiguous, to [n, out]: what `forward` computes, without its cost."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.in_features, self.out_features = inputs, outputs

    def forward(self, x: Tensor) -> Tensor:
        shape = (*x.shape[:-1], self.out_features)
        if x.numel() == 0:
            return x.new_empty(shape)
        return self.product(x.reshape(-1, self.in_features)).view(shape)


class HalfLinear(FrozenLinear):
    """W kept as float16 and the arithmetic in float32 (FBGEMM's packed product).

    A product with few rows, as in generation, waits for the weights to come from memory, so half the bytes are nearly
    twice the speed; with many rows it is as fast as float32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0])
        packed = torch.ops.quantized.linear_prepack_fp16(
            weight.float().contiguous(), None if bias is None else bias.float()
        )
        # What the operator calls once it has looked through its arguments for things to trace: that takes 10 µs.
        product = _direct(torch.ops.quantized.linear_dynamic_fp16.default)
        self.product, self.alike = (lambda x: product(x, packed)), True


class DenseLinear(FrozenLinear):
    """W in float32 or bfloat16, multiplied by dense.c; for bfloat16 x is rounded to it too."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0])
        # The bias is rounded as all parameters are.
        self.product = dense_product(weight.detach(), None if bias is None else bias.to(weight.dtype))
        self.alike = True


class PackedLinear(FrozenLinear):
    """W in float32 or bfloat16, laid out in blocks for oneDNN; as it is where there is no oneDNN.

    In bfloat16 x is rounded to bfloat16 too, as bfloat16 arithmetic does. With `deterministic` rows are added, and
    their results thrown away, where the product is alike only from some height on: oneDNN's is from one or two rows on,
    that of an unpacked matrix from 16.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype, deterministic: bool = True) -> None:
        outputs, inputs = weight.shape
        super().__init__(inputs, outputs)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        self.packed = can_pack(weight.device, dtype)
        if self.packed:
            kept = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 16)
            multiply = _direct(torch.ops.mkldnn._linear_pointwise.default)
            plain: Function = lambda x: multiply(x, kept, bias, "none", [], "")  # noqa: E731
        else:
            plain = lambda x: F.linear(x, weight, bias)  # noqa: E731
        exact = plain if dtype == torch.float32 else lambda x: plain(x.to(dtype)).float()
        least = least_alike(exact, inputs, outputs, weight.device, (dtype, self.packed))
        self.alike = least is not None and (deterministic or least == 1)
        self.product = _filled(exact, least) if least is not None and least > 1 and deterministic else exact


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies packed weights of `dtype` here."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    operators = torch.ops.mkldnn
    if not hasattr(operators, "_linear_pointwise") or not hasattr(operators, "_reorder_linear_weight"):
        return False
    return dtype == torch.float32 or (dtype == torch.bfloat16 and bool(operators._is_mkldnn_bf16_supported()))


def least_alike(product: Function, inputs: int, outputs: int, device: torch.device, kind: object) -> int | None:
    """The least number of rows from which on a row's result is the same at every height that is tried, with one thread
    and with as many as there are; None: there is none up to 16. Products of one shape and `kind` are tried once."""
    key = kind, inputs, outputs, str(device), torch.get_num_threads()
    if key not in _found:
        _found[key] = _try_heights(product, inputs, device)
    return _found[key]


_found: dict[object, int | None] = {}


def _try_heights(product: Function, inputs: int, device: torch.device) -> int | None:
    x = torch.randn((TALL, inputs), generator=torch.Generator().manual_seed(0)).to(device)
    threads, differing = torch.get_num_threads(), 0
    try:
        for number in {1, threads}:
            torch.set_num_threads(number)
            whole = product(x)
            # The last rows: they stand elsewhere in the tall product.
            unlike = [count for count in COUNTS if not torch.equal(product(x[-count:]), whole[-count:])]
            differing = max(differing, *unlike, 0)
    finally:
        torch.set_num_threads(threads)
    return next((count for count in COUNTS if count > differing), None)


def _filled(product: Function, least: int) -> Function:
    """`product` of at least `least` rows, zeros being added."""

    def filled(x: Tensor) -> Tensor:
        rows = x.shape[0]
        return product(x) if rows >= least else product(F.pad(x, (0, 0, 0, least - rows)))[:rows]

    return filled


def _direct(operator: Any) -> Callable[..., Tensor]:
    """What a PyTorch operator calls once it has looked through its arguments for things to trace."""
    return getattr(operator, "_op", operator)
