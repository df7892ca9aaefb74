"""What a reader finds in a file, and what a corpus is made of."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

ID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Document:
    """One clean document.

    `id` is the first 32 hex digits (128 bits) of the SHA-256 of the normalised text in UTF-8: equal texts have equal
    ids.
    `source` is the name under which mixtures, validation figures and reports count it.
    `metadata` holds `file` (relative to the input), `offset` (bytes into the decompressed file), `bytes` (raw bytes of
    the record), `language`, and what the record itself told (title, url, …).
    """

    id: str
    text: str
    source: str
    metadata: dict[str, Any]


@dataclass(slots=True)
class Record:
    """A span of a file that stands for one document, or for what should have been one.

    Exactly one of three holds: `text` is there (it may still be dropped by a filter); `rule` is there (the reader
    itself drops it: an HTTP request in a WARC file); `reason` alone is there (it could not be read: quarantined).
    `offset` and `raw_bytes` place it in the decompressed file; `unread_bytes` counts bytes on disk that the record
    stands for and that were never decompressed (the rest of a broken gzip file).
    """

    offset: int
    raw_bytes: int
    text: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])
    reason: str | None = None
    rule: str | None = None
    measured: float | None = None
    threshold: float | None = None
    unread_bytes: int = 0


@dataclass(slots=True)
class Overhead:
    """A span of a file that belongs to its format and to no record: line ends, JSON brackets, WARC headers."""

    offset: int
    raw_bytes: int


Span = Record | Overhead


def document_id(text: str) -> str:
    """The id of a normalised text."""
    return hashlib.sha256(text.encode()).hexdigest()[:ID_DIGITS]
