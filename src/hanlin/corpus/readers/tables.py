"""Tables, row by row: CSV and TSV, Parquet, Arrow (Feather, and the stream form that `datasets` writes)."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from typing import Any, cast

from hanlin.corpus.decode import byte_order_mark, detect
from hanlin.corpus.document import Overhead, Record, Span
from hanlin.corpus.fields import KEPT, NoTextError, kept_metadata, object_text, text_names
from hanlin.corpus.readers import HEAD, ReadOptions
from hanlin.corpus.stream import CHUNK, ByteStream

ROWS = 256
UNDECODED = re.compile("[\udc80-\udcff]")


class _Lines:
    """Hands a csv.reader its lines, and knows how many bytes they took."""

    def __init__(self, stream: ByteStream, encoding: str, limit: int) -> None:
        self._stream, self._encoding, self._limit = stream, encoding, limit
        self.last = b""
        self.overlong = False

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.last = self._stream.readline(self._limit)
        if not self.last:
            raise StopIteration
        if len(self.last) == self._limit and not self.last.endswith(b"\n"):
            self.overlong = True
            while (rest := self._stream.readline(CHUNK)) and not rest.endswith(b"\n"):
                pass
            return "\n"
        # What can't be decoded is found in the finished row, and quarantines that row alone.
        return self.last.decode(self._encoding, "surrogateescape")


def _encoding(stream: ByteStream) -> str:
    head = stream.peek(HEAD)
    try:
        head[: head.rfind(b"\n") + 1].decode()
        return "utf-8"
    except UnicodeDecodeError:
        return detect(head)


def read_csv(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """A header, then a document a row: the columns are the fields of an object (see corpus.fields). The delimiter is
    the one of tab, comma, semicolon and bar that the header has most of. A bad row is quarantined; the next one is
    read."""
    mark = byte_order_mark(stream.peek(4))
    if mark is not None:
        stream.read(len(mark[0]))
        yield Overhead(0, len(mark[0]))
    if csv.field_size_limit() < options.max_record_bytes:
        csv.field_size_limit(options.max_record_bytes)
    encoding = _encoding(stream)
    head = stream.peek(HEAD).split(b"\n", 1)[0]
    delimiter = max("\t,;|", key=lambda sign: head.count(sign.encode()))
    lines = _Lines(stream, encoding, options.max_record_bytes)
    start = stream.position
    rows = csv.reader(lines, delimiter=delimiter)
    try:
        header = next(rows)
        names = text_names(header, options.text_fields)
    except StopIteration:
        return
    except (NoTextError, csv.Error) as error:
        stream.drain()
        yield Record(start, stream.position - start, reason=str(error))
        return
    yield Overhead(start, stream.position - start)
    while True:
        start = stream.position
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            yield Record(start, stream.position - start, reason=f"not CSV: {error}")
            rows = csv.reader(lines, delimiter=delimiter)
            continue
        length = stream.position - start
        if lines.overlong:
            lines.overlong = False
            yield Record(start, length, reason=f"one row of {length} bytes, over {options.max_record_bytes}")
            continue
        end = len(lines.last) - len(lines.last.rstrip(b"\r\n"))  # the line's end is overhead
        if row:
            yield _row_record(row, header, names, start, length - end, encoding, options)
            if end:
                yield Overhead(start + length - end, end)
        else:
            yield Overhead(start, length)


def _row_record(
    row: list[str], header: list[str], names: list[str], start: int, length: int, encoding: str, options: ReadOptions
) -> Record:
    if any(UNDECODED.search(cell) for cell in row):
        return Record(start, length, reason=f"the row at byte {start} is not {encoding}")
    value = dict(zip(header, row))
    if names[0] not in value:
        return Record(start, length, reason=f"the row has {len(row)} cells where the header has {len(header)}")
    metadata = kept_metadata(value)
    if encoding != "utf-8":
        metadata["encoding"] = encoding
    return Record(start, length, object_text(value, options.text_fields), metadata)


def _refuse(stream: ByteStream, error: Exception) -> Record:
    """A columnar file that can't be opened, or that has no column with text: quarantined whole, unread."""
    stream.abandon()
    reason = str(error) if isinstance(error, NoTextError) else f"{type(error).__name__}: {error}"
    return Record(0, 0, reason=reason, unread_bytes=stream.size)


