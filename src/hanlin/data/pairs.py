"""Preferences as tokens: read from any known form, rendered once, kept on disk, and handed out in steps."""

from __future__ import annotations

import array
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hanlin.artifacts import HanlinError, atomic_path, write_json
from hanlin.data.order import permutation
from hanlin.data.preferences import Ranking
from hanlin.data.rendered import place_of

if TYPE_CHECKING:
    from hanlin.data.sequences import Layout, Sequences
    from hanlin.tokenization import Message, Tokenizer

_INDEX = "groups.json"
_ARRAYS = ("ids", "counted", "lengths", "answer_lengths", "groups", "scores")
_CONFIDENCE = "confidence"
"""Written only where it says something"""


@dataclass
class RenderedGroups:
    """G groups of prompts with answers, as tokens: what `sequences.Sequences` is made from."""

    ids: NDArray[np.int32]
    """[N] prompts and answers, end to end"""
    counted: NDArray[np.bool_]
    """[N] whether the token is one of the assistant's own words in the answer"""
    lengths: NDArray[np.int64]
    """[S]"""
    answer_lengths: NDArray[np.int64]
    """[S]"""
    groups: NDArray[np.int64]
    """[G] sequences in each group; of a pair the chosen comes first"""
    scores: NDArray[np.float64]
    """[S] how good each answer is (`preferences.Ranking.scores`); of a pair, the better one's is its margin or 1"""
    confidence: NDArray[np.float64]
    """[S] the probability that the better of the pair is the better one, or the judgement of an answer right; 1 where
    the data does not doubt it"""
    metadata: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    """[G]"""

    def __len__(self) -> int:
        return len(self.groups)

    def __post_init__(self) -> None:
        self._first = np.concatenate([[0], np.cumsum(self.groups)])
        self._start = np.concatenate([[0], np.cumsum(self.lengths)])
        self._soft = bool((self.confidence != 1).any())

    def members(self, group: int) -> range:
        """The sequences of a group."""
        return range(int(self._first[group]), int(self._first[group + 1]))

    def prompt(self, group: int) -> NDArray[np.int32]:
        """The tokens of a group's prompt."""
        first = int(self._first[group])
        start = int(self._start[first])
        return self.ids[start : start + int(self.lengths[first] - self.answer_lengths[first])]

    def select(self, indices: Sequence[int] | NDArray[Any]) -> RenderedGroups:
        """Some of the groups, in the order of `indices`."""
        chosen = [index for group in indices for index in self.members(int(group))]
        spans = [slice(int(self._start[index]), int(self._start[index + 1])) for index in chosen]
        empty = slice(0, 0)
        return RenderedGroups(
            np.concatenate([self.ids[span] for span in spans or [empty]]),
            np.concatenate([self.counted[span] for span in spans or [empty]]),
            self.lengths[chosen],
            self.answer_lengths[chosen],
            self.groups[np.asarray(indices, np.int64)],
            self.scores[chosen],
            self.confidence[chosen],
            [self.metadata[int(group)] for group in indices],
        )

    def sequences(self, indices: Sequence[int] | NDArray[Any], layout: Layout = "shared") -> Sequences:
        """The groups `indices` as a batch, with the field `scores` for every sequence, and `confidence` where of any
        of all groups it is not 1."""
        import torch

        from hanlin.data.sequences import Sequences

        part = self.select(indices)
        names = ("scores", "confidence") if self._soft else ("scores",)
        starts = np.cumsum(part.lengths) - part.answer_lengths
        places = np.repeat(starts - np.cumsum(part.answer_lengths) + part.answer_lengths, part.answer_lengths)
        counted = part.counted[places + np.arange(len(places))]
        return Sequences(
            torch.from_numpy(part.ids.astype(np.int64)),
            torch.from_numpy(part.lengths),
            torch.from_numpy(part.answer_lengths),
            torch.from_numpy(part.groups),
            of_sequence={name: torch.from_numpy(getattr(part, name)) for name in names},
            layout=layout,
            marks=None if counted.all() else torch.from_numpy(counted),
        )

    def save(self, directory: Path) -> None:
        """Write into `directory`; the index comes last."""
        for name in (*_ARRAYS, *([_CONFIDENCE] if self._soft else [])):
            with atomic_path(directory / f"groups.{name}.npy") as path, path.open("wb") as file:
                np.save(file, getattr(self, name))
        with atomic_path(directory / "groups.jsonl") as path, path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.metadata)
        write_json(directory / _INDEX, {"groups": len(self), "sequences": len(self.lengths), "tokens": len(self.ids)})

    @classmethod
    def load(cls, directory: Path) -> RenderedGroups:
        """Open what `save` wrote. Raises HanlinError when it is not there."""
        if not (directory / _INDEX).is_file():
            raise HanlinError(f"{directory} holds no rendered preferences: it has no {_INDEX}.")
        soft = (directory / f"groups.{_CONFIDENCE}.npy").is_file()
        arrays = {
            name: np.asarray(np.load(directory / f"groups.{name}.npy", mmap_mode="r"))
            for name in (*_ARRAYS, *([_CONFIDENCE] if soft else []))
        }
        if not soft:
            arrays[_CONFIDENCE] = np.ones(len(arrays["scores"]))
        with (directory / "groups.jsonl").open(encoding="utf-8") as file:
            metadata = [json.loads(line) for line in file]
        return cls(**arrays, metadata=metadata)


