"""Linear layers whose weights no longer change, in the form in which their products are fastest.

All of them take rows of float32 and give rows of float32. Most are alike: a row's result has the same bits whatever
other rows are computed with it.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from hanlin.inference.native import dense_product

Function = Callable[[Tensor], Tensor]


class FrozenLinear(nn.Module):
    """x W^T + b with a weight that is not trained; x float32 [..., in]."""

    alike: bool
    """Whether a row's result is the same in any company."""
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


class DenseLinear(FrozenLinear):
    """W in float32 or bfloat16, multiplied by dense.c: where `native.multiplies_dense`. Where the processor multiplies
    bfloat16, x is rounded to it too."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__(weight.shape[1], weight.shape[0])
        # The bias is rounded as all parameters are.
        self.product = dense_product(weight.detach(), None if bias is None else bias.detach().to(weight.dtype))
        self.alike = True
