"""Every format, plain and compressed."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest
import zstandard

from hanlin.artifacts import UsageError
from hanlin.corpus import read_documents
from hanlin.corpus.fields import NoTextError, object_text
from hanlin.corpus.formats import find_format, stem

from .helpers import TEXT, build, documents, files, records, texts

PAGE = f"<!doctype html><html><head><title>Ada</title></head><body><main><p>{TEXT}</p></main></body></html>"
ROWS = [{"text": TEXT}, {"text": "月亮出來了，湖邊沒有人。"}]


def http(body: bytes, media: str = "text/html; charset=utf-8", status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {media}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def warc(block: bytes, kind: str = "response", media: str = "application/http; msgtype=response") -> bytes:
    head = f"WARC/1.0\r\nWARC-Type: {kind}\r\nWARC-Target-URI: http://a.example/\r\nContent-Type: {media}\r\n"
    return head.encode() + f"Content-Length: {len(block)}\r\n\r\n".encode() + block + b"\r\n\r\n"


def arc(block: bytes, url: str = "http://a.example/") -> bytes:
    return f"{url} 10.0.0.1 20140216050221 text/html {len(block)}\n".encode() + block + b"\n"


def parquet(rows: list[dict[str, object]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def arrow_file(rows: list[dict[str, object]]) -> bytes:
    out = io.BytesIO()
    feather.write_feather(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def arrow_stream(rows: list[dict[str, object]]) -> bytes:
    table = pa.Table.from_pylist(rows)
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    return out.getvalue()


FILES: dict[str, bytes] = {
    "a.txt": TEXT.encode(),
    "a.md": TEXT.encode(),
    "a.rst": TEXT.encode(),
    "a.html": PAGE.encode(),
    "page": PAGE.encode(),
    "noname": TEXT.encode(),
    "a.json": json.dumps({"text": TEXT}).encode(),
    "array.json": json.dumps([{"text": TEXT}], indent=2).encode(),
    "lines.json": json.dumps({"text": TEXT}).encode() + b"\n",
    "a.jsonl": b"\xef\xbb\xbf" + json.dumps({"text": TEXT}).encode() + b"\r\n\n",
    "rows": json.dumps({"text": TEXT}).encode() + b"\n",
    "a.csv": f'id,text\r\n1,"{TEXT}"\r\n'.encode(),
    "a.tsv": f"id\ttext\n1\t{TEXT}\n".encode(),
    "a.parquet": parquet([{"id": 1, "text": TEXT}]),
    "a.feather": arrow_file([{"id": 1, "text": TEXT}]),
    "a.arrow": arrow_stream([{"id": 1, "text": TEXT}]),
    "a.warc": warc(http(PAGE.encode())),
    "a.wet": warc(TEXT.encode(), "conversion", "text/plain"),
    "a.arc": arc(b"1 0 x\n", "filedesc://x") + arc(http(PAGE.encode())),
    "latin.txt": (TEXT + " É").encode("utf-16"),
}
COMPRESSIONS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "plain": ("", lambda data: data),
    "gzip": (".gz", gzip.compress),
    "gzip in members, padded": (".gz", lambda data: gzip.compress(data[:7]) + gzip.compress(data[7:]) + b"\0" * 5),
    "gzip by another name": ("", gzip.compress),
    "zstd": (".zst", zstandard.ZstdCompressor().compress),
    "zstd in frames": (".zst", lambda data: b"".join(map(zstandard.ZstdCompressor().compress, (data[:9], data[9:])))),
    "bzip2": (".bz2", bz2.compress),
    "xz": (".xz", lzma.compress),
}


@pytest.mark.parametrize("name", FILES)
def test_each_format_in_each_compression(tmp_path: Path, name: str) -> None:
    (tmp_path / "in").mkdir()
    for number, (how, (ending, compress)) in enumerate(COMPRESSIONS.items()):
        (tmp_path / "in" / str(number)).mkdir()
        (tmp_path / "in" / str(number) / (name + ending)).write_bytes(compress(FILES[name]))
        assert [text for text in texts(tmp_path / "in" / str(number)) if TEXT in text], how
    figures = build(tmp_path / "in", tmp_path / "out")
    extra = 8 if name == "a.arc" else 0  # the record that describes the file
    assert figures["ledger"]["records"] == {"kept": 1, "dropped": 7 + extra, "quarantined": 0}
    assert figures["ledger"]["rules"]["duplicate"] == 7
    (document,) = documents(tmp_path / "out")
    assert TEXT in document.text
    assert document.metadata["language"] == "en"
    assert figures["ledger"]["balanced"] is True
    sizes = {row["raw_bytes"] for row in files(tmp_path / "out").values()}
    assert len(sizes) == 1
    if name not in {"a.parquet", "a.feather", "a.arrow"}:
        assert sizes == {len(FILES[name])}


def test_code_is_one_document_with_its_language(tmp_path: Path) -> None:
    (tmp_path / "in" / "src").mkdir(parents=True)
    program = "def f(x):   \r\n\treturn 'e\u0301'\x0c\n"
    (tmp_path / "in" / "src" / "f.py").write_bytes(program.encode())
    build(tmp_path / "in", tmp_path / "out")
    (document,) = documents(tmp_path / "out")
    assert document.text == program.replace("\r\n", "\n")
    assert document.source == "src"
    assert document.metadata["language"] == "code"
    assert document.metadata["programming_language"] == "python"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"author": "李白", "title": "靜夜思", "paragraphs": ["床前", "明月"]}, "靜夜思\n李白\n床前\n明月"),
        ({"title": "not shown", "text": "shown"}, "shown"),
        ({"Title": "T", "Content": "c"}, "T\nc"),
        ({"content": [{"text": "a"}, {"title": "t", "body": "b"}]}, "a\nt\nb"),
        ({"text": None, "content": "c"}, ""),
        ({"markdown": "# m", "title": 3}, "# m"),
    ],
)
def test_which_fields_make_the_text(value: dict[str, object], text: str) -> None:
    assert object_text(value, None) == text


def test_an_object_without_text_is_refused_with_its_fields() -> None:
    with pytest.raises(NoTextError, match="question, answer"):
        object_text({"question": "a", "answer": "b"}, None)
    assert object_text({"question": "a", "answer": "b"}, ["question", "answer"]) == "a\nb"
    with pytest.raises(NoTextError, match="float"):
        object_text({"text": 1.5}, None)


def test_metadata_of_a_record_is_carried_along(tmp_path: Path) -> None:
    row = {
        "text": TEXT,
        "url": "http://a.example",
        "language": "zh-Hant",
        "metadata": {"kind": "page"},
        "other": "x" * 9,
    }
    (tmp_path / "a.jsonl").write_text("\n" + json.dumps(row))
    build(tmp_path / "a.jsonl", tmp_path / "out")
    (document,) = documents(tmp_path / "out")
    assert document.source == "a"
    assert document.metadata["language"] == "zh"
    assert document.metadata["url"] == "http://a.example"
    assert document.metadata["metadata"] == {"kind": "page"}
    assert "other" not in document.metadata
    assert (document.metadata["file"], document.metadata["offset"]) == ("a.jsonl", 1)
    assert document.metadata["bytes"] == len(json.dumps(row))
    assert document.metadata["text_bytes"] == len(TEXT)


def test_offsets_lead_back_to_the_bytes(tmp_path: Path) -> None:
    rows = [{"text": f"{TEXT} {number} 月亮"} for number in range(50)]
    pretty = json.dumps(rows, ensure_ascii=False, indent=3)
    (tmp_path / "a.json").write_text(pretty, encoding="utf-8")
    (tmp_path / "b.jsonl").write_text("\n\n".join(json.dumps(row) for row in rows))
    for name in ("a.json", "b.jsonl"):
        data = (tmp_path / name).read_bytes()
        found = [json.loads(data[r.offset : r.offset + r.raw_bytes]) for r in read_documents(tmp_path / name)]
        assert found == rows


def test_columnar_rows_have_numbers_and_the_bytes_of_their_cells(tmp_path: Path) -> None:
    rows: list[dict[str, object]] = [
        {"title": "t", "paragraphs": ["月", "b"]},
        {"title": None, "paragraphs": None},
        {"title": "x", "paragraphs": [None]},
    ]
    for name, data in (("a.parquet", parquet(rows)), ("a.feather", arrow_file(rows)), ("a.arrow", arrow_stream(rows))):
        (tmp_path / name).write_bytes(data)
        found = records(tmp_path / name)
        assert [(r.text, r.offset, r.raw_bytes, r.metadata["row"]) for r in found] == [
            ("t\n月\nb", 0, 5, 0),
            ("", 5, 0, 1),
            ("x", 5, 1, 2),
        ]


def test_parquet_of_many_row_groups_and_column_types(tmp_path: Path) -> None:
    table = pa.table(
        {
            "text": pa.array([f"{TEXT} {n}" for n in range(3000)]).dictionary_encode(),
            "vector": pa.array([[1.0] * 4] * 3000),
        }
    )
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=700)
    figures = build(tmp_path / "a.parquet", tmp_path / "out")
    assert figures["ledger"]["records"]["kept"] == 3000
    assert figures["ledger"]["bytes"]["input"] == sum(len(f"{TEXT} {n}") for n in range(3000))


def test_a_wide_csv_cell_and_quoted_line_ends(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_bytes(f'n;text\n1;"two\nlines; ""quoted"""\n\n2;{"x" * 200_000}\n'.encode())
    assert texts(tmp_path / "a.csv") == ['two\nlines; "quoted"', "x" * 200_000]


