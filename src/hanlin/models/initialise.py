"""First weights.

Matrices are drawn from a normal distribution of standard deviation 1/sqrt(fan in), so that a product's output has its
input's scale whatever the width, and learning rates carry over from narrow to wide models (a fixed 0.02 fits a width of
2,500, and is too small for the models that a CPU trains). The two projections that write to the residual stream
(attention's output, MLP's down) are further divided by sqrt(2 · layers), so that its variance does not grow with
depth (GPT-2, Radford et al. 2019, section 2.3). Tables (embedding, learned positions, head) are drawn at 0.02: the
embedding is also the output matrix where the two are tied, and the first loss should be log(vocabulary).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from hanlin.models.transformer import Transformer

TABLE_DEVIATION = 0.02
TABLES = ("embedding.weight", "positions.weight", "head.weight")


@torch.no_grad()
def init_weights(model: Transformer, seed: int) -> None:
    """Fill every parameter of `model`, in the order of their names, from a CPU generator of its own."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.ndim == 1:
            parameter.fill_(1.0)
        else:
            deviation = TABLE_DEVIATION if name in TABLES else 1 / math.sqrt(parameter.shape[1])
            if name.endswith(("attention.out.weight", "mlp.down.weight")):
                deviation /= math.sqrt(2 * model.config.layers)
            parameter.copy_(_normal(parameter.shape, deviation, generator))


def _normal(shape: torch.Size, deviation: float, generator: torch.Generator) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device="cpu").normal_(0.0, deviation, generator=generator)
