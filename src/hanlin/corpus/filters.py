"""The rules by which a text is kept or dropped, each with what was measured and the threshold."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from hanlin.corpus.document import document_id
from hanlin.corpus.normalise import normalise


@dataclass(frozen=True, slots=True)
class Verdict:
    """A text after normalisation; `rule` is the one that drops it, or None."""

    text: str
    id: str | None = None
    bytes: int = 0
    rule: str | None = None
    measured: float | None = None
    threshold: float | None = None


class SeenIds:
    """The set of ids met so far, for exact deduplication.

    Open addressing over one block of bytes, 16 bytes an id, at most two thirds full: 24 to 48 bytes a kept document,
    where a Python set takes over 100.
    """

    SLOT = 16

    def __init__(self) -> None:
        self._capacity = 1 << 10
        self._table = bytearray(self._capacity * self.SLOT)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, id: str) -> bool:
        """True when the id is new."""
        if self._count * 3 >= self._capacity * 2:
            self._double()
        if self._put(bytes.fromhex(id)):
            self._count += 1
            return True
        return False

    def _put(self, key: bytes) -> bool:
        slot = int.from_bytes(key[:8], "big") % self._capacity
        while True:
            at = slot * self.SLOT
            found = bytes(self._table[at : at + self.SLOT])
            if found == key:
                return False
            if not any(found):
                self._table[at : at + self.SLOT] = key
                return True
            slot = (slot + 1) % self._capacity

    def _double(self) -> None:
        old = self._table
        self._capacity *= 2
        self._table = bytearray(self._capacity * self.SLOT)
        for at in range(0, len(old), self.SLOT):
            key = bytes(old[at : at + self.SLOT])
            if any(key):
                self._put(key)


class Filters:
    """The drop rules of a corpus, in this order: empty, min_bytes, max_bytes, unreadable_share, duplicate."""

    def __init__(self, min_bytes: int, max_bytes: int | None, max_unreadable_share: float) -> None:
        self._min_bytes, self._max_bytes, self._max_share = min_bytes, max_bytes, max_unreadable_share
        self._seen = SeenIds()

    def judge(self, raw: str, format: str) -> Verdict:
        """Normalise a text and decide on it. `unreadable_share` is that of control and replacement characters in it."""
        text, removed = normalise(raw, format)
        size = len(text.encode())
        if not text.strip():
            return Verdict(text, rule="empty", measured=0, threshold=1)
        if size < self._min_bytes:
            return Verdict(text, bytes=size, rule="min_bytes", measured=size, threshold=self._min_bytes)
        if self._max_bytes is not None and size > self._max_bytes:
            return Verdict(text, bytes=size, rule="max_bytes", measured=size, threshold=self._max_bytes)
        share = (removed + text.count("�")) / (removed + len(text))
        if share > self._max_share:
            return Verdict(text, bytes=size, rule="unreadable_share", measured=share, threshold=self._max_share)
        id = document_id(text)
        if not self._seen.add(id):
            return Verdict(text, id, size, rule="duplicate", measured=1, threshold=0)
        return Verdict(text, id, size)


def hash_fraction(id: str) -> float:
    """A document's place in [0, 1), uniform and fixed by its text. Hashed once more: the id's own digits may be used
    for sharding."""
    return int.from_bytes(hashlib.sha256(f"split:{id}".encode()).digest()[:8], "big") / 2**64
