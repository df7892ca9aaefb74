"""The ledger balances to the byte, whatever a folder holds: hypothesis makes up the folders, and breaks them."""

from __future__ import annotations

import bz2
import gzip
import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanlin.artifacts import HanlinError

from .helpers import build, documents, files, ledger
from .test_formats import FILES, PAGE, arc, http, warc

WORD = st.sampled_from(
    ["river ", "月亮", "\n", "\r\n", '"', "\\", "{", "}", "[", "]", ",", "\t", " ", "é", "12", "WARC/1.0\r\n"]
)
PROSE = st.lists(WORD, max_size=30).map("".join)
ROW = st.one_of(
    st.builds(lambda text: {"text": text}, PROSE), PROSE, st.none(), st.integers(), st.lists(PROSE, max_size=2)
)


def _json(rows: list[object], indent: int | None) -> bytes:
    return json.dumps(rows, indent=indent, ensure_ascii=False).encode()


def _jsonl(rows: list[object], end: str) -> bytes:
    return end.join(json.dumps(row, ensure_ascii=False) for row in rows).encode()


CONTENT = st.one_of(
    st.binary(max_size=60).map(lambda data: ("x.bin", data)),
    PROSE.map(lambda text: ("x.txt", text.encode())),
    PROSE.map(lambda text: ("x.py", text.encode())),
    PROSE.map(lambda text: ("x.csv", f"text,n\n{text}".encode())),
    PROSE.map(lambda text: ("x.json", text.encode())),
    PROSE.map(lambda text: ("x.jsonl", text.encode())),
    PROSE.map(lambda text: ("x.warc", warc(http(text.encode())) + text.encode() + warc(http(PAGE.encode())))),
    PROSE.map(lambda text: ("x.arc", arc(http(text.encode())) + text.encode() + arc(http(PAGE.encode())))),
    st.builds(_json, st.lists(ROW, max_size=5), st.sampled_from([None, 1])).map(lambda data: ("y.json", data)),
    st.builds(_jsonl, st.lists(ROW, max_size=5), st.sampled_from(["\n", "\r\n", "\n\n", "\r"])).map(
        lambda d: ("y.jsonl", d)
    ),
    st.sampled_from(sorted(FILES.items())),
)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": lambda data: data,
    ".gz": gzip.compress,
    ".zst": zstandard.ZstdCompressor().compress,
    ".bz2": bz2.compress,
}
DAMAGE = st.one_of(
    st.just(("none", 0, b"")),
    st.tuples(st.just("cut"), st.integers(0, 400), st.just(b"")),
    st.tuples(st.sampled_from(["replace", "insert"]), st.integers(0, 400), st.binary(min_size=1, max_size=6)),
)
FILE = st.tuples(CONTENT, st.sampled_from(sorted(COMPRESS)), DAMAGE)


def _damaged(data: bytes, how: str, at: int, new: bytes) -> bytes:
    at = min(at, len(data))
    if how == "cut":
        return data[:at]
    if how == "replace":
        return data[:at] + new + data[at + len(new) :]
    return data[:at] + new + data[at:] if how == "insert" else data


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(st.lists(FILE, min_size=1, max_size=6), st.sampled_from([1024, 64 << 20]))
def test_every_byte_is_accounted_for(
    folder: list[tuple[tuple[str, bytes], str, tuple[str, int, bytes]]], limit: int
) -> None:
    root = Path(tempfile.mkdtemp())
    try:
        source, out = root / "in", root / "out"
        source.mkdir()
        expected: dict[str, int | None] = {}
        for number, ((name, data), ending, (how, at, new)) in enumerate(folder):
            packed = _damaged(COMPRESS[ending](data), how, at, new)
            file = source / f"{number}-{name}{ending}"
            file.write_bytes(packed)
            expected[file.name] = len(packed) if not ending else len(data) if how == "none" else None
        try:
            build(source, out, max_record_bytes=limit)
        except HanlinError as error:
            assert "no document is left" in str(error)
        rows, table = ledger(out), files(out)
        assert set(table) == set(expected)
        for name, about in table.items():
            mine = [row for row in rows if row["file"] == name]
            assert len(mine) == about["records"] >= 1
            assert about["file_bytes"] == (source / name).stat().st_size
            assert about["decoded_bytes"] + sum(row["unread_bytes"] for row in mine) == about["file_bytes"]
            assert sum(row["raw_bytes"] for row in mine) + about["overhead_bytes"] == about["raw_bytes"]
            if about["format"] in {"parquet", "arrow"} or sum(row["unread_bytes"] for row in mine):
                continue
            if expected[name] is not None:
                assert about["raw_bytes"] == expected[name]
        kept = [row for row in rows if row["decision"] == "kept"]
        found = documents(out)
        assert {row["id"] for row in kept} == {document.id for document in found}
        assert sum(row["kept_bytes"] for row in kept) == sum(len(document.text.encode()) for document in found)
        for row in rows:
            assert row["decision"] in {"kept", "dropped", "quarantined"}
            assert (row["rule"] is not None) == (row["decision"] == "dropped")
            assert (row["id"] is not None) or row["decision"] != "kept"
            assert row["decision"] != "quarantined" or row["reason"]
    finally:
        shutil.rmtree(root)
