"""Keys and values of the sequences in the making."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.models import ModelConfig


def bucket(size: int, smallest: int, largest: int) -> int:
    """`smallest` doubled until it holds `size`, at most `largest` (which must hold it): few shapes, few
    reallocations."""
    while smallest < size:
        smallest *= 2
    return min(smallest, largest)


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `visible`, -inf elsewhere: what attention's scores are given."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


class KVCache:
    """Keys and values of up to `max_rows` sequences of different lengths; slot i of a row holds the row's position i.

    One tensor a layer, [rows, 2 · kv_heads, capacity, head_dim], keys' heads first: heads before slots, so that what
    is in use is a view that attention takes as it is, and both are stored by one copy. (One tensor for all layers was
    measured to be slower.) Rows and capacity grow in powers of two. Slots that hold nothing yet are zero or stale,
    never NaN: they are masked by adding -inf.
    """

    def __init__(self, config: ModelConfig, max_rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.max_rows, self.dtype, self.device = config, max_rows, dtype, device
        self.rows = self.capacity = 0
        self.layers: list[Tensor] = []

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` sequences of `length` positions, keeping what is stored."""
        if rows <= self.rows and length <= self.capacity:
            return
        old_rows, old_capacity = self.rows, self.capacity
        self.rows = bucket(max(rows, old_rows), 1, self.max_rows)
        self.capacity = bucket(max(length, old_capacity), 64, max(self.config.max_positions, length))
        shape = (self.rows, 2 * self.config.kv_heads, self.capacity, self.config.head_dim)
        for layer in range(self.config.layers):
            grown = torch.zeros(shape, dtype=self.dtype, device=self.device)
            if old_rows:
                grown[:old_rows, :, :old_capacity] = self.layers[layer]
                self.layers[layer] = grown
            else:
                self.layers.append(grown)

    def slots(self, positions: Tensor) -> Tensor:
        """Where, in a layer seen as [rows · 2 · kv_heads · capacity, head_dim], row b keeps its heads at
        `positions[b]`."""
        heads = 2 * self.config.kv_heads
        first = torch.arange(positions.shape[0] * heads, device=self.device) * self.capacity
        return first + positions.repeat_interleave(heads)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` over row `target`."""
        for stored in self.layers:
            stored[target, :, :length] = stored[source, :, :length]

    def reorder(self, rows: Sequence[int], length: int, first: int = 0) -> None:
        """Row i becomes what row `rows[i]` was (beam search; prompts that are asked several times), both counted from
        `first` on; only the first `length` positions count."""
        if list(rows) == list(range(len(rows))):
            return
        index = torch.tensor(rows, device=self.device)
        for stored in self.layers:
            stored[first : first + len(rows), :, :length] = stored[first:, :, :length].index_select(0, index)

    def clear(self, row: int) -> None:
        """Forget a row whose numbers must not be met again (NaN)."""
        for stored in self.layers:
            stored[row].zero_()


class Prefill:
    """The cache as `Transformer.hidden` sees it (`models.Cache`) while it reads positions start…start+length-1 of the
    rows first…first+rows-1. Prompts shorter than the longest are padded at their end: causal attention keeps what is
    real from seeing the padding, and later tokens overwrite it."""

    def __init__(self, cache: KVCache, first: int, rows: int, start: int, length: int) -> None:
        self.cache, self.start, self.end = cache, start, start + length
        self.rows = slice(first, first + rows)
        self.masks: dict[int | None, Tensor | None] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        config, stored = self.cache.config, self.cache.layers[layer][self.rows]
        stored[:, : config.kv_heads, self.start : self.end] = key
        stored[:, config.kv_heads :, self.start : self.end] = value
        if self.start > 0:
            key, value = stored[:, : config.kv_heads, : self.end], stored[:, config.kv_heads :, : self.end]
        mask = self._mask(config.window(layer))
        grouped = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped
        )

    def _mask(self, window: int | None) -> Tensor | None:
        """Additive [1, 1, new, all]; None where plain causal attention does."""
        if window is not None and window >= self.end:
            window = None
        if self.start == 0 and window is None:
            return None
        if window not in self.masks:
            device = self.cache.device
            distance = torch.arange(self.start, self.end, device=device)[:, None] - torch.arange(
                self.end, device=device
            )
            visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            self.masks[window] = additive_mask(visible[None, None], self.cache.dtype)
        return self.masks[window]
