"""Score first, diversity aware: rows from the best down, each only if it is not too near to one that is chosen already.

The selection of DEITA (Liu et al. 2024, section 2.4): rows are taken in the order of quality × complexity while the
nearest chosen row is further away than a threshold, until there are as many as asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hanlin.alignment.instructions.text import count_units
from hanlin.artifacts import HanlinError, Settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hanlin.alignment.instructions.account import Account
    from hanlin.alignment.instructions.rows import Instruction

_BLOCK = 512


class DiversitySettings(Settings):
    """Chooses rows by an order and their distance from each other (DEITA, Liu et al. 2024)."""

    rows: int | None = Field(default=None, ge=1)
    """Most rows to choose (the others are dropped as `enough`); left out: all that are far enough from each other."""
    order: Literal["score", "score-complexity", "ifd", "length", "shuffled"] = "length"
    """From high to low: the judge's quality; quality × complexity (DEITA); difficulty; the answer's length (the longest
    make a strong baseline: Zhao et al. 2024, "Long Is More for Alignment"); or an order by hash."""
    embedding: Literal["tfidf", "model"] = "tfidf"
    """What distance is measured in: hashed TF-IDF of words, or the mean hidden states of `model`."""
    similarity: float = Field(default=0.9, gt=0, le=1)
    """A row whose cosine similarity to a chosen one is this or more is dropped (reason `near`)."""


def order_of(rows: Sequence[Instruction], settings: DiversitySettings) -> list[int]:
    """Places of the rows, best first; equal ones, and those without the measure, by their ids, the latter last.

    Raises HanlinError for a measure that no row has.
    """

    def value(row: Instruction) -> float | None:
        score = row.measures.get("score") or {}
        quality, complexity = score.get("quality"), score.get("complexity")
        if settings.order == "score":
            return quality
        if settings.order == "score-complexity":
            return None if quality is None or complexity is None else quality * complexity
        if settings.order == "ifd":
            return (row.measures.get("ifd") or {}).get("ifd")
        return float(count_units(row.last[1])) if settings.order == "length" else 0.0

    values = [value(row) for row in rows]
    if rows and all(one is None for one in values):
        needs = {"ifd": "`ifd:`", "score": "`score:`", "score-complexity": "`score: {complexity: true}`"}
        raise HanlinError(f"diversity.order is {settings.order}, but no row has it: add {needs[settings.order]}.")
    keys = [(1, 0.0) if one is None else (0, -one) for one in values]
    return sorted(range(len(rows)), key=lambda place: (*keys[place], rows[place].id))


def choose_diverse(
    rows: Sequence[Instruction], vectors: NDArray[np.float32], settings: DiversitySettings, account: Account
) -> list[Instruction]:
    """The chosen rows, in the order in which they came. `vectors` [n, d] have length 1 (or 0: far from everything)."""
    import numpy as np

    order = order_of(rows, settings)
    wanted = settings.rows or len(rows)
    chosen: list[int] = []
    matrix = np.zeros((0, vectors.shape[1]), np.float32)
    """The vectors of rows chosen in earlier blocks"""
    for start in range(0, len(order), _BLOCK):
        block = order[start : start + _BLOCK]
        part = vectors[block]
        before = (part @ matrix.T).max(axis=1, initial=-1.0) if len(matrix) else np.full(len(block), -1.0)
        within = part @ part.T
        taken: list[int] = []
        for place, index in enumerate(block):
            if len(chosen) >= wanted:
                account.drop(rows[index], "enough", len(chosen), wanted)
                continue
            nearest = max(float(before[place]), float(within[place, taken].max(initial=-1.0)))
            if nearest >= settings.similarity:
                account.drop(rows[index], "near", nearest, settings.similarity)
                continue
            taken.append(place)
            chosen.append(index)
        matrix = np.concatenate([matrix, part[taken]])
    return [rows[index] for index in sorted(chosen)]