def read_parquet(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """Parquet, row group by row group; one that can't be decoded is quarantined, and the next one is read."""
    from hanlin.corpus.arrow import pq

    try:
        file = pq.ParquetFile(stream.seekable(), buffer_size=1 << 20, pre_buffer=False, page_checksum_verification=True)
        table = _Columnar(file.schema_arrow, stream, options)
    except Exception as error:  # whatever a broken footer brings out of the library
        yield _refuse(stream, error)
        return
    for group in range(file.num_row_groups):
        about = file.metadata.row_group(group)
        on_disk = sum(about.column(index).total_compressed_size for index in range(about.num_columns))
        end = table.row + about.num_rows
        batches = file.iter_batches(ROWS, row_groups=[group], columns=table.columns)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                break
            except Exception as error:  # pyarrow raises OSError, ArrowInvalid and more on corrupt pages
                reason = f"rows {table.row} to {end - 1} (row group {group}): {type(error).__name__}: {error}"
                stream.unread += on_disk
                yield Record(table.offset, 0, reason=reason, unread_bytes=on_disk)
                break
            yield from table.records(batch)
        table.row = end


def read_arrow(stream: ByteStream, options: ReadOptions) -> Iterator[Span]:
    """Arrow IPC, in its file form (Feather version 2) or its stream form."""
    from hanlin.corpus.arrow import pa

    try:
        source = stream.seekable()
        is_file = source.read(6) == b"ARROW1"
        source.seek(0)
        reader: Any = pa.ipc.open_file(source) if is_file else pa.ipc.open_stream(source)
        table = _Columnar(reader.schema, stream, options)
    except Exception as error:
        yield _refuse(stream, error)
        return
    index = 0
    while not is_file or index < reader.num_record_batches:
        try:
            batch = reader.get_batch(index) if is_file else reader.read_next_batch()
        except StopIteration:
            return
        except Exception as error:
            # Behind a broken message of the stream form there is no telling where the next one begins.
            place = f"record batch {index}" if is_file else f"from record batch {index} on"
            yield Record(table.offset, 0, reason=f"{place}, row {table.row}: {type(error).__name__}: {error}")
            if not is_file:
                return
        else:
            for start in range(0, batch.num_rows, ROWS):
                yield from table.records(batch.slice(start, ROWS).select(table.columns))
        index += 1


class _Columnar:
    """Rows of a columnar file as records.

    Such a file is compressed cell by cell, so a row has no place in its bytes. Its raw bytes are defined as the UTF-8
    bytes of the text cells, one after another; `offset` counts in these, `metadata["row"]` is the number of the row.
    The file's total is taken from Arrow's own column lengths, independently of the sums over rows. Other columns are
    not text and have no raw bytes.
    """

    def __init__(self, schema: Any, stream: ByteStream, options: ReadOptions) -> None:
        self._stream, self._options = stream, options
        self._texts = text_names(schema.names, options.text_fields)
        self.columns = self._texts + [name for name in KEPT if name in schema.names and name not in self._texts]
        self.row = 0
        self.offset = 0
        stream.measured = 0

    def records(self, batch: Any) -> Iterator[Record]:
        try:
            rows: list[Any] = batch.to_pylist()
        except UnicodeDecodeError as error:
            if batch.num_rows > 1:
                for index in range(batch.num_rows):
                    yield from self.records(batch.slice(index, 1))
                return
            rows = [error]
        measured = sum(_text_bytes(batch.column(name)) for name in self._texts)
        assert self._stream.measured is not None
        self._stream.measured += measured
        for value in rows:
            if isinstance(value, UnicodeDecodeError):
                yield Record(self.offset, measured, reason=f"row {self.row}: byte {value.start} of a cell is not UTF-8")
                self.offset += measured
            else:
                yield self._record(value)
            self.row += 1

    def _record(self, value: dict[str, Any]) -> Record:
        length = sum(_cell_bytes(value[name]) for name in self._texts)
        record = Record(self.offset, length, metadata={**kept_metadata(value), "row": self.row})
        self.offset += length
        try:
            record.text = object_text(value, self._options.text_fields)
        except NoTextError as error:
            record.reason = str(error)
        return record


def _cell_bytes(value: Any) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, list):
        return sum(map(_cell_bytes, cast(list[Any], value)))
    if isinstance(value, dict):
        return sum(map(_cell_bytes, cast(dict[str, Any], value).values()))
    return 0


def _text_bytes(column: Any) -> int:
    """UTF-8 bytes of a column's strings, at any depth of lists and structs, from Arrow's own lengths."""
    from hanlin.corpus.arrow import pa, pc

    kind = column.type
    if pa.types.is_string_view(kind):
        return _text_bytes(column.cast(pa.large_string()))
    if pa.types.is_dictionary(kind):
        return _text_bytes(column.dictionary_decode())
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _text_bytes(pc.list_flatten(column))
    if pa.types.is_struct(kind):
        return sum(_text_bytes(field) for field in column.flatten())
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return pc.sum(pc.binary_length(column)).as_py() or 0
    return 0
