"""Readers: from a stream of bytes to records and overhead, in the order of the file, with no gap between them.

A reader is a generator over a `ByteStream`; every byte that it takes from the stream is in exactly one span that it
yields, which
`corpus.build` checks. What can't be read becomes a quarantined record, never an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hanlin.artifacts import UsageError
from hanlin.corpus.document import Record, Span
from hanlin.corpus.formats import Format, find_format
from hanlin.corpus.inputs import Root, walk
from hanlin.corpus.normalise import normalise
from hanlin.corpus.stream import ByteStream

HEAD = 64 << 10


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What a reader is told."""

    name: str
    format: Format
    text_fields: Sequence[str] | None = None
    part_bytes: int = 16 << 20
    """Plain text and code longer than this is read in parts of at most so many bytes."""
    max_record_bytes: int = 64 << 20
    """What any other single record may hold; a longer one is quarantined unread, so that memory stays bounded."""


Reader = Callable[[ByteStream, ReadOptions], Iterator[Span]]


def _reader(format: str) -> Reader:
    # Imported here because the readers take ReadOptions from this module, and some bring heavy libraries.
    from hanlin.corpus.readers import json, tables, text, warc

    readers: dict[str, Reader] = {
        "html": text.read_html,
        "pdf": text.read_pdf,
        "json": json.read_json,
        "jsonl": json.read_jsonl,
        "csv": tables.read_csv,
        "parquet": tables.read_parquet,
        "arrow": tables.read_arrow,
        "warc": warc.read_warc,
        "arc": warc.read_arc,
        "binary": text.read_binary,
    }
    return readers.get(format, text.read_text)


def read_stream(
    stream: ByteStream,
    name: str,
    text_fields: Sequence[str] | None = None,
    part_bytes: int = 16 << 20,
    max_record_bytes: int = 64 << 20,
) -> tuple[Format, Iterator[Span]]:
    """Look at an opened file, and return its format and its spans."""
    format = find_format(name, stream.peek(HEAD))
    options = ReadOptions(name, format, text_fields, part_bytes, max_record_bytes)
    return format, _spans(stream, options)


def _spans(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    end = 0
    try:
        for span in _reader(options.format.name)(stream, options):
            end = span.offset + span.raw_bytes
            yield span
    except Exception as error:
        # A library under a reader failed in a way that nobody foresaw: that must not stop a build of a million files.
        stream.drain()
        reason = f"the {options.format.name} reader failed: {type(error).__name__}: {error}"
        yield Record(end, stream.raw_bytes - end, reason=reason)
    if stream.damage is not None:
        reason = f"{stream.damage}; {stream.unread} bytes of the file were not read"
        yield Record(stream.raw_bytes, 0, reason=reason, unread_bytes=stream.unread)


def read_documents(path: Path, text_fields: Sequence[str] | None = None) -> Iterator[Record]:
    """Every record of a file or a folder, in any format, its text normalised; records that hold no text have a `reason`
    or a `rule`.

    `metadata["file"]` is the file's name relative to `path`. Raises UsageError when `path` does not exist.
    """
    if not path.exists():
        raise UsageError(f"{path} does not exist: name a file or a folder with text.")
    for file in walk([Root(path)]):
        if file.rule or file.reason:
            yield Record(0, 0, metadata={"file": file.name}, rule=file.rule, reason=file.reason)
            continue
        try:
            stream = ByteStream(file.path)
        except OSError as error:
            yield Record(0, 0, metadata={"file": file.name}, reason=f"can't be opened: {error.strerror}")
            continue
        with stream:
            format, spans = read_stream(stream, file.path.name, text_fields)
            for span in spans:
                if isinstance(span, Record):
                    span.metadata["file"] = file.name
                    if span.text is not None:
                        span.text = normalise(span.text, format.name)[0]
                    yield span
