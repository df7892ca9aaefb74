"""Floor 1: raw files to clean documents: read, normalise, deduplicate, split, and account for every byte.

    files ─ stream.py (decompress, count) ─ readers/ (find the records) ─ normalise.py ─ filters.py ─ split.py ─
    shards.py
                                                     └────────────── every record and every byte ──────────── ledger.py

`build.py` holds the stage. Nothing here imports pyarrow, ftfy or a language model before it is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hanlin.corpus.document import Document, Overhead, Record

if TYPE_CHECKING:
    from hanlin.corpus.readers import read_documents
    from hanlin.corpus.shards import iterate_documents

__all__ = ["Document", "Overhead", "Record", "iterate_documents", "read_documents"]


def __getattr__(name: str) -> Any:
    # pyarrow and resiliparse take a while to import: only those who read documents wait for them.
    if name == "iterate_documents":
        from hanlin.corpus.shards import iterate_documents

        return iterate_documents
    if name == "read_documents":
        from hanlin.corpus.readers import read_documents

        return read_documents
    raise AttributeError(f"module 'hanlin.corpus' has no attribute {name!r}")
