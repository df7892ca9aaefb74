"""Element-wise parts of a block with hand-written gradients, for eager execution on a CPU.

There, time goes into passes over memory: autograd's own composition of RMSNorm takes about five times as long, forward
and backward, as the passes below. Each function states its formula; `torch.compile` and GPUs, which fuse by
themselves, get the same formula written plainly. Arithmetic is in float32 (float64 for float64 input) whatever the
input's dtype, with one rounding at the end.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def by_hand(x: Tensor) -> bool:
    """Whether the hand-written passes are the faster ones: on a CPU, unless torch.compile is to fuse them."""
    return x.device.type == "cpu" and not torch.compiler.is_compiling()


def wide(x: Tensor) -> Tensor:
    """`x` in the precision of the arithmetic: float32, or float64 where it is that already."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def inverse_rms(x: Tensor, epsilon: float) -> Tensor:
    """1 / sqrt(mean(x²) + epsilon) over the last dimension, which stays with size 1; one pass over x."""
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()


def norm_gradient(grad: Tensor, x: Tensor, weight: Tensor, scale: Tensor, coefficient: Tensor, out: Tensor) -> Tensor:
    """out = grad · weight · scale - x · coefficient."""
    torch.mul(grad, weight, out=out)
    return out.mul_(scale).addcmul_(x, coefficient, value=-1)


class _RMSNorm(torch.autograd.Function):
    """y = x · r · w with r = 1 / sqrt(mean(x²) + epsilon).

    Backward, with g the gradient of y: dw = sum over rows of g · x · r, and dx = g · w · r - x · r³ · mean(g · w · x).
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        rows = wide(x).reshape(-1, x.shape[-1])
        scale = inverse_rms(rows, epsilon)
        ctx.save_for_backward(x, weight, scale)
        return (rows * scale).mul_(wide(weight)).to(x.dtype).view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, scale = ctx.saved_tensors
        size = x.shape[-1]
        rows, grad, weight32 = wide(x).reshape(-1, size), wide(grads[0]).reshape(-1, size), wide(weight)
        product = grad * rows
        weight_grad = torch.mv(product.T, scale[:, 0])
        coefficient = torch.mv(product, weight32)[:, None].mul_(scale.pow(3)).div_(size)
        x_grad = norm_gradient(grad, rows, weight32, scale, coefficient, out=product)
        return x_grad.to(x.dtype).view(x.shape), weight_grad.to(weight.dtype), None


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """x / sqrt(mean(x²) + epsilon) · weight over the last dimension (Zhang & Sennrich 2019, eq. 4), in x's dtype."""
    if by_hand(x):
        return _RMSNorm.apply(x, weight, epsilon)
    if x.dtype == weight.dtype:
        return F.rms_norm(x, weight.shape, weight, epsilon)
    return F.rms_norm(wide(x), weight.shape, wide(weight), epsilon).to(x.dtype)


class _SwiGLU(torch.autograd.Function):
    """y = silu(gate) · up, where inner = [gate, up]."""

    @staticmethod
    def forward(ctx: Any, inner: Tensor) -> Tensor:
        gate, up = inner.chunk(2, dim=-1)
        opened = F.silu(gate)
        ctx.save_for_backward(inner, opened)
        return opened * up

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        inner, opened = ctx.saved_tensors
        (gate, up), grad = inner.chunk(2, dim=-1), grads[0]
        # Both halves go straight into one buffer; autograd would make them apart and join them.
        result = torch.empty_like(inner)
        gate_grad, up_grad = result.chunk(2, dim=-1)
        torch.ops.aten.silu_backward.grad_input(grad * up, gate, grad_input=gate_grad)
        torch.mul(opened, grad, out=up_grad)
        return result


def swiglu(inner: Tensor) -> Tensor:
    """silu(gate) · up for inner = [gate, up] on the last dimension (Shazeer 2020), half as wide as `inner`."""
    if by_hand(inner):
        return _SwiGLU.apply(inner)
    gate, up = inner.chunk(2, dim=-1)
    return F.silu(gate) * up


def _by_head(weights: Tensor, heads: int, kv_heads: int) -> Tensor:
    """[2, D] (queries', keys') spread to [heads + kv_heads, D]."""
    return torch.cat((weights[:1].expand(heads, -1), weights[1:].expand(kv_heads, -1)))


