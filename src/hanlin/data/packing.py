"""Rows of full length from a stream of documents: nothing is padded, nothing attends across documents."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hanlin.artifacts import HanlinError
from hanlin.data.order import Epoch, Order, mixture_repeats, permutation
from hanlin.data.shards import TokenShards

if TYPE_CHECKING:
    from hanlin.data.batch import Batch

IGNORED = -100


def rank_rows(rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """The part [start, stop) of a step's `rows` that `rank` of `ranks` processes reads. Raises HanlinError for a rank
    that would read none."""
    if not 0 <= rank < ranks <= rows:
        raise HanlinError(
            f"Process {rank} of {ranks} can't be given a part of {rows} rows a step: use at least a row a process."
        )
    return rows * rank // ranks, rows * (rank + 1) // ranks


class PackedTokens:
    """Batches of pretraining text: a pure function of (shards, sequence_length, rows_per_step, seed, weights, step).

    `step(s)` is rows s·B … s·B + B - 1 of the endless row of windows that `Order` defines; with several ranks each gets
    a contiguous part, and all parts together are the single process's batch. `weights` are shares of the tokens by
    source; by default those recorded in the shards.

    Every token of an epoch is an input exactly once, but for fewer than T + 1 at the epoch's end. The label of a
    document's last token is the next document's <|endoftext|>; that token's own label is its document's first, so no
    label is inside another document than its input.
    """

    def __init__(
        self,
        shards: TokenShards,
        sequence_length: int,
        rows_per_step: int,
        seed: int,
        weights: dict[str, float] | None = None,
    ) -> None:
        if sequence_length < 1 or rows_per_step < 1:
            raise HanlinError(
                f"sequence_length ({sequence_length}) and rows_per_step ({rows_per_step}) must be at least 1."
            )
        self.shards = shards
        self.sequence_length = sequence_length
        self.rows_per_step = rows_per_step
        self.seed = seed
        self.weights = weights if weights is not None else shards.weights
        lengths = np.diff(shards.offsets)
        groups: NDArray[np.int32] | None = None
        repeats: dict[str, float] = {}
        if self.weights is not None:
            groups, names = shards.sources
            tokens = np.bincount(groups, weights=lengths, minlength=len(names))
            repeats = mixture_repeats({name: int(count) for name, count in zip(names, tokens)}, self.weights)
        self.repeats = repeats
        """How often one epoch reads each source (empty: no weights, once each). Above 1 it repeats within an epoch."""
        self.order = Order(lengths, sequence_length, seed, groups, list(repeats.values()))

    @property
    def tokens_per_step(self) -> int:
        """B · T"""
        return self.rows_per_step * self.sequence_length

    @property
    def steps_per_epoch(self) -> int:
        """Whole steps in the first epoch: this many never read a window twice (1 when a step is more than an epoch)."""
        return max(1, self.order.windows_in(0) // self.rows_per_step)

    def epochs_at(self, steps: int) -> float:
        """How many times the mixture has been read after `steps` steps."""
        return steps * self.rows_per_step / self.order.windows_in(0)

    def _pieces(self, step: int, start: int = 0, stop: int | None = None) -> Iterator[tuple[Epoch, NDArray[np.int64]]]:
        first = step * self.rows_per_step
        stop = self.rows_per_step if stop is None else stop
        return self.order.rows(first + start, stop - start)

    def _several_documents(self, step: int) -> bool:
        """True when some row of the whole step (not only this rank's) holds more than one document."""
        length = self.sequence_length
        for epoch, windows in self._pieces(step):
            ends = np.stack([windows * length, windows * length + length - 1])
            first, last = np.searchsorted(epoch.starts, ends, side="right")
            if (first != last).any():
                return True
        return False

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The rows of step number `step` (from 0) of `rank` among `ranks`. Raises HanlinError for ranks > B."""
        from hanlin.data.batch import Batch, to_tensor

        length = self.sequence_length
        parts: list[tuple[NDArray[Any], ...]] = []
        for epoch, windows in self._pieces(step, *rank_rows(self.rows_per_step, rank, ranks)):
            first = windows[:, None] * length
            stream = first + np.arange(length + 1)
            piece = np.searchsorted(epoch.starts, stream, side="right") - 1
            begins = epoch.starts[piece]
            tokens = self.shards.tokens[self.shards.offsets[epoch.documents[piece]] + stream - begins]
            position = (stream - np.maximum(begins, first))[:, :-1]
            parts.append((tokens.astype(np.int64), position, (piece - piece[:, :1])[:, :-1].astype(np.int32)))
        tokens, position, document = (np.concatenate(arrays) for arrays in zip(*parts))
        return Batch(
            input_ids=to_tensor(tokens[:, :-1].copy()),
            labels=to_tensor(tokens[:, 1:].copy()),
            position_ids=to_tensor(position),
            document_ids=to_tensor(document) if self._several_documents(step) else None,
        )

    def trace(self, step: int) -> list[dict[str, Any]]:
        """What is in the batch of `step`: one entry for each piece of a document in a row, without torch.

        {row, document (id), source, language, file, offset, raw_bytes, bytes, epoch, first_token, last_token,
        positions}: the record is `raw_bytes` from `offset` on in the decompressed file, its text has `bytes` in UTF-8;
        tokens are counted in the document's stream, whose token 0 is <|endoftext|>; `positions` is [first, last] in the
        row.
        """
        found: list[dict[str, Any]] = []
        documents: list[int] = []
        row = 0
        for epoch, windows in self._pieces(step):
            numbers: list[int] = windows.tolist()
            for window in numbers:
                first, stop = window * self.sequence_length, (window + 1) * self.sequence_length
                piece = int(np.searchsorted(epoch.starts, first, side="right")) - 1
                while (begin := int(epoch.starts[piece])) < stop:
                    start, end = max(first, begin), min(stop, int(epoch.starts[piece + 1]))
                    documents.append(int(epoch.documents[piece]))
                    found.append(
                        {
                            "row": row,
                            "epoch": epoch.number,
                            "first_token": start - begin,
                            "last_token": end - 1 - begin,
                            "positions": [start - first, end - 1 - first],
                        }
                    )
                    piece += 1
                row += 1
        described = self.shards.describe(np.array(documents, np.int64))
        return [
            {"row": entry.pop("row"), "document": about.pop("id"), **about, **entry}
            for entry, about in zip(found, described)
        ]


def trace_tokens(
    directory: Path,
    step: int,
    sequence_length: int,
    rows_per_step: int,
    seed: int,
    weights: dict[str, float] | None = None,
) -> list[dict[str, Any]]:
    """`PackedTokens.trace` from the path of a tokens artifact and the settings that training recorded."""
    return PackedTokens(TokenShards.open(directory), sequence_length, rows_per_step, seed, weights).trace(step)


@dataclass
class ValidationBatch:
    """A batch whose loss can be put down to documents, and so to their bytes, sources and languages."""

    batch: Batch
    documents: NDArray[np.int64]
    """[B, T] the document (index into `shards.table()`) to which each label belongs: the one whose token it is, or, for
    the <|endoftext|> after a document, that document; -1 for padding."""


def validation_documents(shards: TokenShards, max_tokens: int | None = None) -> NDArray[np.integer]:
    """Which documents an evaluation reads: all, or whole ones in a hashed order until `max_tokens` is reached."""
    if max_tokens is None or len(shards.tokens) <= max_tokens:
        return np.arange(len(shards))
    order = permutation(len(shards), "validation")
    ends = np.cumsum(np.diff(shards.offsets)[order])
    return np.sort(order[: int(np.searchsorted(ends, max_tokens)) + 1])


def validation_batches(
    shards: TokenShards, sequence_length: int, rows: int, max_tokens: int | None = None
) -> Iterator[ValidationBatch]:
    """Batches in which every token of the chosen documents (see `validation_documents`) is a label exactly once, and
    each document's end too.

    The documents' streams are laid end to end and cut in windows, like training's; an <|endoftext|> follows the last
    document. The last row is padded with <|endoftext|> and labels -100, and the last batch has fewer rows.
    """
    from hanlin.data.batch import Batch, to_tensor

    chosen = validation_documents(shards, max_tokens)
    starts = np.zeros(len(chosen) + 1, np.int64)
    np.cumsum(np.diff(shards.offsets)[chosen], out=starts[1:])
    total = int(starts[-1])
    for begin in range(0, total, rows * sequence_length):
        count = min(rows, -(-(total - begin) // sequence_length))
        first = begin + np.arange(count)[:, None] * sequence_length
        stream = first + np.arange(sequence_length + 1)
        padding = stream >= total
        piece = np.searchsorted(starts, stream, side="right") - 1
        inside = np.minimum(piece, len(chosen) - 1)
        source = shards.offsets[chosen[inside]] + stream - starts[inside]
        tokens = np.where(padding, shards.end_of_text_id, shards.tokens[np.where(padding, 0, source)]).astype(np.int64)
        outside = padding[:, :-1]
        ids = (piece - piece[:, :1])[:, :-1].astype(np.int32)
        batch = Batch(
            input_ids=to_tensor(tokens[:, :-1].copy()),
            labels=to_tensor(np.where(outside, IGNORED, tokens[:, 1:])),
            position_ids=to_tensor((stream - np.maximum(starts[piece], first))[:, :-1]),
            document_ids=to_tensor(ids) if ids.any() else None,
        )
        # A label belongs to the document that its input is in: inside, they are one; at an end, it is the end's.
        yield ValidationBatch(batch, np.where(outside, -1, chosen[inside[:, :-1]].astype(np.int64)))
