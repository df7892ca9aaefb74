from __future__ import annotations

import math
import random
from itertools import permutations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanlin.serving.agreement import Level, alpha

FOUR_OBSERVERS = [
    "1 2 3 3 2 1 4 1 2 . . .",
    "1 2 3 3 2 2 4 1 2 5 . 3",
    ". 3 3 3 2 3 4 2 2 5 1 .",
    "1 2 3 3 2 4 4 1 2 5 1 .",
]
"""Krippendorff (2011), section C: nominal 0.743, section D: ordinal 0.815 and interval 0.849"""


def units(rows: list[str], kind: type = int) -> list[list[Any]]:
    return [[kind(value) for value in unit if value != "."] for unit in zip(*(row.split() for row in rows))]


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_four_observers_with_missing_values_as_published(level: Level, published: float) -> None:
    assert alpha(units(FOUR_OBSERVERS), level) == pytest.approx(published, abs=5e-4)


def test_two_observers_as_published() -> None:
    """His sections A (binary, 0.095) and B (five categories, 0.692)."""
    binary = units(["0 1 0 0 0 0 0 0 1 0", "1 1 1 0 0 1 0 0 0 0"])
    assert alpha(binary) == pytest.approx(0.095, abs=5e-4)
    named = units(["a a b b d c c c e d d a", "b a b b b c c c e d d d"], str)
    assert alpha(named) == pytest.approx(0.692, abs=5e-4)


def brute_force(data: list[list[int]], level: Level) -> float | None:
    """α from its definition: the mean distance within units over that of all pairs of values, one by one."""
    pairable = [unit for unit in data if len(unit) > 1]
    everything = [value for unit in pairable for value in unit]

    def distance(a: int, b: int) -> float:
        if level == "nominal":
            return float(a != b)
        if level == "interval":
            return (a - b) ** 2
        low, high = min(a, b), max(a, b)
        between = sum(low <= value <= high for value in everything)
        return (between - (everything.count(a) + everything.count(b)) / 2) ** 2 if a != b else 0.0

    n = len(everything)
    observed = math.fsum(distance(a, b) / (len(unit) - 1) for unit in pairable for a, b in permutations(unit, 2)) / max(
        n, 1
    )
    expected = math.fsum(distance(a, b) for a, b in permutations(everything, 2)) / max(n * (n - 1), 1)
    return None if expected == 0 else 1 - observed / expected


data = st.lists(st.lists(st.integers(-2, 3), max_size=4), max_size=7)


@given(data, st.sampled_from(["nominal", "ordinal", "interval"]), st.randoms())
def test_it_is_the_definition_whatever_the_order(data: list[list[int]], level: Level, rng: random.Random) -> None:
    found, wanted = alpha(data, level), brute_force(data, level)
    assert (found is None) == (wanted is None)
    if found is not None:
        assert found == pytest.approx(wanted, abs=1e-9)
        shuffled = [rng.sample(unit, len(unit)) for unit in rng.sample(data, len(data))]
        assert alpha(shuffled, level) == pytest.approx(found, abs=1e-9)


def test_where_nothing_can_be_said() -> None:
    assert alpha([]) is None
    assert alpha([[1], [2], []]) is None
    assert alpha([[1, 1], [1, 1, 1]]) is None


def test_perfect_and_chance() -> None:
    assert alpha([[1, 1], [2, 2], [3, 3, 3]], "ordinal") == 1
    rng = random.Random(0)
    assert abs(alpha([[rng.randrange(3) for _ in range(3)] for _ in range(4000)]) or 9) < 0.03
