"""Rows of a data file, whatever its container: JSON array, JSON lines, CSV, parquet, arrow; plain or compressed.

What a file is, is found by looking at its bytes, never by its name. A row that can't be read is handed on as a `BadRow`
with its place and the reason; the rows after it are still read where the container allows it.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from hanlin.artifacts import HanlinError
from hanlin.corpus.stream import ByteStream, compression_of

_LONGEST_LINE = 1 << 30
_ARROW_STREAM = b"\xff\xff\xff\xff"
"""Begins each message of Arrow's stream form, which has no magic number; no UTF-8 text begins with it."""
_STRUCTURED = (
    "messages",
    "conversations",
    "history",
    "chosen",
    "rejected",
    "prompt",
    "completion",
    "responses",
    "scores",
)
"""Columns of a CSV file whose cells may hold a JSON array."""
_PLAIN = (
    "a JSON array, JSON lines, CSV with a header, parquet or arrow, each plain or compressed (gzip, zstd, bzip2, xz)"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file."""

    value: dict[str, Any]
    file: str
    number: int
    """Its number in the file, from 1"""
    line: int | None
    """The line on which it starts, from 1; None where the container has no lines"""


@dataclass(frozen=True, slots=True)
class BadRow:
    """One record that could not be read, or not be understood; or a file of which that is true as a whole."""

    file: str
    number: int | None
    """As in `Row`; None for a file as a whole"""
    line: int | None
    reason: str

    def __str__(self) -> str:
        if self.number is None:
            return f"{self.file}: {self.reason}"
        place = f"row {self.number}" if self.line is None else f"row {self.number} (line {self.line})"
        return f"{self.file}, {place}: {self.reason}"


class UnknownFormError(HanlinError):
    """A file, or a folder, with no data of a known form; `known` ends the message with what would be known."""

    def __init__(self, file: Path, reason: str, known: str) -> None:
        super().__init__(f"{file}: {reason}{known}")
        self.file, self.reason = file, reason


def data_files(path: Path) -> list[Path]:
    """The files that `path` names: itself, or every file below a folder (hidden ones left out), in order.

    Raises HanlinError when there are none.
    """
    if path.is_file():
        return [path]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(path).parts)
    )
    if not files:
        raise HanlinError(f"{path}: no such file, or a folder with no files in it.")
    return files


def read_rows(path: Path) -> tuple[str, Iterator[Row | BadRow]]:
    """The container's name and the rows of one file, read as they are asked for.

    Raises UnknownFormError when the file is of no known container (for a broken one, while it is read, never).
    """
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise UnknownFormError(path, "the file is empty", f". Known: {_PLAIN}.")
    if head[:4] == b"PAR1":
        return "parquet", _columnar(path, "parquet", _parquet_batches(path))
    if head[:6] == b"ARROW1":
        return "arrow", _columnar(path, "arrow", _arrow_batches(path))
    if head[:4] == _ARROW_STREAM:
        return "arrow stream", _columnar(path, "arrow stream", _arrow_batches(path))
    compression, start = _first_text(path)
    first = start.lstrip("\ufeff \t\r\n")[:1]
    if first == "[":
        kind, rows = "JSON array", _json_array(path)
    elif first == "{":
        kind, rows = "JSON lines", _json_lines(path)
    elif _is_csv(start):
        kind, rows = "CSV", _csv(path)
    else:
        raise UnknownFormError(
            path,
            f"the file begins with {start[:40]!r}, which is no row of data",
            f". Known: {_PLAIN}. (Plain text for pretraining goes to a corpus stage.)",
        )
    return f"{kind}, {compression}" if compression else kind, rows


def plain_bytes(path: Path) -> int | None:
    """The size of a file whose rows stand there as text; None for one that holds more text than its size says."""
    with path.open("rb") as file:
        head = file.read(8)
    packed = compression_of(head) is not None or head.startswith((b"PAR1", b"ARROW1", _ARROW_STREAM))
    return None if packed else path.stat().st_size


def _first_text(path: Path) -> tuple[str, str]:
    """The compression's name ("": none), and the text with which the file begins."""
    with ByteStream(path) as stream:
        start = stream.peek(1 << 16).decode("utf-8", errors="replace")
        if not start and stream.damage is not None:
            raise UnknownFormError(path, f"the file can't be read: {stream.damage}", f". Known: {_PLAIN}.")
        return stream.compression or "", start


def _read_whole(path: Path) -> tuple[str, str | None]:
    """All text that can be read, and why the rest can't (None: it is whole)."""
    with ByteStream(path) as stream:
        blocks: list[bytes] = []
        while block := stream.read(1 << 20):
            blocks.append(block)
        data, broken = b"".join(blocks), stream.damage
    try:
        return data.decode("utf-8-sig"), broken
    except UnicodeDecodeError as error:
        return data[: error.start].decode("utf-8-sig"), f"not UTF-8 from byte {error.start} on"


def _parse(text: str) -> Any:
    """JSON with no NaN: training data has no use for it, and other readers refuse it."""
    return json.loads(text, parse_constant=_refuse_constant)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _json_array(path: Path) -> Iterator[Row | BadRow]:
    """Elements one by one, so that what stands before a break in the file is kept."""
    text, broken = _read_whole(path)
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    position, number, line, counted = text.index("[") + 1, 0, 1, 0
    while True:
        while position < len(text) and text[position] in " \t\r\n,":
            position += 1
        if position < len(text) and text[position] == "]":
            return
        number += 1
        line, counted = line + text.count("\n", counted, position), position
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            reason = broken or f"broken JSON: {error}"
            yield BadRow(path.name, number, line, f"{reason}; nothing after it can be read")
            return
        yield _as_row(value, path, number, line)


def _json_lines(path: Path) -> Iterator[Row | BadRow]:
    """A JSON object a line; or objects that go over several lines, when the first line is not one by itself."""
    number = line = 0
    with ByteStream(path) as stream:
        while raw := stream.readline(_LONGEST_LINE):
            line += 1
            raw = raw.removeprefix(b"\xef\xbb\xbf").strip() if line == 1 else raw.strip()
            if not raw:
                continue
            number += 1
            try:
                yield _as_row(_parse(raw.decode()), path, number, line)
            except UnicodeDecodeError as error:
                yield BadRow(path.name, number, line, f"not UTF-8 at byte {error.start} of the line")
            except (ValueError, RecursionError) as error:
                if number == 1 and raw == b"{":
                    yield from _json_objects(path)
                    return
                yield BadRow(path.name, number, line, f"broken JSON: {error}")
        if stream.damage is not None:
            yield BadRow(path.name, number + 1, None, f"{stream.damage}; nothing after it can be read")


def _json_objects(path: Path) -> Iterator[Row | BadRow]:
    text, broken = _read_whole(path)
    decoder = json.JSONDecoder(parse_constant=_refuse_constant)
    position, number = 0, 0
    while True:
        while position < len(text) and text[position].isspace():
            position += 1
        if position >= len(text) and broken is None:
            return
        number, line = number + 1, 1 + text.count("\n", 0, position)
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError) as error:
            yield BadRow(path.name, number, line, f"{broken or f'broken JSON: {error}'}; nothing after it can be read")
            return
        yield _as_row(value, path, number, line)


