"""Modules as plain functions of rows: what a step of generation calls, thousands of times a second."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hanlin.inference.products import FrozenLinear
from hanlin.inference.rows import RowNorm, computes_rows, silu_gate
from hanlin.models import Transformer
from hanlin.models.transformer import MLP, RMSNorm

Function = Callable[[Tensor], Tensor]
Norm = Callable[[Tensor, "Tensor | None"], tuple[Tensor, Tensor]]
"""(x, y) -> x + y, which may be x itself, and its norm."""


def compute_dtype(model: Transformer) -> torch.dtype:
    """The precision in which the model computes: that of its hidden states, keys and values."""
    return model.compute_dtype or model.embedding.weight.dtype


def linear_function(module: nn.Module, dtype: torch.dtype) -> Function:
    """What `module` computes, without the cost of calling a module.

    Adapted and quantised layers are no nn.Linear, and are called: their active adapter may change between calls.
    """
    if isinstance(module, FrozenLinear):
        return module.product
    if not isinstance(module, nn.Linear):
        return module
    weight: Tensor = module.weight
    bias = cast("Tensor | None", module.bias)
    if weight.dtype != dtype:
        # Weights in training keep their own precision: they are rounded when used, for they may have changed.
        return lambda x: F.linear(x, weight.to(dtype), None if bias is None else bias.to(dtype))
    return lambda x: F.linear(x, weight, bias)


def inverse_rms(x: Tensor, epsilon: Tensor, alone: bool = False) -> Tensor:
    """1 / sqrt(mean(x²) + epsilon) over the last dimension, which stays with size 1. `alone`: x is one row [1, D]."""
    if alone:
        # Of one row the sum of squares is a product: one operation for two, half of the time beside cold caches.
        return torch.addmm(epsilon, x, x.T, alpha=1 / x.shape[1]).rsqrt_()
    norm = cast(Tensor, torch.linalg.vector_norm(x, 2, -1, True))
    return torch.addcmul(epsilon, norm, norm, value=1 / x.shape[-1]).rsqrt_()


def wide(dtype: torch.dtype) -> torch.dtype:
    """The precision of norms and rotations: at least float32."""
    return dtype if dtype in (torch.float32, torch.float64) else torch.float32


def norm_function(module: nn.Module, dtype: torch.dtype, alike: bool) -> Norm:
    """Adds to the residual stream, which may be changed by it, and takes the norm that `module` is; RMSNorm computed in
    float32 (or float64), as everywhere. `alike`: a row has the same bits however many there are."""
    if not isinstance(module, RMSNorm):
        return _after_adding(module)
    weight, broad = module.weight, wide(dtype)
    if computes_rows(dtype, weight.device) and weight.dtype == dtype:
        return RowNorm(weight, module.epsilon)
    epsilon = torch.tensor(module.epsilon, dtype=broad, device=weight.device)

    def norm(x: Tensor) -> Tensor:
        return (x * inverse_rms(x, epsilon, not alike and x.shape[0] == 1)).mul_(weight)

    return _after_adding(norm if broad == dtype else lambda x: norm(x.to(broad)).to(dtype))


def _after_adding(norm: Function) -> Norm:
    def add(x: Tensor, y: Tensor | None) -> tuple[Tensor, Tensor]:
        x = x if y is None else x + y
        return x, norm(x)

    return add


GRAIN = 32768
"""Elements up to which PyTorch leaves an operation to one thread."""


def activation_function(mlp: MLP, dtype: torch.dtype, device: torch.device, alike: bool) -> Function:
    """The activation of rows [n, D], or [n, 2 · D] with their gates first. `alike`: a row has the same bits however
    many there are. Threads would cut rows in two, and what is left of a vector at the cut is computed another way than
    whole vectors are."""
    if mlp.gated and mlp.silu and computes_rows(dtype, device):
        return silu_gate
    activation = mlp.activation

    def plain(x: Tensor) -> Tensor:
        if not alike or x.numel() <= GRAIN:
            return activation(x)
        return torch.cat([activation(part) for part in x.split(max(1, GRAIN // x.shape[-1]))])

    def gated(inner: Tensor) -> Tensor:
        gate, up = inner.chunk(2, -1)
        return plain(gate).mul_(up)

    return gated if mlp.gated else plain
