"""Conversations as tokens, with what is trained on marked: rendered once, kept as flat arrays on disk."""

from __future__ import annotations

import array
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hanlin.artifacts import HanlinError, atomic_path, write_json
from hanlin.data.formats import PlainText

if TYPE_CHECKING:
    from hanlin.tokenization import Conversation, Tokenizer

_INDEX = "conversations.json"


@dataclass
class RenderedConversations:
    """n conversations. 5 bytes a token and 8 a conversation, mapped from disk when loaded."""

    ids: NDArray[np.int32]
    """[tokens] all conversations' token ids, end to end, each with its <|endoftext|> first"""
    trained: NDArray[np.bool_]
    """[tokens] whether the token is to be predicted in training"""
    offsets: NDArray[np.int64]
    """[n + 1] where each conversation starts"""
    metadata: list[dict[str, Any]]
    """[n] where each came from: file, row, line, and its id when the file gives one"""
    pad_id: int

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def save(self, directory: Path) -> None:
        """Write into `directory`; the index comes last: a half-written folder is not taken for a whole one."""
        for name, values in (("ids", self.ids), ("trained", self.trained), ("offsets", self.offsets)):
            with atomic_path(directory / f"conversations.{name}.npy") as path, path.open("wb") as file:
                np.save(file, values)
        with atomic_path(directory / "conversations.jsonl") as path, path.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps(entry, ensure_ascii=False) + "\n" for entry in self.metadata)
        write_json(directory / _INDEX, {"conversations": len(self), "tokens": len(self.ids), "pad_id": self.pad_id})

    @classmethod
    def load(cls, directory: Path) -> RenderedConversations:
        """Open what `save` wrote. Raises HanlinError when it is not there."""
        if not (directory / _INDEX).is_file():
            raise HanlinError(f"{directory} holds no rendered conversations: it has no {_INDEX}.")
        index = json.loads((directory / _INDEX).read_text(encoding="utf-8"))
        ids, trained, offsets = (
            np.asarray(np.load(directory / f"conversations.{name}.npy", mmap_mode="r"))
            for name in ("ids", "trained", "offsets")
        )
        with (directory / "conversations.jsonl").open(encoding="utf-8") as file:
            metadata = [json.loads(line) for line in file]
        return cls(ids, trained, offsets, metadata, index["pad_id"])


def render_conversations(
    examples: Iterable[Conversation | PlainText],
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None = None,
) -> RenderedConversations:
    """Tokens of every example by the tokenizer's chat template; a text is `<|endoftext|> text <|endoftext|>`, all
    trained. What comes after a conversation's last trained token is left off: it would change nothing.

    `progress` is called with the number done. Raises HanlinError for a tokenizer that no model can learn to chat with
    (`Tokenizer.check_chat`: no template, pad = eos, …) when there is a conversation, and for a template that does not
    round-trip, naming the row.
    """
    ids, trained, offsets = array.array("i"), bytearray(), array.array("q", [0])
    metadata: list[dict[str, Any]] = []
    checked = False
    for done, example in enumerate(examples, start=1):
        if isinstance(example, PlainText):
            border = tokenizer.end_of_text_id
            tokens = [border, *tokenizer.encode(example.text), border]
            marks = [True] * len(tokens)
        else:
            if not checked:
                tokenizer.check_chat()
                checked = True
            try:
                rendered = tokenizer.render_tokens(example)
            except HanlinError as error:
                raise HanlinError(f"{place_of(example.metadata, done)}: {error}") from None
            tokens, marks = rendered.ids, list(rendered.trained)
            if untrained := example.metadata.get("untrained_answers"):
                _unmark(marks, untrained, sum(message.role == "assistant" for message in example.messages))
        end = max((place + 1 for place, mark in enumerate(marks) if mark), default=len(marks))
        ids.extend(tokens[:end])
        trained.extend(marks[:end])
        offsets.append(len(ids))
        metadata.append(example.metadata)
        if progress is not None and done % 100 == 0:
            progress(done)
    return RenderedConversations(
        np.frombuffer(ids, np.int32) if ids else np.zeros(0, np.int32),
        np.frombuffer(trained, np.bool_) if trained else np.zeros(0, np.bool_),
        np.frombuffer(offsets, np.int64),
        metadata,
        # Padding is known by its place, not by its id: any token will do for a tokenizer that has none for it.
        tokenizer.end_of_text_id if tokenizer.pad_id is None else tokenizer.pad_id,
    )


def place_of(metadata: dict[str, Any], number: int) -> str:
    """Where a conversation stands, for people; `number` is used when its file has not been recorded."""
    line = f" (line {metadata['line']})" if metadata.get("line") else ""
    return f"{metadata.get('file', 'conversation')}, row {metadata.get('row', number)}{line}"


def _unmark(marks: list[bool], untrained: list[int], answers: int) -> None:
    """Take the marks off some answers. Each answer is one run of marked tokens: what the template writes before it is
    not marked. Raises HanlinError when a template makes them run together."""
    starts = [place for place, mark in enumerate(marks) if mark and (place == 0 or not marks[place - 1])]
    if len(starts) != answers:
        raise HanlinError(
            f"A conversation has messages of weight 0, but this chat template makes {len(starts)} trained pieces of "
            f"its {answers} answers, so they can't be told apart. Use a template that begins each turn with a heading."
        )
    for number in untrained:
        place = starts[number]
        while place < len(marks) and marks[place]:
            marks[place] = False
            place += 1
