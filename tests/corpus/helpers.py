"""What the tests of the corpus share: building one, and reading its tables back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from hanlin.artifacts import StageContext
from hanlin.corpus import Document, Record, iterate_documents, read_documents
from hanlin.corpus.build import STAGE, CorpusSettings
from tests.conftest import Told

TEXT = "Ada Karim was born in Tallow in 1931 and wrote four books about rivers."


def build(source: Path, workdir: Path, progress: Told | None = None, **settings: Any) -> dict[str, Any]:
    """Build a corpus of `source` in `workdir`; small documents are kept unless the test says otherwise."""
    workdir.mkdir(parents=True, exist_ok=True)
    chosen = CorpusSettings(**{"inputs": str(source), "min_bytes": 1, **settings})
    return STAGE.run(chosen, StageContext(workdir, {}, 0, progress or Told()))


def ledger(corpus: Path) -> list[dict[str, Any]]:
    return pq.read_table(corpus / "ledger.parquet").to_pylist()


def files(corpus: Path) -> dict[str, dict[str, Any]]:
    return {row["file"]: row for row in pq.read_table(corpus / "files.parquet").to_pylist()}


def documents(corpus: Path) -> list[Document]:
    return [document for split in ("train", "validation") for document in iterate_documents(corpus, split)]


def records(path: Path) -> list[Record]:
    return list(read_documents(path))


def texts(path: Path) -> list[str]:
    return [record.text for record in records(path) if record.text is not None]


def reasons(path: Path) -> list[tuple[int, str]]:
    return [(record.offset, record.reason) for record in records(path) if record.text is None and record.reason]
