"""Web archives: WARC (with WET) and the older ARC.

The frame of the records is found here, because every byte must be counted and a broken record must not hide the next
one; what is inside an HTTP response is FastWARC's work. WARC: ISO 28500:2017. ARC:
https://archive.org/web/researcher/ArcFileFormat.php.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import Any

from hanlin.corpus.decode import UndecodableError, decode_html, decode_text
from hanlin.corpus.document import Overhead, Record, Span
from hanlin.corpus.readers import ReadOptions
from hanlin.corpus.readers.text import page_text
from hanlin.corpus.stream import CHUNK, ByteStream

WARC_START = re.compile(rb"^WARC/\d\.\d+\r?\n", re.MULTILINE)
# URL (it may hold spaces), then IP address, date, media type and length; version 2 has five fields more before the
# length.
ARC_START = re.compile(
    rb"^([a-z][a-z0-9+.-]*:[^\r\n]*?) (\S+) (\d{8,18}) (\S+)(?:(?: \S+){5})? (\S+)\r?\n", re.IGNORECASE | re.MULTILINE
)
LONGEST_HEADER = 64 << 10
HTML = frozenset({"text/html", "application/xhtml+xml"})
WITH_TEXT = frozenset({"response", "resource", "conversion"})


class _Archive:
    """What WARC and ARC have in common: records with a stated length, and going on after one whose length is wrong."""

    def __init__(self, stream: ByteStream, options: ReadOptions, start: re.Pattern[bytes]) -> None:
        self._stream, self._options, self._start = stream, options, start

    def blank(self) -> Iterator[Span]:
        """Line ends between records."""
        start = self._stream.position
        while (head := self._stream.peek(1)) and head in b"\r\n":
            self._stream.read(1)
        if self._stream.position > start:
            yield Overhead(start, self._stream.position - start)

    def block(self, start: int, length: int) -> bytes | Record:
        """The block of a record that began at `start`; a finished record when it is too long to be held or breaks
        off."""
        begin = self._stream.position
        if length > self._options.max_record_bytes:
            left = length
            while left and (data := self._stream.read(min(left, CHUNK))):
                left -= len(data)
            met = self._stream.position - start
            if left:
                return Record(start, met, reason=f"breaks off: {length - left} of {length} bytes are there")
            return Record(
                start, met, rule="max_record_bytes", measured=length, threshold=self._options.max_record_bytes
            )
        data = self._stream.read(length)
        if len(data) == length:
            return data
        # The stated length may be wrong, and later records may be inside what was read.
        reason = f"breaks off: {len(data)} of {length} bytes are there"
        self._stream.unread_data(data)
        return self.skip(start, begin, reason)

    def skip(self, start: int, search_from: int, reason: str) -> Record:
        """Quarantine from `start` up to the next line, from the stream's position on, that begins a record."""
        assert self._stream.position == search_from
        while True:
            line = self._stream.peek(LONGEST_HEADER)
            match = self._start.search(line)
            if match is not None:
                self._stream.read(match.start())
                break
            # Keep what may be the beginning of a line that goes on behind the buffer.
            known = line.rfind(b"\n") + 1
            if not self._stream.read(known or len(line)) or len(line) < LONGEST_HEADER:
                self._stream.drain()
                break
        return Record(start, self._stream.position - start, reason=reason)

    def ends_well(self) -> bool:
        """After a block: line ends and then a record, or the end of the file."""
        after = self._stream.peek(4 + LONGEST_HEADER).lstrip(b"\r\n")
        return not after or self._start.match(after) is not None


