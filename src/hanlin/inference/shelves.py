"""What the cache keeps of prompts, and their answers, whose requests are finished, for those that begin alike."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from hanlin.inference.cache import KVCache
from hanlin.inference.prefixes import TILE, Prefixes


class Shelves:
    """Slots of the cache that hold beginnings of texts; they give way when blocks are wanted, the one used longest
    ago first."""

    def __init__(self, slots: range, cache: KVCache, prefixes: Prefixes) -> None:
        self._slots, self._cache, self._prefixes = slots, cache, prefixes
        self._prompts: dict[int, Hashable] = {}
        """The prompt whose answer each shelf keeps."""

    @property
    def blocks(self) -> int:
        """Blocks that shelves hold."""
        return sum(self._cache.held[shelf] for shelf in self._slots)

    def make_free(self, count: int) -> bool:
        """Whether `count` blocks of the cache are free, once shelves are cleared as far as that helps."""
        while self._cache.free < count:
            oldest = self._prefixes.oldest(self._slots)
            if oldest is None:
                return False
            self._clear(oldest)
        return True

    def keep(self, slot: int, chain: Sequence[bytes], prompt: Hashable) -> None:
        """Keep the tiles of a text, whose digests are `chain`, out of a slot that is about to be released: in a shelf
        that holds a beginning of them, in an empty one, or in the one used longest ago. An answer to a prompt takes
        the place of an earlier one to the same `prompt`, so that many samples take one shelf."""
        if not chain or not self._slots:
            return
        shelf = self._place(chain, prompt)
        have = self._prefixes.common(shelf, chain)
        self._prefixes.touch(shelf)
        if have == len(chain):
            if self._prefixes.tiles(shelf) == have:
                self._prompts[shelf] = prompt
            return
        # Of an earlier answer, what is different goes. The slot's own blocks are about to be free: there is room.
        length = len(chain) * TILE
        self._prefixes.cut(shelf, have)
        self._cache.release(shelf)
        self._cache.hold(shelf, length)
        self._cache.copy(slot, shelf, length, have * TILE)
        self._prefixes.note(shelf, chain)
        self._prompts[shelf] = prompt

    def _place(self, chain: Sequence[bytes], prompt: Hashable) -> int:
        """The shelf for a text: the one that holds all of it, or the same prompt's, or the longest beginning of it; an
        empty one; or the one used longest ago, cleared."""

        def fit(shelf: int) -> tuple[int, int]:
            held, alike = self._prefixes.tiles(shelf), self._prefixes.common(shelf, chain)
            if alike == len(chain):
                return 3, 0
            if self._prompts.get(shelf) == prompt:
                return 2, 0
            return (1, held) if alike == held else (0, 0)

        shelf = max(self._slots, key=fit)
        if fit(shelf) > (0, 0):
            return shelf
        oldest = self._prefixes.oldest(self._slots)
        assert oldest is not None, "a shelf that is not empty holds tiles"
        self._clear(oldest)
        return oldest

    def _clear(self, shelf: int) -> None:
        self._prefixes.forget(shelf)
        self._prompts.pop(shelf, None)
        self._cache.release(shelf)
