"""Which piece of the training stream is read at which step: a pure function of (documents' lengths, seed, step).

Nothing here draws from a random generator whose stream could change with a library's version, or has a state that would
have to be saved: a permutation is the sorting order of hashed counters, so that any step can be asked for at any time,
by any process, for ever with the same answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hanlin.artifacts import HanlinError

_GAMMA = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def mix64(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function, a bijection of 64-bit numbers (Steele, Lea, Flood 2014, "Fast Splittable
    Pseudorandom Number Generators", Fig. 14, with Stafford's variant 13 of the constants)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def hashes(count: int, *key: int | str) -> NDArray[np.uint64]:
    """`count` distinct pseudo-random 64-bit numbers that depend on `key` alone, uint64 [count].

    They are SplitMix64's outputs from a state made of the key's parts. Distinct, since the counter is and the output
    function is a bijection: sorting them has no ties, whatever the sorting algorithm.
    """
    state = np.zeros(1, np.uint64)
    for part in key:
        for number in part.encode() if isinstance(part, str) else (part & _MASK,):
            state = mix64(state + np.uint64(_GAMMA) ^ np.uint64(number))
    counters = np.arange(1, count + 1, dtype=np.uint64)
    counters *= np.uint64(_GAMMA)
    counters += state
    return mix64(counters)


def permutation(count: int, *key: int | str) -> NDArray[np.integer]:
    """The numbers 0 … count-1 in an order that depends on `key` alone, uint32 (or int64 from 2^32 on) [count]."""
    order = np.argsort(hashes(count, *key))
    return order.astype(np.uint32) if count < 1 << 32 else order


def mixture_repeats(tokens: dict[str, int], weights: dict[str, float] | None) -> dict[str, float]:
    """How often one epoch reads each source, so that the epoch is as long as the corpus and its shares are `weights`.

    `tokens` is the size of each source; `weights` the share of tokens asked for each, in any unit. Without weights
    every document is read once. Raises HanlinError for a source without a weight, a weight without a source, or a
    negative one.
    """
    if weights is None:
        return dict.fromkeys(tokens, 1.0)
    problems = [f"no weight for source {name!r}" for name in tokens if name not in weights]
    problems += [f"weight for {name!r}, which has no tokens" for name in weights if not tokens.get(name)]
    problems += [f"weight {weight} for {name!r} is negative" for name, weight in weights.items() if weight < 0]
    total = sum(weights.values())
    if problems or total <= 0:
        raise HanlinError(
            f"The mixture's weights do not fit the corpus: {'; '.join(problems) or 'they are all zero'}. "
            f"Give each source a share: {', '.join(sorted(tokens))} (0 leaves a source out)."
        )
    whole = sum(tokens.values())
    return {name: weights[name] / total * whole / count for name, count in tokens.items()}


@dataclass(frozen=True)
class Epoch:
    """One pass: documents in their order, laid end to end, and windows of that stream in theirs."""

    number: int
    documents: NDArray[np.integer]
    """[m] which document comes m-th in the stream (a repeated one comes more than once)"""
    starts: NDArray[np.int64]
    """[m + 1] where in the stream it starts, in tokens; the last is the stream's length"""
    windows: NDArray[np.integer]
    """[w] which window of the stream is read w-th; window v holds inputs v·T … v·T + T - 1"""

    unused_tokens: int
    """Tokens at the stream's end that no window of full length could take as inputs: at most T."""


