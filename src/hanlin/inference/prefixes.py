"""Which beginnings of prompts the cache holds, found by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

TILE = 128
"""Positions of a prompt that are read, and recognised, together. A prompt is cut at multiples of it only, so that what
is read after a recognised beginning has the same bits as if all had been read."""


def digests(ids: Sequence[int], salt: str) -> list[bytes]:
    """For every full tile of a prompt 16 bytes that stand for it and all before it. The salt keeps owners apart: what
    one has asked must not make another's answer come sooner."""
    state = hashlib.blake2b(salt.encode(), digest_size=16).digest()
    found: list[bytes] = []
    for start in range(0, len(ids) - TILE + 1, TILE):
        tokens = np.asarray(ids[start : start + TILE], dtype=np.int64).tobytes()
        state = hashlib.blake2b(state + tokens, digest_size=16).digest()
        found.append(state)
    return found


class Prefixes:
    """Slots by the beginnings that they hold."""

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
        for digest in self._chains.pop(slot, ()):
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

    def begins(self, slot: int, chain: Sequence[bytes]) -> bool:
        """Whether all that the slot holds is a beginning of `chain`."""
        held = self._chains.get(slot, [])
        return held == list(chain[: len(held)])

    def covers(self, slot: int, chain: Sequence[bytes]) -> bool:
        """Whether the slot holds all of `chain` (and perhaps more)."""
        return self._chains.get(slot, [])[: len(chain)] == list(chain)

    def oldest(self, slots: Sequence[int]) -> int | None:
        """Of these slots the one least recently used, of those that hold anything."""
        wanted = set(slots)
        return next((slot for slot in self._chains if slot in wanted), None)
