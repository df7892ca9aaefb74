"""Small token shards made by the tests themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from hanlin.data.shards import TokenShards

END = 0
VOCABULARY = 60_000


def make_shards(
    directory: Path, lengths: list[int], sources: list[str] | None = None, weights: dict[str, float] | None = None
) -> TokenShards:
    """Documents of these lengths (the <|endoftext|> counted); every other token's id is its place, so it is unique."""
    directory.mkdir(parents=True, exist_ok=True)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    tokens = np.arange(offsets[-1], dtype=np.uint16)
    tokens[offsets[:-1]] = END
    sources = sources or ["s"] * len(lengths)
    table = pa.table(
        {
            "id": [f"id{i}" for i in range(len(lengths))],
            "source": sources,
            "language": ["en"] * len(lengths),
            "file": [f"{source}.txt" for source in sources],
            "offset": list(range(100, 100 + len(lengths))),
            "raw_bytes": [4 * length for length in lengths],
            "bytes": [3 * length for length in lengths],
        }
    )
    about = {
        "dtype": "uint16",
        "vocabulary_size": VOCABULARY,
        "end_of_text_id": END,
        "weights": weights,
        "splits": {name: {"tokens": int(offsets[-1]), "documents": len(lengths)} for name in ("train", "validation")},
    }
    for split in ("train", "validation"):
        tokens.tofile(directory / f"{split}.bin")
        np.save(directory / f"{split}.offsets.npy", offsets)
        pq.write_table(table, directory / f"{split}.documents.parquet")
    (directory / "tokens.json").write_text(json.dumps(about))
    return TokenShards.open(directory)