def read_warc(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """The pages of a WARC file, and the texts of a WET file."""
    archive = _Archive(stream, options, WARC_START)
    while True:
        yield from archive.blank()
        start = stream.position
        first = stream.readline(LONGEST_HEADER)
        if not first:
            return
        if WARC_START.match(first) is None:
            yield archive.skip(start, stream.position, "no WARC record begins here")
            continue
        fields, complete = _header(stream)
        length = fields.get("content-length", "")
        if not complete or not (length.isascii() and length.isdigit()):
            why = f"its Content-Length is {length!r}" if complete else "its header breaks off"
            yield archive.skip(start, stream.position, f"broken WARC record: {why}")
            continue
        begin = stream.position
        block = archive.block(start, int(length))
        if isinstance(block, Record):
            yield block
        elif not archive.ends_well():
            stream.unread_data(block)
            yield archive.skip(start, begin, f"broken WARC record: it does not end after its {length} bytes")
        else:
            yield Overhead(start, begin - start)
            yield _warc_record(fields, block, begin)


def _header(stream: ByteStream) -> tuple[dict[str, str], bool]:
    """Named fields in lower case, and whether the blank line that ends them was found."""
    fields: dict[str, str] = {}
    budget = LONGEST_HEADER
    name = ""
    while budget > 0:
        line = stream.readline(budget)
        budget -= len(line)
        if not line.endswith(b"\n"):
            return fields, False
        text = line.decode("utf-8", "replace").rstrip("\r\n")
        if not text:
            return fields, True
        if text[0] in " \t" and name:  # a folded line
            fields[name] += " " + text.strip()
        else:
            name, _, value = text.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    return fields, False


def _warc_record(fields: dict[str, str], block: bytes, offset: int) -> Record:
    kind = fields.get("warc-type", "")
    if kind not in WITH_TEXT:
        return Record(offset, len(block), rule="warc_type", reason=kind or "none")
    metadata = {"url": fields.get("warc-target-uri", "").strip("<>"), "date": fields.get("warc-date", "")}
    media = fields.get("content-type", "")
    if kind == "response":
        if not media.startswith("application/http"):
            return Record(offset, len(block), rule="media_type", reason=media or "none")
        return _http_record(block, offset, metadata)
    return _payload_record(block, media, None, Record(offset, len(block), metadata=metadata))


def _http_record(block: bytes, offset: int, metadata: dict[str, Any]) -> Record:
    from fastwarc.warc import ArchiveIterator

    head = b"WARC/1.0\r\nWARC-Type: response\r\nContent-Type: application/http; msgtype=response\r\n"
    head += b"Content-Length: %d\r\n\r\n" % len(block)
    record = Record(offset, len(block), metadata=metadata)
    try:
        response: Any = next(
            iter(ArchiveIterator(io.BytesIO(head + block + b"\r\n\r\n"), parse_http=True, auto_decode="all"))
        )
        status, media, charset = response.http_headers.status_code, response.http_content_type, response.http_charset
        payload: bytes = response.reader.read()
    except Exception as error:  # FastWARC raises OSError and others on malformed HTTP
        record.reason = f"the HTTP response can't be read: {type(error).__name__}: {error}"
        return record
    if status is None:
        record.reason = "the HTTP response has no status"
        return record
    if status != 200:
        record.rule, record.measured, record.threshold = "http_status", status, 200
        return record
    return _payload_record(payload, media or "", charset, record)


def _payload_record(payload: bytes, media: str, charset: str | None, record: Record) -> Record:
    kind = media.split(";")[0].strip().lower()
    if kind in HTML:
        html, encoding = decode_html(payload, charset)
        record.text, about = page_text(html)
        record.metadata.update(about)
    elif kind == "text/plain":
        try:
            record.text, encoding = decode_text(payload)
        except UndecodableError as error:
            record.reason = f"in the payload, {error}"
            return record
    else:
        record.rule, record.reason = "media_type", kind or "none"
        return record
    if encoding != "utf-8":
        record.metadata["encoding"] = encoding
    return record


def read_arc(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """The pages of an ARC file."""
    archive = _Archive(stream, options, ARC_START)
    while True:
        yield from archive.blank()
        start = stream.position
        line = stream.readline(LONGEST_HEADER)
        if not line:
            return
        match = ARC_START.match(line)
        if match is None:
            yield archive.skip(start, stream.position, "no ARC record begins here")
            continue
        url, length = match[1].decode("utf-8", "replace"), match[5].decode("utf-8", "replace")
        if not (length.isascii() and length.isdigit()):
            yield archive.skip(start, stream.position, f"broken ARC record: its length is {length!r}")
            continue
        begin = stream.position
        block = archive.block(start, int(length))
        if isinstance(block, Record):
            yield block
        elif not archive.ends_well():
            stream.unread_data(block)
            yield archive.skip(start, begin, f"broken ARC record: it does not end after its {length} bytes")
        else:
            yield Overhead(start, begin - start)
            if url.startswith("filedesc:"):
                yield Record(begin, len(block), rule="warc_type", reason="filedesc")
            elif not url.startswith(("http:", "https:")):
                yield Record(begin, len(block), rule="media_type", reason=url.split(":")[0])
            else:
                yield _http_record(block, begin, {"url": url, "date": match[3].decode()})
