"""Krippendorff's α: how far annotators agree beyond chance, with any number of them and any values missing.

Krippendorff (2011), Computing Krippendorff's Alpha-Reliability. 1: perfect agreement; 0: what chance would give; below
0: systematic disagreement. He asks for 0.8, and for 0.667 where tentative conclusions will do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Literal

Level = Literal["nominal", "ordinal", "interval"]
"""nominal: values are the same or not; ordinal: they have an order; interval: their differences count."""


def alpha(units: Iterable[Sequence[Hashable]], level: Level = "nominal") -> float | None:
    """α of the values that annotators gave to each unit; a value that is missing is just not there.

    `units`: for each thing that was judged, the values it was given, in any order (numbers, unless `nominal`).
    None where α is not defined: no unit has two values, or all values are the same, so that chance alone explains all.
    """
    # Of each unit the pairs of values of different annotators; each counts 1 / (values of the unit - 1), so that every
    # value counts once (the matrix of coincidences, his step 2).
    counted = [Counter(unit) for unit in units if len(unit) > 1]
    totals = sum(counted, Counter[Hashable]())
    n = sum(totals.values())
    values = sorted(totals) if level != "nominal" else list(totals)  # pyright: ignore[reportArgumentType]
    # With distances of ordinal data: how many values lie between the two, half of each end with them.
    place: dict[Hashable, float] = {}
    below = 0
    for value in values:
        place[value] = below + totals[value] / 2 if level == "ordinal" else value  # pyright: ignore[reportArgumentType]
        below += totals[value]

    def distance(one: Hashable, other: Hashable) -> float:
        return float(one != other) if level == "nominal" else (place[one] - place[other]) ** 2

    def disagreement(counts: Counter[Hashable]) -> float:
        return sum(counts[one] * counts[other] * distance(one, other) for one in counts for other in counts)

    expected = disagreement(totals)
    if not expected:
        return None
    observed = sum(disagreement(counts) / (counts.total() - 1) for counts in counted)
    return 1 - (n - 1) * observed / expected
