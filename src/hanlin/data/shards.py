"""Token shards on disk: one flat file of token ids a split, mapped into memory, with where each document lies in it.

The folder of a `tokens` artifact (see `hanlin.data.stage`, which writes it):

    tokens.json              dtype, vocabulary_size, end_of_text_id, weights, and per split tokens, documents, sources
    <split>.bin              token ids, little-endian uint16 or uint32; a document is <|endoftext|> and its tokens
    <split>.offsets.npy      int64 [documents + 1]: where each document starts, in tokens
    <split>.documents.parquet  of each document, in the same order: id, source, language, file, offset and
                             raw_bytes (in the decompressed file), bytes (of its text in UTF-8)
    token_counts.npy         int64 [vocabulary]: how often each id occurs in the training split
    tokenizer/               the tokenizer, so that training needs nothing else
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hanlin.artifacts import HanlinError

INDEX = "tokens.json"
DOCUMENT_COLUMNS = ("id", "source", "language", "file", "offset", "raw_bytes", "bytes")


@dataclass(frozen=True)
class TokenShards:
    """One split of a tokens artifact. Token ids stay on disk; 8 bytes a document are mapped for the offsets."""

    directory: Path
    split: str
    tokens: NDArray[np.unsignedinteger]
    """[tokens], uint16 or uint32, mapped from the file"""
    offsets: NDArray[np.int64]
    """[documents + 1], mapped from the file"""
    vocabulary_size: int
    end_of_text_id: int
    weights: dict[str, float] | None = field(default=None)
    """The corpus's mixture weights by source (shares of an epoch's tokens); None: each document once."""

    @classmethod
    def open(cls, directory: Path, split: str = "train") -> TokenShards:
        """Open `split` of the artifact in `directory`. Raises HanlinError when it is not there or cut short."""
        index = directory / INDEX
        if not index.is_file():
            raise HanlinError(
                f"{directory} holds no token shards: it has no {INDEX}. Give the folder of a tokens stage."
            )
        about: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        if split not in about["splits"]:
            raise HanlinError(f"{directory} has no split {split!r}; it has {', '.join(about['splits'])}.")
        path = directory / f"{split}.bin"
        dtype, count = np.dtype(about["dtype"]), int(about["splits"][split]["tokens"])
        size = path.stat().st_size if path.is_file() else -1
        if size != count * dtype.itemsize:
            raise HanlinError(
                f"{path} should hold {count} tokens ({count * dtype.itemsize} bytes) but has {max(size, 0)} bytes: "
                "the artifact is damaged; remove it and run its stage again."
            )
        # An empty file can't be mapped. The plain-array view of the map is indexed several times faster than np.memmap.
        tokens = np.asarray(np.memmap(path, dtype, "r")) if count else np.zeros(0, dtype)
        offsets = np.asarray(np.load(directory / f"{split}.offsets.npy", mmap_mode="r"))
        return cls(
            directory, split, tokens, offsets, about["vocabulary_size"], about["end_of_text_id"], about["weights"]
        )

    def __len__(self) -> int:
        """How many documents there are."""
        return len(self.offsets) - 1

    def document(self, index: int) -> NDArray[np.unsignedinteger]:
        """Token ids of one document, its <|endoftext|> first (a view of the file)."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def table(self, columns: list[str] | None = None) -> Any:
        """The documents table (or some of its columns) as a pyarrow Table, one row a document."""
        from hanlin.corpus.arrow import pq

        return pq.read_table(self.directory / f"{self.split}.documents.parquet", columns=columns)

    @cached_property
    def sources(self) -> tuple[NDArray[np.int32], list[str]]:
        """Each document's source, as (int32 [documents] of numbers, the sources' names in alphabetical order)."""
        column = self.table(["source"]).column("source").combine_chunks().dictionary_encode()
        names: list[str] = column.dictionary.to_pylist()
        ranks = {name: rank for rank, name in enumerate(sorted(names))}
        renumber = np.array([ranks[name] for name in names], np.int32)
        codes = column.indices.to_numpy(zero_copy_only=False)
        return renumber[codes] if len(names) else np.zeros(0, np.int32), sorted(names)

    def describe(self, indices: NDArray[np.integer]) -> list[dict[str, Any]]:
        """The documents table's rows for some documents, as dictionaries."""
        return self._documents.take(indices).to_pylist()

    @cached_property
    def _documents(self) -> Any:
        return self.table(list(DOCUMENT_COLUMNS))
