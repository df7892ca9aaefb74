"""Randomness that needs no memory: every draw is a function of its key, in any order, on any machine.

Only `random.Random.random` is used to draw (through `pick`, `below`, `shuffled`): its sequence is guaranteed to
stay the same between Python versions, which `choice` and `shuffle` are not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")
_MASK = (1 << 64) - 1


def stable_hash(*key: int | str) -> int:
    """A 64-bit hash of the key's parts that is the same in every process (unlike `hash`)."""
    text = "\x1f".join(map(str, key))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def generator(*key: int | str) -> Random:
    """A random generator of its own for this key."""
    return Random(stable_hash(*key))


def share(*key: int | str) -> float:
    """A number in [0, 1) fixed by the key: `share(...) < 0.25` chooses a quarter of all keys."""
    return stable_hash(*key) / 2**64


def below(rng: Random, bound: int) -> int:
    """A number in [0, bound)."""
    return int(rng.random() * bound)


def pick(rng: Random, options: Sequence[T]) -> T:
    return options[int(rng.random() * len(options))]


def shuffled(rng: Random, items: Sequence[T]) -> list[T]:
    """The items in a random order (Fisher-Yates)."""
    result = list(items)
    for last in range(len(result) - 1, 0, -1):
        other = int(rng.random() * (last + 1))
        result[last], result[other] = result[other], result[last]
    return result


def _mix(value: int) -> int:
    """The two multiplications of splitmix64's finaliser (Steele, Lea and Flood, 2014): 32 well mixed bits."""
    value = value * 0xBF58476D1CE4E5B9 & _MASK
    return (value ^ value >> 31) * 0x94D049BB133111EB >> 32 & 0xFFFFFFFF


class Permutation:
    """A keyed permutation of range(size) with an inverse, computed element by element in constant memory.

    A Feistel network of four rounds on the smallest even number of bits that holds `size`, walked along its cycle until
    it lands inside the range (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).
    """

    def __init__(self, size: int, *key: int | str):
        if size < 1:
            raise ValueError(f"a permutation needs at least one element, got {size}")
        self.size = size
        self._half = max(1, ((size - 1).bit_length() + 1) // 2)
        self._low = (1 << self._half) - 1
        self._keys = [stable_hash("permutation", turn, *key) for turn in range(4)]

    def __call__(self, index: int) -> int:
        if not 0 <= index < self.size:
            raise IndexError(f"{index} is outside range({self.size})")
        value = index
        while True:
            left, right = value >> self._half, value & self._low
            for key in self._keys:
                left, right = right, left ^ (_mix(right ^ key) & self._low)
            value = (left << self._half) | right
            if value < self.size:
                return value

    def inverse(self, image: int) -> int:
        """The index that is mapped to `image`."""
        if not 0 <= image < self.size:
            raise IndexError(f"{image} is outside range({self.size})")
        value = image
        while True:
            left, right = value >> self._half, value & self._low
            for key in reversed(self._keys):
                left, right = right ^ (_mix(left ^ key) & self._low), left
            value = (left << self._half) | right
            if value < self.size:
                return value

    def __iter__(self) -> Iterator[int]:
        return (self(index) for index in range(self.size))
