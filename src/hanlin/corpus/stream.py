"""One file as a stream of decompressed bytes that are counted, looked into, and survive a broken compression."""

from __future__ import annotations

import bz2
import lzma
import tempfile
import zlib
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol

CHUNK = 256 << 10
# Zstandard's Python decoder can't bound its output: small input steps bound what a bomb can unfold at once.
STEP = {"gzip": 64 << 10, "zstd": 4 << 10, "bzip2": 64 << 10, "xz": 64 << 10}
MOST_OUTPUT = 1 << 20


def compression_of(head: bytes) -> str | None:
    """The compression whose magic number begins `head` (at least 6 bytes of the file), or None."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50):
        return "zstd"
    if head.startswith(b"BZh"):
        return "bzip2"
    if head.startswith(b"\xfd7zXZ\x00"):
        return "xz"
    return None


class _Decoder(Protocol):
    pending: bool  # more output waits, without more input
    eof: bool  # the compressed member is complete
    unused: bytes  # input behind the end of the member
    failed: tuple[str, int] | None  # why, and how many of the bytes fed were not decoded

    def feed(self, data: bytes) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(31)
        self.pending, self.eof, self.unused = False, False, b""
        self.failed: tuple[str, int] | None = None

    def feed(self, data: bytes) -> bytes:
        data = self._zlib.unconsumed_tail + data
        before = self._zlib.copy()
        try:
            out = self._zlib.decompress(data, MOST_OUTPUT)
        except zlib.error as error:
            return self._salvage(before, data, error)
        self.eof, self.unused = self._zlib.eof, self._zlib.unused_data
        self.pending = not self.eof and (bool(self._zlib.unconsumed_tail) or len(out) == MOST_OUTPUT)
        return out

    def _salvage(self, decoder: Any, data: bytes, error: zlib.error) -> bytes:
        """zlib forgets the output of the call that fails: go through it again byte by byte, up to the broken one."""
        out: list[bytes] = []
        used = 0
        try:
            for used in range(len(data)):
                out.append(decoder.decompress(data[used : used + 1]))
        except zlib.error:
            pass
        self.failed = (str(error), len(data) - used)
        return b"".join(out)


class _Block:
    """bz2 and lzma have one interface."""

    def __init__(self, decoder: bz2.BZ2Decompressor | lzma.LZMADecompressor) -> None:
        self._decoder = decoder
        self.pending, self.eof, self.unused = False, False, b""
        self.failed: tuple[str, int] | None = None

    def feed(self, data: bytes) -> bytes:
        try:
            out = self._decoder.decompress(data, MOST_OUTPUT)
        except (OSError, lzma.LZMAError, EOFError) as error:
            self.failed = (str(error), len(data))
            return b""
        self.eof = self._decoder.eof
        self.unused = self._decoder.unused_data if self.eof else b""
        self.pending = not self.eof and not self._decoder.needs_input
        return out


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._error = zstandard.ZstdError
        self._decoder = zstandard.ZstdDecompressor().decompressobj()
        self.pending, self.eof, self.unused = False, False, b""
        self.failed: tuple[str, int] | None = None

    def feed(self, data: bytes) -> bytes:
        try:
            out = self._decoder.decompress(data)
        except self._error as error:
            self.failed = (str(error), len(data))
            return b""
        self.eof = self._decoder.eof
        self.unused = self._decoder.unused_data if self.eof else b""
        return out


def _new_decoder(compression: str) -> _Decoder:
    if compression == "gzip":
        return _Gzip()
    if compression == "zstd":
        return _Zstd()
    if compression == "bzip2":
        return _Block(bz2.BZ2Decompressor())
    return _Block(lzma.LZMADecompressor())


class ByteStream:
    """Reads a regular file, decompressing what its magic number says; several compressed members in a row are one
    stream.

    A compression that breaks off or is corrupt ends the stream where the last good byte was, and `damage` says why:
    what was read stays. `produced` counts decompressed bytes as they leave the decoder, independently of what a reader
    makes of them; `position` is the offset of the next byte that `read` will give. Raises OSError when the file can't
    be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb")
        self.size = self._file.seek(0, 2)
        self._file.seek(0)
        self.compression = compression_of(self._file.read(6))
        self._file.seek(0)
        self.position = 0
        self.produced = 0
        self.damage: str | None = None
        self.unread = 0
        """Bytes on disk that were not decoded."""
        self.measured: int | None = None
        """Raw bytes as a reader of a columnar file counts them (decoded text cells), in place of `produced`."""
        self._buffer = b""
        self._at = 0
        self._decoder: _Decoder | None = None
        self._leftover = b""
        self._taken = 0

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    @property
    def raw_bytes(self) -> int:
        """Decompressed bytes of the file, as far as they were read."""
        return self.produced if self.measured is None else self.measured

    @property
    def consumed(self) -> int:
        """Bytes on disk that were decoded, counted as they go in: at the end, `consumed + unread` is the file's
        size."""
        return self._taken if self.measured is None else self.size - self.unread

    def read(self, count: int) -> bytes:
        """Up to `count` bytes; fewer only at the end."""
        while len(self._buffer) - self._at < count and self._fill():
            pass
        data = self._buffer[self._at : self._at + count]
        self._at += len(data)
        self.position += len(data)
        return data

    def peek(self, count: int) -> bytes:
        """Like `read`, but the bytes stay."""
        data = self.read(count)
        self._at -= len(data)
        self.position -= len(data)
        return data

    def readline(self, limit: int) -> bytes:
        """A line with its line feed; `limit` bytes when the line is longer; what is left at the end of the file."""
        start = 0
        while True:
            end = self._buffer.find(b"\n", self._at + start, self._at + limit)
            if end >= 0:
                return self.read(end + 1 - self._at)
            start = len(self._buffer) - self._at
            if start >= limit or not self._fill():
                return self.read(min(limit, len(self._buffer) - self._at))

    def unread_data(self, data: bytes) -> None:
        """Put back bytes that `read` gave."""
        self._buffer = data + self._buffer[self._at :]
        self._at = 0
        self.position -= len(data)

    def drain(self) -> int:
        """Read to the end and return how many bytes that were; memory stays flat."""
        start = self.position
        while self.read(CHUNK):
            pass
        return self.position - start

    def abandon(self) -> None:
        """Leave the whole file undecoded: all its bytes on disk are unread, and it has no raw bytes."""
        self.measured, self.unread, self.damage = 0, self.size, None

    def seekable(self) -> IO[bytes]:
        """The decompressed file for a library that must seek: the file itself, or a copy on disk."""
        if self.compression is None:
            self._file.seek(0)
            return self._file
        copy = tempfile.TemporaryFile()  # noqa: SIM115 (the reader closes it)
        while data := self.read(CHUNK):
            copy.write(data)
        copy.seek(0)
        return copy

    def _fill(self) -> bool:
        """Double what is buffered (at least a chunk), so that a long record costs linear time. False at the end."""
        rest = self._buffer[self._at :]
        pieces, want = [rest], max(CHUNK, len(rest))
        got = 0
        while got < want:
            piece = self._decompress() if self.compression else self._plain(want - got)
            if not piece:
                break
            got += len(piece)
            pieces.append(piece)
        self.produced += got
        self._buffer, self._at = b"".join(pieces), 0
        return got > 0

    def _plain(self, count: int) -> bytes:
        try:
            data = self._file.read(count)
        except OSError as error:
            self.damage, self.unread = f"reading failed: {error.strerror}", self.size - self._taken
            return b""
        self._taken += len(data)
        return data

    def _decompress(self) -> bytes:
        while self.damage is None:
            if self._decoder is None and not self._next_member():
                return b""
            decoder = self._decoder
            assert decoder is not None and self.compression is not None
            data = b""
            if not decoder.pending:
                data = self._leftover or self._file.read(STEP[self.compression])
                self._leftover = b""
                if not data:
                    self.damage = f"the {self.compression} data breaks off"
                    return b""
            out = decoder.feed(data)
            self._taken += len(data)
            if decoder.failed is not None:
                why, rest = decoder.failed
                self._taken -= rest
                self.damage = f"the {self.compression} data is corrupt: {why}"
                self.unread = rest + self.size - self._file.tell()
            elif decoder.eof:
                self._leftover, self._decoder = decoder.unused, None
                self._taken -= len(self._leftover)
            if out:
                return out
        return b""

    def _next_member(self) -> bool:
        data, self._leftover = self._leftover, b""
        while True:
            if self.compression == "gzip":  # tapes and some tools pad with zeros
                padded, data = len(data), data.lstrip(b"\0")
                self._taken += padded - len(data)
            if len(data) >= 6 or not (more := self._file.read(STEP["gzip"])):
                break
            data += more
        if not data:
            return False
        if compression_of(data) != self.compression:
            self.unread = len(data) + self.size - self._file.tell()
            self.damage = f"what is behind the end of the {self.compression} data is not {self.compression}"
            return False
        self._leftover = data
        assert self.compression is not None
        self._decoder = _new_decoder(self.compression)
        return True
