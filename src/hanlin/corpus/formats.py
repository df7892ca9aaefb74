"""What a file is, found by looking at its first bytes and its name."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hanlin.corpus.decode import byte_order_mark, wide_encoding


def _by_ending(table: str) -> dict[str, str]:
    """`name: ending ending` lines to ending → name."""
    rows = (line.split(":") for line in table.split("\n") if line.strip())
    return {ending: name.strip() for name, endings in rows for ending in endings.split()}


CODE = _by_ending("""
    python: py pyi
    javascript: js mjs jsx
    typescript: ts tsx
    c: c h
    cpp: cc cpp cxx hpp hh
    cuda: cu
    csharp: cs
    java: java
    kotlin: kt
    scala: scala
    go: go
    rust: rs
    ruby: rb
    php: php
    perl: pl
    lua: lua
    r: r
    julia: jl
    matlab: m
    swift: swift
    dart: dart
    haskell: hs
    ocaml: ml
    elixir: ex exs
    erlang: erl
    clojure: clj
    lisp: lisp el
    scheme: scm
    shell: sh bash zsh
    powershell: ps1
    sql: sql
    css: css scss
    vue: vue
    assembly: asm s
    fortran: f90 f
    pascal: pas
    d: d
    nim: nim
    zig: zig
    verilog: v
    vhdl: vhd
    protobuf: proto
    cmake: cmake
    toml: toml
    yaml: yaml yml
    ini: ini
    xml: xml
""")
NAMED = _by_ending("""
    txt: txt text log
    md: md markdown mdx org adoc
    tex: tex
    rst: rst
    html: html htm xhtml
    pdf: pdf
    json: json
    jsonl: jsonl ndjson
    csv: csv tsv
    parquet: parquet
    arrow: arrow feather
    warc: warc wet wat
    arc: arc
""")
COMPRESSIONS = ("gz", "gzip", "zst", "zstd", "bz2", "xz")
# One document a file; the others hold many.
SINGLE = frozenset({"txt", "md", "rst", "tex", "html", "pdf"})
MAGIC = ((b"PAR1", "parquet"), (b"ARROW1", "arrow"), (b"%PDF-", "pdf"), (b"WARC/", "warc"), (b"filedesc://", "arc"))
# Files that may hold no zero byte at their beginning and are no text all the same.
BINARY_MAGIC = (
    (b"PK\x03\x04", "a zip archive (or an office document)"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"GIF8", "a GIF image"),
    (b"\x7fELF", "a program"),
    (b"OggS", "audio"),
    (b"ID3", "audio"),
    (b"Rar!", "a rar archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"FEA1", "a Feather file of the first version (only Arrow IPC is read)"),
)
SHARD = re.compile(r"(?:[-_.]*(?:of|part|shard)?[-_.]*\d+)+$", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Format:
    """A file's format. `programming` is the language of a source code file; `reason` says why a binary file isn't
    read."""

    name: str
    programming: str | None = None
    reason: str | None = None


def extension(name: str) -> str:
    """The extension in lower case, below one of a compression: `a.JSONL.gz` has `jsonl`."""
    parts = name.lower().split(".")[1:]
    while parts and parts[-1] in COMPRESSIONS:
        parts.pop()
    # Archives of broken crawls are often renamed: example.warc.gz.bad
    return parts[-1] if parts else ""


def stem(name: str) -> str:
    """The name without its extensions and the number of its shard: `web-00001-of-00010.jsonl.gz` gives `web`."""
    base = name
    while "." in base.strip(".") and base.rsplit(".", 1)[1].lower() in {*COMPRESSIONS, *NAMED, *CODE}:
        base = base.rsplit(".", 1)[0]
    return SHARD.sub("", base) or base


def holds_one_document(name: str) -> bool:
    """Whether a file of this name is one document, as far as the name tells."""
    return NAMED.get(extension(name), "txt") in SINGLE


def find_format(name: str, head: bytes) -> Format:
    """The format of a file from its name and its first (decompressed) bytes, up to 64 KiB. The content wins over the
    name."""
    ending = extension(name)
    for magic, format in MAGIC:
        if head.startswith(magic):
            return Format(format)
    named = NAMED.get(ending)
    if named == "arrow" and head.startswith(b"\xff\xff\xff\xff"):  # Arrow's stream form has no magic number
        return Format("arrow")
    if named in {"parquet", "arrow", "pdf"}:
        return Format("binary", reason=f"named .{ending}, but it does not begin like one")
    for magic, what in BINARY_MAGIC:
        if head.startswith(magic):
            return Format("binary", reason=what)
    wide = byte_order_mark(head)
    wide = wide[1] if wide else wide_encoding(head)
    wide = None if wide == "utf-8" else wide
    if named in {"warc", "arc"}:
        return Format(named)
    if named in {"json", "jsonl", "csv"}:  # a zero byte costs the record that it is in
        return Format("binary", reason=f"{named} in {wide}: convert it to UTF-8") if wide else Format(named)
    if b"\0" in head and wide is None:
        return Format("binary", reason=f"binary data (a zero byte at offset {head.index(0)})")
    if ending == "ipynb":
        return Format("binary", reason="a Jupyter notebook: export it to .py or .md")
    if named is not None:
        return Format(named)
    if ending in CODE:
        return Format("code", programming=CODE[ending])
    return Format(_by_content(head))


def _by_content(head: bytes) -> str:
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip()[:4096].lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "html"
    first = start.split(b"\n", 1)[0].rstrip()
    if first.startswith(b'{"') and first.endswith(b"}"):
        return "jsonl"
    if re.match(rb'\[?\s*\{\s*"', start):
        return "json"
    return "txt"