def test_legacy_encodings_are_found(tmp_path: Path) -> None:
    text = "海上生明月，天涯共此時。情人怨遙夜，竟夕起相思。" * 4
    (tmp_path / "a.txt").write_bytes(text.encode("big5"))
    (tmp_path / "b.csv").write_bytes(
        ("text\n" + "这是一个用来测试的中文句子，没有别的意思。" * 4 + "\n").encode("gb18030")
    )
    assert texts(tmp_path / "a.txt") == [text]
    assert texts(tmp_path / "b.csv")[0].startswith("这是一个")
    assert records(tmp_path / "a.txt")[0].metadata["encoding"] == "big5"


def test_pdf_without_pypdf_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4\n...")
    monkeypatch.setitem(sys.modules, "pypdf", None)
    (record,) = records(tmp_path / "a.pdf")
    assert record.text is None and "pip install pypdf" in (record.reason or "")
    assert record.raw_bytes == 12


def test_pdf_text_comes_page_by_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Page:
        def extract_text(self) -> str:
            return TEXT

    module = types.ModuleType("pypdf")
    module.PdfReader = lambda stream: types.SimpleNamespace(pages=[Page(), Page()])
    monkeypatch.setitem(sys.modules, "pypdf", module)
    (tmp_path / "a.pdf").write_bytes(b"%PDF-1.4\n...")
    assert texts(tmp_path / "a.pdf") == [f"{TEXT}\n\n{TEXT}"]


