"""What the cache keeps of prompts whose requests are finished, for those that begin alike."""

from __future__ import annotations

from collections.abc import Sequence

from hanlin.inference.cache import KVCache, blocks_of
from hanlin.inference.prefixes import TILE, Prefixes


class Shelves:
    """Slots of the cache that hold beginnings of prompts; they give way when blocks are wanted, the one used longest
    ago first."""

    def __init__(self, slots: range, cache: KVCache, prefixes: Prefixes) -> None:
        self._slots, self._cache, self._prefixes = slots, cache, prefixes

    @property
    def blocks(self) -> int:
        """Blocks that shelves hold."""
        return sum(self._cache.held[shelf] for shelf in self._slots)

    def make_free(self, count: int, keep: int | None = None) -> bool:
        """Whether `count` blocks of the cache are free, once shelves are cleared as far as that helps (not `keep`)."""
        while self._cache.free < count:
            oldest = self._prefixes.oldest([shelf for shelf in self._slots if shelf != keep])
            if oldest is None:
                return False
            self._clear(oldest)
        return True

    def keep(self, slot: int, chain: Sequence[bytes]) -> None:
        """Keep the tiles of a prompt, whose digests are `chain`, out of a slot that is about to be released: in a shelf
        that holds a beginning of them, in an empty one, or in the one used longest ago. Nothing is kept where running
        sequences have all the memory."""
        if not chain or not self._slots:
            return
        shelf = max(self._slots, key=lambda one: self._fit(one, chain))
        fit = self._fit(shelf, chain)
        if fit < 0:
            oldest = self._prefixes.oldest(self._slots)
            assert oldest is not None, "a shelf that is not empty holds tiles"
            shelf = oldest
            self._clear(shelf)
        self._prefixes.touch(shelf)
        if fit == len(chain):
            return
        have, length = max(fit, 0) * TILE, len(chain) * TILE
        # The slot's own blocks are about to be free.
        if self.make_free(blocks_of(length) - self._cache.held[shelf] - self._cache.held[slot], keep=shelf):
            self._cache.hold(shelf, length)
            self._cache.copy(slot, shelf, length, have)
            self._prefixes.note(shelf, chain)

    def _fit(self, shelf: int, chain: Sequence[bytes]) -> int:
        """How many tiles of `chain` a shelf holds, where it holds nothing else (0: empty; -1: it holds others)."""
        held = self._prefixes.tiles(shelf)
        if held <= len(chain):
            return held if self._prefixes.begins(shelf, chain) else -1
        return len(chain) if self._prefixes.covers(shelf, chain) else -1

    def _clear(self, shelf: int) -> None:
        self._prefixes.forget(shelf)
        self._cache.release(shelf)