class _NormRotate(torch.autograd.Function):
    """Queries and keys out of the joint projection: normalised a head, turned by their positions' angles.

    n = x · r · w (as RMSNorm, a head); y1 = n1 cos - n2 sin, y2 = n2 cos + n1 sin. Backward turns the gradient back,
    then is RMSNorm's; queries', keys' and values' gradients go into one buffer, the projection's.
    """

    @staticmethod
    def forward(
        ctx: Any, projected: Tensor, heads: int, weights: Tensor | None, epsilon: float, cos: Tensor, sin: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        kv_heads = (projected.shape[2] - heads) // 2
        both = wide(projected[:, :, : heads + kv_heads])
        scale = None
        if weights is not None:
            scale = inverse_rms(both, epsilon)
            both = (both * scale).mul_(_by_head(wide(weights), heads, kv_heads))
        first, second = both.chunk(2, dim=-1)
        turned = torch.empty(both.shape, dtype=both.dtype)
        left, right = turned.chunk(2, dim=-1)
        torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
        torch.mul(second, cos, out=right).addcmul_(first, sin)
        ctx.save_for_backward(projected, weights, scale, cos, sin)
        ctx.heads = heads
        turned = turned.to(projected.dtype)
        return turned[:, :, :heads], turned[:, :, heads:], projected[:, :, heads + kv_heads :]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        projected, weights, scale, cos, sin = ctx.saved_tensors
        heads, total = ctx.heads, projected.shape[2]
        kv_heads = (total - heads) // 2
        joint = heads + kv_heads
        result = torch.empty_like(projected)
        result[:, :, joint:].copy_(grads[2])
        if weights is None and result.dtype == cos.dtype:
            back = result[:, :, :joint]
        else:
            back = torch.empty((*projected.shape[:2], joint, projected.shape[3]), dtype=cos.dtype)
        for grad, part in ((grads[0], back[:, :, :heads]), (grads[1], back[:, :, heads:])):
            (first, second), (left, right) = wide(grad).chunk(2, dim=-1), part.chunk(2, dim=-1)
            torch.mul(first, cos, out=left).addcmul_(second, sin)
            torch.mul(second, cos, out=right).addcmul_(first, sin, value=-1)
        if weights is None or scale is None:
            if result.dtype != cos.dtype:
                result[:, :, :joint].copy_(back)
            return result, None, None, None, None, None
        x, weights32, size = wide(projected[:, :, :joint]), wide(weights), projected.shape[3]
        product = back * x
        # Sums over rows and over columns as products with thin matrices, which read `product` once each.
        flat = product.view(-1, size)
        chosen = torch.zeros((2, *scale.shape[:-1]), dtype=scale.dtype)
        chosen[0, :, :, :heads], chosen[1, :, :, heads:] = scale[:, :, :heads, 0], scale[:, :, heads:, 0]
        weight_grad = chosen.view(2, -1) @ flat
        sums = (flat @ weights32.T).view(*scale.shape[:-1], 2)
        coefficient = torch.cat((sums[:, :, :heads, 0], sums[:, :, heads:, 1]), dim=2).unsqueeze(-1)
        coefficient.mul_(scale.pow(3)).div_(size)
        norm_gradient(back, x, _by_head(weights32, heads, kv_heads), scale, coefficient, out=product)
        result[:, :, :joint].copy_(product)
        return result, None, weight_grad.to(weights.dtype), None, None, None


def norm_rotate(
    projected: Tensor, heads: int, weights: Tensor | None, epsilon: float, cos: Tensor, sin: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Split `projected` [B, T, heads + 2·kv_heads, D] into query, key and value [B, T, ·, D].

    Queries and keys are RMS-normalised a head if `weights` [2, D] (queries', keys') is given, then their pairs (i, i
    + D/2) turned by the angles of `cos` and `sin` [1 or B, T, 1, D/2] (Su et al. 2021, in the layout of Hugging
    Face's models). Without `cos` and `sin` (learned positions) it only splits.
    """
    if by_hand(projected):
        return _NormRotate.apply(projected, heads, weights, epsilon, cos, sin)
    kv_heads = (projected.shape[2] - heads) // 2
    both, value = projected.split((heads + kv_heads, kv_heads), dim=2)
    both = wide(both)
    if weights is not None:
        both = F.rms_norm(both, both.shape[-1:], None, epsilon) * _by_head(wide(weights), heads, kv_heads)
    first, second = both.chunk(2, dim=-1)
    both = torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1).to(projected.dtype)
    query, key = both.split((heads, kv_heads), dim=2)
    return query, key, value
