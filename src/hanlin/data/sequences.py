"""Prompts with answers, in groups that belong together: what the preference and policy objectives are given.

A group is a pair (chosen, rejected), a ranking, or one sampled answer. Groups are what steps and micro-batches count;
how their sequences lie in rows of a model's input is decided as late as `rows`, so that no loss can depend on it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hanlin.artifacts import HanlinError
from hanlin.data.batch import Batch
from hanlin.data.packing import IGNORED, rank_rows

Layout = Literal["shared", "packed", "padded", "padded-left"]
"""shared: one row, in which a prompt of several answers stands once (as packed, where that spares next to nothing);
packed: several sequences in a row; padded: one a row, filled up at its end (or at its beginning)."""
LEAST_SHARED = 0.1
"""Share of the positions that sharing must spare; where it spares less, attention over plain rows is the faster one."""


@dataclass
class Sequences:
    """S sequences of N tokens and, among these, M of answers, end to end; G groups."""

    input_ids: Tensor
    """int64 [N] prompts and answers, end to end"""
    lengths: Tensor
    """int64 [S] tokens of each sequence"""
    answer_lengths: Tensor
    """int64 [S] how many at the end of each are its answer: fewer than its length"""
    groups: Tensor
    """int64 [G] sequences in each group"""
    of_token: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Values of the answers' tokens, each [M]"""
    of_sequence: dict[str, Tensor] = field(default_factory=dict[str, Tensor])
    """Values of the sequences, each [S]"""
    beside: Batch | None = None
    """Rows of another kind that are trained on in the same step (PPO-ptx's text); cut in as many parts as groups"""
    layout: Layout = "shared"
    marks: Tensor | None = None
    """bool [M] which of the answers' tokens count (None: all; a tool's words inside an answer do not)"""

    @property
    def rows(self) -> int:
        """Groups: what a step is counted in."""
        return len(self.groups)

    def slice(self, start: int, stop: int) -> Sequences:
        """Groups `start` to `stop`: a micro-batch, or a rank's part."""
        first, last = int(self.groups[:start].sum()), int(self.groups[:stop].sum())
        tokens = slice(int(self.lengths[:first].sum()), int(self.lengths[:last].sum()))
        answers = slice(int(self.answer_lengths[:first].sum()), int(self.answer_lengths[:last].sum()))
        beside = self.beside
        if beside is not None:
            beside = beside.slice(beside.rows * start // self.rows, beside.rows * stop // self.rows)
            # With fewer rows than groups a part may have none.
            beside = beside if beside.rows else None
        return replace(
            self,
            input_ids=self.input_ids[tokens],
            lengths=self.lengths[first:last],
            answer_lengths=self.answer_lengths[first:last],
            groups=self.groups[start:stop],
            of_token={name: values[answers] for name, values in self.of_token.items()},
            of_sequence={name: values[first:last] for name, values in self.of_sequence.items()},
            beside=beside,
            marks=None if self.marks is None else self.marks[answers],
        )

    def parts(self, tokens: int, rows: int | None = None) -> list[Sequences]:
        """Micro-batches of `rows` groups, or of as many as have at most `tokens` tokens, prompts that they share
        counted for every answer (a single group may have more)."""
        owners = torch.repeat_interleave(torch.arange(self.rows), self.groups)
        sizes = torch.zeros(self.rows, dtype=torch.int64).index_add_(0, owners, self.lengths)
        if self.beside is not None:
            sizes += self.beside.input_ids.numel() // self.rows
        cuts, room = [0], tokens
        for number, size in enumerate(sizes.tolist()):
            if size > room and number > cuts[-1]:
                cuts.append(number)
                room = tokens
            room -= size
        if rows is not None:
            cuts = list(range(0, self.rows, rows))
        return [self.slice(*cut) for cut in itertools.pairwise([*cuts, self.rows])]

    def part(self, rank: int, ranks: int) -> Sequences:
        """This rank's groups. Raises HanlinError for more ranks than groups."""
        return self.slice(*rank_rows(self.rows, rank, ranks))

    def to(self, device: torch.device | str) -> Sequences:
        """The same on `device`; lengths and groups stay on the CPU, where rows are laid out."""
        if torch.device(device).type == "cpu":
            return self
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            of_token={name: values.to(device) for name, values in self.of_token.items()},
            of_sequence={name: values.to(device) for name, values in self.of_sequence.items()},
            beside=None if self.beside is None else self.beside.to(device),
            marks=None if self.marks is None else self.marks.to(device),
        )

    def sequence_of_token(self) -> Tensor:
        """int64 [M] the sequence to which each token of an answer belongs."""
        return torch.repeat_interleave(torch.arange(len(self.lengths)), self.answer_lengths).to(self.input_ids.device)

    def labels(self) -> Tensor:
        """int64 [M] the answers' tokens."""
        return self.input_ids[self._answer_places().to(self.input_ids.device)]

    def _answer_places(self) -> Tensor:
        """int64 [M] where the answers' tokens are among the N."""
        starts = (self.lengths.cumsum(0) - self.answer_lengths).numpy()
        sizes = self.answer_lengths.numpy()
        return torch.from_numpy(np.repeat(starts, sizes) + _within(sizes))

    def in_rows(self, with_last: bool = False) -> Rows:
        """Everything laid into rows for a model, by `layout`. `with_last`: each sequence's last token is read too; it
        predicts nothing that is asked for, but a judge looks at it."""
        if self.layout == "shared" and (rows := self._sharing_prompts(with_last)) is not None:
            return rows
        device = self.input_ids.device
        whole, answers = self.lengths.numpy(), self.answer_lengths.numpy()
        read = whole if with_last else whole - 1
        width = int(read.max())
        packed = self.layout in ("packed", "shared")
        bins = pack(read, width) if packed else [[index] for index in range(len(read))]
        order = np.concatenate(bins)
        sizes = np.array([len(members) for members in bins])
        row = np.repeat(np.arange(len(bins)), sizes)
        number = _within(sizes)
        ends = np.cumsum(read[order])
        before = ends - read[order]
        at = before - before[np.cumsum(sizes) - sizes][row]
        if self.layout == "padded-left":
            at = width - read[order]
        place = np.empty(len(read), np.int64)
        """Where, in the flattened rows, each sequence begins"""
        place[order] = row * width + at
        inside = _within(read)
        to = np.repeat(place, read) + inside
        source = np.zeros(len(bins) * width, np.int64)
        positions, documents = np.zeros_like(source), np.zeros(len(source), np.int32)
        source[to] = np.repeat(np.cumsum(whole) - whole, read) + inside
        positions[to] = inside
        # Padding is a document of its own: the first, or the last. What it reads is of no account.
        if packed:
            documents[:] = np.iinfo(np.int32).max
        own = np.empty(len(read), np.int32)
        own[order] = number + 1
        documents[to] = np.repeat(own, read)
        several = self.layout == "padded-left" or len(bins) < len(read)
        shape = (len(bins), width)
        ids = self.input_ids[torch.from_numpy(source.reshape(shape)).to(device)]
        return Rows(
            Batch(
                ids,
                torch.full_like(ids, IGNORED),
                torch.from_numpy(positions.reshape(shape)).to(device),
                torch.from_numpy(documents.reshape(shape)).to(device) if several else None,
            ),
            torch.from_numpy(np.repeat(place + whole - answers - 1, answers) + _within(answers)).to(device),
            torch.from_numpy(place + read - 1).to(device),
        )

    def _sharing_prompts(self, with_last: bool) -> Rows | None:
        """One row: first every prompt once, then all answers; None where that would spare next to nothing."""
        device = self.input_ids.device
        whole, answers = self.lengths.numpy(), self.answer_lengths.numpy()
        begins, asked = np.cumsum(whole) - whole, whole - answers
        flat, numbers = self.input_ids.cpu().numpy(), dict[bytes, int]()
        prompt = np.array(
            [numbers.setdefault(flat[at : at + size].tobytes(), len(numbers)) for at, size in zip(begins, asked)]
        )
        first = np.unique(prompt, return_index=True)[1]
        sizes = asked[first]
        if asked.sum() - sizes.sum() < LEAST_SHARED * whole.sum():
            return None
        prompt_at = (np.cumsum(sizes) - sizes)[prompt]
        read = answers if with_last else answers - 1
        answer_at = sizes.sum() + np.cumsum(read) - read
        source = [np.repeat(begins[first], sizes) + _within(sizes), np.repeat(begins + asked, read) + _within(read)]
        positions = [_within(sizes), np.repeat(asked, read) + _within(read)]
        before = np.repeat(answer_at - 1, answers) + _within(answers)
        before[np.cumsum(answers) - answers] = prompt_at + asked - 1
        ids = self.input_ids[torch.from_numpy(np.concatenate(source)).to(device)][None]
        return Rows(
            Batch(
                ids, torch.full_like(ids, IGNORED), torch.from_numpy(np.concatenate(positions)).to(device)[None], None
            ),
            torch.from_numpy(before).to(device),
            torch.from_numpy(np.where(read > 0, answer_at + read, prompt_at + asked) - 1).to(device),
            torch.from_numpy(np.stack((prompt_at, asked, answer_at, read), 1)),
        )