class Order:
    """Windows of `sequence_length` tokens, numbered 0, 1, 2, … without end; each is found without reading those before.

    An epoch permutes the documents, lays their tokens end to end, cuts the stream in windows of T inputs (T + 1 tokens,
    as the last input's label is the next window's first input) and permutes the windows. Epochs follow each other
    without a gap: a batch may hold the last windows of one and the first of the next.

    `lengths` is int64 [documents], each at least 1. With `groups` (int [documents], the source's number) and `repeats`
    (per source), a document of source s is read floor(r_s) times an epoch, and documents that hold the fraction's share
    of the source's tokens once more. Those are taken from a fixed hashed order of the source's documents, walked around
    as the epochs go by, so that r_s = 0.5 reads every document in two epochs.

    Memory: 12 bytes a document and 4 a window, for each of at most two epochs; with weights 8 bytes a document more.
    """

    def __init__(
        self,
        lengths: NDArray[np.int64],
        sequence_length: int,
        seed: int,
        groups: NDArray[np.integer] | None = None,
        repeats: list[float] | None = None,
    ) -> None:
        self.lengths = lengths
        self.sequence_length = sequence_length
        self.seed = seed
        self._groups = groups
        self._repeats = repeats if groups is not None and repeats and any(r != 1.0 for r in repeats) else None
        self._walk_starts = self._walk() if self._repeats is not None else None
        self._windows = max(0, (int(lengths.sum()) - 1) // sequence_length)
        self._firsts = [0]
        self._epochs: dict[int, Epoch] = {}
        if self.windows_in(0) < 1:
            tokens = self._counted(0)[1]
            raise HanlinError(
                f"{tokens} training tokens do not fill one row of {sequence_length} (+ 1 for the last label). "
                "Use a shorter sequence_length, or more text."
            )

    def _walk(self) -> NDArray[np.int64]:
        """For each document, the tokens of its source's documents that come before it in the source's hashed order."""
        assert self._groups is not None
        order = np.argsort(hashes(len(self.lengths), self.seed, "mixture"))
        order = order[np.argsort(self._groups[order], kind="stable")]
        ends = np.cumsum(self.lengths[order])
        starts = ends - self.lengths[order]
        first_of_group = np.searchsorted(self._groups[order], self._groups[order], side="left")
        walk = np.empty(len(order), np.int64)
        walk[order] = starts - starts[first_of_group]
        return walk

    def _counted(self, epoch: int) -> tuple[NDArray[np.integer] | None, int]:
        """How often each document is in `epoch` (None: once), and the epoch's tokens."""
        if self._repeats is None or self._groups is None or self._walk_starts is None:
            return None, int(self.lengths.sum())
        counts = np.zeros(len(self.lengths), np.int32)
        for group, repeats in enumerate(self._repeats):
            mine = self._groups == group
            total = int(self.lengths[mine].sum())
            if not total:
                continue
            whole = int(repeats)
            span = round((repeats - whole) * total)
            start = epoch * span % total
            walk = self._walk_starts[mine]
            extra = ((walk >= start) & (walk < start + span)) | (walk < start + span - total)
            counts[mine] = whole + extra
        return counts, int((self.lengths * counts).sum())

    def windows_in(self, epoch: int) -> int:
        """How many windows `epoch` has."""
        if self._repeats is None:
            return self._windows
        return max(0, (self._counted(epoch)[1] - 1) // self.sequence_length)

    def _first(self, epoch: int) -> int:
        """The number of `epoch`'s first window."""
        if self._repeats is None:
            return epoch * self._windows
        while len(self._firsts) <= epoch:
            self._firsts.append(self._firsts[-1] + self.windows_in(len(self._firsts) - 1))
        return self._firsts[epoch]

    def epoch_of(self, window: int) -> int:
        """The epoch to which window number `window` belongs."""
        if self._repeats is None:
            return window // self._windows
        epoch = 0
        while self._first(epoch + 1) <= window:
            epoch += 1
        return epoch

    def epoch(self, number: int) -> Epoch:
        """The plan of one epoch (the two last asked for are kept)."""
        if number not in self._epochs:
            counts = self._counted(number)[0]
            documents = permutation(len(self.lengths) if counts is None else int(counts.sum()), self.seed, "d", number)
            if counts is not None:
                documents = np.repeat(np.arange(len(counts), dtype=documents.dtype), counts)[documents]
            starts = np.zeros(len(documents) + 1, np.int64)
            np.cumsum(self.lengths[documents], out=starts[1:])
            windows = permutation(self.windows_in(number), self.seed, "w", number)
            if len(self._epochs) > 1:
                del self._epochs[max(self._epochs, key=lambda kept: abs(kept - number))]
            unused = int(starts[-1]) - len(windows) * self.sequence_length
            self._epochs[number] = Epoch(number, documents, starts, windows, unused)
        return self._epochs[number]

    def rows(self, first: int, count: int) -> Iterator[tuple[Epoch, NDArray[np.int64]]]:
        """Windows number `first` … `first + count - 1`, as (epoch, indices of windows in its stream)."""
        stop = first + count
        while first < stop:
            number = self.epoch_of(first)
            epoch, offset = self.epoch(number), self._first(number)
            end = min(stop, offset + len(epoch.windows))
            yield epoch, epoch.windows[first - offset : end - offset].astype(np.int64)
            first = end
