"""Which beginnings of texts the cache holds, found by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

TILE = 128
"""Positions of a prompt that are read, and recognised, together. A prompt is cut at multiples of it only, so that what
is read after a recognised beginning has the same bits as if all had been read."""


def digests(ids: Sequence[int], salt: str, known: Sequence[bytes] = ()) -> list[bytes]:
    """For every full tile of `ids` 16 bytes that stand for it and all before it; `known`: those of its beginning. The
    salt keeps owners apart: what one has asked must not make another's answer come sooner."""
    found = list(known)
    state = found[-1] if found else hashlib.blake2b(salt.encode(), digest_size=16).digest()
    for start in range(len(found) * TILE, len(ids) - TILE + 1, TILE):
        tokens = np.asarray(ids[start : start + TILE], dtype=np.int64).tobytes()
        state = hashlib.blake2b(state + tokens, digest_size=16).digest()
        found.append(state)
    return found


def common(one: Sequence[bytes], other: Sequence[bytes]) -> int:
    """How many tiles two texts begin with alike."""
    # A digest stands for its tile and all before it: the last equal one says all.
    low, high = 0, min(len(one), len(other))
    while low < high:
        middle = (low + high + 1) // 2
        if one[middle - 1] == other[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


class Prefixes:
    """Slots by the texts that they hold."""

    def __init__(self) -> None:
        self._chains: dict[int, list[bytes]] = {}
        """Of each slot the digests of its tiles; slots least recently used first."""
        self._slots: dict[bytes, dict[int, None]] = {}

    def note(self, slot: int, chain: Sequence[bytes]) -> None:
        """The slot holds these tiles (at least those that it was said to hold before)."""
        known = self._chains.setdefault(slot, [])
        for digest in chain[len(known) :]:
            known.append(digest)
            self._slots.setdefault(digest, {})[slot] = None

    def forget(self, slot: int) -> None:
        """The slot holds nothing any more."""
        self.cut(slot, 0)
        self._chains.pop(slot, None)

    def cut(self, slot: int, count: int) -> None:
        """The slot holds no more than its first `count` tiles any more."""
        chain = self._chains.get(slot, [])
        gone, chain[count:] = chain[count:], []
        for digest in gone:
            slots = self._slots[digest]
            del slots[slot]
            if not slots:
                del self._slots[digest]

    def find(self, chain: Sequence[bytes]) -> tuple[int, int] | None:
        """(slot, number of tiles) of the longest beginning of `chain` that some slot holds."""
        for count in range(len(chain), 0, -1):
            slots = self._slots.get(chain[count - 1])
            if slots:
                return next(iter(slots)), count
        return None

    def touch(self, slot: int) -> None:
        """The slot was used: it is the last to go."""
        if slot in self._chains:
            self._chains[slot] = self._chains.pop(slot)

    def tiles(self, slot: int) -> int:
        """How many tiles a slot holds."""
        return len(self._chains.get(slot, ()))

    def common(self, slot: int, chain: Sequence[bytes]) -> int:
        """With how many tiles of `chain` the slot begins."""
        return common(self._chains.get(slot, []), chain)

    def oldest(self, slots: Sequence[int]) -> int | None:
        """Of these slots the one least recently used, of those that hold anything."""
        wanted = set(slots)
        return next((slot for slot in self._chains if slot in wanted), None)
