"""Near duplicates among many texts: found by MinHash, decided by an exact comparison.

MinHash (Broder 1997) gives each text a signature whose share of equal places estimates the Jaccard similarity of two
sets; locality-sensitive hashing (Leskovec, Rajaraman & Ullman, Mining of Massive Datasets, section 3.4) brings together
the texts whose signatures agree in a band. What it brings together is then compared exactly. A text is a duplicate of
one that came before it and was kept.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hanlin.alignment.instructions.text import units
from hanlin.data.order import hashes, mix64

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

PERMUTATIONS = 128
SHINGLE = 3
"""Units in a shingle; texts of fewer are one shingle."""
RECALL = 0.999
"""Probability with which two texts that are just similar enough meet in a band."""
MOST_CANDIDATES = 250
"""Texts with which one is compared exactly, the most alike by their signatures, and texts taken from one band's bucket,
the latest: only where thousands of texts are nearly duplicates of each other are there more."""
Measure = Literal["jaccard", "rouge-l"]


def rouge_l(a: Sequence[Hashable], b: Sequence[Hashable]) -> float:
    """F1 of the longest common subsequence: 2 LCS / (|a| + |b|) (Lin 2004, with β = 1); 0 for two empty texts."""
    total = len(a) + len(b)
    return 2 * lcs_length(a, b) / total if total else 0.0


def lcs_length(a: Sequence[Hashable], b: Sequence[Hashable]) -> int:
    """Length of the longest common subsequence, a machine word of places at once (Crochemore et al. 2001)."""
    if len(a) > len(b):
        a, b = b, a
    places: dict[Hashable, int] = {}
    for place, unit in enumerate(a):
        places[unit] = places.get(unit, 0) | 1 << place
    every = (1 << len(a)) - 1
    row = every
    for unit in b:
        found = row & places.get(unit, 0)
        row = (row + found | row - found) & every
    return len(a) - row.bit_count()


def shingles(words: Sequence[str], size: int = SHINGLE) -> set[str]:
    """All runs of `size` units."""
    if len(words) <= size:
        return {" ".join(words)} if words else set()
    return {" ".join(words[start : start + size]) for start in range(len(words) - size + 1)}


class NearDuplicates:
    """Takes texts one after the other and says of each which earlier kept one it is like.

    Memory a kept text: 512 bytes of signature, some 3 KiB in the bands' tables, and 8 bytes a shingle (or the text).
    """

    def __init__(self, threshold: float, measure: Measure = "jaccard") -> None:
        """Texts are alike from `threshold` on: of the Jaccard similarity of their shingles, or of ROUGE-L."""
        import numpy as np

        self.threshold, self.measure = threshold, measure
        # With L common units in order, two texts share at least L of their words, counted with repetition: ROUGE-L of t
        # means a Jaccard similarity of those of t / (2 - t) at least.
        self._least = threshold if measure == "jaccard" else threshold / (2 - threshold)
        self._bands, self._rows = bands(self._least)
        self._margin = 3 * (self._least * (1 - self._least) / PERMUTATIONS) ** 0.5
        self._keys = hashes(PERMUTATIONS, "minhash")
        self._tables: list[dict[bytes, list[int]]] = [{} for _ in range(self._bands)]
        self._kept: list[Any] = []
        self._signatures = np.zeros((1024, PERMUTATIONS), np.uint32)
        self.capped = 0
        """Texts for which not all that met them in a band were compared"""

    def add(self, text: str) -> tuple[int, float] | None:
        """None for a text that is like none before it, which is then kept; else (number of the kept text that it is
        like, counted from 0, and how like)."""
        import numpy as np

        words = units(text)
        codes = _codes(shingles(words) if self.measure == "jaccard" else numbered(words))
        shown: Any = codes if self.measure == "jaccard" else " ".join(words)
        signature = self._signature(codes)
        keys = [signature[band * self._rows : (band + 1) * self._rows].tobytes() for band in range(self._bands)]
        buckets = [table.get(key, []) for key, table in zip(keys, self._tables)]
        candidates = {other for bucket in buckets for other in bucket[-MOST_CANDIDATES:]}
        if candidates:
            others = np.fromiter(sorted(candidates), np.int64)
            alike = (self._signatures[others] == signature).mean(axis=1)
            order = np.argsort(-alike, kind="stable")
            order = order[alike[order] >= self._least - self._margin]
            self.capped += len(order) > MOST_CANDIDATES or any(len(bucket) > MOST_CANDIDATES for bucket in buckets)
            for place in order[:MOST_CANDIDATES].tolist():
                other = int(others[place])
                similarity = self._compare(shown, self._kept[other])
                if similarity >= self.threshold:
                    return other, similarity
        number = len(self._kept)
        self._kept.append(shown)
        if number == len(self._signatures):
            self._signatures = np.concatenate([self._signatures, np.zeros_like(self._signatures)])
        self._signatures[number] = signature
        for key, table in zip(keys, self._tables):
            table.setdefault(key, []).append(number)
        return None

    def _compare(self, one: Any, other: Any) -> float:
        import numpy as np

        if self.measure == "rouge-l":
            return rouge_l(one.split(), other.split())
        common = len(np.intersect1d(one, other, assume_unique=True))
        union = len(one) + len(other) - common
        return common / union if union else 1.0

    def _signature(self, codes: NDArray[np.uint64]) -> NDArray[np.uint32]:
        import numpy as np

        if not len(codes):
            return np.zeros(PERMUTATIONS, np.uint32)
        # One pseudo-random function a permutation: the least value over the set is equally often that of each member.
        return (mix64(codes[:, None] ^ self._keys) >> np.uint64(32)).min(axis=0).astype(np.uint32)


def _codes(items: Iterable[str]) -> NDArray[np.uint64]:
    """64 bits of a hash for each item: two different ones among a million are equal with a chance of 3e-8."""
    import numpy as np

    digests = (hashlib.blake2b(item.encode("utf-8", "surrogatepass"), digest_size=8).digest() for item in items)
    return np.frombuffer(b"".join(digests), np.uint64)


def bands(least: float) -> tuple[int, int]:
    """(bands, rows a band) with at most PERMUTATIONS places in all: the longest rows with which two sets of the
    similarity `least` agree in some band with the probability RECALL."""
    for rows in range(PERMUTATIONS, 1, -1):
        count = PERMUTATIONS // rows
        if 1 - (1 - least**rows) ** count >= RECALL:
            return count, rows
    return PERMUTATIONS, 1


def numbered(words: Iterable[str]) -> list[str]:
    """Each word with how often it came before, so that a set of them counts repetitions."""
    seen: Counter[str] = Counter()
    found: list[str] = []
    for word in words:
        found.append(f"{word} {seen[word]}")
        seen[word] += 1
    return found


class RougeIndex:
    """Texts with which a new one is compared, exactly and with all, by ROUGE-L: what self-instruct's filter needs.

    Only texts that share enough words (counted with repetition, an upper bound of the common subsequence) have their
    common subsequence computed.
    """

    def __init__(self) -> None:
        self._texts: list[list[str]] = []
        self._places: dict[str, list[int]] = {}

    def add(self, text: str) -> None:
        """From now on texts are compared with this one, too."""
        words = units(text)
        for word in numbered(words):
            self._places.setdefault(word, []).append(len(self._texts))
        self._texts.append(words)

    def nearest(self, text: str, least: float) -> tuple[int, float] | None:
        """(number of a most similar text, its ROUGE-L), if that is `least` or more."""
        words = units(text)
        shared: Counter[int] = Counter()
        for word in numbered(words):
            shared.update(self._places.get(word, ()))
        best: tuple[int, float] | None = None
        bounds = ((2 * common / (len(words) + len(self._texts[number])), number) for number, common in shared.items())
        for bound, number in sorted(bounds, key=lambda one: (-one[0], one[1])):
            if bound < least or (best is not None and bound <= best[1]):
                break
            value = rouge_l(words, self._texts[number])
            if value >= least and (best is None or value > best[1]):
                best = number, value
        return best
