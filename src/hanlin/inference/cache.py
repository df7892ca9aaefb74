"""Keys and values of the sequences in the making."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from hanlin.models import ModelConfig


def bucket(size: int, smallest: int, largest: int) -> int:
    """`smallest` doubled until it holds `size`, at most `largest` (which must hold it): few shapes, few reallocations."""
    while smallest < size:
        smallest *= 2
    return min(smallest, largest)


class KVCache:
    """Keys and values of up to `max_rows` sequences of different lengths; slot i of a row holds the row's position i.

    One pair of tensors a layer, each [rows, kv_heads, capacity, head_dim]: heads before slots, so that one layer's active
    part is a view that batched products take as it is. (One tensor for all layers was measured to be slower.) Rows and
    capacity grow in powers of two. Slots that hold nothing yet are zero or stale, never NaN: they are masked by adding -inf.
    """

    def __init__(self, config: ModelConfig, max_rows: int, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.max_rows, self.dtype, self.device = config, max_rows, dtype, device
        self.rows = self.capacity = 0
        self.keys: list[Tensor] = []
        self.values: list[Tensor] = []

    def reserve(self, rows: int, length: int) -> None:
        """Make room for `rows` sequences of `length` positions, keeping what is stored."""
        if rows <= self.rows and length <= self.capacity:
            return
        old_rows, old_capacity = self.rows, self.capacity
        self.rows = bucket(max(rows, old_rows), 1, self.max_rows)
        self.capacity = bucket(max(length, old_capacity), 64, max(self.config.max_positions, length))
        shape = (self.rows, self.config.kv_heads, self.capacity, self.config.head_dim)
        for stored in (self.keys, self.values):
            for layer in range(self.config.layers):
                grown = torch.zeros(shape, dtype=self.dtype, device=self.device)
                if old_rows:
                    grown[:old_rows, :, :old_capacity] = stored[layer]
                    stored[layer] = grown
                else:
                    stored.append(grown)

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of row `source` over row `target`."""
        for stored in (*self.keys, *self.values):
            stored[target, :, :length] = stored[source, :, :length]

    def reorder(self, rows: Sequence[int], length: int) -> None:
        """Row i becomes what row `rows[i]` was (beam search); only the first `length` positions count."""
        if list(rows) == list(range(len(rows))):
            return
        index = torch.tensor(rows, device=self.device)
        for stored in (*self.keys, *self.values):
            stored[: len(rows), :, :length] = stored[:, :, :length].index_select(0, index)

    def clear(self, row: int) -> None:
        """Forget a row whose numbers must not be met again (NaN)."""
        for stored in (*self.keys, *self.values):
            stored[row].zero_()

    def prefill(self, first: int, rows: int, start: int, length: int) -> PrefillStep:
        """For a forward pass over positions start…start+length-1 of the rows first…first+rows-1."""
        return PrefillStep(self, first, rows, start, length)

    def decode(self, lengths: Sequence[int]) -> DecodeStep:
        """For a forward pass over one new position of each of the rows 0…n-1, which hold `lengths` positions so far."""
        return DecodeStep(self, lengths)

    def additive(self, visible: Tensor) -> Tensor:
        """0 where `visible`, -inf elsewhere."""
        return torch.zeros(visible.shape, dtype=self.dtype, device=self.device).masked_fill_(~visible, float("-inf"))


class PrefillStep:
    """The cache as the model sees it while it reads a (part of a) prompt. Prompts shorter than the longest are padded at their
    end: causal attention keeps what is real from seeing the padding, and later tokens overwrite it."""

    def __init__(self, cache: KVCache, first: int, rows: int, start: int, length: int) -> None:
        self.cache, self.start, self.end = cache, start, start + length
        self.rows = slice(first, first + rows)
        self.masks: dict[int | None, Tensor | None] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        cache = self.cache
        cache.keys[layer][self.rows, :, self.start : self.end] = key
        cache.values[layer][self.rows, :, self.start : self.end] = value
        if self.start > 0:
            key, value = cache.keys[layer][self.rows, :, : self.end], cache.values[layer][self.rows, :, : self.end]
        mask = self._mask(cache.config.window(layer))
        grouped = query.shape[1] != key.shape[1]
        return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=grouped)

    def _mask(self, window: int | None) -> Tensor | None:
        """Additive [1, 1, new, all]; None where plain causal attention does."""
        if window is not None and window >= self.end:
            window = None
        if self.start == 0 and window is None:
            return None
        if window not in self.masks:
            device = self.cache.device
            distance = torch.arange(self.start, self.end, device=device)[:, None] - torch.arange(self.end, device=device)
            visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            self.masks[window] = self.cache.additive(visible[None, None])
        return self.masks[window]


class DecodeStep:
    """The cache as the model sees it while each row gets one token."""

    def __init__(self, cache: KVCache, lengths: Sequence[int]) -> None:
        self.cache, self.rows, self.span = cache, len(lengths), max(lengths) + 1
        self.positions = torch.tensor(lengths, device=cache.device)
        # Where row b's head h keeps its new position, in the cache seen as [rows · kv_heads · capacity, head_dim].
        heads = torch.arange(self.rows * cache.config.kv_heads, device=cache.device) * cache.capacity
        self.slots = heads + self.positions.repeat_interleave(cache.config.kv_heads)
        self.ragged = min(lengths) != max(lengths)
        self.masks: dict[int | None, Tensor | None] = {}

    def attend(self, layer: int, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        config, keys, values = self.cache.config, self.cache.keys[layer], self.cache.values[layer]
        keys.view(-1, config.head_dim).index_copy_(0, self.slots, key.reshape(-1, config.head_dim))
        values.view(-1, config.head_dim).index_copy_(0, self.slots, value.reshape(-1, config.head_dim))
        # The query heads of a group look like the positions of one head: far faster than enable_gqa, which repeats the keys.
        groups = query.reshape(self.rows, config.kv_heads, -1, config.head_dim)
        mixed = F.scaled_dot_product_attention(
            groups, keys[: self.rows, :, : self.span], values[: self.rows, :, : self.span], self._mask(config.window(layer))
        )
        return mixed.reshape(self.rows, config.heads, 1, config.head_dim)

    def _mask(self, window: int | None) -> Tensor | None:
        """Additive [rows, 1, 1, span]; None where every row sees every slot."""
        if window is not None and window >= self.span:
            window = None
        if window is None and not self.ragged:
            return None
        if window not in self.masks:
            distance = self.positions[:, None] - torch.arange(self.span, device=self.cache.device)
            visible = distance >= 0 if window is None else (distance >= 0) & (distance < window)
            self.masks[window] = self.cache.additive(visible[:, None, None])
        return self.masks[window]