def _as_row(value: Any, path: Path, number: int, line: int | None) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(cast(dict[str, Any], value), path.name, number, line)
    return BadRow(path.name, number, line, f"a JSON object is expected, not {type(value).__name__}")


def _is_csv(start: str) -> bool:
    """A header of at least two plain names, or the one name `text`."""
    lines = start.lstrip("\ufeff").splitlines()
    if not lines:
        return False
    names = next(csv.reader([lines[0]]), list[str]())
    plain = all(name.strip() and len(name) <= 64 and "\0" not in name for name in names)
    return plain and (len(names) > 1 or [name.strip() for name in names] == ["text"]) and len(lines) > 1


def _csv(path: Path) -> Iterator[Row | BadRow]:
    """Rows by the header's names; a cell that holds a JSON array or object (a list of messages) is read as one."""
    text, broken = _read_whole(path)
    csv.field_size_limit(1 << 30)
    reader = csv.reader(io.StringIO(text, newline=""))
    header = [name.strip() for name in next(reader, list[str]())]
    if not header:
        yield BadRow(path.name, 1, 1, f"the header can't be read: {broken}")
        return
    number, line = 0, reader.line_num + 1
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            break
        except csv.Error as error:
            number += 1
            yield BadRow(path.name, number, line, f"broken CSV: {error}")
            line = reader.line_num + 1
            continue
        if cells:
            number += 1
            if len(cells) == len(header):
                yield Row({name: _cell(name, cell) for name, cell in zip(header, cells)}, path.name, number, line)
            else:
                yield BadRow(path.name, number, line, f"{len(cells)} cells under a header of {len(header)}")
        line = reader.line_num + 1
    if broken is not None:
        yield BadRow(path.name, number + 1, line, broken)


def _cell(name: str, cell: str) -> Any:
    if name in _STRUCTURED and cell[:1] == "[":
        try:
            return _parse(cell)
        except (ValueError, RecursionError):
            return cell
    return cell


def _columnar(path: Path, kind: str, batches: Iterator[Any]) -> Iterator[Row | BadRow]:
    from hanlin.corpus.arrow import pa

    number = 0
    try:
        for batch in batches:
            batch.validate(full=True)  # a damaged one can have texts that are no UTF-8, or that lie outside of it
            for value in batch.to_pylist():
                number += 1
                yield Row(value, path.name, number, None)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:  # the last: a name in a damaged schema
        yield BadRow(path.name, number + 1, None, f"damaged {kind}: {error}; nothing after it can be read")


def _parquet_batches(path: Path) -> Iterator[Any]:
    from hanlin.corpus.arrow import pq

    with pq.ParquetFile(path) as file:
        yield from file.iter_batches(batch_size=1024)


def _arrow_batches(path: Path) -> Iterator[Any]:
    """Arrow IPC in its file form (Feather version 2), or in its stream form, which Hugging Face `datasets` writes."""
    from hanlin.corpus.arrow import pa

    with pa.OSFile(str(path)) as source:
        is_stream = source.read(4) == _ARROW_STREAM
        source.seek(0)
        with pa.ipc.open_stream(source) if is_stream else pa.ipc.open_file(source) as reader:
            yield from reader if is_stream else map(reader.get_batch, range(reader.num_record_batches))
