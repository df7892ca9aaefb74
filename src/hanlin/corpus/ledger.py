"""The ledger: every record that was met, every byte of every file, and the check that nothing is missing.

`ledger.parquet` has a row for each record: kept, dropped (rule, measured value, threshold) or quarantined (why), in the
order of the files. `files.parquet` has a row for each file. Of a file,

    raw_bytes (decompressed)  =  the raw bytes of its kept, dropped and quarantined records  +  overhead
    file_bytes (on disk)      =  bytes that were decoded  +  unread_bytes of its records

where `raw_bytes` is counted as it leaves the decompressor (of columnar files: by Arrow over whole columns), and
`overhead` is what the reader claimed as the format's own: line ends, brackets, headers. Nothing is found by
subtraction.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanlin.artifacts import HanlinError
from hanlin.corpus.arrow import pa, pq
from hanlin.corpus.shards import ParquetRows, shard_paths, valid_text

RECORDS = pa.schema(
    [
        ("file", pa.string()),
        ("offset", pa.int64()),
        ("raw_bytes", pa.int64()),
        ("unread_bytes", pa.int64()),
        ("decision", pa.string()),
        ("split", pa.string()),
        ("rule", pa.string()),
        ("measured", pa.float64()),
        ("threshold", pa.float64()),
        ("reason", pa.string()),
        ("id", pa.string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("kept_bytes", pa.int64()),
    ]
)
FILES = pa.schema(
    [
        ("file", pa.string()),
        ("source", pa.string()),
        ("format", pa.string()),
        ("compression", pa.string()),
        ("file_bytes", pa.int64()),
        ("decoded_bytes", pa.int64()),
        ("raw_bytes", pa.int64()),
        ("overhead_bytes", pa.int64()),
        ("records", pa.int64()),
    ]
)
GROUP_ROWS = 10_000
EXAMPLES = 8
DECISIONS = ("kept", "dropped", "quarantined")


@dataclass
class Figures:
    """Sums over a finished ledger."""

    files: int = 0
    records: Counter[str] = field(default_factory=Counter[str])
    bytes: Counter[str] = field(default_factory=Counter[str])
    rules: Counter[str] = field(default_factory=Counter[str])
    examples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def table(self) -> dict[str, Any]:
        return {
            "files": self.files,
            "records": {decision: self.records[decision] for decision in DECISIONS},
            "bytes": {
                name: self.bytes[name] for name in ("disk", "unread", "input", *DECISIONS, "overhead", "documents")
            },
            "rules": dict(sorted(self.rules.items())),
            "quarantine_examples": self.examples,
            "balanced": True,
        }


class Ledger:
    """Writes the two tables while the corpus is built. Splits that were decided later are put in by `finish`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._part = directory / "ledger.part"
        self._records = ParquetRows(self._part, RECORDS, GROUP_ROWS, 1 << 40)
        self._files = ParquetRows(directory / "files.parquet", FILES, GROUP_ROWS, 1 << 40)
        self.rows = 0
        self._later: dict[int, str] = {}

    def record(self, **row: Any) -> int:
        """Add a row and return its number. Columns that are not given are null."""
        if row.get("reason") is not None:  # it may quote what could not be decoded
            row["reason"] = valid_text(row["reason"])
        self._records.add(row)
        self.rows += 1
        return self.rows - 1

    def file(self, **row: Any) -> None:
        self._files.add(row)

    def change_split(self, row: int, split: str) -> None:
        self._later[row] = split

    def finish(self) -> Figures:
        """Write the final ledger, read all of it back, and check it. Raises HanlinError when it doesn't balance."""
        self._records.close()
        self._files.close()
        final = ParquetRows(self._directory / "ledger.parquet", RECORDS, GROUP_ROWS, 1 << 40)
        for number, row in enumerate(_rows(self._part)):
            final.add({**row, "split": self._later.get(number, row["split"])})
        final.close()
        self._part.unlink()
        return check(self._directory)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(1_000):
            yield from batch.to_pylist()


def check(corpus: Path) -> Figures:
    """Sum up a corpus's ledger independently of how it was written, against its files table and its documents.

    Raises HanlinError naming the first file whose bytes don't balance.
    """
    figures = Figures()
    rows = _rows(corpus / "ledger.parquet")
    kept: Counter[str] = Counter()
    for file in _rows(corpus / "files.parquet"):
        figures.files += 1
        raw, unread = file["overhead_bytes"], 0
        for _ in range(file["records"]):
            row = next(rows, None)
            if row is None or row["file"] != file["file"]:
                raise HanlinError(f"the ledger of {corpus} has lost a record of {file['file']}: report this as a bug.")
            raw += row["raw_bytes"]
            unread += row["unread_bytes"]
            _count(row, figures)
            if row["decision"] == "kept":
                kept[row["split"]] += row["kept_bytes"]
        if raw != file["raw_bytes"] or file["decoded_bytes"] + unread != file["file_bytes"]:
            raise HanlinError(
                f"the ledger of {corpus} does not balance for {file['file']}: {file['raw_bytes']} raw bytes, {raw} "
                f"accounted for; {file['file_bytes']} on disk, {file['decoded_bytes']} decoded and {unread} unread. "
                "If the file changed while it was read, build the corpus again; otherwise report this as a bug."
            )
        figures.bytes["disk"] += file["file_bytes"]
        figures.bytes["input"] += file["raw_bytes"]
        figures.bytes["overhead"] += file["overhead_bytes"]
        figures.bytes["unread"] += unread
    if next(rows, None) is not None:
        raise HanlinError(f"the ledger of {corpus} has a record of no file: report this as a bug.")
    for split in ("train", "validation"):
        written = 0
        for shard in shard_paths(corpus, split):
            written += sum(pq.read_table(shard, columns=["bytes"]).column(0).to_pylist())
        if written != kept[split]:
            raise HanlinError(
                f"the ledger of {corpus} does not balance: {kept[split]} bytes kept for {split}, "
                f"{written} bytes in its shards. Report this as a bug."
            )
    figures.bytes["documents"] = kept["train"] + kept["validation"]
    return figures


def _count(row: dict[str, Any], figures: Figures) -> None:
    decision = row["decision"]
    figures.records[decision] += 1
    figures.bytes[decision] += row["raw_bytes"]
    if decision == "dropped":
        figures.rules[row["rule"]] += 1
    elif decision == "quarantined" and len(figures.examples) < EXAMPLES:
        figures.examples.append({"file": row["file"], "offset": row["offset"], "reason": row["reason"]})
