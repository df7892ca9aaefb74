"""Numbers that depend on their names alone: what is drawn by hash is drawn alike whatever was drawn before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")


def number(*parts: Any) -> int:
    """63 bits from the parts (strings and numbers)."""
    return int.from_bytes(hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()) >> 1


def fraction(*parts: Any) -> float:
    """A number in [0, 1) from the parts."""
    return number(*parts) / 2**63


def draw(items: Sequence[T], count: int, *parts: Any) -> list[T]:
    """`count` different ones (or all, if there are fewer) in an order that the parts alone decide."""
    if count >= len(items):
        return [items[place] for place in sorted(range(len(items)), key=lambda place: (number(*parts, place), place))]
    chosen: dict[int, None] = {}
    turn = 0
    while len(chosen) < count:
        chosen[number(*parts, turn) % len(items)] = None
        turn += 1
    return [items[place] for place in chosen]
