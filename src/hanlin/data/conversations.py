"""Rows of conversations for fine-tuning: several short ones in a row, none split, nothing attending to another."""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from hanlin.artifacts import HanlinError
from hanlin.data.order import permutation
from hanlin.data.packing import IGNORED, rank_rows
from hanlin.data.rendered import RenderedConversations, place_of

if TYPE_CHECKING:
    from hanlin.data.batch import Batch

_PACK_WINDOW = 4096
"""Conversations packed together: many enough that the best fit leaves little of a row empty, few enough that an epoch's
order stays random."""


def best_fit_decreasing(lengths: NDArray[np.int64], capacity: int) -> list[list[int]]:
    """Bins of `capacity`: the longest first, each into the bin that it fills best (Johnson 1973: at most 11/9 of the
    optimal number of bins, + 6/9). Returns the indices in each bin. Every length is at most `capacity`."""
    bins: list[list[int]] = []
    rooms: list[int] = []
    """The different sizes of room that are left, sorted"""
    by_room: dict[int, list[int]] = {}
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        place = bisect.bisect_left(rooms, length)
        if place == len(rooms):
            room, chosen = capacity, len(bins)
            bins.append([])
        else:
            room = rooms[place]
            chosen = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[place]
        bins[chosen].append(index)
        if left := room - length:
            if left not in by_room:
                bisect.insort(rooms, left)
                by_room[left] = []
            by_room[left].append(chosen)
    return bins


@dataclass(frozen=True)
class _Plan:
    """An epoch's rows, in their order."""

    members: NDArray[np.integer]
    """[n] conversations, row by row"""
    starts: NDArray[np.int64]
    """[rows + 1] where each row's begin in `members`"""
    order: NDArray[np.integer]
    """[rows] which row is read when"""

    def row(self, number: int) -> list[int]:
        row = int(self.order[number])
        return self.members[self.starts[row] : self.starts[row + 1]].tolist()


class Cut:
    """What rows of `sequence_length` positions hold of each conversation. One of L tokens takes L - 1 positions (its
    last token is only a label); one that is longer than a row is cut at its end."""

    def __init__(self, rendered: RenderedConversations, sequence_length: int) -> None:
        self.rendered = rendered
        self.sequence_length = sequence_length
        self._whole = np.diff(rendered.offsets) - 1
        self.lengths = np.minimum(self._whole, sequence_length)
        """[n] positions after the cut"""
        before = np.concatenate([[0], np.cumsum(rendered.trained)])
        first = rendered.offsets[:-1] + 1
        self.trained = before[first + np.maximum(self.lengths, 0)] - before[first]
        """[n] labels after the cut"""
        self.kept = np.flatnonzero(self.trained > 0)
        """Conversations with something to train on"""
        self.empty = np.flatnonzero(self.trained == 0)
        """The others"""
        self.truncated = np.flatnonzero((self._whole > sequence_length) & (self.trained > 0))
        """Conversations that are cut, and yet have something to train on"""

    def refuse_empty(self) -> None:
        """Raise HanlinError, naming the first ten with file and line, when a conversation has nothing to train on."""
        if len(self.empty):
            raise HanlinError(
                f"{len(self.empty)} of {len(self.rendered)} conversations have nothing to train on "
                f"in rows of {self.sequence_length}:\n  "
                + "\n  ".join(self.why_empty(index) for index in self.empty[:10])
                + ("\n  …" if len(self.empty) > 10 else "")
                + '\nRaise sequence_length, mend these rows, or leave them out with on_empty = "drop".'
            )

    def why_empty(self, index: int) -> str:
        """Why an empty conversation is one, with its place."""
        start, stop = self.rendered.offsets[index : index + 2]
        at = np.flatnonzero(self.rendered.trained[start + 1 : stop])
        if not len(at):
            return f"{self._place(index)}: no token of it is trained on"
        return (
            f"{self._place(index)}: {self._whole[index] + 1} tokens, the first to be trained on is number "
            f"{at[0] + 2}, beyond the cut"
        )

    def why_truncated(self, index: int) -> str:
        """How long a conversation that is cut is, with its place."""
        return f"{self._place(index)}: {self._whole[index] + 1} tokens"

    def _place(self, index: int) -> str:
        return place_of(self.rendered.metadata[index], index + 1)


