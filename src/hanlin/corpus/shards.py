"""Documents on disk: Parquet shards, written and read in a stream."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from hanlin.artifacts import HanlinError
from hanlin.corpus.arrow import pa, pq
from hanlin.corpus.document import Document

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("bytes", pa.int64()),
        ("metadata", pa.string()),
    ]
)
GROUP_DOCUMENTS = 2_000
GROUP_BYTES = 8 << 20
SHARD_BYTES = 256 << 20
ROWS_AT_ONCE = 256


class ParquetRows:
    """Rows collected into bounded row groups of one Parquet file. The file exists from the first row group on, or from
    `close`."""

    def __init__(self, path: Path, schema: Any, group_rows: int, group_bytes: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # A dictionary of values that hardly repeat (texts, ids) would only cost memory.
        repeating = [name for name in schema.names if name not in {"text", "id", "metadata"}]
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", compression_level=3, use_dictionary=repeating)
        self._schema, self._group_rows, self._group_bytes = schema, group_rows, group_bytes
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0

    def add(self, row: dict[str, Any], size: int = 0) -> None:
        self._rows.append(row)
        self._bytes += size
        if len(self._rows) >= self._group_rows or self._bytes >= self._group_bytes:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._writer.write_table(pa.Table.from_pylist(self._rows, self._schema), row_group_size=len(self._rows))
        self._rows, self._bytes = [], 0

    def close(self) -> None:
        self._flush()
        self._writer.close()


def valid_text(text: str) -> str:
    """The text with lone surrogates (from JSON escapes, or from bytes that are no text) replaced: UTF-8 has none."""
    try:
        text.encode()
        return text
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")


class ShardWriter:
    """Writes the documents of one split into `directory/00000.parquet`, `00001.parquet`, …; there is always at least
    one shard."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._number = 0
        self._bytes = 0
        self.documents = 0
        self._rows = self._open()

    def _open(self) -> ParquetRows:
        path = self._directory / f"{self._number:05d}.parquet"
        return ParquetRows(path, SCHEMA, GROUP_DOCUMENTS, GROUP_BYTES)

    def add(self, document: Document, size: int) -> None:
        """`size`: bytes of the text in UTF-8."""
        if self._bytes >= SHARD_BYTES:
            self._rows.close()
            self._number, self._bytes = self._number + 1, 0
            self._rows = self._open()
        about = dict(document.metadata)
        row = {
            "id": document.id,
            "text": document.text,
            "source": document.source,
            "language": about.pop("language"),
            "file": about.pop("file"),
            "offset": about.pop("offset"),
            "bytes": size,
            "metadata": valid_text(json.dumps(about, ensure_ascii=False, sort_keys=True)),
        }
        self._rows.add(row, size)
        self._bytes += size
        self.documents += 1

    def close(self) -> None:
        self._rows.close()


def shard_paths(corpus: Path, split: str) -> list[Path]:
    """The shards of a split, in order. Raises HanlinError when there are none."""
    paths = sorted((corpus / split).glob("*.parquet"))
    if not paths:
        raise HanlinError(f"{corpus} has no split {split!r}: is it a corpus? It should hold train/ and validation/.")
    return paths


def iterate_documents(corpus: Path, split: str, columns: Sequence[str] | None = None) -> Iterator[Document]:
    """The documents of a split (`train` or `validation`), streamed in their order.

    `columns` names the columns to be read (of id, text, source, language, file, offset, bytes, metadata; default: all);
    what is not read is empty in the documents. In `metadata`, `bytes` is the record's raw length and `text_bytes` that
    of the text.
    """
    for path in shard_paths(corpus, split):
        with pq.ParquetFile(path, buffer_size=1 << 20) as file:
            names = list(columns) if columns is not None else SCHEMA.names
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=names):
                for row in batch.to_pylist():
                    about: dict[str, Any] = json.loads(row.pop("metadata", None) or "{}")
                    if "bytes" in row:
                        about["text_bytes"] = row.pop("bytes")
                    id, text, source = row.pop("id", ""), row.pop("text", ""), row.pop("source", "")
                    yield Document(id, text, source, {**row, **about})
