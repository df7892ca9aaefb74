"""Keys and values of the sequences in the making."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import torch
from torch import Tensor

from hanlin.artifacts import HanlinError
from hanlin.inference.memory import Reserved
from hanlin.models import ModelConfig

BLOCK = 32
"""Positions by which memory is counted."""
SPANS = (128, 384)
LONG_SPAN = 512
"""PyTorch's attention reads as many keys as the first of these that holds a sequence, or a multiple of the second: then
it sums in the same order, and gives the same bits, however many masked keys follow (docs/log.md, "What a CPU's kernels
owe to the batch")."""


def span_of(length: int) -> int:
    """How many keys attention reads for a sequence of `length` positions."""
    for span in SPANS:
        if length <= span:
            return span
    return -(-length // LONG_SPAN) * LONG_SPAN


def blocks_of(length: int) -> int:
    return -(-length // BLOCK)


def bytes_a_position(config: ModelConfig, dtype: torch.dtype) -> int:
    return 2 * config.layers * config.kv_heads * config.head_dim * dtype.itemsize


def additive_mask(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where `visible`, -inf elsewhere: what attention's scores are given."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, float("-inf"))


class KVCache:
    """`data` [slots, layers, 2 · kv_heads, capacity, head_dim]: a sequence a slot, its position i at place i; keys'
    heads first, so that both are stored by one copy, and what attention reads is a view.

    Every slot has room for the longest sequence. On Linux's CPU that is address space only: memory follows the
    positions written. Elsewhere slots and capacity grow as they are needed. What slots hold is counted in blocks, of
    which there are `blocks`; who gets them is the scheduler's business. Places that hold nothing are zero or stale,
    never NaN: they are masked by adding -inf.
    """

    def __init__(self, config: ModelConfig, slots: int, blocks: int, dtype: torch.dtype, device: torch.device) -> None:
        self.config, self.slots, self.blocks, self.dtype, self.device = config, slots, blocks, dtype, device
        self.held = [0] * slots
        """Blocks that each slot holds."""
        self._written = [0] * slots
        """Blocks whose memory each slot has: it keeps what it does not hold any more for its next sequence, as long as
        there is enough."""
        self._reserved: Reserved | None = None
        if Reserved.available(device):
            shape = self._shape(slots, span_of(config.max_positions))
            try:
                self._reserved = Reserved(shape, dtype)
            except (OSError, ValueError) as error:
                size = torch.Size(shape).numel() * dtype.itemsize / 2**40
                raise HanlinError(
                    f"the system refuses {size:.2f} TiB of addresses for {slots} sequences of {config.max_positions} "
                    f"positions ({error}): allow more (ulimit -v, vm.overcommit_memory), or lower max_batch"
                ) from None
            self.data = self._reserved.tensor
        else:
            self.data = torch.zeros(self._shape(0, 0), dtype=dtype, device=device)

    def _shape(self, slots: int, capacity: int) -> tuple[int, ...]:
        return (slots, self.config.layers, 2 * self.config.kv_heads, capacity, self.config.head_dim)

    # Blocks -----------------------------------------------------------

    @property
    def used(self) -> int:
        """Blocks held by all slots."""
        return sum(self.held)

    @property
    def free(self) -> int:
        return self.blocks - self.used

    def hold(self, slot: int, length: int) -> None:
        """Have room for `length` positions in a slot. The caller has looked that there are blocks."""
        wanted = blocks_of(length)
        if wanted <= self.held[slot]:
            return
        self.held[slot] = wanted
        if self._reserved is None:
            self._grow(slot + 1, length)
        elif wanted > self._written[slot]:
            self._written[slot] = wanted
            if sum(self._written) > self.blocks:
                self.trim()

    def release(self, slot: int) -> None:
        """The slot holds nothing any more."""
        self.held[slot] = 0

    def trim(self) -> None:
        """Give back to the system what slots have written and do not hold any more."""
        for slot, (written, held) in enumerate(zip(self._written, self.held)):
            if written and not held:
                self.clear(slot)
            elif written > held and self._reserved is not None:
                for heads in self.data[slot, :, :, held * BLOCK :].flatten(0, 1):
                    self._reserved.give_back(heads)
                self._written[slot] = held

    def _grow(self, slots: int, length: int) -> None:
        have_slots, have = self.data.shape[0], self.data.shape[3]
        if slots <= have_slots and length <= have:
            return
        slots = max(have_slots, min(self.slots, 1 << (slots - 1).bit_length()))
        capacity = max(have, span_of(1 << (length - 1).bit_length()))
        capacity = min(capacity, span_of(max(self.config.max_positions, length)))
        grown = torch.zeros(self._shape(slots, capacity), dtype=self.dtype, device=self.device)
        grown[:have_slots, :, :, :have] = self.data
        self.data = grown

    # Contents ---------------------------------------------------------

    def clear(self, slot: int) -> None:
        """Zero a slot: its numbers must not be met again (NaN), or its memory is wanted elsewhere."""
        if self._reserved is not None:
            self._reserved.give_back(self.data[slot])
            self._written[slot] = 0
        elif slot < self.data.shape[0]:
            self.data[slot].zero_()

    def copy(self, source: int, target: int, length: int, start: int = 0) -> None:
        """Positions start…length-1 of one slot over those of another, which holds room for them."""
        self.data[target, :, :, start:length] = self.data[source, :, :, start:length]

    def reorder(self, slots: Sequence[int], length: int) -> None:
        """Slot i becomes what slot `slots[i]` was (beam search); only the first `length` positions count."""
        moved = [number for number, source in enumerate(slots) if number != source]
        if moved:
            sources = torch.tensor([slots[number] for number in moved], device=self.device)
            self.data[torch.tensor(moved, device=self.device), :, :, :length] = self.data[sources, :, :, :length]

    def spill(self, slot: int, length: int) -> Tensor:
        """A slot's first `length` positions, outside of the cache's memory: in a file without a name, or in the
        computer's memory where the cache is a device's."""
        held = self.data[slot, :, :, :length]
        if self.device.type != "cpu":
            return held.cpu()
        with tempfile.NamedTemporaryFile(prefix="hanlin-spilled-") as file:
            kept = torch.from_file(file.name, shared=True, size=held.numel(), dtype=self.dtype).view(held.shape)
            kept.copy_(held)
        return kept

    def restore(self, slot: int, spilled: Tensor) -> None:
        """Put back, bit by bit, what `spill` took; the slot holds room for it."""
        self.data[slot, :, :, : spilled.shape[2]] = spilled.to(self.device)
