"""What must be filled up so that a row's numbers have the same bits in any company: found out by trying.

Kernels choose by a batch's height how they sum, each in its own way (docs/log.md, "What a CPU's kernels owe to the
batch"), and nothing documents how. So the very products of a model are tried at many heights before it is promised.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from hanlin.inference.cache import LONG_SPAN, SPANS, span_of
from hanlin.inference.functions import Function
from hanlin.models import ModelConfig

HEIGHTS = (*range(1, 18), 24, 31, 32, 33, 48, 64, 65, 100)
"""Numbers of rows at which products are compared: thresholds of the kernels that were seen lie among these."""
VECTOR = 16
"""Numbers that a processor computes at once, at most; rows of other lengths end in parts of it."""
MOST_FILLED = 16
"""Rows up to which a step may be filled up."""


def least_rows(
    functions: Iterable[tuple[Function, int]], dtype: torch.dtype, device: torch.device, most: int = MOST_FILLED
) -> int | None:
    """From how many rows on, at most `most`, the bits of a row of every function's result do not depend on the number
    of rows; None where they always may. Functions come with the width of their input."""
    least = 1
    for function, width in functions:
        generator = torch.Generator().manual_seed(width)
        x = torch.randn(HEIGHTS[-1], width, generator=generator).to(device, dtype)
        reference = function(x)
        for height in HEIGHTS[:-1]:
            # The rows at the end too: a kernel's last block is often another one.
            alike = torch.equal(function(x[:height]), reference[:height]) and torch.equal(
                function(x[-height:].contiguous()), reference[-height:]
            )
            if not alike:
                least = max(least, height + 1)
                if least > most:
                    return None
    return least


def filled_heads(group: int) -> int:
    """How many query heads a head of keys is given: multiples of 4. With others, attention by several threads sums in
    an order that depends on the number of sequences, or on where in memory the queries lie."""
    return -(-group // 4) * 4


def activations_are_alike(config: ModelConfig) -> bool:
    """Whether an activation can be computed so that a row has the same bits however many there are."""
    return config.gated or config.intermediate_size % VECTOR == 0


def attention_is_alike(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether attention of one new token, as the step calls it, gives the same bits however many sequences there are,
    and however many masked keys follow its own."""
    generator, rows = torch.Generator().manual_seed(0), 5
    shape = (config.kv_heads, filled_heads(config.heads // config.kv_heads), config.head_dim)
    query = torch.randn(rows, *shape, generator=generator).to(device, dtype)
    keys, values = (
        torch.randn(rows, shape[0], 2 * LONG_SPAN, shape[2], generator=generator).to(device, dtype) for _ in range(2)
    )
    for seen in (100, 200, 380, 500):
        first: torch.Tensor | None = None
        for span in (*SPANS, LONG_SPAN, 2 * LONG_SPAN):
            if span < span_of(seen):
                continue
            mask = torch.zeros(rows, 1, 1, span, dtype=dtype, device=device)
            mask[..., seen:] = float("-inf")
            for count in (1, 2, 3, rows):
                parts = query[:count], keys[:count, :, :span], values[:count, :, :span], mask[:count]
                found = F.scaled_dot_product_attention(*parts)[0]
                first = found if first is None else first
                if not torch.equal(found, first):
                    return False
    return True