@dataclass
class Account:
    """What became of the preferences that were read: read = kept + dropped."""

    read: int = 0
    kept: int = 0
    cut: int = 0
    """Groups kept in which an answer lost its end"""
    dropped: list[str] = field(default_factory=list[str])
    """Why, with its place, for each that is left out"""

    def figures(self) -> dict[str, Any]:
        return {
            "read": self.read,
            "kept": self.kept,
            "cut": self.cut,
            "dropped": len(self.dropped),
            "dropped_rows": self.dropped[:20],
        }


def render_answer(
    prompt: list[Message], answer: list[Message], tools: list[dict[str, Any]] | None, tokenizer: Tokenizer
) -> tuple[list[int], list[int], list[bool]]:
    """(prompt's tokens, answer's tokens up to its end of turn, which of these are the assistant's own). The prompt's
    are those that a model is given to answer.

    Raises HanlinError for what the chat template refuses, for a prompt that it renders otherwise when an answer
    follows, and for an answer with no token of the assistant's own.
    """
    from hanlin.tokenization import Conversation

    asked = tokenizer.render_tokens(Conversation(prompt, tools), add_generation_prompt=True).ids
    whole = tokenizer.render_tokens(Conversation([*prompt, *answer], tools))
    if whole.ids[: len(asked)] != asked:
        raise HanlinError("the chat template renders the prompt otherwise when an answer follows it")
    last = max((place for place, mark in enumerate(whole.trained) if mark), default=0)
    if last < len(asked):
        raise HanlinError("the chat template leaves an answer without a token of the assistant's own")
    return asked, whole.ids[len(asked) : last + 1], whole.trained[len(asked) : last + 1]