def test_a_real_pdf(tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    stream = b"BT /F1 12 Tf 72 700 Td (Ada Karim wrote four books.) Tj ET"
    parts = [
        b"<</Type/Catalog/Pages 2 0 R>>",
        b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
        b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>",
        b"<</Length %d>>stream\n%s\nendstream" % (len(stream), stream),
        b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>",
    ]
    body, places = b"%PDF-1.4\n", []
    for number, part in enumerate(parts, 1):
        places.append(len(body))
        body += b"%d 0 obj%sendobj\n" % (number, part)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    tail = b"xref\n0 6\n0000000000 65535 f \n%strailer<</Size 6/Root 1 0 R>>\nstartxref\n%d\n%%%%EOF" % (
        table,
        len(body),
    )
    (tmp_path / "a.pdf").write_bytes(body + tail)
    assert texts(tmp_path / "a.pdf") == ["Ada Karim wrote four books."]


@pytest.mark.parametrize(
    ("name", "head", "format"),
    [
        ("a.txt", b"PAR1...", "parquet"),
        ("a.json", b"plain", "json"),
        ("a.parquet", b"{}", "binary"),
        ("a.txt", b"PK\x03\x04", "binary"),
        ("x", b"\x00\x01", "binary"),
        ("x", b"a\0b\0c\0", "txt"),
        ("a.csv", b"\xff\xfea\0", "binary"),
        ("README", b"hello", "txt"),
        ("x.unknown", b'[\n {"a": 1}]', "json"),
    ],
)
def test_what_a_file_is(name: str, head: bytes, format: str) -> None:
    assert find_format(name, head).name == format


@pytest.mark.parametrize(
    ("name", "source"),
    [
        ("web.jsonl", "web"),
        ("web-00001-of-00010.jsonl.gz", "web"),
        ("poet.tang.1000.json", "poet.tang"),
        ("2024", "2024"),
    ],
)
def test_stems(name: str, source: str) -> None:
    assert stem(name) == source


def test_read_documents_refuses_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="nowhere"):
        list(read_documents(tmp_path / "nowhere"))
