"""Files that are broken on purpose: what can be read is, the rest is quarantined with its place, nothing is lost."""

from __future__ import annotations

import bz2
import gzip
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from hanlin.corpus import iterate_documents
from hanlin.corpus.stream import ByteStream

from .helpers import TEXT, build, files, ledger, reasons, records, texts
from .test_formats import PAGE, arc, arrow_file, arrow_stream, http, warc

LINES = [json.dumps({"text": f"{TEXT} {number}"}).encode() + b"\n" for number in range(400)]


def test_gzip_that_breaks_off_keeps_what_was_read(tmp_path: Path) -> None:
    data = gzip.compress(b"".join(LINES))
    (tmp_path / "a.jsonl.gz").write_bytes(data[: len(data) // 2])
    figures = build(tmp_path / "a.jsonl.gz", tmp_path / "out")
    rows = ledger(tmp_path / "out")
    kept = figures["ledger"]["records"]["kept"]
    assert 50 < kept < 400
    assert [row["decision"] for row in rows] == ["kept"] * kept + ["quarantined"] * 2
    assert "not JSON" in rows[-2]["reason"]  # the line that was cut
    assert rows[-1]["offset"] == figures["ledger"]["bytes"]["input"]
    assert "breaks off" in rows[-1]["reason"]


@pytest.mark.parametrize(("ending", "compress"), [("gz", gzip.compress), ("bz2", bz2.compress)])
def test_corrupt_bytes_in_the_middle(tmp_path: Path, ending: str, compress: object) -> None:
    first, second = LINES[:300], LINES[300:]
    good = compress(b"".join(first))
    bad = bytearray(compress(b"".join(second)))
    bad[len(bad) // 2 : len(bad) // 2 + 8] = b"\xff" * 8
    (tmp_path / f"a.jsonl.{ending}").write_bytes(good + bytes(bad) + b"tail")
    build(tmp_path, tmp_path / "out", inputs=str(tmp_path / f"a.jsonl.{ending}"))
    rows = ledger(tmp_path / "out")
    assert [row["decision"] for row in rows[:300]] == ["kept"] * 300
    assert rows[-1]["decision"] == "quarantined"
    (file,) = files(tmp_path / "out").values()
    assert file["decoded_bytes"] + rows[-1]["unread_bytes"] == file["file_bytes"]
    assert file["decoded_bytes"] >= len(good)
    assert rows[-1]["unread_bytes"] > 4


def test_gzip_salvages_every_byte_before_the_fault(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(os.urandom(100_000)))  # stored blocks: a broken header is found where it stands
    stored = 10 + 5 + 65_535 if data[10] & 6 == 0 else None
    if stored is None:
        pytest.skip("this zlib does not store what it can't compress")
    data[stored : stored + 5] = b"\x07\xff\xff\xff\xff"
    (tmp_path / "a.gz").write_bytes(data)
    with ByteStream(tmp_path / "a.gz") as stream:
        assert len(stream.read(1 << 20)) >= 30_000
        assert stream.damage is not None and "corrupt" in stream.damage
        assert stream.consumed + stream.unread == stream.size


def test_something_else_behind_the_compressed_data(tmp_path: Path) -> None:
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(TEXT.encode()) + b"\0\0\0garbage")
    build(tmp_path / "a.txt.gz", tmp_path / "out")
    kept, rest = ledger(tmp_path / "out")
    assert (kept["decision"], kept["raw_bytes"]) == ("kept", len(TEXT))
    assert (rest["decision"], rest["unread_bytes"], rest["offset"]) == ("quarantined", 7, len(TEXT))


def test_zstd_that_breaks_off(tmp_path: Path) -> None:
    frame = zstandard.ZstdCompressor().compress(b"".join(LINES))
    (tmp_path / "a.jsonl.zst").write_bytes(frame + frame[: len(frame) // 2])
    rows = records(tmp_path / "a.jsonl.zst")
    assert sum(row.text is not None for row in rows) >= 400
    assert "breaks off" in (rows[-1].reason or "")


def test_a_bad_line_does_not_stop_the_file(tmp_path: Path) -> None:
    bad = [b'{"text": "no end\n', b'{"text": "\xff\xfe"}\n', b"[1]\n", b"\x00\n", b'{"a": 1}\n', b"[" * 100_000 + b"\n"]
    lines = LINES[:3] + bad + LINES[3:6]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines))
    assert len(texts(tmp_path / "a.jsonl")) == 6
    found = reasons(tmp_path / "a.jsonl")
    starts = [sum(map(len, lines[: 3 + number])) for number in range(6)]
    assert [offset for offset, _ in found] == starts
    assert f"byte {starts[1] + 10} (0xff) is not UTF-8" in found[1][1]
    assert "fields: a" in found[4][1]


def test_surrogates_that_are_no_text_do_not_stop_the_build(tmp_path: Path) -> None:
    row = {"text": f"{TEXT} \ud800 \ud83d\ude00", "title": "\udfff", "metadata": {"\ud800": "\ud800"}}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + '\n{"\\ud800": 1}\n')
    (tmp_path / "b.csv").write_bytes(b"a\xff\n1\n")
    inputs = [str(tmp_path / "a.jsonl"), str(tmp_path / "b.csv")]
    build(tmp_path, tmp_path / "out", inputs=inputs, max_unreadable_share=0.1)
    assert [row["decision"] for row in ledger(tmp_path / "out")] == ["kept", "quarantined", "quarantined"]
    (document,) = iterate_documents(tmp_path / "out", "train")
    assert document.text == f"{TEXT} � 😀"


def test_a_bad_element_does_not_stop_the_array(tmp_path: Path) -> None:
    elements = [
        '{"text": "a"}',
        '{"text": }',
        "nonsense",
        '{"text": "c\\"]}"}',
        "12",
        '"d"',
        '{"text": "e" "f"}',
        '["g"]',
    ]
    (tmp_path / "a.json").write_text("[" + ",\n ".join(elements) + "]\n{broken")
    assert texts(tmp_path / "a.json") == ["a", 'c"]}', "d"]
    assert len(reasons(tmp_path / "a.json")) == 6
    build(tmp_path / "a.json", tmp_path / "out")
    assert "breaks off" not in str(ledger(tmp_path / "out"))


def test_an_array_that_breaks_off(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"text": "b')
    assert texts(tmp_path / "a.json") == ["a"]
    assert [offset for offset, _ in reasons(tmp_path / "a.json")] == [16]


def test_what_is_too_long_is_quarantined_without_being_held(tmp_path: Path) -> None:
    long = json.dumps({"text": "x" * 5000}).encode()
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.jsonl").write_bytes(LINES[0] + long + b"\n" + LINES[1])
    very_long = json.dumps({"text": "x" * 600_000}).encode()  # more than a buffer
    (source / "b.json").write_bytes(b"[" + LINES[2].strip() + b"," + very_long + b"," + LINES[3].strip() + b"]")
    (source / "b2.json").write_bytes(b"[" + LINES[4].strip() + b"," + long + b"," + LINES[5].strip() + b"]")
    (source / "c.html").write_bytes(b"<p>" + b"x" * 5000)
    (source / "d.warc").write_bytes(warc(http(b"x" * 5000)) + warc(http(PAGE.encode())))
    (source / "e.csv").write_bytes(b"text\n" + b"y" * 600_000 + b"\nshort one\n")
    figures = build(source, tmp_path / "out", max_record_bytes=1024)
    rows = ledger(tmp_path / "out")
    by_file = {
        name: [(r["decision"], r["rule"]) for r in rows if r["file"] == name] for name in files(tmp_path / "out")
    }
    assert by_file["a.jsonl"] == [("kept", None), ("quarantined", None), ("kept", None)]
    assert by_file["b.json"][0] == ("kept", None)
    assert by_file["b.json"][1:] == [("quarantined", None)]
    assert by_file["b2.json"] == [("kept", None), ("quarantined", None), ("kept", None)]
    assert by_file["e.csv"] == [("quarantined", None), ("kept", None)]
    assert by_file["c.html"] == [("quarantined", None)]
    assert by_file["d.warc"] == [("dropped", "max_record_bytes"), ("kept", None)]
    assert figures["ledger"]["balanced"] is True


def test_invalid_utf8_in_text_names_its_place(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("月亮".encode() * 40 + b"\xff" + "月亮".encode() * 40)
    assert reasons(tmp_path / "a.txt") == [(0, "byte 240 (0xff) is not UTF-8, and no other encoding fits")]
    (tmp_path / "b.csv").write_bytes(b"text,n\n" + "月亮,1\n".encode() + b"\xe6\x9c,2\n" + "湖,3\n".encode())
    assert texts(tmp_path / "b.csv") == ["月亮", "湖"]
    assert [offset for offset, _ in reasons(tmp_path / "b.csv")] == [16]


def test_csv_with_missing_cells_or_no_text_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(b"n,text\n1\n2,b\n")
    assert texts(tmp_path / "a.csv") == ["b"]
    assert "1 cells where the header has 2" in reasons(tmp_path / "a.csv")[0][1]
    (tmp_path / "b.csv").write_bytes(b"question,answer\n1,2\n")
    assert "fields: question, answer" in reasons(tmp_path / "b.csv")[0][1]


def test_broken_warc_records(tmp_path: Path) -> None:
    def page(number: int) -> bytes:
        return warc(http(PAGE.replace("Ada", f"Ada{number}").encode()))

    good = [page(number) for number in range(4)]
    longer = good[1].replace(b"Content-Length: ", b"Content-Length: 9", 1)  # of the WARC header: swallows what follows
    shorter = warc(http(b"<p>short"))
    shorter = shorter.replace(b"HTTP/1.1", b"XXHTTP/1.1", 1)
    no_length = good[2].replace(b"Content-Length", b"Content-Lenght", 1)
    chunked = warc(
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nbad\r\n0\r\n\r\n"
    )
    cut = good[3][:-40]
    data = b"junk\r\n" + good[0] + longer + shorter + no_length + chunked + good[3] + cut
    (tmp_path / "a.warc").write_bytes(data)
    found = records(tmp_path / "a.warc")
    assert len([record for record in found if record.text is not None]) == 2
    quarantined = [record for record in found if record.text is None]
    assert [record.offset for record in quarantined[:1]] == [0]
    assert len(quarantined) == 6
    build(tmp_path / "a.warc", tmp_path / "out")
    assert sum(row["raw_bytes"] for row in ledger(tmp_path / "out")) + files(tmp_path / "out")["a.warc"][
        "overhead_bytes"
    ] == len(data)


def test_broken_arc_records(tmp_path: Path) -> None:
    page = arc(http(PAGE.encode()))
    (tmp_path / "a.arc").write_bytes(
        arc(b"1 0 x\n", "filedesc://x").replace(b" 6\n", b" -1\n")
        + page.replace(b"text/html ", b"text/html abc", 1)
        + page
    )
    assert len(texts(tmp_path / "a.arc")) == 1
    assert ["its length is" in reason for _, reason in reasons(tmp_path / "a.arc")] == [True, True]


def test_records_that_are_no_pages_are_dropped_by_rule(tmp_path: Path) -> None:
    data = warc(b"software: x\r\n", "warcinfo", "application/warc-fields") + warc(http(b"gone", status="404 Not Found"))
    data += warc(http(b"{}", "application/json")) + warc(http(PAGE.encode()))
    (tmp_path / "a.warc").write_bytes(data)
    build(tmp_path / "a.warc", tmp_path / "out")
    rows = [(row["decision"], row["rule"], row["measured"], row["reason"]) for row in ledger(tmp_path / "out")]
    assert rows == [
        ("dropped", "warc_type", None, "warcinfo"),
        ("dropped", "http_status", 404.0, None),
        ("dropped", "media_type", None, "application/json"),
        ("kept", None, None, None),
    ]


def test_broken_parquet(tmp_path: Path) -> None:
    source = tmp_path / "in"
    source.mkdir()
    table = pa.table({"text": [f"{number} {TEXT} {os.urandom(8).hex()}" for number in range(3000)]})
    pq.write_table(table, source / "a.parquet", row_group_size=1000, use_dictionary=False, write_page_checksum=True)
    data = bytearray((source / "a.parquet").read_bytes())
    middle = pq.ParquetFile(source / "a.parquet").metadata.row_group(1).column(0)
    at = middle.data_page_offset + middle.total_compressed_size // 2
    data[at : at + 400] = b"\xff" * 400
    (source / "a.parquet").write_bytes(data)
    (source / "b.parquet").write_bytes(bytes(data[:-9]))
    (source / "c.parquet").write_bytes(b"PAR1" + b"x" * 50)
    pq.write_table(pa.table({"question": ["a"]}), source / "d.parquet")
    figures = build(source, tmp_path / "out")
    assert figures["ledger"]["records"] == {"kept": 2000, "dropped": 0, "quarantined": 4}
    rows = {row["file"]: row for row in ledger(tmp_path / "out") if row["decision"] == "quarantined"}
    assert "rows 1000 to 1999" in rows["a.parquet"]["reason"]
    assert rows["a.parquet"]["unread_bytes"] == middle.total_compressed_size
    assert rows["c.parquet"]["unread_bytes"] == 54
    assert "fields: question" in rows["d.parquet"]["reason"]


def test_invalid_utf8_in_a_parquet_cell_costs_one_row(tmp_path: Path) -> None:
    cells = pa.array([b"good one", b"bad \xff one", b"good two"], pa.binary())
    column = pa.Array.from_buffers(pa.string(), 3, cells.buffers())
    pq.write_table(pa.table({"text": column}), tmp_path / "a.parquet", use_dictionary=False)
    assert texts(tmp_path / "a.parquet") == ["good one", "good two"]
    assert reasons(tmp_path / "a.parquet") == [(8, "row 1: byte 4 of a cell is not UTF-8")]
    build(tmp_path / "a.parquet", tmp_path / "out")


def test_broken_arrow(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [{"text": f"{number} {TEXT}"} for number in range(100)]
    for name, data in (("a.arrow", arrow_stream(rows)), ("b.feather", arrow_file(rows))):
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        found = records(tmp_path / name)
        assert [record.text for record in found] == [None]
        assert found[0].reason


def test_everything_in_a_folder_is_met(tmp_path: Path) -> None:
    source = tmp_path / "in"
    (source / "sub" / "deep").mkdir(parents=True)
    (source / "sub" / "deep" / "a.txt").write_text(TEXT)
    (source / "sub" / "loop").symlink_to(source)
    (source / "broken").symlink_to(source / "nowhere")
    (source / "link.txt").symlink_to(source / "sub" / "deep" / "a.txt")
    (source / ".hidden").write_text("secret")
    (source / ".git").mkdir()
    (source / ".git" / "x").write_text("12345")
    (source / "empty.txt").touch()
    (source / "blank.txt").write_text(" \n\n")
    (source / "blank.jsonl").write_text("\n\n")
    (source / "image.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (source / "program").write_bytes(b"\x7fELF" + b"\0" * 60)
    os.mkfifo(source / "pipe")
    (source / os.fsdecode(b"caf\xe9.txt")).write_text(TEXT + " again")
    figures = build(source, tmp_path / "out")
    rows = {row["file"]: (row["decision"], row["rule"], row["unread_bytes"]) for row in ledger(tmp_path / "out")}
    assert rows == {
        ".git": ("dropped", "hidden_folder", 5),
        ".hidden": ("dropped", "hidden_file", 6),
        "blank.jsonl": ("dropped", "empty", 0),
        "blank.txt": ("dropped", "empty", 0),
        "broken": ("quarantined", None, 0),
        "caf\\xe9.txt": ("kept", None, 0),
        "empty.txt": ("dropped", "empty", 0),
        "image.png": ("quarantined", None, 10),
        "link.txt": ("kept", None, 0),
        "pipe": ("quarantined", None, 0),
        "program": ("quarantined", None, 64),
        "sub/deep/a.txt": ("dropped", "duplicate", 0),
        "sub/loop": ("dropped", "symlink_loop", 0),
    }
    assert figures["ledger"]["files"] == len(rows)
    assert figures["ledger"]["bytes"]["unread"] == 5 + 6 + 10 + 64


def test_a_file_that_can_not_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.txt").write_text(TEXT)
    (source / "b.txt").write_text(TEXT + "b")
    open_path = Path.open

    def refuse(self: Path, *arguments: object, **named: object) -> object:  # root may open what others may not
        if self.name == "a.txt":
            raise PermissionError(13, "Permission denied")
        return open_path(self, *arguments, **named)

    monkeypatch.setattr(Path, "open", refuse)
    figures = build(source, tmp_path / "out")
    assert figures["ledger"]["records"] == {"kept": 1, "dropped": 0, "quarantined": 1}
    row = ledger(tmp_path / "out")[0]
    assert (row["file"], row["unread_bytes"]) == ("a.txt", len(TEXT))
    assert "Permission denied" in row["reason"]


def test_a_reader_that_fails_costs_its_file_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.html").write_text(PAGE)
    (source / "b.txt").write_text(TEXT)

    def fail(html: str) -> None:
        raise RuntimeError("out of order")

    monkeypatch.setattr("hanlin.corpus.readers.text.page_text", fail)
    figures = build(source, tmp_path / "out")
    assert figures["ledger"]["records"] == {"kept": 1, "dropped": 0, "quarantined": 1}
    assert ledger(tmp_path / "out")[0]["raw_bytes"] == len(PAGE)
    assert "out of order" in ledger(tmp_path / "out")[0]["reason"]
