"""The held-out documents of a corpus: a bounded sample that is the same every time and gives each source its share."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hanlin.corpus import Document


def language(document: Document) -> str:
    """The document's language as the corpus found it ("und": not known)."""
    return str(document.metadata.get("language") or "und")


def sample(read: Callable[[], Iterator[Document]], max_bytes: int | None) -> list[Document]:
    """At most `max_bytes` of text (None: all) from the documents that `read()` yields, in order of source and hash.

    The bytes are shared evenly among the sources; what a small source leaves goes to the others. Within a source,
    documents come in the order of a hash of their ids, and the last one is cut at its share's end. `read` is called
    twice, so that only the chosen texts are ever held. A smaller sample's whole documents are among a larger one's.
    """
    sizes: dict[str, list[tuple[bytes, str, int]]] = {}
    for document in read():
        size = len(document.text.encode())
        if size:
            sizes.setdefault(document.source, []).append((_rank(document), document.id, size))
    shares = share_out({source: sum(row[2] for row in rows) for source, rows in sizes.items()}, max_bytes)
    wanted: dict[tuple[str, str], int] = {}
    for source, rows in sizes.items():
        left = shares[source]
        for _, identity, size in sorted(rows):
            if left <= 0:
                break
            wanted[source, identity] = min(size, left)
            left -= size
    chosen: list[Document] = []
    for document in read():
        size = wanted.pop((document.source, document.id), 0)
        if size:
            chosen.append(_cut(document, size))
    return sorted((document for document in chosen if document.text), key=lambda one: (one.source, _rank(one)))


def share_out(sizes: Mapping[str, int], budget: int | None) -> dict[str, int]:
    """`budget` bytes divided evenly, none getting more than its size (water-filling)."""
    if budget is None:
        return dict(sizes)
    shares: dict[str, int] = {}
    left = budget
    ordered = sorted(sizes, key=lambda name: (sizes[name], name))
    for place, name in enumerate(ordered):
        shares[name] = min(sizes[name], left // (len(ordered) - place))
        left -= shares[name]
    return shares


def _rank(document: Document) -> bytes:
    return hashlib.sha256(f"held-out {document.id}".encode()).digest()


def _cut(document: Document, size: int) -> Document:
    from dataclasses import replace

    data = document.text.encode()
    if len(data) <= size:
        return document
    return replace(document, text=data[:size].decode(errors="ignore"))