def _within(sizes: np.ndarray) -> np.ndarray:
    """0 … size-1 of each of `sizes`, end to end."""
    ends = np.cumsum(sizes)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - sizes, sizes)


@dataclass
class Rows:
    """Sequences laid out, and where to look in the flattened [B · T] positions."""

    batch: Batch
    """Its labels are not used"""
    before_answers: Tensor
    """int64 [M] the position that predicts each token of an answer"""
    last: Tensor
    """int64 [S] each sequence's last position"""
    branches: Tensor | None = None
    """int64 [S, 4], on the CPU: where the answers' prompts are, which stand in the one row only once (see
    `models.branches`)"""

    def hidden(self, model: Any, at: Tensor) -> Tensor:
        """[len(at), hidden] at places in the flattened positions, of a model with `hidden` as the Transformer's."""
        batch = self.batch
        return model.hidden(batch.input_ids, batch.position_ids, batch.document_ids, branches=self.branches, at=at)


def pack(lengths: np.ndarray, width: int) -> list[list[int]]:
    """Rows of `width` that hold all sequences of these lengths: the longest first, each where it leaves least room."""
    from hanlin.data.conversations import best_fit_decreasing

    return best_fit_decreasing(lengths, width)


def join(
    prompts: Sequence[Sequence[int]],
    answers: Sequence[Sequence[int]],
    groups: Sequence[int] | None = None,
    layout: Layout = "shared",
) -> Sequences:
    """Sequences of prompts [S] followed by answers [S]; `groups` are their sizes (None: each is its own).

    Raises HanlinError for an empty prompt, which nothing could be predicted from, and an empty answer.
    """
    for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        if not len(prompt) or not len(answer):
            raise HanlinError(f"sequence {number} has {len(prompt)} tokens of prompt and {len(answer)} of answer.")
    flat = [token for prompt, answer in zip(prompts, answers) for part in (prompt, answer) for token in part]
    sizes = [1] * len(prompts) if groups is None else groups
    assert sum(sizes) == len(prompts)
    return Sequences(
        torch.tensor(flat, dtype=torch.int64),
        torch.tensor([len(prompt) + len(answer) for prompt, answer in zip(prompts, answers)]),
        torch.tensor([len(answer) for answer in answers]),
        torch.tensor(list(sizes)),
        layout=layout,
    )
