"""The stage `tokens`: a corpus's documents as memory-mapped token shards (`hanlin.data.shards` reads them)."""

from __future__ import annotations

import array
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from hanlin.artifacts import Progress, Settings, Stage, StageContext, atomic_path, write_json

if TYPE_CHECKING:
    from hanlin.corpus import Document
    from hanlin.tokenization import Tokenizer

_BATCH_CHARACTERS = 1 << 20
"""Text given to the tokenizer at once: enough to keep its threads busy, little enough that memory stays flat."""


class TokensSettings(Settings):
    """Encodes a corpus with a tokenizer, so that training reads token ids straight from disk."""

    corpus: str
    """The corpus stage whose documents are encoded."""
    tokenizer: str
    """The tokenizer stage that encodes them; its files are copied into the artifact."""
    weights: dict[str, float] | None = Field(default=None)
    """Share of the training tokens that each source gets, in any unit; the corpus's own weights when not given."""


def run_tokens(settings: TokensSettings, context: StageContext) -> dict[str, Any]:
    """Build the shards in `context.workdir`. A split that an interrupted run had finished is not encoded again."""
    import numpy as np

    from hanlin.data.order import mixture_repeats
    from hanlin.tokenization import Tokenizer

    corpus, workdir = context.inputs["corpus"], context.workdir
    weights = settings.weights if settings.weights is not None else corpus.manifest.settings.get("weights")
    # Weights that do not fit are refused before the work, here on bytes; the repeats that count are those of tokens.
    mixture_repeats({name: source["bytes"] for name, source in corpus.figures["sources"].items()}, weights)
    tokenizer = Tokenizer.load(context.inputs["tokenizer"].path)
    tokenizer.save(workdir / "tokenizer")
    total = sum(source["bytes"] for source in corpus.figures["sources"].values())
    splits: dict[str, dict[str, Any]] = {}
    done = 0
    for split in ("train", "validation"):
        finished = workdir / f".{split}.json"
        if not finished.is_file():
            write_json(finished, _encode_split(corpus.path, split, tokenizer, workdir, context.progress, done, total))
        splits[split] = json.loads(finished.read_text(encoding="utf-8"))
        done += splits[split]["bytes"]
    counts, unseen = np.load(workdir / "token_counts.npy"), np.load(workdir / ".validation.counts.npy")
    sources = {name: values["tokens"] for name, values in splits["train"]["sources"].items()}
    repeats = mixture_repeats(sources, weights)
    index = {
        "dtype": np.dtype(_dtype(tokenizer)).name,
        "vocabulary_size": tokenizer.vocabulary_size,
        "end_of_text_id": tokenizer.end_of_text_id,
        "weights": weights,
        "splits": {
            name: {"tokens": split["tokens"], "documents": split["documents"]} for name, split in splits.items()
        },
    }
    write_json(workdir / "tokens.json", index)
    for name in (".train.json", ".validation.json", ".validation.counts.npy"):
        (workdir / name).unlink()
    never = int((counts == 0).sum())
    return {
        **splits,
        "weights": weights,
        "repeats": repeats,
        "vocabulary": {
            "size": tokenizer.vocabulary_size,
            "never_seen": never,
            "never_seen_share": never / max(1, len(counts)),
            "validation_tokens_never_seen": int(unseen[counts == 0].sum()),
            "validation_tokens_never_seen_share": int(unseen[counts == 0].sum()) / max(1, int(unseen.sum())),
        },
    }


def _dtype(tokenizer: Tokenizer) -> str:
    return "<u2" if tokenizer.vocabulary_size <= 1 << 16 else "<u4"


def _batches(documents: Iterator[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _encode_split(
    corpus: Path, split: str, tokenizer: Tokenizer, workdir: Path, progress: Progress, done: int, total: int
) -> dict[str, Any]:
    """Write one split's files (each appears whole or not at all) and return its figures."""
    import numpy as np

    from hanlin.corpus import iterate_documents
    from hanlin.corpus.arrow import pa, pq

    schema = pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),
            ("language", pa.string()),
            ("file", pa.string()),
            ("offset", pa.int64()),
            ("raw_bytes", pa.int64()),
            ("bytes", pa.int64()),
        ]
    )
    offsets = array.array("q", [0])
    counts = np.zeros(tokenizer.vocabulary_size, np.int64)
    sources: dict[str, dict[str, int]] = {}
    languages: dict[str, dict[str, int]] = {}
    whole = {"documents": 0, "tokens": 0, "bytes": 0}
    largest: dict[str, Any] = {"tokens": 0}
    with (
        atomic_path(workdir / f"{split}.bin") as bin_path,
        atomic_path(workdir / f"{split}.documents.parquet") as table_path,
        bin_path.open("wb") as file,
        pq.ParquetWriter(table_path, schema, compression="zstd") as writer,
    ):
        for batch in _batches(iterate_documents(corpus, split)):
            encoded = tokenizer.encode_batch([document.text for document in batch])
            streams = [np.array([tokenizer.end_of_text_id, *ids], _dtype(tokenizer)) for ids in encoded]
            joined = np.concatenate(streams)
            joined.tofile(file)
            counts += np.bincount(joined, minlength=len(counts))
            rows = [_row(document) for document in batch]
            for row, stream in zip(rows, streams, strict=True):
                offsets.append(offsets[-1] + len(stream))
                added = {"documents": 1, "tokens": len(stream), "bytes": row["bytes"]}
                for table in (
                    whole,
                    sources.setdefault(row["source"], dict.fromkeys(whole, 0)),
                    languages.setdefault(row["language"], dict.fromkeys(whole, 0)),
                ):
                    for name, value in added.items():
                        table[name] += value
                if len(stream) > largest["tokens"]:
                    largest = {"tokens": len(stream), **{name: row[name] for name in ("id", "source", "file", "bytes")}}
            writer.write_table(pa.Table.from_pylist(rows, schema))
            progress.update(done + whole["bytes"], total, f"{split}: {whole['tokens']:,} tokens")
    with atomic_path(workdir / f"{split}.offsets.npy") as path, path.open("wb") as file:
        np.save(file, np.frombuffer(offsets, np.int64))
    name = "token_counts.npy" if split == "train" else ".validation.counts.npy"
    with atomic_path(workdir / name) as path, path.open("wb") as file:
        np.save(file, counts)
    return {
        **_with_ratio(whole),
        "sources": {name: _with_ratio(table) for name, table in sorted(sources.items())},
        "languages": {name: _with_ratio(table) for name, table in sorted(languages.items())},
        "largest_document": largest,
    }


def _row(document: Document) -> dict[str, Any]:
    """A document's row of the documents table; `bytes` is its text's UTF-8 length, which bits-per-byte divides by.
    `offset` and `raw_bytes` say where its record lies in the decompressed file."""
    return {
        "id": document.id,
        "source": document.source,
        "language": document.metadata.get("language") or "unknown",
        "file": document.metadata.get("file") or "",
        "offset": document.metadata.get("offset") or 0,
        "raw_bytes": document.metadata.get("bytes") or 0,
        "bytes": len(document.text.encode()),
    }


def _with_ratio(table: dict[str, int]) -> dict[str, Any]:
    """Bytes per token counts the <|endoftext|> of each document too: it is what training reads."""
    return {**table, "bytes_per_token": table["bytes"] / max(1, table["tokens"])}


TOKENS_STAGE = Stage(
    kind="tokens",
    settings=TokensSettings,
    run=run_tokens,
    inputs={"corpus": ("corpus",), "tokenizer": ("tokenizer",)},
)
