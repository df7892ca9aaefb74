"""What must be filled up so that a row's numbers have the same bits in any company: found out by trying.

Kernels choose by a batch's height how they sum, each in its own way (docs/log.md, "What a CPU's kernels owe to the
batch"), and nothing documents how. So the very products of a model are tried at many heights before it is promised.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from hanlin.inference.cache import LONG_SPAN, SPAN
from hanlin.inference.functions import Function
from hanlin.models import ModelConfig

HEIGHTS = (1, 2, 3, 4, 5, 7, 8, 12, 15, 16, 17, 31, 32, 33, 48, 64, 65, 100, 128, 200, 257)
"""Numbers of rows at which products are compared: thresholds of the kernels that were seen lie among these."""
MOST_FILLED = 32
"""Rows up to which a step may be filled up."""


def least_rows(functions: Iterable[tuple[Function, int]], dtype: torch.dtype, device: torch.device) -> int | None:
    """From how many rows on the bits of a row of every function's result do not depend on the number of rows; None
    where they always may. Functions come with the width of their input."""
    least = 1
    for function, width in functions:
        generator = torch.Generator().manual_seed(width)
        x = torch.randn(HEIGHTS[-1], width, generator=generator).to(device, dtype)
        reference, found = function(x), HEIGHTS[-1] + 1
        for height in reversed(HEIGHTS):
            # The rows at the end too: a kernel's last block is often another one.
            if not torch.equal(function(x[:height]), reference[:height]):
                break
            if not torch.equal(function(x[-height:].contiguous()), reference[-height:]):
                break
            found = height
        if found > MOST_FILLED:
            return None
        least = max(least, found)
    return least


def filled_heads(group: int) -> int:
    """How many query heads a head of keys is given: with 1, 3, 5, 6, 7 or 10, attention by several threads sums in an
    order that depends on the number of sequences; with 2 and with multiples of 4 it does not."""
    return 2 if group <= 2 else -(-group // 4) * 4


def attention_is_alike(config: ModelConfig, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether attention of one new token, as the step calls it, gives the same bits however many sequences there are,
    and however many masked keys follow its own."""
    generator = torch.Generator().manual_seed(0)
    rows, seen = 5, SPAN - 28
    shape = (config.kv_heads, filled_heads(config.heads // config.kv_heads), config.head_dim)
    query = torch.randn(rows, *shape, generator=generator).to(device, dtype)
    keys, values = (
        torch.randn(rows, shape[0], 2 * LONG_SPAN, shape[2], generator=generator).to(device, dtype) for _ in range(2)
    )
    found: list[torch.Tensor] = []
    for span in (SPAN, 2 * SPAN, LONG_SPAN, 2 * LONG_SPAN):
        mask = torch.zeros(rows, 1, 1, span, dtype=dtype, device=device)
        mask[..., seen:] = float("-inf")
        for count in (1, 2, 3, rows):
            parts = query[:count], keys[:count, :, :span], values[:count, :, :span], mask[:count]
            found.append(F.scaled_dot_product_attention(*parts)[0])
    return all(torch.equal(one, found[0]) for one in found)