class PackedConversations:
    """Batches for fine-tuning: a pure function of (rendered conversations, sequence_length, rows_per_step, seed, step).

    Conversations are cut to a row's length (`Cut`). The rest of a row is padding: the pad id, labels -100, a document
    id of its own. Each epoch permutes the conversations, packs them (`pack=False`: one a row) and permutes the rows;
    epochs follow each other without a gap.

    A conversation in which nothing is left to train on after the cut is refused (`on_empty="refuse"`: HanlinError
    naming them) or left out and listed in `dropped` (`on_empty="drop"`).
    """

    def __init__(
        self,
        rendered: RenderedConversations,
        sequence_length: int,
        rows_per_step: int,
        seed: int,
        pack: bool = True,
        on_empty: Literal["refuse", "drop"] = "refuse",
    ) -> None:
        if sequence_length < 1 or rows_per_step < 1:
            raise HanlinError(
                f"sequence_length ({sequence_length}) and rows_per_step ({rows_per_step}) must be at least 1."
            )
        self.rendered = rendered
        self.sequence_length = sequence_length
        self.rows_per_step = rows_per_step
        self.seed = seed
        self.pack = pack
        cut = Cut(rendered, sequence_length)
        if on_empty == "refuse":
            cut.refuse_empty()
        self._lengths, self._trained, self._kept = cut.lengths, cut.trained, cut.kept
        self.truncated = len(cut.truncated)
        """How many conversations are cut, and not left out"""
        self.dropped = [cut.why_empty(int(index)) for index in cut.empty]
        """Why each conversation that is left out is left out, with its place"""
        if not len(self._kept):
            why = f": all {len(self.dropped)} are left out; the first: {self.dropped[0]}" if self.dropped else ""
            raise HanlinError(f"There is no conversation to train on in rows of {sequence_length}{why}.")
        self._firsts = [0]
        self._plans: dict[int, _Plan] = {}

    @property
    def tokens_per_step(self) -> int:
        """B · T positions, padding among them"""
        return self.rows_per_step * self.sequence_length

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every conversation has been read once (the last may begin the second epoch)."""
        return -(-self.rows_in(0) // self.rows_per_step)

    def rows_in(self, epoch: int) -> int:
        """How many rows `epoch` has."""
        return self._first(epoch + 1) - self._first(epoch)

    def epochs_at(self, steps: int) -> float:
        """How many times the conversations have been read after `steps` steps."""
        row = steps * self.rows_per_step
        epoch = self._epoch_of(row)
        return epoch + (row - self._first(epoch)) / self.rows_in(epoch)

    def figures(self) -> dict[str, Any]:
        """Counts for a manifest; `fill` is the share of the first epoch's positions that hold a token."""
        positions, rows = int(self._lengths[self._kept].sum()), self.rows_in(0)
        return {
            "conversations": len(self._kept),
            "dropped": len(self.dropped),
            "truncated": self.truncated,
            "tokens": positions,
            "trained_tokens": int(self._trained[self._kept].sum()),
            "rows": rows,
            "fill": positions / (rows * self.sequence_length),
            "steps_per_epoch": self.steps_per_epoch,
        }

    def _first(self, epoch: int) -> int:
        """The number of `epoch`'s first row; best fit makes a few rows more or less in each epoch."""
        if not self.pack:
            return epoch * len(self._kept)
        while len(self._firsts) <= epoch:
            self._firsts.append(self._firsts[-1] + len(self._plan(len(self._firsts) - 1).order))
        return self._firsts[epoch]

    def _epoch_of(self, row: int) -> int:
        if not self.pack:
            return row // len(self._kept)
        while self._firsts[-1] <= row:
            self._first(len(self._firsts))
        return bisect.bisect_right(self._firsts, row) - 1

    def _plan(self, epoch: int) -> _Plan:
        if epoch not in self._plans:
            members = self._kept[permutation(len(self._kept), self.seed, "conversations", epoch)]
            starts = np.arange(len(members) + 1)
            if self.pack:
                rows: list[NDArray[np.integer]] = []
                for begin in range(0, len(members), _PACK_WINDOW):
                    window = members[begin : begin + _PACK_WINDOW]
                    rows += [window[row] for row in best_fit_decreasing(self._lengths[window], self.sequence_length)]
                members = np.concatenate(rows)
                starts = np.concatenate([[0], np.cumsum([len(row) for row in rows])])
            if len(self._plans) > 1:
                del self._plans[max(self._plans, key=lambda kept: abs(kept - epoch))]
            order = permutation(len(starts) - 1, self.seed, "rows", epoch)
            self._plans[epoch] = _Plan(members, starts, order)
        return self._plans[epoch]

    def _rows(self, step: int) -> Iterator[tuple[int, list[int]]]:
        """(epoch, conversations) of each row of a step."""
        for row in range(step * self.rows_per_step, (step + 1) * self.rows_per_step):
            epoch = self._epoch_of(row)
            yield epoch, self._plan(epoch).row(row - self._first(epoch))

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Batch:
        """The rows of step number `step` (from 0) of `rank` among `ranks`. Raises HanlinError for ranks > B."""
        from hanlin.data.batch import Batch, to_tensor

        start, stop = rank_rows(self.rows_per_step, rank, ranks)
        rows = [row for _, row in self._rows(step)]
        several = any(len(row) > 1 for row in rows)  # of the whole step: every rank then computes alike
        shape = (stop - start, self.sequence_length)
        inputs = np.full(shape, self.rendered.pad_id, np.int64)
        labels = np.full(shape, IGNORED, np.int64)
        positions, documents = np.zeros(shape, np.int64), np.zeros(shape, np.int32)
        for place, members in enumerate(rows[start:stop]):
            at = 0
            for number, index in enumerate(members):
                length, begin = int(self._lengths[index]), int(self.rendered.offsets[index])
                ids = self.rendered.ids[begin : begin + length + 1]
                trained = self.rendered.trained[begin + 1 : begin + length + 1]
                inputs[place, at : at + length] = ids[:-1]
                labels[place, at : at + length][trained] = ids[1:][trained]
                positions[place, at : at + length] = np.arange(length)
                documents[place, at : at + length] = number
                at += length
            positions[place, at:] = np.arange(self.sequence_length - at)
            documents[place, at:] = len(members)
        return Batch(
            to_tensor(inputs),
            to_tensor(labels),
            to_tensor(positions),
            to_tensor(documents) if several else None,
        )

    def trace(self, step: int) -> list[dict[str, Any]]:
        """What is in the batch of `step`: one entry a conversation, without torch.

        {row, document ("file:row" of the data file), file, record (its row there), line, epoch, first_token, last_token
        (among the conversation's tokens, as inputs), positions: [first, last] in the row}.
        """
        found: list[dict[str, Any]] = []
        for row, (epoch, members) in enumerate(self._rows(step)):
            at = 0
            for index in members:
                metadata, length = self.rendered.metadata[index], int(self._lengths[index])
                file, record = metadata.get("file", ""), metadata.get("row", index + 1)
                found.append(
                    {
                        "row": row,
                        "document": f"{file}:{record}",
                        "file": file,
                        "record": record,
                        "line": metadata.get("line"),
                        "epoch": epoch,
                        "first_token": 0,
                        "last_token": length - 1,
                        "positions": [at, at + length - 1],
                    }
                )
                at += length
        return found


def trace_conversations(
    directory: Path,
    step: int,
    sequence_length: int,
    rows_per_step: int,
    seed: int,
    pack: bool = True,
    on_empty: Literal["refuse", "drop"] = "refuse",
) -> list[dict[str, Any]]:
    """`PackedConversations.trace` from the folder of rendered conversations and the settings that training recorded."""
    rendered = RenderedConversations.load(directory)
    return PackedConversations(rendered, sequence_length, rows_per_step, seed, pack, on_empty).trace(step)
