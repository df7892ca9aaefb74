"""Containers are known by their bytes; a broken one gives what can be read, and says where it broke."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError
from hanlin.data.rows import BadRow, Row, data_files, plain_bytes, read_rows

ROWS = [{"text": "one", "n": "1"}, {"text": "two\nlines, 二", "n": "2"}, {"text": 'a "quoted" one', "n": "3"}]


def lines(rows: list[dict[str, str]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def as_csv(rows: list[dict[str, str]]) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["text", "n"])
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


TEXTS = {
    "JSON lines": lines(ROWS),
    "JSON array": json.dumps(ROWS, indent=2).encode(),
    "CSV": as_csv(ROWS),
}


def read(path: Path, data: bytes) -> tuple[str, list[Row | BadRow]]:
    path.write_bytes(data)
    container, rows = read_rows(path)
    return container, list(rows)


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("compression", ["", "gzip", "zstd"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_text_containers(tmp_path: Path, kind: str, compression: str, mark: bytes):
    data = mark + TEXTS[kind]
    packed = {"": data, "gzip": gzip.compress(data), "zstd": zstandard.compress(data)}[compression]
    container, rows = read(tmp_path / "named-wrong.txt", packed)
    assert container == (f"{kind}, {compression}" if compression else kind)
    assert [row.value for row in rows if isinstance(row, Row)] == ROWS
    assert [row.number for row in rows] == [1, 2, 3]
    assert plain_bytes(tmp_path / "named-wrong.txt") == (None if compression else len(data))


def test_columnar_containers(tmp_path: Path):
    table = pa.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, tmp_path / "a")
    pyarrow.feather.write_feather(table, str(tmp_path / "b"))
    with pa.ipc.new_stream(str(tmp_path / "c"), table.schema) as writer:  # what Hugging Face `datasets` writes
        writer.write_table(table, max_chunksize=2)
    for name, kind in (("a", "parquet"), ("b", "arrow"), ("c", "arrow stream")):
        container, rows = read_rows(tmp_path / name)
        assert container == kind
        assert [row.value for row in rows if isinstance(row, Row)] == ROWS
        assert plain_bytes(tmp_path / name) is None


def test_objects_over_several_lines(tmp_path: Path):
    data = "\n".join(json.dumps(row, indent=1) for row in ROWS).encode()
    assert [row.value for row in read(tmp_path / "f", data)[1] if isinstance(row, Row)] == ROWS


def test_a_broken_line_is_one_bad_row(tmp_path: Path):
    good = b'{"text": "x"}\n'
    data = good + b'{"text": \n' + b"[1]\n" + b'{"text": "\xff"}\n' + b"\n" + b'{"text": NaN}\n' + good
    rows = read(tmp_path / "f.jsonl", data)[1]
    assert [type(row).__name__ for row in rows] == ["Row", "BadRow", "BadRow", "BadRow", "BadRow", "Row"]
    assert [row.line for row in rows] == [1, 2, 3, 4, 6, 7]
    reasons = [row.reason for row in rows if isinstance(row, BadRow)]
    for reason, expected in zip(reasons, ["broken JSON", "not list", "not UTF-8", "NaN is no JSON value"]):
        assert expected in reason


def test_a_broken_array_keeps_what_stands_before(tmp_path: Path):
    text = json.dumps(ROWS, indent=1)
    rows = read(tmp_path / "f.json", text[: text.index("quoted")].encode())[1]
    assert [row.value for row in rows if isinstance(row, Row)] == ROWS[:2]
    assert isinstance(rows[2], BadRow) and rows[2].line == 10 and "nothing after it can be read" in rows[2].reason


def test_broken_csv_row(tmp_path: Path):
    rows = read(tmp_path / "f.csv", b"text,n\na,1\nb\nc,3\n")[1]
    assert [type(row).__name__ for row in rows] == ["Row", "BadRow", "Row"]
    assert str(rows[1]) == "f.csv, row 2 (line 3): 1 cells under a header of 2"


@pytest.mark.parametrize("compress", [gzip.compress, zstandard.compress])
def test_a_cut_compression_is_counted(tmp_path: Path, compress):
    import random

    generator = random.Random(0)
    data = lines([{"text": str(generator.random()), "n": "1"} for _ in range(30_000)])
    packed = compress(data)
    rows = read(tmp_path / "f", packed[: len(packed) // 2])[1]
    assert isinstance(rows[-1], BadRow) and all(isinstance(row, Row) for row in rows[:-2])
    assert 100 < len(rows) < 30_000


def test_a_cut_parquet_is_counted(tmp_path: Path):
    pyarrow.parquet.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a")
    rows = read(tmp_path / "b", (tmp_path / "a").read_bytes()[:-20])[1]
    assert len(rows) == 1 and isinstance(rows[0], BadRow) and "damaged parquet" in rows[0].reason


def columnar(kind: str) -> bytes:
    file = pa.BufferOutputStream()
    table = pa.Table.from_pylist(ROWS * 20)
    if kind == "parquet":
        pyarrow.parquet.write_table(table, file)
    else:
        writer = (pa.ipc.new_stream if kind == "arrow stream" else pa.ipc.new_file)(file, table.schema)
        writer.write_table(table, max_chunksize=10)
        writer.close()
    return file.getvalue().to_pybytes()


def test_a_cut_arrow_stream_keeps_what_stands_before(tmp_path: Path):
    data = columnar("arrow stream")
    rows = read(tmp_path / "f", data[: len(data) // 2])[1]
    assert isinstance(rows[-1], BadRow) and "damaged arrow stream" in rows[-1].reason
    assert 10 <= len(rows) - 1 < 60 and all(isinstance(row, Row) for row in rows[:-1])


@pytest.mark.parametrize("kind", ["parquet", "arrow", "arrow stream"])
def test_damage_to_columns_never_crashes(tmp_path: Path, kind: str):
    """Bytes behind the magic number changed: also those that say where a text lies, or that are a text's UTF-8."""
    import random

    generator, whole = random.Random(0), columnar(kind)
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(generator.randint(1, 4)):
            data[generator.randrange(8, len(data))] = generator.randrange(256)
        rows = read(tmp_path / "f", bytes(data))[1]
        assert [row.number for row in rows] == list(range(1, len(rows) + 1))


@pytest.mark.parametrize(
    "data", [b"", b"Just a sentence, of prose.", b"\x00\x01\x02", b"text", b"<html><p>a</p>\n</html>\n"]
)
def test_what_is_no_data_file_is_refused(tmp_path: Path, data: bytes):
    with pytest.raises(HanlinError, match="JSON lines, CSV with a header, parquet"):
        read(tmp_path / "f", data)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(TEXTS)), st.data())
def test_damage_never_crashes(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject):
    """Any byte changed, or any part cut off: rows, bad rows, or an explained refusal."""
    raw = bytearray(TEXTS[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))]
    try:
        rows = read(tmp_path_factory.getbasetemp() / "damaged", bytes(raw))[1]
    except HanlinError:
        return
    assert [row.number for row in rows] == list(range(1, len(rows) + 1))


def test_folders(tmp_path: Path):
    (tmp_path / "b").mkdir()
    for name in ("b/2.jsonl", "1.jsonl", ".hidden"):
        (tmp_path / name).write_text("{}")
    assert [file.name for file in data_files(tmp_path)] == ["1.jsonl", "2.jsonl"]
    with pytest.raises(HanlinError, match="no such file"):
        data_files(tmp_path / "nothing")