def render_rankings(
    rankings: Iterable[Ranking],
    tokenizer: Tokenizer,
    length: int,
    progress: Callable[[int], None] | None = None,
) -> tuple[RenderedGroups, Account]:
    """Tokens of rankings (`Ranking.of` makes one of a pair), each a group.

    Answers that are too long for `length` tokens lose their end; a group that can't be rendered, whose prompt leaves no
    room, or of which two answers are the same after the cut, is left out, and counted.
    """
    account = Account()
    ids, lengths, answers, groups = array.array("i"), array.array("q"), array.array("q"), array.array("q")
    counted, scores, confidence = bytearray(), array.array("d"), array.array("d")
    metadata: list[dict[str, Any]] = []
    for number, ranking in enumerate(rankings, start=1):
        account.read += 1
        place = place_of(ranking.metadata, number)
        try:
            parts = [render_answer(ranking.prompt, one, ranking.tools, tokenizer) for one in ranking.answers]
        except HanlinError as error:
            account.dropped.append(f"{place}: {error}")
            continue
        room = max(0, length - len(parts[0][0]))
        short = [part[1][:room] for part in parts]
        if not all(any(part[2][:room]) for part in parts):
            left = ", and of an answer no word of the assistant's own comes within the rest" if room else ""
            account.dropped.append(f"{place}: its prompt takes {len(parts[0][0])} of {length} tokens{left}")
            continue
        if len(set(map(tuple, short))) < len(short):
            account.dropped.append(f"{place}: within {length} tokens, two of its answers are the same")
            continue
        account.cut += short != [part[1] for part in parts]
        account.kept += 1
        for (asked, _, marks), answer in zip(parts, short):
            ids.extend(asked + answer)
            counted.extend([False] * len(asked) + marks[: len(answer)])
            lengths.append(len(asked) + len(answer))
            answers.append(len(answer))
        groups.append(len(short))
        scores.extend(ranking.scores)
        confidence.extend([1.0 if ranking.confidence is None else ranking.confidence] * len(short))
        metadata.append(ranking.metadata)
        if progress is not None and number % 100 == 0:
            progress(number)
    rendered = RenderedGroups(
        np.array(ids, np.int32),
        np.array(counted, np.bool_),
        np.array(lengths, np.int64),
        np.array(answers, np.int64),
        np.array(groups, np.int64),
        np.array(scores, np.float64),
        np.array(confidence, np.float64),
        metadata,
    )
    return rendered, account


class GroupsSource:
    """Steps of groups: a pure function of (groups, rows a step, seed, step); every epoch in an order of its own."""

    def __init__(
        self,
        rendered: RenderedGroups,
        rows: int,
        seed: int,
        fields: dict[str, NDArray[Any]] | None = None,
        layout: Layout = "shared",
    ) -> None:
        """`fields` are further values, each [S], that every batch's sequences carry."""
        if not len(rendered):
            raise HanlinError("There is no preference to train on.")
        self.rendered, self.rows, self.seed = rendered, rows, seed
        self.layout: Layout = layout
        self.fields = fields or {}

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which every group has been read once (the last may begin the second epoch)."""
        return -(-len(self.rendered) // self.rows)

    def epochs_at(self, steps: int) -> float:
        """How many times the groups have been read after `steps` steps."""
        return steps * self.rows / len(self.rendered)

    def indices(self, step: int) -> list[int]:
        """The groups of a step."""
        found: list[int] = []
        for place in range(step * self.rows, (step + 1) * self.rows):
            epoch, index = divmod(place, len(self.rendered))
            found.append(int(self._order(epoch)[index]))
        return found

    def _order(self, epoch: int) -> NDArray[Any]:
        known = getattr(self, "_orders", {})
        if epoch not in known:
            self._orders = {epoch: permutation(len(self.rendered), self.seed, "groups", epoch)}
            if epoch - 1 in known:
                self._orders[epoch - 1] = known[epoch - 1]
        return self._orders[epoch]

    def step(self, step: int, rank: int = 0, ranks: int = 1) -> Sequences:
        """This rank's groups of step number `step`."""
        import torch

        indices = self.indices(step)
        batch = self.rendered.sequences(indices, self.layout)
        members = [index for group in indices for index in self.rendered.members(group)]
        for name, values in self.fields.items():
            batch.of_sequence[name] = torch.from_numpy(np.asarray(values)[members])
        return batch.part(rank, ranks)

    def trace(self, step: int) -> list[dict[str, Any]]:
        """What is in the batch of `step`: one entry a group, with the file and row it came from."""
        found: list[dict[str, Any]] = []
        for row, group in enumerate(self.indices(step)):
            about = self.rendered.metadata[group]
            file, record = about.get("file", ""), about.get("row", group + 1)
            found.append(
                {"row": row, "document": f"{file}:{record}", "file": file, "record": record, "line": about.get("line")}
            )
        return found
