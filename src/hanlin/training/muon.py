"""Muon: momentum whose update is orthogonalised, matrix by matrix.

Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks".
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

POLAR_EXPRESS = (
    (8.156554524902461, -22.48329292557795, 15.878769915207462),
    (4.042929935166739, -2.808917465908714, 0.5000178451051316),
    (3.8916678022926607, -2.772484153217685, 0.5060648178503393),
    (3.285753657755655, -2.3681294933425376, 0.46449024233003106),
    (2.3465413258596377, -1.7097828382687081, 0.42323551169305323),
)
"""Coefficients (a, b, c) of five steps X ← aX + b(XXᵀ)X + c(XXᵀ)²X, each step's the best for what the one before leaves
(Amsel et al. 2025, "The Polar Express", algorithm 1, five steps). Singular values from 1e-3 to 1 end in [0.859, 1.141],
where five steps of Jordan's fixed (3.4445, -4.7750, 2.0315) leave them in [0.47, 1.20]."""
GROUP = 4 << 20
"""Elements orthogonalised in one batched product: beyond it batching gains nothing and only takes memory."""


def orthogonalize(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrix UVᵀ of each matrix USVᵀ, approximately; [N, rows, columns], in its dtype.

    Newton-Schulz iteration with the coefficients above: singular values of at least 1e-3 of the Frobenius norm end
    within 0.15 of 1. A zero matrix stays zero.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    # The Frobenius norm bounds the largest singular value; 2 % of room is for rounding in bfloat16.
    norm = torch.linalg.vector_norm(
        x, dim=(-2, -1), keepdim=True, dtype=None if x.dtype == torch.float64 else torch.float32
    )
    x = x / (norm * 1.02 + 1e-20).to(x.dtype)
    if x.shape[-1] >= 2 * x.shape[-2] and x.dtype in (torch.float32, torch.float64):
        x = torch.bmm(_gram_polar(torch.bmm(x, x.mT)), x)
    else:
        for a, b, c in POLAR_EXPRESS:
            gram = torch.bmm(x, x.mT)
            polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
            x = torch.baddbmm(x, polynomial, x, beta=a)
    return x.mT if tall else x


def _gram_polar(gram: Tensor) -> Tensor:
    """Q with QX = the iteration's result for X, from G = XXᵀ alone.

    With P = aI + bG + cG² a step is X ← PX, so G ← PGP and Q ← PQ. For wide matrices that saves the products with their
    long side: 31 % of the time at 256 × 704, at a relative error of 3e-4 in float32 (bfloat16 would lose small values).
    """
    result: Tensor | None = None
    for step, (a, b, c) in enumerate(POLAR_EXPRESS):
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        result = polynomial if result is None else torch.bmm(polynomial, result)
        if step < len(POLAR_EXPRESS) - 1:
            gram = torch.bmm(torch.bmm(polynomial, gram), polynomial)
    assert result is not None
    return result


@dataclass
class Part:
    """Rows of a parameter that are one matrix of the model: q, k and v are three, though they lie in one parameter."""

    parameter: int
    start: int
    stop: int


class Muon:
    """θ ← θ (1 - lr·wd) - lr · 0.2·√max(rows, columns) · orthogonalize(Nesterov momentum).

    The factor gives each element of the update the root mean square 0.2 that AdamW's updates have, so that its learning
    rate and weight decay can be used (Liu et al. 2025, "Muon is scalable for LLM training", eq. 4). Matrices of one
    shape (or its transpose) are orthogonalised together.
    """

    def __init__(
        self, parameters: list[Tensor], splits: list[tuple[int, ...]], momentum: float, weight_decay: float
    ) -> None:
        self.parameters = parameters
        self.momentum = momentum
        self.weight_decay = weight_decay
        self.buffers = [torch.zeros_like(parameter) for parameter in parameters]
        self.groups: list[list[Part]] = []
        by_shape: dict[tuple[int, int, torch.dtype], list[Part]] = {}
        for index, (parameter, widths) in enumerate(zip(parameters, splits)):
            start = 0
            for width in widths:
                short, long = sorted((width, parameter.shape[1]))
                key = (short, long, parameter.dtype)
                by_shape.setdefault(key, []).append(Part(index, start, start + width))
                start += width
        for (rows, columns, _), parts in by_shape.items():
            size = max(1, GROUP // (rows * columns))
            self.groups += [parts[begin : begin + size] for begin in range(0, len(parts), size)]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        """One update from the parameters' gradients; a parameter without one stays as it is, momentum too."""
        for group in self.groups:
            parts = [part for part in group if self.parameters[part.parameter].grad is not None]
            if not parts:
                continue
            updates = orthogonalize(torch.stack([self._direction(part) for part in parts]))
            for part, update in zip(parts, updates.unbind()):
                weight = self.parameters[part.parameter][part.start : part.stop]
                weight.mul_(1 - learning_rate * self.weight_decay)
                oriented = update if update.shape == weight.shape else update.mT
                weight.add_(oriented.to(weight.dtype), alpha=-learning_rate * 0.2 * max(weight.shape) ** 0.5)

    def _direction(self, part: Part) -> Tensor:
        """Nesterov momentum of one part, lying (no more rows than columns), in the dtype that is fast where it lies."""
        gradient = self.parameters[part.parameter].grad
        assert gradient is not None
        gradient = gradient[part.start : part.stop]
        buffer = self.buffers[part.parameter][part.start : part.stop]
        buffer.lerp_(gradient, 1 - self.momentum)
        direction = gradient.lerp(buffer, self.momentum)
        if direction.shape[0] > direction.shape[1]:
            direction = direction.mT
        # bfloat16 is enough for the iteration (Jordan et al.); on a CPU float32 costs little and is never slower.
        return direction.to(torch.bfloat16) if direction.is_cuda and direction.dtype == torch.float32 else direction
