"""JSON and JSON lines, record by record, however long the file is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from hanlin.corpus.decode import UndecodableError, decode_utf8
from hanlin.corpus.document import Overhead, Record, Span
from hanlin.corpus.fields import NoTextError, any_text, kept_metadata
from hanlin.corpus.readers import ReadOptions
from hanlin.corpus.stream import CHUNK, ByteStream

BOM = b"\xef\xbb\xbf"
# A whole string, or one structural character, or the quote of a string whose end is not in the buffer yet.
TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|["\[\]{}]', re.DOTALL)
SCALAR_END = {True: re.compile(rb"[,\]\n]"), False: re.compile(rb"\n")}
BETWEEN = {True: re.compile(rb"[\s,]*"), False: re.compile(rb"\s*")}


def parse_record(data: bytes, offset: int, text_fields: Sequence[str] | None) -> Record:
    """One JSON value as a record; quarantined with the offset of what is wrong in it."""
    try:
        value = json.loads(decode_utf8(data))
    except UndecodableError as error:
        at = offset + error.offset
        return Record(offset, len(data), reason=f"byte {at} (0x{data[error.offset]:02x}) is not UTF-8")
    except json.JSONDecodeError as error:
        return Record(offset, len(data), reason=f"not JSON: {error.msg} at character {error.pos} of the record")
    except (ValueError, RecursionError) as error:
        return Record(offset, len(data), reason=f"not readable JSON: {type(error).__name__}: {error}")
    try:
        return Record(offset, len(data), any_text(value, text_fields), kept_metadata(value))
    except NoTextError as error:
        return Record(offset, len(data), reason=str(error))


def read_jsonl(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """A JSON value a line. A bad line is quarantined; the next one is read."""
    if stream.peek(3) == BOM:
        stream.read(3)
        yield Overhead(0, 3)
    while True:
        start = stream.position
        line = stream.readline(options.max_record_bytes)
        if not line:
            return
        if len(line) >= options.max_record_bytes and not line.endswith(b"\n"):
            while (rest := stream.readline(CHUNK)) and not rest.endswith(b"\n"):
                pass
            length = stream.position - start
            yield Record(start, length, reason=f"one line of {length} bytes, over {options.max_record_bytes}")
            continue
        content = line.rstrip(b"\r\n")
        if content.strip():
            yield parse_record(content, start, options.text_fields)
        else:
            content = b""
        if len(line) > len(content):
            yield Overhead(start + len(content), len(line) - len(content))


def read_json(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """A JSON document: the elements of a top-level array, or the values that stand one after another.

    The ends of the elements are found by counting brackets outside of strings, so one bad element is quarantined and
    the next one is read, and no more than one element is in memory.
    """
    return _Scanner(stream, options).spans()


class _Scanner:
    def __init__(self, stream: ByteStream, options: ReadOptions) -> None:
        self._stream, self._options = stream, options
        self._data = b""
        self._at = 0
        """Where in `_data` the next span begins."""
        self._base = 0
        """Offset of `_data` in the file."""
        self._array = False

    def _grow(self) -> bool:
        """Read on, keeping what belongs to the span at hand. False at the end of the file."""
        more = self._stream.read(max(CHUNK, len(self._data) - self._at))
        self._base += self._at
        self._data, self._at = self._data[self._at :] + more, 0
        return bool(more)

    def _overhead(self, end: int) -> Overhead:
        span = Overhead(self._base + self._at, end - self._at)
        self._at = end
        return span

    def spans(self) -> Iterator[Span]:
        self._grow()
        if self._data.startswith(BOM):
            yield self._overhead(3)
        while True:
            match = BETWEEN[self._array].match(self._data, self._at)
            assert match is not None
            if match.end() > self._at:
                yield self._overhead(match.end())
            if self._at == len(self._data):
                if self._grow():
                    continue
                return
            first = self._data[self._at : self._at + 1]
            if self._array and first == b"]":
                self._array = False
                yield self._overhead(self._at + 1)
            elif not self._array and first == b"[":
                self._array = True
                yield self._overhead(self._at + 1)
            else:
                end = self._element_end(first)
                start = self._base + self._at
                if end is None:
                    length = len(self._data) - self._at + self._stream.drain()
                    why = f"an element of over {self._options.max_record_bytes} bytes, and all that follows it"
                    yield Record(start, length, reason=why)
                    return
                limit = self._options.max_record_bytes
                if end - self._at > limit:
                    yield Record(start, end - self._at, reason=f"an element of {end - self._at} bytes, over {limit}")
                else:
                    yield parse_record(self._data[self._at : end], start, self._options.text_fields)
                self._at = end

    def _element_end(self, first: bytes) -> int | None:
        """Where the element at hand ends (the end of the file, if it breaks off). None: it is too long to be held."""
        scan, depth, scalar = self._at, 0, first not in b'{["'
        while True:
            if scalar:
                match = SCALAR_END[self._array].search(self._data, scan)
                if match is not None:
                    return match.start()
                scan = len(self._data)
            for match in TOKEN.finditer(self._data, scan):
                scan = match.end()
                token = self._data[match.start()]
                if token in b"{[":
                    depth += 1
                elif token in b"}]":
                    depth -= 1
                elif match.end() - match.start() == 1:  # a string that goes on behind the buffer
                    scan = match.start()
                    break
                if depth <= 0:
                    return scan
            scan -= self._at
            if len(self._data) - self._at > self._options.max_record_bytes:
                return None
            if not self._grow():
                return len(self._data)
            scan += self._at
