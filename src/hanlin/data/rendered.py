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
        """Write into `directory`; the index comes last, so that a half-written folder is never taken for a whole one."""
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

    @classmethod
    def cached(cls, directory: Path, render: Callable[[], RenderedConversations]) -> RenderedConversations:
        """What an earlier run left in `directory`, or else `render()`, saved there."""
        if not (directory / _INDEX).is_file():
            render().save(directory)
        return cls.load(directory)


def render_conversations(
    examples: Iterable[Conversation | PlainText],
    tokenizer: Tokenizer,
    progress: Callable[[int], None] | None = None,
) -> RenderedConversations:
    """Tokens of every example by the tokenizer's chat template; a text is `<|endoftext|> text <|endoftext|>`, all trained.

    `progress` is called with the number done. Raises HanlinError when the tokenizer pads with a token that ends a text or
    a turn: the model would be taught never to stop, or to stop nowhere.
    """
    ends = {"<|endoftext|>": tokenizer.end_of_text_id, "the end of a turn": tokenizer.end_of_turn_id}
    for name, token in ends.items():
        if token == tokenizer.pad_id:
            raise HanlinError(
                f"The tokenizer pads with {name} (id {token}): padding is not trained on, so the model would never learn "
                "to end. Give the tokenizer a padding token of its own (hanlin's has <|pad|>)."
            )
    ids, trained, offsets = array.array("i"), bytearray(), array.array("q", [0])
    metadata: list[dict[str, Any]] = []
    for done, example in enumerate(examples, start=1):
        if isinstance(example, PlainText):
            end = tokenizer.end_of_text_id
            tokens = [end, *tokenizer.encode(example.text), end]
            marks = [True] * len(tokens)
        else:
            rendered = tokenizer.render_tokens(example)
            tokens, marks = rendered.ids, rendered.trained
        ids.extend(tokens)
        trained.extend(marks)
        offsets.append(len(ids))
        metadata.append(example.metadata)
        if progress is not None and done % 100 == 0:
            progress(done)
    return RenderedConversations(
        np.frombuffer(ids, np.int32) if ids else np.zeros(0, np.int32),
        np.frombuffer(trained, np.bool_) if trained else np.zeros(0, np.bool_),
        np.frombuffer(offsets, np.int64),
        metadata,
        tokenizer.pad_id,
    )
