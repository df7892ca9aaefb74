"""Tensors to Python numbers, with their types."""

from __future__ import annotations

from typing import cast

from torch import Tensor


def floats(values: Tensor) -> list[float]:
    """A one-dimensional floating-point tensor as a list."""
    return cast("list[float]", values.tolist())


def integers(values: Tensor) -> list[int]:
    """A one-dimensional integer tensor as a list."""
    return cast("list[int]", values.tolist())
