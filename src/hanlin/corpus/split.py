"""Train or validation, decided by the document alone."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

ENOUGH = 20


class Split(Generic[T]):
    """Sends documents to validation when the hash of their id is below `fraction`, and to train otherwise.

    Three rules make this hold for any corpus, whatever the order of its files:

    - At most `max_bytes` go to validation: those with the smallest hashes. Where they are too many, the threshold
      sinks. Adding files can therefore only move documents out of validation, never from train into it.
    - A document of over `max_bytes` is for train.
    - A corpus of 20 documents and more has at least one in validation: where no hash is below `fraction`, the smallest
      hash goes there (this one document may change when files are added).

    Documents of validation are held in memory until the end (`max_bytes` bounds them), together with one candidate for
    the third rule. `T` is whatever the caller wants back.
    """

    def __init__(self, fraction: float, max_bytes: int) -> None:
        self._fraction, self._max_bytes = fraction, max_bytes
        self._threshold = fraction
        self._held: list[tuple[float, int, int, T]] = []  # a heap, greatest hash first: (-hash, order, bytes, what)
        self._bytes = 0
        self._candidate: tuple[float, int, int, T] | None = None
        self._count = 0

    def place(self, hash: float, size: int, what: T) -> Iterator[T]:
        """Take one document; give those that are now certain to be for train."""
        self._count += 1
        entry = (-hash, self._count, size, what)
        if size > self._max_bytes or self._fraction == 0:
            yield what
        elif hash < self._threshold:
            if self._candidate is not None:
                yield self._candidate[3]
                self._candidate = None
            heapq.heappush(self._held, entry)
            self._bytes += size
            while self._bytes > self._max_bytes:
                greatest = heapq.heappop(self._held)
                self._bytes -= greatest[2]
                self._threshold = -greatest[0]
                yield greatest[3]
        elif not self._held and (self._candidate is None or hash < -self._candidate[0]):
            if self._candidate is not None:
                yield self._candidate[3]
            self._candidate = entry
        else:
            yield what

    def finish(self) -> tuple[list[T], list[T]]:
        """What is left for train, and the validation documents in the order in which they came."""
        if self._candidate is not None and self._count >= ENOUGH:
            return [], [self._candidate[3]]
        train = [] if self._candidate is None else [self._candidate[3]]
        return train, [entry[3] for entry in sorted(self._held, key=lambda entry: entry[1])]
