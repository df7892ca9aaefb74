"""One document a file: plain text, Markdown, reStructuredText, source code, HTML, PDF."""

from __future__ import annotations

import importlib
import io
from collections.abc import Iterator
from typing import Any

from hanlin.corpus.decode import UndecodableError, byte_order_mark, decode_html, decode_text
from hanlin.corpus.document import Record, Span
from hanlin.corpus.readers import ReadOptions
from hanlin.corpus.stream import ByteStream


def read_binary(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """A file that is not text: quarantined, and not read further."""
    stream.abandon()
    yield Record(0, 0, reason=options.format.reason or "binary data", unread_bytes=stream.size)


def _too_long(stream: ByteStream, start: int, options: ReadOptions) -> Record:
    stream.drain()
    return Record(
        start,
        stream.position - start,
        reason=f"one {options.format.name} record of over {options.max_record_bytes} bytes",
    )


def read_text(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """Text and code: the file is the document. One longer than `part_bytes` is cut there, at a blank line if there is
    one in the second half of the part, else at a line's end: so memory stays flat, and no text is lost."""
    mark = byte_order_mark(stream.peek(4))
    wide = mark is not None and mark[1] != "utf-8"
    part = 0
    while True:
        start = stream.position
        data = stream.read(options.part_bytes + 1)
        if len(data) > options.part_bytes:
            if wide:  # its line feeds are no single bytes
                yield _too_long(stream, start, options)
                return
            cut = _cut(data, options.part_bytes)
            stream.unread_data(data[cut:])
            data = data[:cut]
        elif not data:
            return
        yield _text_record(data, start, part if part or stream.peek(1) else None, options)
        part += 1


def _cut(data: bytes, limit: int) -> int:
    for separator in (b"\n\n", b"\n"):
        at = data.rfind(separator, limit // 2, limit)
        if at >= 0:
            return at + len(separator)
    cut = limit
    while cut > limit - 4 and data[cut] & 0xC0 == 0x80:  # not inside a UTF-8 character
        cut -= 1
    return cut


def _text_record(data: bytes, start: int, part: int | None, options: ReadOptions) -> Record:
    try:
        text, encoding = decode_text(data)
    except UndecodableError as error:
        return Record(start, len(data), reason=str(error))
    metadata: dict[str, Any] = {}
    if encoding != "utf-8":
        metadata["encoding"] = encoding
    if part is not None:
        metadata["part"] = part
    if options.format.programming:
        metadata["programming_language"] = options.format.programming
    return Record(start, len(data), text, metadata)


def page_text(html: str) -> tuple[str, dict[str, Any]]:
    """The main content of a page, and its title. Where the heuristics find no main content, all visible text (and
    `extraction: "all"` says so)."""
    from resiliparse.extract.html2text import extract_plain_text
    from resiliparse.parse.html import HTMLTree

    tree = HTMLTree.parse(html)
    metadata: dict[str, Any] = {"title": tree.title.strip()[:512]} if tree.title and tree.title.strip() else {}
    text = extract_plain_text(tree, main_content=True, preserve_formatting=True, alt_texts=False)
    if not text.strip():
        text = extract_plain_text(tree, preserve_formatting=True, alt_texts=False)
        metadata["extraction"] = "all"
    return text, metadata


def read_html(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """A page: its main content."""
    data = stream.read(options.max_record_bytes)
    if stream.peek(1):
        yield _too_long(stream, 0, options)
        return
    if not data:
        return
    html, encoding = decode_html(data)
    text, metadata = page_text(html)
    if encoding != "utf-8":
        metadata["encoding"] = encoding
    yield Record(0, len(data), text, metadata)


def read_pdf(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """A PDF's text, page by page, where `pypdf` is installed."""
    data = stream.read(options.max_record_bytes)
    if stream.peek(1):
        yield _too_long(stream, 0, options)
        return
    try:
        pypdf: Any = importlib.import_module("pypdf")
    except ImportError:
        reason = "reading PDF needs pypdf: pip install pypdf, and build the corpus again"
        yield Record(0, len(data), reason=reason)
        return
    try:
        pages: list[str] = [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages]
    except Exception as error:  # whatever a broken PDF brings out of the library
        yield Record(0, len(data), reason=f"pypdf: {type(error).__name__}: {error}")
        return
    yield Record(0, len(data), "\n\n".join(pages), {"pages": len(pages)})
